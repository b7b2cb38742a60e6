"""Fair races: paired timings against optax and torch."""

from gradlab.bench.paired import Contestant, Ratio, paired, ratio
from gradlab.bench.speed import Report, run

__all__ = ["Contestant", "Ratio", "Report", "paired", "ratio", "run"]
