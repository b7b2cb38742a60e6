"""What a space may not hold, told beside the other mistakes of a config, each where it was made."""

import pytest

from gradlab.config import ConfigError, load

SWEEP = """
task: {name: digits_mlp, hidden: [4]}
optimizer: {name: adamw, learning_rate: 1e-3}
train: {steps: 4, batch_size: 32}
sweep: {trials: 4, sampler: halton, space: {optimizer.learning_rate: {log: [1e-3, 1e-1]}}}
"""
CONTEST = """
task: {name: quadratic, condition: 5.0}
contest:
  one: {optimizer: {name: sgd, learning_rate: 0.1}, space: {optimizer.learning_rate: {log: [1e-3, 1e-1]}}}
  two: {optimizer: {name: sgd, learning_rate: 0.1}, space: {optimizer.learning_rate: {log: [1e-3, 1e-1]}}}
train: {steps: 4}
tuning: {trials: 3}
"""


@pytest.fixture
def problems(tmp_path):
    def of(text, *changes):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load(path, changes)
        return [(problem.path, problem.message) for problem in caught.value.problems]

    return of


def assert_begin(found, expected):
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (_, message), (_, begin) in zip(found, expected, strict=True):
        assert message.startswith(begin), message


def test_mistakes_of_the_space_are_told_beside_those_of_the_sweep_and_the_train(problems):
    space = "{optimizer.learning_rat: [1, 2], optimizer.b1: {log: [0, 1]}, optimizer.nesterov: [true, 3], task.wide: 3}"
    changes = ("train.steps=0", "sweep.trials=0", "sweep.trails=3", f"sweep.space={space}")
    assert_begin(
        problems(SWEEP, *changes),
        [
            ("train.steps", "must be >= 1"),
            ("sweep.trials", "must be >= 1"),
            ("sweep.trails", "unknown key; did you mean 'trials'"),
            ("sweep.space.optimizer.learning_rat", "the config has no number of this name; did you mean 'optimizer.l"),
            ("sweep.space.optimizer.b1", "`low` of log must be positive"),
            ("sweep.space.task.wide", "the config has no number of this name"),
            ("sweep.space.optimizer.nesterov", "must be true or false, got 3"),
        ],
    )


def test_what_is_known_of_an_unsound_config_is_told_of_its_space(problems):
    space = "sweep.space={optimizer.learning_rat: [1, 2], optimizer.b1: {log: [0, 1]}, task.hiden: [[8]]}"
    assert_begin(
        problems(SWEEP, "optimizer.b3=1", space),
        [
            ("optimizer.b3", "unknown argument of adamw"),
            ("sweep.space.optimizer.b1", "`low` of log must be positive"),
            ("sweep.space.task.hiden", "the config has no number of this name; did you mean 'task.hidden'"),
        ],
    )
    (_, (path, message)) = problems(SWEEP, "task.hidden=3", space.replace("log: [0, 1]", "log: [0.1, 1]"))
    assert path == "sweep.space.optimizer.learning_rat" and "optimizer.learning_rate" in message


@pytest.mark.parametrize(
    ("space", "path", "message"),
    [
        (
            "{optimizer.nesterov: {linear: [0, 1]}}",
            "optimizer.nesterov",
            "`nesterov` of adamw is no number, got the map",
        ),
        ("{optimizer.nesterov: 1}", "optimizer.nesterov", "must be true or false, got 1"),
        ("{optimizer.b1: [0.9, high]}", "optimizer.b1", "must be a number or a schedule, got the string 'high'"),
        ("{task.hidden: [[8], banana]}", "task.hidden", "must be a list, got the string 'banana'"),
        ("{task.hidden: [[8], [8.5]]}", "task.hidden", "must be a whole number, got 8.5"),
        ("{optimizer.name: [adamw, lionn]}", "optimizer.name", "unknown optimizer 'lionn'; did you mean 'lion'?"),
        (
            "{optimizer.name: [adamw, sgd], optimizer.b1: [0.8, 0.9]}",
            "optimizer.b1",
            "sgd has no argument 'b1', and optimizer.name lists it; leave out one of the two, or make a sweep for each",
        ),
    ],
)
def test_each_listed_value_is_read_as_a_fixed_one(problems, space, path, message):
    assert_begin(problems(SWEEP, f"sweep.space={space}"), [(f"sweep.space.{path}", message)])


def test_an_optimizer_that_is_listed_takes_what_the_config_gives(problems):
    found = problems(SWEEP, "sweep.space={optimizer.name: [adamw, sgd]}", "optimizer.b1=0.8")
    assert_begin(found, [("sweep.space.optimizer.name", "sgd has no argument 'b1', which the optimizer of the config")])


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        (["sweep.batch=3"], "batch", "is the size of a round of "),
        (["sweep.sampler=grid", "sweep.trials=20000"], "trials", "is the number of values of every range of a grid: "),
        (["sweep.space={optimizer.b1: 0.9}"], "sampler", "nothing to sample: "),
        (["sweep.scheduler=halving", "sweep.trials=1"], "scheduler", "halving compares trials and there is 1"),
        (["sweep.scheduler={name: hypergrad, horizon: 99}"], "scheduler", "`horizon` must be a whole number of steps"),
        (
            ["sweep.space={optimizer.learning_rate: 0.1, optimizer.learning_rate.peak_value: [1]}"],
            "space.optimizer.learning_rate.peak_value",
            "the config has no number of this name",
        ),
    ],
)
def test_the_errors_of_samplers_and_schedulers_lie_there(problems, changes, path, message):
    assert_begin(problems(SWEEP, *changes), [(f"sweep.{path}", message)])


def test_all_entrants_of_a_contest_are_read_beside_its_budget(problems):
    changes = [f"contest.{one}.space={{optimizer.nesterov: [1]}}" for one in ("one", "two")]
    assert_begin(
        problems(CONTEST, *changes, "tuning.trials=0"),
        [
            ("contest.one.space.optimizer.nesterov", "must be true or false, got 1"),
            ("contest.two.space.optimizer.nesterov", "must be true or false, got 1"),
            ("tuning.trials", "must be >= 1"),
        ],
    )
    found = problems(CONTEST, "contest.two.space={optimizer.learning_rate: [0.1], optimizer.nesterov: [true, false]}")
    assert_begin(
        found, [("tuning.sampler", "sampler 'grid' gives the entrants different numbers of trials, 'one' 3, 'two' 2")]
    )
