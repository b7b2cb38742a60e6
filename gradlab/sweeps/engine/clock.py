"""How long this process has compiled, as JAX itself reports it."""

import time

import jax

_SECONDS = {"total": 0.0}
_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


def compile_seconds() -> float:
    """Seconds spent so far on tracing, lowering and compiling; take the difference of two calls."""
    return _SECONDS["total"]


class Stopwatch:
    """Seconds since it was made, and how many of these went into compiling."""

    def __init__(self):
        self._began, self._compiled = time.perf_counter(), compile_seconds()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._began, compile_seconds() - self._compiled


def _add(event: str, seconds: float, **_: object) -> None:
    if event in _EVENTS:
        _SECONDS["total"] += seconds


jax.monitoring.register_event_duration_secs_listener(_add)
