import copy

import pytest

from gradlab.config.errors import ConfigError
from gradlab.config.overrides import override

DATA = {
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "before": [{"name": "clip", "max_delta": 1.0}],
    "sweep": {"space": {"optimizer.learning_rate": {"log": [1e-3, 1.0]}}},
}


def test_values_are_yaml():
    changed = override(DATA, ["optimizer.learning_rate=1e-3", "train={steps: 5}", "optimizer.name=no"])
    assert changed["optimizer"] == {"name": "no", "learning_rate": 0.001}
    assert changed["train"] == {"steps": 5}


def test_the_data_are_not_changed():
    before = copy.deepcopy(DATA)
    override(
        DATA, ["optimizer.learning_rate=2", "before.0.max_delta=3", "sweep.space.optimizer.learning_rate.log=[1, 2]"]
    )
    assert before == DATA


def test_later_ones_win():
    assert override(DATA, ["a=1", "a=2"])["a"] == 2


def test_lists_are_counted_from_zero():
    assert override(DATA, ["before.0.max_delta=3"])["before"] == [{"name": "clip", "max_delta": 3}]


def test_what_does_not_exist_is_made():
    assert override(DATA, ["train.stop.tolerance=0"])["train"] == {"stop": {"tolerance": 0}}


def test_a_value_may_hold_an_equals_sign():
    assert override({}, ["out=a=b"]) == {"out": "a=b"}


@pytest.mark.parametrize(
    ("assignment", "space"),
    [
        ("sweep.space.optimizer.learning_rate.log=[1, 2]", {"optimizer.learning_rate": {"log": [1, 2]}}),
        ("sweep.space.optimizer.learning_rate=[1, 2]", {"optimizer.learning_rate": [1, 2]}),
    ],
)
def test_names_of_a_space_are_keys_although_they_have_dots(assignment, space):
    assert override(DATA, [assignment])["sweep"]["space"] == space


def test_a_new_name_of_a_space_is_one_key():
    space = override(DATA, ["sweep.space.before.0.max_delta=[1, 2]"])["sweep"]["space"]
    assert space["before.0.max_delta"] == [1, 2]
    assert len(space) == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rate", "--set: must have the form key.path=value, got 'optimizer.learning_rate'"),
        ("=3", "--set: must have the form key.path=value, got '=3'"),
        (
            "optimizer.learning_rate.peak=1",
            "--set: optimizer.learning_rate.peak: optimizer.learning_rate is 0.1, which has nothing inside",
        ),
        (
            "before.1.max_delta=1",
            "--set: before.1.max_delta: before is a list of 1; give a number from 0 to 0, got '1'",
        ),
        ("before.clip=1", "--set: before.clip: before is a list of 1; give a number from 0 to 0, got 'clip'"),
        ("a={b", "--set: a: line 1, column 3: expected ',' or '}', but got '<stream end>'"),
    ],
)
def test_bad_assignments(assignment, message):
    with pytest.raises(ConfigError) as caught:
        override(DATA, [assignment])
    assert str(caught.value) == message


def test_all_bad_assignments_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        override(DATA, ["a", "before.7=1", "train.steps=3"])
    assert [problem.path for problem in caught.value.problems] == ["", "before.7"]
