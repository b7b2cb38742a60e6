"""How long this process has compiled, as JAX itself reports it."""

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


def _add(event: str, seconds: float, **_: object) -> None:
    if event in _EVENTS:
        _SECONDS["total"] += seconds


jax.monitoring.register_event_duration_secs_listener(_add)
