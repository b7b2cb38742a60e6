"""``gradlab plan``: bytes and traffic of a training step on many devices, before there are any."""

import inspect
from collections.abc import Sequence
from typing import Any

import typer

from gradlab.cli.terminal import Terminal, amount_of_bytes
from gradlab.core import check
from gradlab.core.transform import Transform
from gradlab.optimizers import REGISTRY, flax_matrices
from gradlab.training.plan import Plan, plan


def show_plan(
    parameters: float,
    devices: int,
    optimizers: Sequence[str],
    storage: str | None,
    link: float,
    terminal: Terminal,
    **options: Any,
) -> None:
    """What `gradlab plan` does; ``options`` are those of `gradlab.training.plan.plan`."""
    try:
        plans = {name: plan(_optimizer(name, storage), parameters, devices, **options) for name in optimizers}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    first = next(iter(plans.values()))
    copies = devices // first.shards
    terminal.say(
        f"{first.parameters:,} parameters in {first.layers} layers of width {first.width:,}, bfloat16, on {devices:,} "
        f"devices: {options['layout']}, {copies} cop{'ies' if copies > 1 else 'y'} of the state in {first.shards:,} "
        f"shards, {options['tokens']:,.0f} tokens in a step; activations are not counted"
    )
    columns = ["of one device", *(f"{name}, {storage}" if storage else name for name in plans)]
    terminal.table("", columns, [[what, *(cell(one, link) for one in plans.values())] for what, cell in ROWS.items()])


def _optimizer(name: str, storage: str | None) -> Transform:
    """Made with some learning rate, on which nothing depends; embeddings are left to AdamW."""
    check.one_of("optimizer", name, REGISTRY)
    given = {"learning_rate": 1e-3, "storage": storage, "muon_weight_dimension_numbers": flax_matrices()}
    takes = inspect.signature(REGISTRY[name]).parameters
    return REGISTRY[name](**{key: value for key, value in given.items() if key in takes})


def _slots(one: Plan, link: float) -> str:
    return ", ".join(f"{name} {amount_of_bytes(size)}" for name, size in one.slots.items()) or "none"


ROWS = {
    "parameters": lambda one, link: amount_of_bytes(one.params_bytes),
    "gradients": lambda one, link: amount_of_bytes(one.grads_bytes),
    "optimizer state": _slots,
    "a gathered parameter": lambda one, link: amount_of_bytes(one.gathered_bytes),
    "held in all": lambda one, link: amount_of_bytes(one.held_bytes),
    "state, bytes a parameter": lambda one, link: f"{one.bytes_per_parameter:.2f}",
    "sent in a step": lambda one, link: amount_of_bytes(one.sent_bytes),
    "sent for whole matrices": lambda one, link: amount_of_bytes(one.sent_for_matrices),
    "time to send it": lambda one, link: f"{(one.sent_bytes + one.sent_for_matrices) / link:.3g} s",
    "Newton-Schulz / model arithmetic": lambda one, link: f"{one.matrix_flops / one.model_flops:.2%}",
}
