"""The experiments by the names that a config gives them."""

from typing import Any

import jax

from gradlab.core import check
from gradlab.experiments import (
    catapult,
    edge_of_stability,
    flat_minima,
    gradient_norms,
    hessian_outliers,
    noise_growth,
    recurrent_cliff,
    saddle_escape,
)
from gradlab.experiments.reproduction import Reproduction

EXPERIMENTS: dict[str, Reproduction] = {
    "edge_of_stability": edge_of_stability.GRADIENT_DESCENT,
    "edge_of_stability_momentum": edge_of_stability.MOMENTUM,
    "edge_of_stability_adam": edge_of_stability.ADAM,
    "catapult": catapult.CATAPULT,
    "hessian_outliers": hessian_outliers.OUTLIERS,
    "noise_growth": noise_growth.NOISE_GROWTH,
    "flat_minima": flat_minima.FLAT_MINIMA,
    "gradient_norms": gradient_norms.GRADIENT_NORMS,
    "recurrent_cliff": recurrent_cliff.RECURRENT_CLIFF,
    "saddle_escape": saddle_escape.SADDLE_ESCAPE,
}


def reproduce(name: str, **arguments: Any) -> Any:
    """Runs an experiment in double precision, in which its tolerances were set.

    Args:
      name: one of `EXPERIMENTS`.
      **arguments: of its function.

    Raises:
      ValueError: an unknown name, or a value that the experiment cannot run with.

    >>> run = reproduce('catapult', multiples=[1.0], width=20, steps=5)
    >>> [check.holds for check in EXPERIMENTS['catapult'].checks(run)]
    [True, True, True]
    """
    check.one_of("experiment", name, EXPERIMENTS)
    with jax.enable_x64(True):
        return EXPERIMENTS[name].run(**arguments)
