"""Many runs as lanes of one program."""

from gradlab.sweeps.results import SweepResult
from gradlab.sweeps.run import SweepProgress, sweep
from gradlab.sweeps.samplers import SAMPLERS
from gradlab.sweeps.space import Space
from gradlab.sweeps.trial import Trial

__all__ = ["SAMPLERS", "Space", "SweepProgress", "SweepResult", "Trial", "sweep"]
