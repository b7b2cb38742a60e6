import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kstest, qmc

from gradlab.sweeps.samplers.designs import SAMPLERS, draw, grid, halton, latin_hypercube, random, sobol
from gradlab.sweeps.spaces.dimensions import choice, fixed, integer, linear, log
from gradlab.sweeps.spaces.space import Space

CUBE = Space({"a": linear(0, 1), "b": linear(0, 1), "c": linear(0, 1)})
MIXED = Space({"rate": log(1e-4, 1), "kind": choice(["x", "y"]), "eps": fixed(1e-8), "count": integer(1, 900)})
SAMPLED = [random, sobol, halton, latin_hypercube]


def points(trials):
    return np.array([list(trial.values.values()) for trial in trials])


@pytest.mark.parametrize("sampler", [sobol, halton])
def test_quasi_random_points_are_more_even_than_random_ones(sampler):
    even = np.mean([qmc.discrepancy(points(sampler(CUBE, 64, seed))) for seed in range(5)])
    independent = np.mean([qmc.discrepancy(points(random(CUBE, 64, seed))) for seed in range(5)])
    assert even < independent / 3


def test_sobol_has_one_point_in_each_elementary_box():
    trials = points(sobol(CUBE, 32, seed=7))
    for axis in range(3):
        assert sorted((trials[:, axis] * 32).astype(int)) == list(range(32))


def test_sobol_points_are_those_of_scipy():
    expected = qmc.Sobol(3, scramble=True, rng=np.random.default_rng(5)).random_base2(4)
    np.testing.assert_array_equal(points(sobol(CUBE, 16, seed=5)), expected)


def test_sobol_warns_of_uneven_numbers_and_gives_the_beginning_of_the_sequence():
    with pytest.warns(UserWarning, match="48 trials leave.*take 32 or 64"):
        trials = sobol(CUBE, 48)
    assert trials == sobol(CUBE, 64)[:48]
    assert len(sobol(CUBE, 1)) == 1


def test_latin_hypercube_has_one_point_in_each_slice():
    trials = points(latin_hypercube(CUBE, 10, seed=3))
    for axis in range(3):
        assert sorted((trials[:, axis] * 10).astype(int)) == list(range(10))


def test_random_points_are_uniform():
    assert kstest(points(random(CUBE, 2000))[:, 1], "uniform").pvalue > 0.01


@pytest.mark.parametrize("sampler", SAMPLED)
def test_a_seed_decides_the_trials(sampler):
    assert sampler(MIXED, 16, 3) == sampler(MIXED, 16, 3)
    assert sampler(MIXED, 16, 3) != sampler(MIXED, 16, 4)
    for trial in sampler(MIXED, 16, 3):
        assert list(trial.values) == list(MIXED) and trial.values["eps"] == 1e-8
        assert 1e-4 <= trial.values["rate"] <= 1


@pytest.mark.parametrize("sampler", SAMPLED)
def test_equal_trials_are_kept_once(sampler):
    space = Space({"kind": choice(["x", "y"]), "on": choice([True, False])})
    with pytest.warns(UserWarning, match="64 draws gave 4 different trials"):
        trials = sampler(space, 64)
    assert len({trial.uid for trial in trials}) == len(trials) == 4


def test_a_grid_that_nobody_means_is_refused_before_it_is_made():
    wide = {name: log(1e-3, 1e-1) for name in ("a", "b", "c")}
    with pytest.raises(ValueError, match="`trials` is .* of a grid: 64 x 64 x 64 values are 262,144 trials, .*'sobol'"):
        draw(Space(wide), 64, sampler="grid")
    assert len(draw(Space({**wide, "kind": choice([*range(10)])}), 10, sampler="grid")) == 10_000
    with pytest.raises(ValueError, match="shorter lists"):
        draw(Space({name: choice([*range(11)]) for name in "abcd"}), 1, sampler="grid")


def test_the_grid_is_the_product_with_the_last_name_fastest():
    space = Space({"rate": log(1e-3, 1e-1), "eps": fixed(0.5), "kind": choice(["x", "y"])})
    expected = [(rate, 0.5, kind) for rate in (1e-3, 1e-2, 1e-1) for kind in "xy"]
    assert [tuple(trial.values.values()) for trial in grid(space, 3)] == expected
    assert grid(space, {"rate": 3}) == grid(space, 3)
    assert len(grid(Space({"eps": 1.0}), {})) == 1


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: grid(CUBE, {"a": 2, "b": 2}), "how many values 'c'"),
        (lambda: grid(CUBE, {"a": 2, "b": 2, "c": 2, "dd": 2}), "unknown name in `counts` 'dd'"),
        (lambda: grid(MIXED, {"rate": 2, "count": 2, "kind": 2}), "'kind', which lists its values"),
        (lambda: grid(CUBE, 0), "at least 1"),
        (lambda: random(CUBE, 0), "at least 1, got 0"),
        (lambda: sobol(CUBE, 2.5), "whole number"),
        (lambda: halton(Space({"eps": 1.0}), 4), "all fixed"),
        (lambda: draw(CUBE, 4, sampler="sobel"), "did you mean 'sobol'"),
    ],
)
def test_impossible_requests_say_why(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_draw_takes_every_name():
    assert draw(CUBE, 2, sampler="grid") == grid(CUBE, 2)
    for name in set(SAMPLERS) - {"grid"}:
        assert draw(CUBE, 8, sampler=name, seed=2) == SAMPLERS[name](CUBE, 8, 2)


def test_uids_are_the_same_in_another_process():
    program = (
        "from gradlab.sweeps.samplers.designs import sobol; from gradlab.sweeps.spaces.space import Space;"
        "print([t.uid for t in sobol(Space({'rate': {'log': [1e-4, 1]}, 'kind': ['x', 'y']}), 8, 1)])"
    )
    space = Space({"rate": {"log": [1e-4, 1]}, "kind": ["x", "y"]})
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([trial.uid for trial in sobol(space, 8, 1)])
