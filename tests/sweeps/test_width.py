"""How lanes run does not change what they find, and they take no more memory than they are allowed."""

import numpy as np
import pytest

import gradlab
from gradlab.sweeps.engine import lanes, width
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.width import Layout, choose_layout, lane_bytes, planned_layout, program_bytes, program_of
from gradlab.tasks.catalogue import digits_cnn, digits_linear, digits_mlp

SPACE = {"learning_rate": {"log": [1e-3, 1e-1]}, "weight_decay": {"linear": [0, 0.1]}}
OPTIONS = {"trials": 5, "sampler": "halton", "seeds": 3, "steps": 6, "batch_size": 16, "eval_every": 3}


def swept(task=None, **changes):
    return gradlab.sweep(task or digits_linear(), gradlab.adamw, SPACE, **OPTIONS | changes)


def setup_of(task=None, **changes):
    return prepare(task or digits_linear(), gradlab.adamw, SPACE, **OPTIONS | changes)


@pytest.mark.parametrize("make", [digits_linear, lambda: digits_cnn(features=(4, 4))], ids=["linear", "convolutions"])
def test_lane_methods_find_the_same(make):
    side_by_side = swept(make(), lane_method="vmap")
    for method in ("map", "loop"):
        other = swept(make(), lane_method=method)
        np.testing.assert_allclose(other.loss, side_by_side.loss, rtol=1e-5)
        np.testing.assert_allclose(other.metrics["valid_loss"], side_by_side.metrics["valid_loss"], rtol=1e-5)
        assert other.table["lane_method"].unique().tolist() == [method]


def test_one_configuration_after_another_is_a_loop_in_the_program():
    setup = setup_of(lane_method="map")
    group = setup.lanes([trial.values for trial in setup.trials])
    state = lanes.state_shapes(setup.task, group, setup.seeds)
    keys = np.zeros(3, np.uint32)
    for at_once, loops in ((None, 1), (1, 2)):
        traced = lanes.run_segment.trace(setup.task, group, state, lanes._keys(keys), 0, 3, setup.plan, at_once)
        assert str(traced.jaxpr).count("length=5") == loops - 1


def budget_for(setup, configurations):
    shared, each = lane_bytes(setup, setup.task, setup.trials[0].values)
    return shared + (configurations + 0.5) * each


@pytest.mark.parametrize(("configurations", "expected"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_a_chunk_is_as_wide_as_the_memory_allows(configurations, expected):
    memory = budget_for(setup_of(digits_mlp()), configurations)
    setup = setup_of(digits_mlp(), memory=memory)
    layout = planned_layout(setup, [trial.values for trial in setup.trials], {})
    assert (layout.width, layout.seeds) == (expected, 3)
    assert program_bytes(program_of(setup, setup.task, [setup.trials[0].values] * layout.width)) <= memory


def test_seeds_are_split_where_one_configuration_does_not_fit():
    setup = setup_of(digits_mlp())
    shared, each = lane_bytes(setup, setup.task, setup.trials[0].values, seeds=1)
    whole, split = swept(digits_mlp()), swept(digits_mlp(), memory=shared + 2.5 * each)
    np.testing.assert_allclose(split.loss, whole.loss, rtol=1e-5)
    small = setup_of(digits_mlp(), memory=shared + 2.5 * each)
    assert planned_layout(small, [trial.values for trial in small.trials], {}) == Layout("vmap", 1, 2)


def test_a_lane_that_does_not_fit_is_refused():
    setup = setup_of(digits_mlp(), memory=1e5)
    with pytest.raises(ValueError, match="one lane takes .* bytes, and `memory` allows 1e"):
        planned_layout(setup, [trial.values for trial in setup.trials], {})


def test_memory_is_linear_in_the_lanes():
    setup = setup_of(digits_mlp(), trials=8)
    shared, each = lane_bytes(setup, setup.task, setup.trials[0].values)
    whole = program_bytes(program_of(setup, setup.task, [trial.values for trial in setup.trials]))
    assert whole == pytest.approx(shared + 8 * each, rel=0.1)


def test_a_chunk_that_is_asked_for_is_not_planned(monkeypatch):
    monkeypatch.setattr(width, "lane_bytes", None)
    setup = setup_of(chunk=2, memory=1.0)
    assert planned_layout(setup, [trial.values for trial in setup.trials], {}).width == 2


@pytest.mark.parametrize(
    ("rates", "method"),
    [
        ({"vmap": 2.0, "map": 1.0, "loop": 3.0}, "loop"),
        ({"vmap": 2.0, "map": 3.0, "loop": 1.0}, "map"),
        ({"vmap": 2.0, "map": 2.1, "loop": 1.0}, "vmap"),
    ],
)
def test_the_fastest_method_is_chosen_by_a_margin(monkeypatch, rates, method):
    monkeypatch.setattr(width, "_rate", lambda setup, task, values, layout: rates[layout.method])
    setup = setup_of(chunk=1, steps=60)
    assert choose_layout(setup, [trial.values for trial in setup.trials], {}).method == method


def test_a_quick_sweep_measures_one_method_and_a_short_one_none(monkeypatch):
    measured = []

    def rate(setup, task, values, layout):
        measured.append(layout.method)
        return 1e9

    monkeypatch.setattr(width, "_rate", rate)
    setup = setup_of(chunk=1, steps=60)
    assert choose_layout(setup, [trial.values for trial in setup.trials], {}).method == "vmap"
    assert measured == ["vmap"]
    choose_layout(setup_of(), [trial.values for trial in setup.trials], {})
    assert measured == ["vmap"]


def test_what_is_measured_is_a_segment_of_real_lanes():
    setup = setup_of(digits_mlp())
    values = [trial.values for trial in setup.trials]
    for layout in (Layout("vmap", 5, 3), Layout("map", 4, 3), Layout("loop", 1, 1)):
        assert width._rate(setup, setup.task, values, layout) > 0
