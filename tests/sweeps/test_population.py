import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.sweeps.schedulers.population import PopulationBased
from gradlab.sweeps.search import View
from gradlab.sweeps.spaces.space import Space

SPACE = Space(
    {
        "rate": {"log": [1e-3, 1.0]},
        "decay": {"linear": [0, 0.5]},
        "b2": {"one_minus": {"log": [1e-4, 1e-1]}},
        "warmup": {"integer": [1, 100]},
        "power": [0.75, 0.25, 0.5],
        "eps": 1e-8,
        "kind": ["x", "y"],
    }
)
inf, nan = np.inf, np.nan


def members(count, **values):
    start = {"rate": 0.1, "decay": 0.2, "b2": 0.99, "warmup": 10, "power": 0.5, "eps": 1e-8, "kind": "x"}
    return [start | values for _ in range(count)]


def seen(costs, values=None, space=SPACE, halt=0):
    costs = np.asarray(costs, np.float64)
    table = np.column_stack([np.ones(len(costs)), costs])
    return View(halt, np.array([0, 10]), table, np.arange(len(costs)), values or members(len(costs)), space)


def test_the_worst_take_the_states_of_the_best():
    costs = np.array([5.0, 1, 8, 3, 2, 7, 6, 4])
    copied = set()
    for halt in range(20):
        parents = PopulationBased(10, quantile=0.25).decide(seen(costs, halt=halt)).parents
        assert parents[[0, 1, 3, 4, 6, 7]].tolist() == [0, 1, 3, 4, 6, 7]
        copied |= {tuple(parents[[2, 5]])}
    assert copied == {(1, 1), (1, 4), (4, 1), (4, 4)}


def test_quantiles_are_rounded_down_to_one_member_at_least():
    replaced = lambda count, quantile: np.flatnonzero(
        PopulationBased(10, quantile=quantile).decide(seen(np.arange(count))).parents != np.arange(count)
    )
    assert replaced(3, 0.25).tolist() == [2]
    assert replaced(11, 0.25).tolist() == [9, 10]
    assert replaced(9, 0.5).tolist() == [5, 6, 7, 8]


def test_ties_are_for_the_earlier_member():
    assert PopulationBased(10).decide(seen([1, 1, 1, 1])).parents.tolist() == [0, 1, 2, 0]


def test_those_that_diverged_are_replaced_by_those_that_did_not():
    parents = PopulationBased(10).decide(seen([inf, 1, nan, inf, 2, inf, inf, inf])).parents
    assert set(parents[[0, 2, 3, 5, 6, 7]]) == {1, 4} and parents[[1, 4]].tolist() == [1, 4]
    parents = PopulationBased(10, quantile=0.5).decide(seen([inf, inf, inf, 2.0, inf, nan, inf, inf])).parents
    assert parents.tolist() == [3] * 8


def test_when_all_diverged_they_stay_as_they_are():
    view = seen([inf, inf, nan])
    decision = PopulationBased(10).decide(view)
    assert decision.parents.tolist() == [0, 1, 2] and list(decision.values) == list(view.values)


def explored(values, space=SPACE, **options):
    """What a member that cost more than one with these values goes on with."""
    other = dict(zip(space, [None] * len(space), strict=True)) | {"kind": values.get("kind")}
    return dict(PopulationBased(10, **options).decide(seen([1, 2], [values, other], space)).values[1])


def test_numbers_are_multiplied_by_a_factor_on_their_own_scale():
    up = explored(members(1)[0], resample=0.0, factors=(1.25,))
    expected = {"rate": 0.125, "decay": 0.25, "b2": 0.9875, "warmup": 13, "power": 0.75, "eps": 1e-8, "kind": "x"}
    assert up == pytest.approx(expected) and type(up["warmup"]) is int and type(up["rate"]) is float
    down = explored(members(1)[0], resample=0.0, factors=(0.8,))
    expected = {"rate": 0.08, "decay": 0.16, "b2": 0.992, "warmup": 8, "power": 0.25, "eps": 1e-8, "kind": "x"}
    assert down == pytest.approx(expected)
    assert explored(members(1)[0], resample=0.0, factors=(1.0,)) == pytest.approx(members(1)[0])


def test_numbers_stop_at_the_ends_of_their_range():
    far = members(1, rate=0.9, decay=0.45, b2=0.91, warmup=90, power=0.75)[0]
    assert list(explored(far, resample=0.0, factors=(3.0,)).values())[:5] == [1.0, 0.5, 0.9, 100, 0.75]
    near = members(1, rate=2e-3, decay=0.0, b2=0.9998, warmup=1, power=0.25)[0]
    low = list(explored(near, resample=0.0, factors=(0.3,)).values())[:5]
    assert low == [1e-3, 0.0, 1 - 1e-4, 1, 0.25]


def test_a_number_takes_each_factor_and_is_drawn_anew_as_often_as_asked():
    count = 4000
    costs = np.arange(count)
    decision = PopulationBased(10, quantile=0.5, resample=0.2, seed=3).decide(seen(costs))
    rates = np.array([row["rate"] for row in decision.values])[count // 2 :]
    lower, higher = np.isclose(rates, 0.08).mean(), np.isclose(rates, 0.125).mean()
    assert abs(lower - 0.4) < 0.05 and abs(higher - 0.4) < 0.05
    anew = np.log10(rates[~np.isclose(rates, 0.08) & ~np.isclose(rates, 0.125)])
    assert abs(len(anew) / len(rates) - 0.2) < 0.04 and abs(anew.mean() + 1.5) < 0.15
    decays = np.array([row["decay"] for row in decision.values])[count // 2 :]
    assert abs(np.corrcoef(np.isclose(rates, 0.08), np.isclose(decays, 0.16))[0, 1]) < 0.1


def test_those_that_go_on_keep_their_values_and_copies_inherit():
    values = [row | {"eps": 10.0**-position} for position, row in enumerate(members(8))]
    decision = PopulationBased(10, resample=0.0).decide(seen(np.arange(8), values))
    assert [decision.values[position] is values[position] for position in range(8)] == [True] * 6 + [False] * 2
    for position in (6, 7):
        assert decision.values[position]["eps"] == values[decision.parents[position]]["eps"]


def test_the_seed_and_the_halt_decide():
    decide = lambda seed, halt: PopulationBased(10, seed=seed).decide(seen(np.arange(16), halt=halt))
    same, again = decide(3, 5), decide(3, 5)
    assert np.array_equal(same.parents, again.parents) and same.values == again.values
    assert decide(4, 5).values != same.values != decide(3, 6).values


values_of_space = st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=2, max_size=12)
options_of_pbt = st.fixed_dictionaries(
    {
        "quantile": st.floats(0.01, 0.5),
        "resample": st.floats(0, 1),
        "factors": st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3),
        "seed": st.integers(0, 99),
    }
)


@given(values_of_space, options_of_pbt, st.data())
def test_values_stay_in_the_space_and_parents_are_good_members(units, options, data):
    values = [trial.values | {"kind": "y"} for trial in SPACE.from_unit(np.array(units))]
    count = len(values)
    cost = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([inf, nan]))
    costs = np.array(data.draw(st.lists(cost, min_size=count, max_size=count)))
    decision = PopulationBased(10, **options).decide(seen(costs, values))
    assert len(decision.parents) == len(decision.values) == count
    replaced = decision.parents != np.arange(count)
    if np.isfinite(costs).any():
        assert np.isfinite(costs[decision.parents]).all()
        worst_kept = np.where(np.isfinite(costs), costs, inf)[~replaced].max()
        assert np.all(costs[decision.parents][replaced] <= worst_kept)
        assert replaced.sum() >= max(1, int(count * options["quantile"]))
    for row in decision.values:
        assert list(row) == list(SPACE)
        assert 1e-3 <= row["rate"] <= 1 and 0 <= row["decay"] <= 0.5 and 0.9 <= row["b2"] <= 1 - 1e-4
        assert row["warmup"] in range(1, 101) and row["power"] in (0.75, 0.25, 0.5)
        assert row["eps"] == 1e-8 and row["kind"] == "y"


def test_halts():
    (cohort,) = PopulationBased(25).cohorts(8, range(10, 110, 10))
    assert cohort == (8, (30, 50, 80, 100))


@pytest.mark.parametrize(
    ("error", "build", "words"),
    [
        (ValueError, lambda: PopulationBased(0), "`interval` must be >= 1"),
        (ValueError, lambda: PopulationBased(10, quantile=0.6), r"`quantile` must be in \(0, 0.5\], got 0.6"),
        (ValueError, lambda: PopulationBased(10, resample=-0.1), r"`resample` must be in \[0, 1\]"),
        (TypeError, lambda: PopulationBased(10, factors=1.2), "`factors` must be a list of numbers, got 1.2"),
        (TypeError, lambda: PopulationBased(10, factors=[]), "`factors` must be a list"),
        (ValueError, lambda: PopulationBased(10, factors=(0.8, 0)), "`factors` must be > 0, got 0"),
        (ValueError, lambda: PopulationBased(10, seed=-1), "`seed` must be >= 0"),
        (ValueError, lambda: PopulationBased(10).cohorts(1, [10, 20]), "compares trials"),
        (ValueError, lambda: PopulationBased(20).cohorts(4, [10, 20]), "pbt has nothing to decide"),
    ],
)
def test_impossible_options_say_why(error, build, words):
    with pytest.raises(error, match=words):
        build()
