import numpy as np
import pytest

from gradlab.sweeps.spaces.dimensions import choice, fixed, integer, linear, log, one_minus
from gradlab.sweeps.spaces.space import Space, dimension_from, spec_of
from gradlab.sweeps.spaces.trial import Trial

EVERY_KIND = {
    "rate": log(1e-3, 1e-1),
    "decay": linear(0, 0.5),
    "width": integer(8, 64, log=True, structural=True),
    "name": choice(["a", "b"]),
    "eps": fixed(1e-8),
    "b2": one_minus(log(1e-4, 1e-1)),
}


def test_plain_data_describe_every_kind_and_come_back():
    plain = {
        "rate": {"log": [1e-3, 1e-1]},
        "decay": {"linear": [0, 0.5]},
        "width": {"integer": [8, 64], "log": True, "structural": True},
        "name": ["a", "b"],
        "eps": 1e-8,
        "b2": {"one_minus": {"log": [1e-4, 1e-1]}},
    }
    assert dict(Space(plain)) == EVERY_KIND
    assert Space(Space(plain).spec()) == Space(EVERY_KIND)
    assert all(dimension_from(spec_of(dimension)) == dimension for dimension in EVERY_KIND.values())


def test_names():
    space = Space(EVERY_KIND)
    assert list(space) == list(EVERY_KIND) and len(space) == 6
    assert space.varying == ("rate", "decay", "width", "name", "b2")
    assert space.structural == ("width", "name")


def test_points_of_the_cube_become_trials():
    units = np.array([[0, 0.5, 0, 0.9, 0], [1, 0, 1, 0, 1]])
    first, second = Space(EVERY_KIND).from_unit(units)
    assert list(first.values) == list(EVERY_KIND)
    assert first.values == {"rate": 1e-3, "decay": 0.25, "width": 8, "name": "b", "eps": 1e-8, "b2": 1 - 1e-4}
    assert second.values == {"rate": 1e-1, "decay": 0.0, "width": 64, "name": "a", "eps": 1e-8, "b2": 0.9}
    with pytest.raises(ValueError, match=r"shape \(n, 5\)"):
        Space(EVERY_KIND).from_unit(units[:, :2])


def test_buckets_hold_trials_of_one_structure_in_order():
    space = Space({"rate": log(1e-3, 1), "kind": choice([1, True, None])})
    kinds = [None, True, 1, True, None, 1]
    trials = [Trial.of({"rate": 0.1 + i, "kind": kind}) for i, kind in enumerate(kinds)]
    buckets = space.bucket(trials)
    assert [bucket.positions for bucket in buckets] == [(0, 4), (1, 3), (2, 5)]
    assert [bucket.structure["kind"] for bucket in buckets] == [None, True, 1]
    assert [type(bucket.structure["kind"]) for bucket in buckets] == [type(None), bool, int]
    assert buckets[1].trials == (trials[1], trials[3])


def test_trials_that_differ_in_numbers_share_a_bucket():
    space = Space({"rate": log(1e-3, 1), "count": integer(1, 5), "size": choice([16, 32])})
    (bucket,) = space.bucket(space.from_unit(np.random.default_rng(0).random((9, 3))))
    assert bucket.structure == {} and bucket.positions == tuple(range(9))


@pytest.mark.parametrize(
    ("dimensions", "error", "words"),
    [
        ({}, ValueError, "no dimensions"),
        ([], TypeError, "maps names"),
        ({3: [1]}, TypeError, "strings"),
        ({"learning rate": [1]}, ValueError, "not a dotted name"),
        ({"a..b": [1]}, ValueError, "not a dotted name"),
        ({"seed": [1]}, ValueError, "column of the results.*'optimizer.seed'"),
        ({"loss_final": [1]}, ValueError, "column of the results"),
        ({"a": [1], "a.b": [2]}, ValueError, "'a.b' lies inside"),
        ({"rate": {"lgo": [1, 2]}}, ValueError, "dimension 'rate'.*did you mean 'log'"),
        ({"rate": {}}, ValueError, "names no kind"),
        ({"rate": {"log": [1, 2], "linear": [1, 2]}}, ValueError, "one dimension has one"),
        ({"rate": {"log": [1, 2], "structural": True}}, ValueError, "log has no option 'structural'"),
        ({"rate": {"integer": [1, 2], "structral": True}}, ValueError, "did you mean 'structural'"),
        ({"rate": {"integer": [1, 2], "log": 1}}, TypeError, "true or false"),
        ({"rate": {"log": 0.1}}, TypeError, r"\[low, high\], got 0.1"),
        ({"rate": {"log": [1, 2, 3]}}, TypeError, r"\[low, high\]"),
        ({"rate": {"log": ["1e-3", 1]}}, TypeError, "dimension 'rate'.*must be a number, got str: '1e-3'"),
        ({"b2": {"one_minus": {"log": [0, 1]}}}, ValueError, "dimension 'b2'.*must be positive"),
    ],
)
def test_impossible_spaces_say_why(dimensions, error, words):
    with pytest.raises(error, match=words):
        Space(dimensions)
