"""The samplers that look at results, by name.

Each is asked for a batch of trials, which run together as lanes, and told what became of them; it then knows more.
"""

import inspect
from typing import Any

from gradlab.core.check import one_of
from gradlab.sweeps.samplers.coordinate import coordinate
from gradlab.sweeps.samplers.optuna_kinds import cmaes, gp, nsga2, tpe
from gradlab.sweeps.search import Sampler
from gradlab.sweeps.spaces.space import Space

ADAPTIVE = {"cmaes": cmaes, "coordinate": coordinate, "gp": gp, "nsga2": nsga2, "tpe": tpe}


def make_sampler(name: str, space: Space, *, seed: int = 0, batch: int | None = None, **options: Any) -> Sampler:
    """The sampler of this name; its ``batch`` says how many trials a round should have.

    Args:
      name: a name in ADAPTIVE.
      space: where to search.
      seed: of the random numbers, at least 0; coordinate refinement has none.
      batch: how many trials a round should have; by default what suits the sampler.
      **options: what else the sampler takes.

    Raises:
      ValueError: an unknown name or option, or what the sampler says of its arguments.
      ModuleNotFoundError: a package is missing; the message says what installs it.

    >>> sampler = make_sampler('coordinate', Space({'learning_rate': {'log': [1e-4, 1.0]}}))
    >>> sampler.batch, [trial.values['learning_rate'] for trial in sampler.ask(sampler.batch)]
    (5, [0.01, 0.1, 0.001, 0.0316227766017, 0.00316227766017])
    """
    one_of("sampler", name, ADAPTIVE)
    make = ADAPTIVE[name]
    arguments = [key for key in inspect.signature(make).parameters if key != "space"]
    for option in options:
        one_of(f"option of sampler {name!r}", option, arguments)
    if "seed" in arguments:
        options["seed"] = seed
    if batch is not None:
        options["batch"] = batch
    return make(space, **options)
