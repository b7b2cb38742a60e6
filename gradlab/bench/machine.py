"""What a figure of speed is worth nothing without: machine, versions, date."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

_PACKAGES = ("gradlab", "jax", "jaxlib", "optax", "numpy", "torch")


def current_device() -> jax.Device:
    """Where jax computes: inside of ``jax.default_device`` that device."""
    (device,) = jnp.zeros(()).devices()
    return device


def machine_facts() -> dict[str, Any]:
    """Processor, cores, load, device of jax, versions and the date, ready for JSON.

    >>> facts = machine_facts()
    >>> facts["cores"] >= 1, facts["versions"]["jax"] == jax.__version__
    (True, True)
    """
    device = current_device()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "load": _load(),
        "device": f"{device.platform}: {device.device_kind}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float | None:
    """Processes that wanted to run in the last minute on average: above the cores, others were at work."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
