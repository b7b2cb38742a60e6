"""Configs as a whole: what is wrong is told at once, with file, dotted path and a suggestion."""

import pytest

import gradlab
from gradlab.config import ConfigError, RaceConfig, RunConfig, SweepConfig, load, yaml12
from gradlab.training.stop import Patience, Threshold, Tolerance

RUN = """
task: {name: digits_mlp, hidden: [8]}
optimizer: {name: adamw, learning_rate: 1e-3}
train: {steps: 5, batch_size: 32}
"""
SWEEP = """
task: {name: quadratic, condition: 5.0}
optimizer: {name: sgd, learning_rate: 0.1}
before: [{name: clip_by_global_norm, max_norm: 1.0}]
train: {steps: 5}
sweep:
  trials: 4
  space: {optimizer.learning_rate: {log: [1e-3, 1e-1]}, before.0.max_norm: [1, 2], task.condition: {linear: [2, 9]}}
"""


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """Writes a config, loads it, and returns the lines of the error that this raises."""
    monkeypatch.chdir(tmp_path)

    def of(text, *assignments):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load("x.yaml", assignments)
        return str(caught.value).splitlines()

    return of


@pytest.fixture
def loaded(tmp_path):
    def of(text, *assignments):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return load(path, assignments)

    return of


def test_a_number_without_a_dot_is_a_number(loaded):
    assert loaded(RUN).config.optimizer["learning_rate"] == 1e-3


def test_the_kind_is_told_by_the_sections(loaded):
    assert isinstance(loaded(RUN).config, RunConfig)
    assert isinstance(loaded(SWEEP).config, SweepConfig)
    race = "task: {name: quadratic}\nrace: {a: {name: sgd, learning_rate: 0.1}}\ntrain: {steps: 3}"
    assert isinstance(loaded(race).config, RaceConfig)


@pytest.mark.parametrize("text", [RUN, SWEEP])
def test_the_config_that_is_written_loads_as_the_same(loaded, text):
    first = loaded(text, "train.steps=7")
    again = loaded(first.to_yaml())
    assert again.config == first.config
    assert again.config.train.steps == 7


def test_the_folder_is_named_after_the_file(loaded):
    assert loaded(RUN).out.as_posix() == "runs/x"
    assert loaded(RUN, "out=elsewhere").out.as_posix() == "elsewhere"


def test_stop_rules(loaded):
    stop = "train.stop={tolerance: 1e-6, threshold: 0, patience: {patience: 3, metric: accuracy, mode: max}}"
    assert loaded(RUN, stop).config.train.stop.rules() == [
        Tolerance(1e-6),
        Threshold(0.0),
        Patience(3, metric="accuracy", mode="max"),
    ]
    assert loaded(RUN, "train.stop.patience=2").config.train.stop.rules() == [Patience(2)]
    assert loaded(RUN).config.train.stop.rules() == []


def test_stages_in_a_space_are_called_by_their_names(loaded):
    experiment = loaded(SWEEP)
    names = ["optimizer.learning_rate", "before.clip_by_global_norm.max_norm", "task.condition"]
    assert list(experiment.setup.space) == names
    assert list(experiment.setup.trials[0].values) == names


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("adamw", "adamx"), "optimizer.name: unknown optimizer 'adamx'; did you mean 'adamax'? Known: "),
        (("digits_mlp", "digit_mlp"), "task.name: unknown task 'digit_mlp'; did you mean 'digits_mlp'? Known: "),
        (("1e-3", "fast"), "optimizer.learning_rate: must be a number or a schedule, got the string 'fast'"),
        (("1e-3", "-0.1"), "optimizer.learning_rate: must be >= 0, got -0.1"),
        (
            ("batch_size: 32", "batch_size: 5000"),
            "train.batch_size: batch_size=5000 is larger than the data set of 1257 examples",
        ),
        (("steps: 5", "steps: '5'"), "train.steps: must be a whole number, got the string '5'"),
        (("steps: 5", "steps: 5.5"), "train.steps: must be a whole number, got 5.5"),
        (("steps: 5", "steps: 0"), "train.steps: must be >= 1, got 0"),
        (("steps: 5", "epochs: 1, steps: 5"), "train: give either steps or epochs, got both"),
        (("steps: 5, ", ""), "train: give either steps or epochs, got neither"),
        (
            ("steps: 5", "steps: 5, sampling: epochs"),
            "train.sampling: unknown sampling 'epochs'; did you mean 'epoch'? Known: ",
        ),
        (
            ("steps: 5", "steps: 5, accumulate: 5"),
            "train: a batch of 32 examples does not divide into accumulate=5 micro-batches",
        ),
        (("steps: 5", "stpes: 5"), "train.stpes: unknown key; did you mean 'steps'? Known: "),
        (("train:", "trian:"), "trian: unknown key; did you mean 'train'? Known: "),
        (
            ("steps: 5", "steps: 5, stop: {threshold: low}"),
            "train.stop.threshold: must be a number, got the string 'low'",
        ),
        (("steps: 5", "steps: 5, stop: {tolerance: -1}"), "train.stop.tolerance: must be >= 0"),
        (
            ("steps: 5", "steps: 5, stop: {patience: {patience: 2, metric: acuracy}}"),
            "train.stop.patience.metric: task digits_mlp reports no 'acuracy'; did you mean 'accuracy'? Known: ",
        ),
        (
            ("steps: 5", "steps: 5, stop: {patience: {patience: 2, mode: least}}"),
            "train.stop.patience.mode: must be 'min' or 'max', got the string 'least'",
        ),
        (("train:", "seed: 4294967296\ntrain:"), "seed: must be < 4294967296, got 4294967296"),
        (("{steps: 5, batch_size: 32}", "[5]"), "train: must be a mapping, got the list [5]"),
        (("hidden: [8]", "hidden: 8"), "task.hidden: must be a list, got 8"),
        (
            ("hidden: [8]", "activation: rely"),
            "task.activation: unknown activation 'rely'; did you mean 'relu'? Known: ",
        ),
        (("name: adamw", "name: adamw, name: sgd"), "line 3, column 26: the key 'name' occurs twice"),
    ],
)
def test_one_thing_is_wrong(problems, change, line):
    found = problems(RUN.replace(*change))
    assert any(each.startswith(f"x.yaml: {line}") for each in found), found
    assert len(found) == 1 or change == ("train:", "trian:")  # there `train` is missing besides


@pytest.mark.parametrize(
    ("wrapper", "line"),
    [
        ("{name: multi_step, every_k_schedule: 4}", ".name: unknown wrapper 'multi_step'; did you mean 'multi_steps'?"),
        ("multi_steps", ".every_k_schedule: missing argument of multi_steps"),
        ("{name: skip_spikes, inner: 1}", ".inner: unknown argument of skip_spikes"),
        ("{name: skip_spikes, window: 0}", ".window: must be >= 4, got 0"),
        ("{name: with_residuals, bits: 9}", ".bits: unknown bits 9"),
    ],
)
def test_a_wrapper_that_does_not_fit(problems, wrapper, line):
    (found,) = problems(RUN + f"around: [{wrapper}]")
    assert found.startswith(f"x.yaml: around.0{line}"), found


def test_numbers_of_wrappers_vary_in_sweeps_and_stand_in_races_and_contests(loaded):
    text = SWEEP.replace("before.0.max_norm: [1, 2]", "around.0.slow_step_size: {linear: [0.3, 0.7]}")
    setup = loaded(text + "around: [{name: lookahead_in_state, sync_period: 2}]").setup
    assert "around.lookahead_in_state.slow_step_size" in setup.space
    lanes = setup.lanes([trial.values for trial in setup.trials])
    given = [trial.values["around.lookahead_in_state.slow_step_size"] for trial in setup.trials]
    assert gradlab.hyperparams(lanes.tx)["slow_step_size"].tolist() == pytest.approx(given)
    race = "task: {name: quadratic}\nrace: {a: {name: sgd, learning_rate: 0.1}}\ntrain: {steps: 3}\naround: [flatten]"
    assert gradlab.describe(loaded(race).config.recipes["a"]()).startswith("flatten")
    own = "{optimizer: {name: sgd, learning_rate: 0.1}, space: {optimizer.learning_rate: [0.1]}, around: [skip_spikes]}"
    contest = f"task: {{name: quadratic}}\ncontest: {{a: {own}}}\ntrain: {{steps: 3}}\naround: [flatten]"
    tx = loaded(contest).config.entrants["a"].make()
    assert [line.strip().partition("(")[0] for line in gradlab.describe(tx).splitlines()][:2] == [
        "flatten",
        "skip_spikes",
    ]


def test_everything_at_once(problems):
    text = """
task: {name: digits_mlp, label_smoothing: 2}
optimizer: {name: adamw, lerning_rate: 1e-3, b1: high}
before: [{name: clip_by_global_norm}, {name: clipp, max_delta: 1}]
train: {steps: 5, batch_size: 5000, stop: {patience: {patience: 1, metric: acc}}}
seeds: 3
"""
    starts = [
        "x.yaml: task.label_smoothing: must be in [0, 1), got 2",
        "x.yaml: before.0.max_norm: missing argument of clip_by_global_norm",
        "x.yaml: before.1.name: unknown transform 'clipp'; did you mean 'clip'? Known: ",
        "x.yaml: optimizer.learning_rate: missing argument of adamw",
        "x.yaml: optimizer.b1: must be a number or a schedule, got the string 'high'",
        "x.yaml: optimizer.lerning_rate: unknown argument of adamw; did you mean 'learning_rate'? Known: ",
        "x.yaml: train.batch_size: batch_size=5000 is larger than the data set of 1257 examples",
        "x.yaml: train.stop.patience.metric: task digits_mlp reports no 'acc'",
        "x.yaml: seeds: unknown key; did you mean 'seed'? Known: ",
    ]
    found = problems(text)
    assert len(found) == len(starts)
    for line, start in zip(sorted(found), sorted(starts), strict=True):
        assert line.startswith(start)


def test_an_error_of_set_is_told_as_such(problems):
    found = problems(RUN.replace("1e-3", "-1"), "train.stpes=5", "optimizer.b1=2")
    assert [line.partition(":")[0] for line in found] == ["x.yaml", "--set", "--set"]


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (
            "{optimizer.lerning_rate: [1, 2]}",
            ".optimizer.lerning_rate: the config has no number of this name; did you mean 'optimizer.learning_rate'?",
        ),
        (
            "{learning_rate: [1, 2]}",
            ".learning_rate: the config has no number of this name; did you mean 'optimizer.learning_rate'?",
        ),
        (
            "{before.1.max_norm: [1, 2]}",
            ".before.1.max_norm: the config has no number of this name; did you mean 'before.",
        ),
        ("{task.dimm: [2, 3]}", ".task.dimm: the config has no number of this name; "),
        (
            "{optimizer.learning_rate: {lgo: [1, 2]}}",
            ".optimizer.learning_rate: {'lgo': [1, 2]} names no kind of dimension; did you mean 'log'?",
        ),
        ("{optimizer.learning_rate: {log: [0, 2]}}", ".optimizer.learning_rate: `low` of log must be positive"),
        (
            "{optimizer.learning_rate: {log: [a, 2]}}",
            ".optimizer.learning_rate: `low` of log must be a number, got str: 'a'",
        ),
        (
            "{optimizer.learning_rate: {linear: [-2, -1]}}",
            ".optimizer.learning_rate: a trial is refused: must be >= 0, got -",
        ),
        (
            "{optimizer.name: [sgd, adagrad, adm], optimizer.learning_rate: [1, 2]}",
            ".optimizer.name: unknown optimizer 'adm'; did you mean 'adam'? Known: ",
        ),
        ("{}", ": "),
        ("3", ": must be a mapping, got 3"),
    ],
)
def test_a_bad_space(problems, space, line):
    text = SWEEP.partition("  space:")[0] + f"  space: {space}\n"
    (found,) = problems(text)
    assert found.startswith(f"x.yaml: sweep.space{line}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sampler", "sobal", "unknown sampler 'sobal'; did you mean 'sobol'? Known: "),
        ("seeds", "0", "must be a number of seeds, or a list of different whole numbers, got 0"),
        ("seeds", "[1, 1]", "must be a number of seeds, or a list of different whole numbers, got the list [1, 1]"),
        ("seeds", "true", "must be a number of seeds, or a list of different whole numbers, got true"),
        ("seeds", "[]", "must be a number of seeds, or a list of different whole numbers, got the list []"),
        ("trials", "many", "must be a whole number, got the string 'many'"),
        ("chunk", "0", "must be >= 1, got 0"),
        ("seed", "3", "unknown key; did you mean 'seeds'? Known: "),
    ],
)
def test_a_bad_sweep_section(problems, key, value, message):
    (found,) = problems(SWEEP, f"sweep.{key}={value}")
    assert found.startswith(f"--set: sweep.{key}: {message}")


def test_structure_in_a_space_makes_buckets(loaded):
    setup = loaded(SWEEP, "sweep.space.optimizer.nesterov=[true, false]", "sweep.trials=8").setup
    assert [bucket.structure for bucket in setup.buckets] in (
        [{"optimizer.nesterov": True}, {"optimizer.nesterov": False}],
        [{"optimizer.nesterov": False}, {"optimizer.nesterov": True}],
    )


def test_a_space_may_name_optimizers(loaded):
    setup = loaded(SWEEP, "sweep.space.optimizer.name=[sgd, adam]", "sweep.trials=8").setup
    assert {bucket.structure["optimizer.name"] for bucket in setup.buckets} == {"sgd", "adam"}


def test_race_and_sweep_exclude_each_other(problems):
    assert problems(SWEEP + "race: {}\n") == ["x.yaml: has both `race` and `sweep`; a config is one or the other"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "x.yaml: must be a mapping with the keys task, optimizer and train, got null"),
        ("- 1", "x.yaml: must be a mapping with the keys task, optimizer and train, got the list [1]"),
        ("a: [", "x.yaml: line 1, column 5: "),
    ],
)
def test_files_that_are_no_config(problems, text, line):
    (found,) = problems(text)
    assert found.startswith(line)


def test_a_missing_file(tmp_path):
    path = tmp_path / "nope.yaml"
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: No such file or directory"


def test_a_missing_section(problems):
    assert problems("task: {name: quadratic}\ntrain: {steps: 1}") == ["x.yaml: optimizer: missing key"]


def test_a_config_is_not_changed_by_loading(loaded, tmp_path):
    loaded(SWEEP, "sweep.trials=2", "before.0.max_norm=3")
    assert (tmp_path / "x.yaml").read_text() == SWEEP
    assert yaml12.parse(SWEEP)["before"] == [{"name": "clip_by_global_norm", "max_norm": 1.0}]
