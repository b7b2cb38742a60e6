"""Many runs as lanes of one program."""

from gradlab.sweeps.contest import ContestResult, Entrant, contest
from gradlab.sweeps.engine.cluster import ray_workers
from gradlab.sweeps.engine.hypergradients import Hypergradients, hypergradients
from gradlab.sweeps.engine.run import SweepProgress, sweep
from gradlab.sweeps.engine.training_cost import training_cost
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.writers import WRITERS
from gradlab.sweeps.samplers.adaptive import ADAPTIVE
from gradlab.sweeps.samplers.designs import SAMPLERS
from gradlab.sweeps.schedulers.halving import Hyperband, SuccessiveHalving
from gradlab.sweeps.schedulers.hypergrad import Hypergrad
from gradlab.sweeps.schedulers.named import SCHEDULERS
from gradlab.sweeps.schedulers.population import PopulationBased
from gradlab.sweeps.schedulers.simulate import simulate
from gradlab.sweeps.schedulers.stopping import MedianStopping, Patience, PercentileStopping
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

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
