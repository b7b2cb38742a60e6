"""gradlab: gradient-based optimizers in JAX as values.

An optimizer is a pair ``(init, update)`` of pure functions over pytrees, and a pytree itself: its hyperparameters are
leaves.  `jax.vmap` over an optimizer is a sweep, `jax.grad` through one a hypergradient, and a new learning rate
recompiles nothing.
"""

import importlib
from typing import Any

from gradlab import optimizers, schedules, transforms
from gradlab.core.buckets import Buckets, bucket, unbucket
from gradlab.core.compose import chain, identity, named_chain
from gradlab.core.current import counts, current_hyperparams
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm
from gradlab.core.rule import static
from gradlab.core.schedule import Schedule, as_schedule, make_schedule
from gradlab.core.specs import state_specs
from gradlab.core.storage import float32_params, restore_as, store, with_residuals
from gradlab.core.transform import ScheduledState, from_optax, transform
from gradlab.core.update import apply_updates, eval_params
from gradlab.core.values import describe, hyperparams, population, relabel, replace
from gradlab.optimizers import *  # noqa: F403
from gradlab.schedules import *  # noqa: F403
from gradlab.transforms import *  # noqa: F403

_LAZY = {
    "Entrant": "gradlab.sweeps",
    "NNXOptimizer": "gradlab.training.state",
    "Patience": "gradlab.training.stop",
    "Threshold": "gradlab.training.stop",
    "Tolerance": "gradlab.training.stop",
    "TrainState": "gradlab.training.state",
    "contest": "gradlab.sweeps",
    "dense_factors": "gradlab.training.kfac",
    "fit": "gradlab.training.loop",
    "fsdp_layout": "gradlab.training.layouts",
    "inspect": "gradlab.training.inspection",
    "StepState": "gradlab.training.make_step",
    "layout_of": "gradlab.training.layouts",
    "make_step": "gradlab.training.make_step",
    "minimize": "gradlab.training.minimize",
    "start_step": "gradlab.training.make_step",
    "sweep": "gradlab.sweeps",
    "zero_layout": "gradlab.training.layouts",
}

__all__ = [
    "Buckets",
    "Schedule",
    "ScheduledState",
    "apply_updates",
    "as_schedule",
    "bucket",
    "chain",
    "counts",
    "current_hyperparams",
    "describe",
    "eval_params",
    "float32_params",
    "from_optax",
    "global_norm",
    "hyperparams",
    "identity",
    "leafwise",
    "make_schedule",
    "named_chain",
    "population",
    "relabel",
    "replace",
    "restore_as",
    "state_specs",
    "static",
    "store",
    "transform",
    "unbucket",
    "with_residuals",
    *_LAZY,
    *optimizers.__all__,
    *schedules.__all__,
    *transforms.__all__,
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads what needs Flax, pandas or SciPy when it is first used."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'gradlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
