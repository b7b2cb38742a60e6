"""The tables of the page for users of PyTorch: both columns are run, and make the same steps."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab

PAGE = pathlib.Path(gradlab.__file__).parent / "docs" / "from_torch.md"


def pairs(heading):
    """The rows of the table whose first column has this heading."""
    table = PAGE.read_text().split(f"| `{heading}` |")[1].split("\n\n")[0]
    return re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", table, re.MULTILINE)


OPTIMIZERS, SCHEDULES = pairs("torch.optim"), pairs("torch.optim.lr_scheduler")


def gradient(x):
    return np.array([1.0, -3.0, 10.0]) * x + 0.3 * np.cos(5 * x)


def test_the_tables_are_read():
    assert len(OPTIMIZERS) >= 17 and len(SCHEDULES) >= 9


@pytest.mark.peers
@pytest.mark.parametrize(("theirs", "ours"), OPTIMIZERS)
def test_both_optimizers_make_the_same_steps(theirs, ours):
    import torch

    start = np.array([1.0, -0.5, 0.7])
    tensor = torch.tensor(start, requires_grad=True)
    optimizer = eval(theirs, {"params": [tensor], **vars(torch.optim)})
    tx = eval(ours, {name: getattr(gradlab, name) for name in gradlab.__all__})
    params = jnp.asarray(start)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(30):
        tensor.grad = torch.tensor(gradient(tensor.detach().numpy()))
        optimizer.step()
        updates, state = update(jnp.asarray(gradient(np.asarray(params))), state, params)
        params = gradlab.apply_updates(params, updates)
        np.testing.assert_allclose(params, tensor.detach().numpy(), rtol=1e-7)
    assert np.abs(np.asarray(params) - start).max() > 1e-3


@pytest.mark.peers
@pytest.mark.parametrize(("theirs", "ours"), SCHEDULES)
def test_both_schedules_have_the_same_values(theirs, ours):
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    scheduler = eval(theirs, {"optimizer": optimizer, **vars(torch.optim.lr_scheduler)})
    schedule = eval(ours, {name: getattr(gradlab, name) for name in gradlab.__all__})
    for step in range(40):
        np.testing.assert_allclose(schedule(step), optimizer.param_groups[0]["lr"], rtol=1e-9, atol=1e-14)
        optimizer.step()
        scheduler.step()
