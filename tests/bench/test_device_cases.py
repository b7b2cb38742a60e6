"""The rows about a device: which there are, what has to move, and that each is measured on the CPU."""

import pytest

import gradlab
from gradlab.bench.device_cases import ON_AN_ACCELERATOR, OPTIMIZERS, device_cases, moved_bytes
from gradlab.bench.rows import measured
from gradlab.bench.trees import count_params, gpt2_shapes

TINY = {"tiny": gpt2_shapes(width=16, layers=1, vocabulary=32, context=8)}


def test_accelerators_have_models_of_their_size():
    names = {case.name for case in device_cases("gpu")}
    expected = {
        f"device-{kind}/{optimizer}/{tree}"
        for kind in ("step", "kernels")
        for optimizer in OPTIMIZERS
        for tree in ("gpt2-small", "gpt2-xl")
    }
    assert names == expected
    assert count_params(ON_AN_ACCELERATOR["gpt2-xl"]) == pytest.approx(1.56e9, rel=0.01)
    assert all(case.name.endswith("/width-64") for case in device_cases("cpu"))


def test_bytes_that_have_to_move():
    """Seven float32 for each parameter with AdamW: p, g, mu and nu in; p, mu and nu out."""
    shapes = {"w": (64, 64)}
    assert moved_bytes(gradlab.adamw(1e-3), shapes) == 7 * 4 * 64 * 64 + 2 * 4
    assert moved_bytes(gradlab.adamw(1e-3, storage="int8"), {"w": (512, 512)}) < 4.2 * 4 * 512 * 512


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_measured_beside_a_copy(optimizer):
    step, kernels = (case for case in device_cases("cpu", TINY) if f"/{optimizer}/" in case.name)
    row = measured(step, 2)
    assert row.gradlab > 0 and row.optax > 0 and row.note.startswith("copy: ")
    assert measured(kernels, 1).gradlab >= 1


def test_they_belong_to_the_rows_of_the_command():
    from gradlab.bench.speed import cases

    assert any(case.name == "device-step/adamw/width-64" for case in cases())
