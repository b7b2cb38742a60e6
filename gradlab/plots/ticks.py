"""Logarithmic axes whose labels are few enough for a narrow panel and enough to read a value off."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

LEAST = {"x": 2, "y": 3}  # labels in view; beside each other they take more room than above each other


class RoundLocator(LogLocator):
    """Powers of ten; where too few are in view, three times them too, or twice and five times.

    Where those are too few as well, the range is so short that the ticks are those of a linear axis.

    Args:
      least: how many ticks are enough.

    >>> RoundLocator(2).tick_values(1e-3, 1.0).tolist()
    [0.001, 0.01, 0.1, 1.0]
    >>> RoundLocator(3).tick_values(2e-3, 0.2).round(3).tolist()
    [0.003, 0.01, 0.03, 0.1]
    """

    def __init__(self, least: int):
        super().__init__()
        self.least = least

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        low, high = sorted((vmin, vmax))
        powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        for multiples in ([1.0], [1.0, 3.0], [1.0, 2.0, 5.0]):
            ticks = _between(np.outer(powers, multiples).ravel(), low, high)
            if len(ticks) >= self.least:
                return ticks[:: -(-len(ticks) // self._most())]
        return _between(MaxNLocator(3).tick_values(low, high), low, high)

    def _most(self) -> int:
        """For how many labels the axis has room, as Matplotlib estimates it."""
        return max(self.least, self.axis.get_tick_space()) if self.axis is not None else 9


def _between(ticks: np.ndarray, low: float, high: float) -> np.ndarray:
    rounding = 1 + 1e-9
    return ticks[(ticks >= low / rounding) & (ticks <= high * rounding)]


def round_label(value: float) -> str:
    """A number in digits from 0.001 to 9999, and as people write rates beyond.

    >>> round_label(0.003), round_label(1e-5), round_label(3e6)
    ('0.003', '1e-5', '3e6')
    """
    if value == 0 or 1e-3 <= abs(value) * (1 + 1e-9) < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.4e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def logarithmic(ax: Axes, which: str, **scale: Any) -> None:
    """Makes the ``'x'`` or the ``'y'`` axis logarithmic, with round labels; `scale` is what Matplotlib's takes."""
    getattr(ax, f"set_{which}scale")("log", **scale)
    round_labels(getattr(ax, f"{which}axis"), LEAST[which])


def round_labels(axis: Axis, least: int) -> None:
    """Labels an axis that is logarithmic with at least so many round numbers."""
    axis.set_major_locator(RoundLocator(least))
    axis.set_major_formatter(FuncFormatter(lambda value, _: round_label(value)))
    axis.set_minor_formatter(NullFormatter())


def label_values(axis: Axis, values: Sequence[float]) -> None:
    """Labels an axis at these values and nowhere else."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FuncFormatter(lambda value, _: round_label(value)))
    axis.set_minor_locator(NullLocator())
