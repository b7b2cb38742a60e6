"""``gradlab plan``: bytes and traffic of a training step on many devices, before there are any."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer

from gradlab.cli.terminal import Terminal, amount_of_bytes
from gradlab.core import check
from gradlab.core.transform import Transform
from gradlab.optimizers import REGISTRY, flax_matrices
from gradlab.training.plan import Grid, Plan, plan


class Links(NamedTuple):
    """Bytes a second that a device sends: to any other, and to those of its tensor group."""

    far: float
    near: float


def show_plan(
    parameters: float,
    devices: int,
    optimizers: Sequence[str],
    storage: str | None,
    links: Links,
    terminal: Terminal,
    **options: Any,
) -> None:
    """What `gradlab plan` does; ``options`` are those of `gradlab.training.plan.plan`."""
    try:
        check.in_range("link", links.far, 1)
        check.in_range("near_link", links.near, 1)
        if not optimizers:
            raise ValueError("`optimizer` must name at least one, such as adamw,muon")
        plans = {name: plan(_optimizer(name, storage), parameters, devices, **options) for name in optimizers}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    first = next(iter(plans.values()))
    terminal.say(
        f"{first.parameters:,} parameters in {first.layers} layers of width {first.width:,}, bfloat16, on {devices:,} "
        f"devices: {options['layout']}, {_described(first.grid)}, {options['tokens']:,.0f} tokens in a step; "
        "activations that are held are not counted"
    )
    columns = ["of one device", *(f"{name}, {storage}" if storage else name for name in plans)]
    terminal.table("", columns, [[what, *(cell(one, links) for one in plans.values())] for what, cell in ROWS.items()])


def _described(grid: Grid) -> str:
    parts = [f"{grid.pipeline} stages of "] if grid.pipeline > 1 else []
    parts += [f"tensor groups of {grid.tensor}, of each device " if grid.tensor > 1 else ""]
    return (
        "".join(parts) + f"{grid.copies} cop{'ies' if grid.copies > 1 else 'y'} of the state in {grid.shards:,} shards"
    )


def _optimizer(name: str, storage: str | None) -> Transform:
    """Made with some learning rate, on which nothing depends; embeddings are left to AdamW."""
    check.one_of("optimizer", name, REGISTRY)
    given = {"learning_rate": 1e-3, "storage": storage, "muon_weight_dimension_numbers": flax_matrices()}
    takes = inspect.signature(REGISTRY[name]).parameters
    return REGISTRY[name](**{key: value for key, value in given.items() if key in takes})


def _slots(one: Plan, links: Links) -> str:
    return ", ".join(f"{name} {amount_of_bytes(size)}" for name, size in one.slots.items()) or "none"


def _seconds_apart(one: Plan, links: Links) -> str:
    """With matrices given to one device each."""
    return f"{(one.sent_bytes + one.sent_to_owners + one.sent_between_stages) / links.far:.3g} s"


ROWS = {
    "parameters": lambda one, links: amount_of_bytes(one.params_bytes),
    "gradients": lambda one, links: amount_of_bytes(one.grads_bytes),
    "optimizer state": _slots,
    "a gathered parameter": lambda one, links: amount_of_bytes(one.gathered_bytes),
    "held in all": lambda one, links: amount_of_bytes(one.held_bytes),
    "state, bytes a parameter": lambda one, links: f"{one.bytes_per_parameter:.2f}",
    "sent of parameters and gradients": lambda one, links: amount_of_bytes(one.sent_bytes),
    "sent of matrices, each to one device": lambda one, links: amount_of_bytes(one.sent_to_owners),
    "sent between stages": lambda one, links: amount_of_bytes(one.sent_between_stages),
    "time to send these": _seconds_apart,
    "sent within a tensor group": lambda one, links: amount_of_bytes(one.sent_in_blocks),
    "time to send this": lambda one, links: f"{one.sent_in_blocks / links.near:.3g} s",
    "sent of matrices, if each is gathered by all": lambda one, links: amount_of_bytes(one.sent_for_matrices),
    "idle, of the step": lambda one, links: f"{one.idle:.1%}",
    "Newton-Schulz / model arithmetic": lambda one, links: f"{one.matrix_flops / one.model_flops:.2%}",
}
