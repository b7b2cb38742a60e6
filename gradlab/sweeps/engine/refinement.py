"""What follows a coarse sweep under the scheduler ``hypergrad``: its best trials, moved along their hypergradients."""

from collections.abc import Iterator

import numpy as np

from gradlab.sweeps.engine.hypergradients import hypergradients_of
from gradlab.sweeps.engine.record import Record, last_costs
from gradlab.sweeps.engine.setup import Setup
from gradlab.sweeps.schedulers.hypergrad import points_of, trials_at
from gradlab.sweeps.spaces.trial import Trial


def refine(setup: Setup, record: Record) -> Iterator[list[Trial]]:
    """The trials of one round after another; each round must have run when the next is asked for.

    A chain that stays where it is, or meets another, has no new trial in that round.
    """
    costs = _costs(record)
    finite = sorted((uid for uid in costs if np.isfinite(costs[uid])), key=costs.get)
    by_uid = {trial.uid: trial for trial in record.trials}
    trials = [by_uid[uid] for uid in finite[: setup.refinement.best]]
    if not trials:
        return
    points, chains = points_of(setup.space, trials), None
    for _ in range(setup.refinement.rounds):
        known = _costs(record)
        own = np.asarray([known[trial.uid] for trial in trials])
        better = np.ones(len(trials), bool) if chains is None else own < chains.costs
        points, chains = setup.refinement.propose(points, _gradients(setup, record, trials, better), own, chains)
        trials = trials_at(setup.space, trials, points)
        new = {trial.uid: trial for trial in trials if trial.uid not in known}
        if new:
            yield list(new.values())


def _costs(record: Record) -> dict[str, float]:
    uids = [trial.uid for trial in record.trials]
    return dict(zip(uids, last_costs(record.costs(0, len(uids))).tolist(), strict=True))


def _gradients(setup: Setup, record: Record, trials: list[Trial], wanted: np.ndarray) -> np.ndarray:
    """(trials, d) of the cost by the place in the unit cube; zero where it is not wanted, since it takes a run."""
    points = points_of(setup.space, trials)
    gradients = np.zeros_like(points)
    if wanted.any():
        chosen = [trial for trial, want in zip(trials, wanted, strict=True) if want]
        padded = chosen + chosen[:1] * (len(trials) - len(chosen))  # another number of trials would compile anew
        metric = record.main_metric.removeprefix(record.prefix)
        method, horizon = setup.refinement.method, setup.refinement.horizon
        found = hypergradients_of(setup, padded, metric=metric, method=method, horizon=horizon).unit
        gradients[wanted] = found[: len(chosen)]
    return gradients
