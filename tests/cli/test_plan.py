"""The plan of a step: against the arithmetic by hand, and against what devices hold."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.cli.plan import _optimizer
from gradlab.cli.terminal import amount_of_bytes
from gradlab.training.plan import plan
from gradlab.training.planned_model import transformer_shapes


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
    wide, square = 2 * 2048 * 5120, 2 * 2048**2  # bytes; 17 layers with 3 of the feed-forward, 17 x 3d, 17 square
    owned = math.ceil(3 * 17 / 8) * wide + math.ceil(17 / 8) * (2 * 2048 * 3 * 2048 + square)
    assert found.sent_to_owners == pytest.approx(2 * 7 / 8 * owned)
    sides = [sorted(leaf.shape) for leaf in jax.tree.leaves(shapes) if len(leaf.shape) == 2 and leaf.shape[0] != 65_536]
    assert found.matrix_flops == sum(5 * (4 * m**2 * n + 2 * m**3) for m, n in sides)
    embeddings = 65_536 * width  # which AdamW moves
    assert found.slots["mu"] == 2 * found.parameters / 8 and found.slots["nu"] == pytest.approx(
        2 * embeddings / 8, rel=0.01
    )
    assert plan(gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.soap(1e-3)), 1e9, 8).sent_for_matrices > 0


# 1e8 parameters are 3 blocks of width 1024 with 3072 between, and 65,536 embeddings.  A block has 4 matrices of
# 1024 x 3072 and one of 1024 x 1024, 13,631,488 numbers, and two norms; the fuller of two stages two blocks, a norm and
# the embeddings.  Its tensor group of two splits (27,262,976 + 67,108,864) / 2 = 47,185,920 numbers and keeps 5,120.
GROUP = 2 * (47_185_920 + 5_120)  # bytes
ON_16 = {"parameters": 1e8, "devices": 16, "tensor": 2, "pipeline": 2, "micro_batches": 4, "shards": 2, "tokens": 8192}


def test_stages_of_tensor_groups_by_hand():
    """16 devices: 2 stages, 2 of a group, 2 shards, 2 copies, each copy's shard with 2048 of 8192 tokens."""
    found = plan(gradlab.adamw(1e-3), **ON_16)
    assert (found.layers, found.width, found.grid) == (3, 1024, (2, 2, 2, 2))
    assert found.parameters == 3 * (13_631_488 + 2048) + 67_108_864 + 1024
    assert found.params_bytes == found.grads_bytes == found.slots["mu"] == GROUP / 2
    assert found.gathered_bytes == 67_108_864  # half of the embeddings, two bytes each
    assert found.sent_bytes == 3 * 4 * GROUP / 2 + 2 / 2 * GROUP / 2
    activations = 2048 * 1024 * 2
    assert found.sent_in_blocks == 2 * 4 * activations  # two blocks, four all-reduces, each 2 (2 - 1) / 2
    assert found.sent_between_stages == activations + 2 * 67_108_864 / 4
    assert found.idle == 1 / 5
    assert found.sent_for_matrices == found.sent_to_owners == 0


def test_zero_adds_up_whole_gradients_of_micro_batches():
    found = plan(gradlab.adamw(1e-3), layout="zero", **ON_16)
    assert found.params_bytes == found.grads_bytes == GROUP and found.slots["nu"] == GROUP / 2
    assert found.sent_bytes == 2 * GROUP / 2 + 2 / 2 * GROUP / 2 and found.gathered_bytes == 0
    at_once = plan(gradlab.adamw(1e-3), layout="zero", **{**ON_16, "micro_batches": 1})
    assert at_once.grads_bytes == GROUP / 2 and at_once.sent_bytes == found.sent_bytes and at_once.idle == 1 / 2


def test_matrices_of_a_stage_are_whole_on_some_of_its_devices():
    """Four devices hold parts of each matrix of two blocks: 8 of 1024 x 3072, two for each, and 2 of 1024 x 1024."""
    found = plan(gradlab.muon(1e-3, muon_weight_dimension_numbers=gradlab.flax_matrices()), **ON_16)
    assert found.sent_for_matrices == 2 * 3 / 4 * 2 * 27_262_976
    assert found.sent_to_owners == 2 * 3 / 4 * 2 * (2 * 1024 * 3072 + 1024 * 1024)


def test_a_stage_between_others_sends_both_ways():
    options = {**ON_16, "devices": 24, "pipeline": 3}
    found = plan(gradlab.sgd(0.1), **options)
    assert found.sent_between_stages == 2 * 2048 * 1024 * 2 + 2 * 67_108_864 / 4 and found.idle == 2 / 6
    assert found.sent_in_blocks == 1 * 4 * 2048 * 1024 * 2


def test_all_devices_split_what_a_group_splits():
    """The same bytes as without groups but for norms; a gathered parameter is an eighth."""
    tx = gradlab.adamw(1e-3)
    whole, split = plan(tx, 7e9, 64), plan(tx, 7e9, 64, tensor=8)
    norms = 2 * (2 * 33 + 1) * 4096
    assert split.params_bytes - whole.params_bytes == norms / 8 - norms / 64
    assert split.gathered_bytes == whole.gathered_bytes / 8 and split.whole_slots == whole.whole_slots


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
        ({"tensor": 3}, "tensor=3 does not divide 1024"),
        ({"tensor": 0}, "`tensor` must be"),
        ({"pipeline": 3}, "8 devices are no whole number of 3 stages of 1 devices each"),
        ({"pipeline": 32, "devices": 32}, "the model has 17 blocks, too few for 32 stages"),
        ({"micro_batches": 0}, "`micro_batches` must be"),
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
    split = ("--tensor", "2", "--pipeline", "2", "--micro-batches", "6")
    done = gradlab_command(
        "plan", "--params", "1e9", "--devices", "8", "--optimizer", "muon", *split, "--tokens", "8192"
    )
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "2 stages of tensor groups of 2, of each device 1 copy of the state in 2 shards" in text
    sent = 9 * 4 * 2 * 1 / 2 * 4096 * 2048 * 2  # 9 of 17 blocks, 4096 of 8192 tokens, width 2048
    assert f"sent within a tensor group {amount_of_bytes(sent)}" in text and "idle, of the step 14.3%" in text
    assert f"time to send this {sent / 450e9:.3g} s" in text
    found = plan(gradlab.muon(1e-3), 1e9, 8, tensor=2, pipeline=2, micro_batches=6, tokens=8192)
    apart = found.sent_bytes + found.sent_to_owners + found.sent_between_stages
    assert f"time to send these {apart / 50e9:.3g} s" in text
    for option, message in {
        "--link=0": "`link` must be >= 1, got 0",
        "--near-link=-1": "`near_link` must be >= 1, got -1",
        "--near-link=nan": "`near_link` must be >= 1, got nan",
        "--params=inf": "`parameters` must be in [1e+08, 1e+15], got inf",
        "--tokens=inf": "`tokens` must be in [1, 1e+15], got inf",
        "--optimizer= ,": "`optimizer` must name at least one, such as adamw,muon",
    }.items():
        done = gradlab_command("plan", "--params=1e9", "--devices=8", option)
        assert done.exit_code == 2 and message in done.output
    done = gradlab_command("plan", "--params", "1e9", "--devices", "8", "--optimizer", "adma")
    assert done.exit_code == 2 and "unknown optimizer 'adma'" in done.output


SPLITS = {
    "data": {},
    "tensor 8": {"tensor": 8},
    "tensor 8, zero, 16 stages": {"tensor": 8, "layout": "zero", "pipeline": 16, "micro_batches": 64},
}


def rows_of_the_page():
    page = pathlib.Path(gradlab.__file__).parent / "docs" / "scale.md"
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.read_text().splitlines()
            if re.match(r"\| \d+e\d+ \|", line)]  # fmt: skip


@pytest.mark.parametrize("row", rows_of_the_page(), ids=lambda row: " ".join(row[:4]))
def test_the_page_states_what_is_planned(row):
    name, _, storage = row[3].replace("`", "").partition(", ")
    found = plan(_optimizer(name, storage or None), float(row[0]), int(row[1]), **SPLITS[row[2]])
    sent = (found.sent_bytes, found.sent_to_owners, found.sent_in_blocks)
    planned = (f"{found.bytes_per_parameter:.2f}", *map(amount_of_bytes, (found.held_bytes, *sent)))
    assert row[4:] == planned
