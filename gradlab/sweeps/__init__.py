"""Many runs as lanes of one program."""

from gradlab.sweeps.contest import ContestResult, Entrant, contest
from gradlab.sweeps.results import SweepResult
from gradlab.sweeps.run import SweepProgress, sweep
from gradlab.sweeps.samplers import SAMPLERS
from gradlab.sweeps.space import Space
from gradlab.sweeps.trial import Trial

__all__ = ["SAMPLERS", "ContestResult", "Entrant", "Space", "SweepProgress", "SweepResult", "Trial", "contest", "sweep"]
