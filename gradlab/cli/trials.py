"""``gradlab run --trial``: one trial of a sweep again, alone, against what the sweep wrote down."""

from pathlib import Path

import numpy as np

from gradlab.cli.sweeps import note_of
from gradlab.cli.terminal import Terminal, headings, short
from gradlab.config import ConfigError, Problem, load
from gradlab.core.check import suggestion
from gradlab.sweeps.engine.run import run_setup
from gradlab.sweeps.engine.setup import alone_setup
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.spaces.trial import Trial


def rerun_trial(folder: Path, uid: str, terminal: Terminal) -> None:
    """What `gradlab run --trial` does.

    Args:
      folder: of a sweep that `gradlab sweep` ran.
      uid: of the trial, or how it begins.
      terminal: where to write.
    """
    try:
        recorded = SweepResult.load(folder)
    except FileNotFoundError as error:
        raise ConfigError([Problem(str(folder), "", str(error).removeprefix(f"{folder} "))]) from None
    trial = _trial_of(recorded, uid, folder)
    if recorded.lineage:
        message = "a population's trials take over each other's states, so that none of them can run alone"
        raise ConfigError([Problem(str(folder), "", message)])
    setup = load(folder / "config.yaml").setup
    setup = alone_setup(setup, trial, recorded.seeds)
    with terminal.progress(f"trial {trial.uid}", len(setup.seeds) * setup.plan.steps) as show:
        alone = run_setup(setup, lambda now: show(now.done, note_of(now), now._asdict()))
    values = ", ".join(f"{name} = {short(trial.values[name])}" for name in recorded.space.varying)
    terminal.say(f"trial {trial.uid}: {values}\n")
    _compare(recorded, alone, trial, terminal)
    terminal.event("done", folder=str(folder))


def _trial_of(result: SweepResult, uid: str, folder: Path) -> Trial:
    found = [trial for trial in result.trials if trial.uid.startswith(uid)]
    if len(found) == 1:
        return found[0]
    uids = [trial.uid for trial in result.trials]
    message = f"{uid!r} begins {len(found)} trials" if found else f"has no trial {uid!r}{suggestion(uid, uids)}"
    raise ConfigError([Problem(str(folder), "", message)])


def _compare(recorded: SweepResult, alone: SweepResult, trial: Trial, terminal: Terminal) -> None:
    before, after = recorded.curves(trial.uid), alone.curves(trial.uid)
    names = [name for name in before if name not in ("loss_step", "eval_step")]
    rows = []
    for name in names:
        for index, seed in enumerate(recorded.seeds):
            old, new = before[name][index], after[name][index]
            both = np.isfinite(old) & np.isfinite(new)
            gap = np.max(np.abs(old - new)[both], initial=0.0)
            last = np.flatnonzero(~np.isnan(old))[-1] if not np.isnan(old).all() else -1
            rows.append([headings([name])[0], seed, short(float(old[last])), short(float(new[last])), f"{gap:.2g}"])
    columns = ["curve", "seed", "in the sweep", "alone", "largest difference"]
    terminal.table("Where the sweep ended it, and the largest difference on the way", columns, rows)
