"""Many runs as lanes of one program."""

from gradlab.sweeps.adaptive import ADAPTIVE
from gradlab.sweeps.cluster import ray_workers
from gradlab.sweeps.contest import ContestResult, Entrant, contest
from gradlab.sweeps.halving import Hyperband, SuccessiveHalving
from gradlab.sweeps.hypergrad import Hypergrad
from gradlab.sweeps.hypergradients import Hypergradients, hypergradients
from gradlab.sweeps.population import PopulationBased
from gradlab.sweeps.results import SweepResult
from gradlab.sweeps.run import SweepProgress, sweep
from gradlab.sweeps.samplers import SAMPLERS
from gradlab.sweeps.schedulers import SCHEDULERS
from gradlab.sweeps.simulate import simulate
from gradlab.sweeps.space import Space
from gradlab.sweeps.stopping import MedianStopping, Patience, PercentileStopping
from gradlab.sweeps.training_cost import training_cost
from gradlab.sweeps.trial import Trial
from gradlab.sweeps.writers import WRITERS

__all__ = [
    "ADAPTIVE",
    "SAMPLERS",
    "SCHEDULERS",
    "WRITERS",
    "ContestResult",
    "Entrant",
    "Hyperband",
    "Hypergrad",
    "Hypergradients",
    "MedianStopping",
    "Patience",
    "PercentileStopping",
    "PopulationBased",
    "Space",
    "SuccessiveHalving",
    "SweepProgress",
    "SweepResult",
    "Trial",
    "contest",
    "hypergradients",
    "ray_workers",
    "simulate",
    "sweep",
    "training_cost",
]
