"""A sweep as a sequence of cohorts: drawn, run from halt to halt, decided upon.

::

    design             one cohort, or the brackets of a scheduler
    adaptive sampler   ask, run, tell, until there are no more trials
    hypergradients     after those: the best trials, moved along the slope of their own cost
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from gradlab.sweeps.engine.chunks import Chunk, Report, States, pack
from gradlab.sweeps.engine.clock import Stopwatch
from gradlab.sweeps.engine.journal import Journal
from gradlab.sweeps.engine.lanes import LaneState
from gradlab.sweeps.engine.record import Record, last_costs
from gradlab.sweeps.engine.refinement import refine
from gradlab.sweeps.engine.setup import Setup
from gradlab.sweeps.engine.width import Layout, choose_layout
from gradlab.sweeps.search import Cohort, View
from gradlab.sweeps.spaces.trial import Trial, canonical_json

Workers = Callable[[Setup, Iterable[tuple[Chunk, LaneState | None]], Journal | None], Iterator[Report]]


class Search:
    """Runs a sweep that is set up, cohort by cohort, into a record.

    Args:
      setup: the sweep.
      record: what becomes of it.
      journal: where it is written down, if anywhere.
      workers: what runs the chunks of a cohort from one halt to the next.
    """

    def __init__(self, setup: Setup, record: Record, journal: Journal | None, workers: Workers):
        self.setup, self.record, self.journal, self.workers = setup, record, journal, workers
        self._numbers = itertools.count()
        self._layouts: dict[str, Layout] = {}

    def run(self) -> None:
        """All of it."""
        if self.setup.adaptive:
            self._ask_and_tell()
        else:
            place = 0
            for cohort in self.setup.scheduler.cohorts(len(self.setup.trials), self.setup.evals):
                self._run_cohort(cohort, self.setup.trials[place : place + cohort.count])
                place += cohort.count
        if self.setup.refinement is not None:
            end = (self.setup.plan.steps,)
            for trials in refine(self.setup, self.record):
                self._run_cohort(Cohort(len(trials), end), trials)

    def _ask_and_tell(self) -> None:
        setup, record = self.setup, self.record
        sampler, left = setup.sampler(), setup.drawing.count
        while left > 0:
            for cohort in setup.scheduler.cohorts(min(sampler.batch, left), setup.evals):
                trials = sampler.ask(cohort.count)
                if not trials:
                    return
                first = self._run_cohort(cohort._replace(count=len(trials)), trials)
                costs = last_costs(record.costs(first, len(trials)))
                sampler.tell(trials, costs.tolist(), record.outcomes(first, len(trials)))
                left -= len(trials)

    def _run_cohort(self, cohort: Cohort, trials: list[Trial]) -> int:
        """Runs trials from halt to halt; returns the place of the first in the record."""
        setup, record = self.setup, self.record
        buckets = {lane: bucket for bucket in setup.space.bucket(trials) for lane in bucket.positions}
        layouts = self._laid_out(trials)
        first = record.add(trials, [record.bucket_of(buckets[lane].structure) for lane in range(len(trials))])
        alive, parents = np.arange(len(trials)), np.arange(len(trials))
        values = [trial.values for trial in trials]
        begun, states = 0, None
        for halt, step in enumerate(cohort.halts):
            last = halt == len(cohort.halts) - 1
            chunks = self._chunks(alive, values, buckets, layouts, begun, step, keeps=not last)
            source = dict(zip(alive.tolist(), parents.tolist(), strict=True))
            begins = ((one, states and states.gather([source[lane] for lane in one.lanes], one)) for one in chunks)
            kept = States()
            for report in self.workers(setup, begins, self.journal):
                record.keep(report, first)
                if report.state is not None:
                    kept.keep(report)
            if last:
                break
            view = self._view(first, len(trials), halt, step, alive, values)
            alive, parents, values = self._decide(view, first, step)
            begun, states = step, kept
            if not len(alive):
                break
        if self.journal is not None:
            self.journal.forget_states()
        return first

    def _laid_out(self, trials: list[Trial]) -> dict[str, Layout]:
        """How each bucket runs, decided when the first of its trials appear."""
        for bucket in self.setup.space.bucket(trials):
            key = canonical_json(bucket.structure)
            if key in self._layouts:
                continue
            known = None if self.journal is None else self.journal.layout(key)
            if known is None:
                clock = Stopwatch()
                layout = choose_layout(self.setup, [trial.values for trial in bucket.trials], bucket.structure)
                if self.journal is not None:
                    self.journal.keep_layout(key, layout._asdict())
                self.record.count_compiling(self.record.bucket_of(bucket.structure), clock.read()[1])
            else:
                layout = Layout(**known)
            self._layouts[key] = layout
            self.record.methods.append(layout.method)
        return self._layouts

    def _chunks(
        self, alive: np.ndarray, values: list, buckets: dict, layouts: dict, begun: int, step: int, keeps: bool
    ) -> Iterator[Chunk]:
        """The chunks of all lanes that run, bucket by bucket."""
        of = {lane: own for lane, own in zip(alive.tolist(), values, strict=True)}
        shrinks = (keeps or begun > 0) and not self.setup.scheduler.replaces
        for bucket in dict.fromkeys(id(buckets[lane]) for lane in of):
            own = {lane: of[lane] for lane in of if id(buckets[lane]) == bucket}
            structure = buckets[next(iter(own))].structure
            layout = layouts[canonical_json(structure)]
            yield from pack(
                own,
                layout,
                self.setup.seeds,
                self._numbers,
                shrinks=shrinks,
                bucket=self.record.bucket_of(structure),
                structure=structure,
                first=begun,
                last=step,
                keeps=keeps,
            )

    def _view(self, first: int, count: int, halt: int, step: int, alive: np.ndarray, values: list) -> View:
        evals = int(np.searchsorted(self.record.eval_step, step)) + 1
        costs = self.record.costs(first, count)[:, :evals]
        return View(halt, self.record.eval_step[:evals], costs, alive, values, self.setup.space)

    def _decide(self, view: View, first: int, step: int) -> tuple[np.ndarray, np.ndarray, list]:
        """Who goes on, from whose states, and with what values."""
        decision = self.setup.scheduler.decide(view)
        chosen = view.alive[decision.parents]
        new = decision.values if decision.values is not None else [view.values[parent] for parent in decision.parents]
        if self.setup.scheduler.replaces:
            self._write_lineage(view, chosen, list(new), first, step)
            return view.alive, chosen, list(new)
        ended = np.setdiff1d(view.alive, chosen)
        self.record.end(first + ended, decision.why, step)
        if self.journal is not None:
            self.journal.event("halt", step=step, go_on=len(chosen), ended=len(ended), why=decision.why)
        return chosen, chosen, list(new)

    def _write_lineage(self, view: View, chosen: np.ndarray, new: list, first: int, step: int) -> None:
        """A trial of a population is a place: its values are those that it has at the end."""
        trials = self.record.trials
        for lane, parent, values in zip(view.alive.tolist(), chosen.tolist(), new, strict=True):
            if lane == parent:
                continue
            place = first + lane
            uids = trials[place].uid, trials[first + parent].uid
            self.record.lineage.append({"step": step, "uid": uids[0], "parent": uids[1], "values": dict(values)})
            trials[place] = dataclasses.replace(trials[place], values=dict(values))
