"""What a figure of speed is worth nothing without: the machine, what else it was doing, versions, the date."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.sweeps.outcomes.provenance import provenance


def current_device() -> jax.Device:
    """Where jax computes: inside of ``jax.default_device`` that device."""
    (device,) = jnp.zeros(()).devices()
    return device


def machine_facts() -> dict[str, Any]:
    """What `provenance` says, with the processor, its cores and load, jax's device and the version of torch.

    >>> facts = machine_facts()
    >>> facts["cores"] >= 1, facts["versions"]["jax"] == jax.__version__
    (True, True)
    """
    facts, device = provenance(), current_device()
    versions = {**facts.pop("versions"), "torch": _torch_version()}
    machine = {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "load": _load(),
        "device": f"{device.platform}: {device.device_kind}",
    }
    return {**machine, **facts, "versions": versions}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """The cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float | None:
    """Processes that wanted to run in the last minute on average: above the cores, others were at work."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _torch_version() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
