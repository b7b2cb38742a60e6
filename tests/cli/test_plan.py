"""The plan of a step: against the arithmetic by hand, and against what devices hold."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.cli.plan import _optimizer
from gradlab.cli.terminal import amount_of_bytes
from gradlab.training.plan import plan, transformer_shapes


@pytest.mark.parametrize("parameters", [1e9, 7e9, 70e9, 1e12])
def test_the_model_is_about_as_large_as_asked(parameters):
    shapes, layers, width = transformer_shapes(parameters)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / parameters - 1) < 0.06
    assert width % 1024 == 0 and 60 < width / layers < 300


def test_adamw_by_hand():
    """bfloat16: two bytes for each of parameters, gradients, mu and nu; all but short vectors split in 64."""
    found = plan(gradlab.adamw(1e-3), 7e9, 64)
    each = 2 * found.parameters / 64
    for size in (found.params_bytes, found.grads_bytes, found.slots["mu"], found.slots["nu"]):
        assert size == each
    assert found.bytes_per_parameter == pytest.approx(4.0)
    assert found.sent_bytes == pytest.approx(3 * 63 / 64 * 2 * found.parameters)
    assert found.gathered_bytes == 2 * 65_536 * found.width  # the embeddings
    assert found.held_bytes == pytest.approx(4 * each + found.gathered_bytes)
    assert found.model_flops == 6 * 7e9 * 4e6 and found.matrix_flops == found.sent_for_matrices == 0


def test_zero_keeps_parameters_whole_and_copies_reduce_their_shards():
    found = plan(gradlab.adamw(1e-3), 1e9, 64, layout="zero", shards=8)
    total = 2 * found.parameters
    assert found.params_bytes == total and found.slots["mu"] == total / 8 and found.gathered_bytes == 0
    assert found.sent_bytes == pytest.approx(2 * 7 / 8 * total + 2 * 7 / 8 * total / 8)


def test_muon_gathers_its_matrices_and_counts_its_iterations():
    found = plan(gradlab.muon(1e-3, muon_weight_dimension_numbers=gradlab.flax_matrices()), 1e9, 8)
    shapes, layers, width = transformer_shapes(1e9)
    matrices = sum(leaf.size for leaf in jax.tree.leaves(shapes) if len(leaf.shape) == 2) - 65_536 * width
    assert found.sent_for_matrices == pytest.approx(2 * 7 / 8 * 2 * matrices)
    sides = [sorted(leaf.shape) for leaf in jax.tree.leaves(shapes) if len(leaf.shape) == 2 and leaf.shape[0] != 65_536]
    assert found.matrix_flops == sum(5 * (4 * m**2 * n + 2 * m**3) for m, n in sides)
    embeddings = 65_536 * width  # which AdamW moves
    assert found.slots["mu"] == 2 * found.parameters / 8 and found.slots["nu"] == pytest.approx(
        2 * embeddings / 8, rel=0.01
    )
    assert plan(gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.soap(1e-3)), 1e9, 8).sent_for_matrices > 0


def test_int8_slots_take_a_byte_and_their_scales():
    found = plan(gradlab.adamw(1e-3, storage="int8"), 7e9, 64)
    assert 2.0 < found.bytes_per_parameter < 2.3


def test_the_plan_is_what_one_device_holds():
    """The same shapes, small, made for real: bytes of parameters and slots."""
    tx = gradlab.adamw(1e-3)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    weights = {"w": jnp.ones((8, 4), jnp.bfloat16)}
    state = gradlab.start_step(tx, weights, gradlab.fsdp_layout(tx, weights, mesh))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    whole = plan(tx, 1e9, 1)
    np.testing.assert_allclose(held / weights["w"].size, (whole.slots["mu"] + whole.slots["nu"]) / whole.parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "zreo"}, "layout 'zreo'; did you mean 'zero'?"),
        ({"devices": 0}, "`devices` must be"),
        ({"shards": 3}, "8 devices hold no whole number of copies of a state in 3 shards"),
        ({"parameters": 10.0}, "`parameters` must be"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(gradlab.sgd(0.1), **{"parameters": 1e9, "devices": 8, **changes})


def test_the_command_prints_a_column_for_each_optimizer(gradlab_command):
    done = gradlab_command(
        "plan", "--params", "1e9", "--devices", "8", "--optimizer", "adamw,muon", "--storage", "int8"
    )
    assert done.exit_code == 0, done.output
    assert "adamw, int8" in done.output and "muon, int8" in done.output and "held in all" in done.output
    done = gradlab_command("plan", "--params", "1e9", "--devices", "8", "--optimizer", "adma")
    assert done.exit_code == 2 and "unknown optimizer 'adma'" in done.output


def rows_of_the_page():
    page = pathlib.Path(gradlab.__file__).parent / "docs" / "scale.md"
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.read_text().splitlines()
            if re.match(r"\| \d+e\d+ \|", line)]  # fmt: skip


@pytest.mark.parametrize("row", rows_of_the_page(), ids=lambda row: " ".join(row[:3]))
def test_the_page_states_what_is_planned(row):
    name, _, storage = row[2].replace("`", "").partition(", ")
    found = plan(_optimizer(name, storage or None), float(row[0]), int(row[1]))
    planned = (
        f"{found.bytes_per_parameter:.2f}",
        *map(amount_of_bytes, (found.held_bytes, found.sent_bytes, found.sent_for_matrices)),
        f"{found.matrix_flops / found.model_flops:.2%}",
    )
    assert row[3:] == planned
