"""Schedulers by name, and as the plain data that a config and a journal hold."""

import dataclasses
from typing import Any

from gradlab.core.check import one_of
from gradlab.sweeps.schedulers.halving import Hyperband, RunAll, SuccessiveHalving
from gradlab.sweeps.schedulers.population import PopulationBased
from gradlab.sweeps.schedulers.stopping import MedianStopping, Patience, PercentileStopping
from gradlab.sweeps.search import Scheduler

SCHEDULERS = {
    scheduler.name: scheduler
    for scheduler in (
        RunAll,
        SuccessiveHalving,
        Hyperband,
        MedianStopping,
        PercentileStopping,
        Patience,
        PopulationBased,
    )
}


def make_scheduler(name: str, **options: Any) -> Scheduler:
    """The scheduler of this name.

    Args:
      name: in SCHEDULERS.
      options: of its class.

    Raises:
      TypeError: an option is of the wrong type.
      ValueError: an unknown name or option, one that is missing, or one out of range.

    >>> make_scheduler('halving', eta=4)
    SuccessiveHalving(eta=4, first=None, rungs=None)
    """
    one_of("scheduler", name, SCHEDULERS)
    fields = dataclasses.fields(SCHEDULERS[name])
    for option in options:
        if not fields:
            raise ValueError(f"scheduler {name!r} has no options, got {option!r}")
        one_of(f"option of scheduler {name!r}", option, [field.name for field in fields])
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in options:
            raise ValueError(f"scheduler {name!r} needs the option {field.name!r}, which has no default")
    return SCHEDULERS[name](**options)


def as_data(scheduler: Scheduler) -> dict[str, Any]:
    """The name and the options, as JSON data; ``make_scheduler(**as_data(scheduler)) == scheduler``.

    >>> as_data(make_scheduler('patience', patience=3))
    {'name': 'patience', 'patience': 3, 'min_delta': 0.0}
    """
    options = dataclasses.asdict(scheduler).items()
    return {"name": scheduler.name} | {
        key: list(value) if isinstance(value, tuple) else value for key, value in options
    }
