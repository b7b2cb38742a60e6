"""The schedules that the tests of this package run over: at least one for every name of SCHEDULES."""

import functools
from typing import Any, NamedTuple

import numpy as np

from tests.oracles import schedules as oracles


class Case(NamedTuple):
    name: str
    values: dict[str, Any]
    horizon: int  # from here on the value is constant, unless the schedule is endless
    endless: bool = False

    def make(self, module):
        """The schedule from `module`: gradlab's, or Optax's under the same name."""
        return getattr(module, self.name)(**self._values(lambda piece: piece.make(module)))

    def oracle(self, step: int) -> float:
        values = self._values(lambda piece: piece.oracle)
        return functools.partial(getattr(oracles, self.name), **values)(step)

    def _values(self, build):
        return {
            name: [build(piece) for piece in value] if name == "schedules" else value
            for name, value in self.values.items()
        }

    @property
    def steps(self) -> np.ndarray:
        return np.array([*range(self.horizon + 4), 10 * self.horizon, 100 * self.horizon])

    def __repr__(self) -> str:
        return f"{self.name}-{self.horizon}"


CYCLES = [
    {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 9, "end_value": 0.1},
    {"init_value": 0.1, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 14},
    {"init_value": 0.05, "peak_value": 0.2, "warmup_steps": 4, "decay_steps": 11, "end_value": 0.01, "exponent": 2.0},
]
LINE = Case("linear_schedule", {"init_value": 0.0, "end_value": 0.8, "transition_steps": 7}, 7)
COSINE = Case("cosine_decay_schedule", {"init_value": 0.8, "decay_steps": 23, "alpha": 0.1, "exponent": 1.5}, 23)
SLOPE = Case(
    "polynomial_schedule",
    {"init_value": 0.3, "end_value": 0.02, "power": 2.0, "transition_steps": 12, "transition_begin": 4},
    16,
)
JUMPS = {6: 0.5, 15: 0.1, 20: 3.0}

CASES = [
    Case("constant_schedule", {"value": 0.3}, 5),
    LINE,
    Case("linear_schedule", {"init_value": 0.2, "end_value": 0.05, "transition_steps": 11, "transition_begin": 5}, 16),
    Case("linear_floor_schedule", {"init_value": 0.5, "floor": 0.005, "tau": 21}, 21),
    SLOPE,
    Case("polynomial_schedule", {"init_value": 0.1, "end_value": 0.4, "power": 0.5, "transition_steps": 18}, 18),
    COSINE,
    Case("cosine_decay_schedule", {"init_value": 1.5, "decay_steps": 30}, 30),
    Case("cosine_decay_schedule", {"init_value": 1.5, "decay_steps": 20, "exponent": 0.25}, 20),
    Case("rex_schedule", {"init_value": 0.7, "decay_steps": 19}, 19),
    Case("inverse_time_schedule", {"init_value": 0.4, "rate": 0.03}, 25, endless=True),
    Case("inverse_sqrt_schedule", {"peak_value": 0.4, "warmup_steps": 8}, 25, endless=True),
    Case("inverse_sqrt_schedule", {"peak_value": 0.4, "warmup_steps": 9, "init_value": 0.01}, 26, endless=True),
    Case("multiply_schedule", {"init_value": 0.6}, 25, endless=True),
    Case("step_decay_schedule", {"init_value": 0.9, "factor": 0.7, "every": 6}, 25, endless=True),
    Case("exponential_decay", {"init_value": 0.9, "transition_steps": 7, "decay_rate": 0.6}, 24, endless=True),
    Case(
        "exponential_decay",
        {"init_value": 0.9, "transition_steps": 7, "decay_rate": 0.6, "transition_begin": 3, "staircase": True},
        25,
        endless=True,
    ),
    Case("exponential_decay", {"init_value": 0.9, "transition_steps": 5, "decay_rate": 0.3, "end_value": 0.02}, 26),
    Case(
        "exponential_decay",
        {"init_value": 0.1, "transition_steps": 5, "decay_rate": 1.8, "transition_begin": 2, "end_value": 0.7},
        27,
    ),
    Case("piecewise_constant_schedule", {"init_value": 0.8, "boundaries_and_scales": JUMPS}, 20),
    Case("piecewise_constant_schedule", {"init_value": 0.8}, 4),
    Case("piecewise_constant_schedule", {"init_value": 0.8, "boundaries_and_scales": {9: 0.2, 0: 0.5, 4: 2}}, 9),
    Case(
        "piecewise_interpolate_schedule",
        {"interpolate_type": "linear", "init_value": 0.8, "boundaries_and_scales": JUMPS},
        20,
    ),
    Case(
        "piecewise_interpolate_schedule",
        {"interpolate_type": "cosine", "init_value": 0.8, "boundaries_and_scales": {21: 3.0, 0: 0.5, 6: 0.25}},
        21,
    ),
    Case("piecewise_interpolate_schedule", {"interpolate_type": "cosine", "init_value": 0.8}, 4),
    Case("linear_onecycle_schedule", {"transition_steps": 37, "peak_value": 1.2}, 37),
    Case(
        "linear_onecycle_schedule",
        {
            "transition_steps": 33,
            "peak_value": 1.2,
            "pct_start": 0.47,
            "pct_final": 0.7,
            "div_factor": 3.0,
            "final_div_factor": 8.0,
        },
        33,
    ),
    Case("cosine_onecycle_schedule", {"transition_steps": 37, "peak_value": 1.2}, 37),
    Case(
        "cosine_onecycle_schedule",
        {"transition_steps": 31, "peak_value": 1.2, "pct_start": 0.47, "div_factor": 3.0, "final_div_factor": 8.0},
        31,
    ),
    Case("warmup_constant_schedule", {"init_value": 0.1, "peak_value": 0.9, "warmup_steps": 13}, 13),
    Case(
        "warmup_cosine_decay_schedule",
        {"init_value": 0.05, "peak_value": 0.9, "warmup_steps": 6, "decay_steps": 28, "end_value": 0.03},
        28,
    ),
    Case(
        "warmup_cosine_decay_schedule",
        {"init_value": 0.0, "peak_value": 0.9, "warmup_steps": 0, "decay_steps": 17, "exponent": 2.5},
        17,
    ),
    Case(
        "warmup_exponential_decay_schedule",
        {"init_value": 0.0, "peak_value": 0.9, "warmup_steps": 6, "transition_steps": 4, "decay_rate": 0.5},
        24,
        endless=True,
    ),
    Case(
        "warmup_exponential_decay_schedule",
        {
            "init_value": 0.01,
            "peak_value": 0.9,
            "warmup_steps": 6,
            "transition_steps": 4,
            "decay_rate": 0.5,
            "transition_begin": 3,
            "staircase": True,
            "end_value": 0.1,
        },
        25,
    ),
    *[
        Case(
            "wsd_schedule",
            {
                "init_value": 0.02,
                "peak_value": 0.9,
                "warmup_steps": 4,
                "stable_steps": 12,
                "decay_steps": 9 + extra,
                "end_value": 0.05,
                "shape": shape,
            },
            25 + extra,
        )
        for extra, shape in enumerate(["linear", "1-sqrt", "cosine", "mirror-cosine", "1-square"])
    ],
    Case("untuned_exponential_schedule", {"peak_value": 0.7, "b2": 0.7}, 150),
    Case("untuned_linear_schedule", {"peak_value": 0.7, "b2": 0.7}, 7),
    Case("rectified_schedule", {"peak_value": 0.7, "b2": 0.75}, 150),
    Case("power_schedule", {"peak_value": 0.3, "scale": 0.9}, 25, endless=True),
    Case("power_cooldown_schedule", {"peak_value": 0.8, "end_step": 27, "scale": 0.05}, 27),
    Case("growing_decay_schedule", {}, 25, endless=True),
    Case(
        "infinite_cosine_schedule",
        {
            "peak_value": 0.9,
            "constant_value": 0.3,
            "end_value": 0.02,
            "warmup_steps": 5,
            "cosine_steps": 8,
            "stable_steps": 7,
            "decay_steps": 6,
        },
        26,
    ),
    Case("cyclic_schedule", {"low_value": 0.1, "high_value": 0.7, "half_period": 5.5, "decay": 0.97}, 25, endless=True),
    Case("onecycle_momentum_schedule", {"transition_steps": 33, "pct_start": 0.41}, 33),
    Case("ademamix_alpha_schedule", {"alpha": 8.0, "steps": 17}, 17),
    Case("ademamix_b3_schedule", {"b1": 0.9, "b3": 0.999, "steps": 17}, 17),
    Case("ademamix_b3_schedule", {"b1": 0.5, "b3": 0.9999, "steps": 11, "first": 0}, 11),
    Case("chebyshev_schedule", {"smallest": 0.4, "largest": 3.0, "period": 8}, 20, endless=True),
    Case("sgdr_schedule", {"cosine_kwargs": CYCLES}, 34),
    Case("sgdr_schedule", {"cosine_kwargs": CYCLES[:1]}, 9),
    Case("join_schedules", {"schedules": [LINE, COSINE, SLOPE], "boundaries": [7, 20]}, 36),
]
