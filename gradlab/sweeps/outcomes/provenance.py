"""Where a result comes from: versions, platform, commit, date."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

PACKAGES = ("gradlab", "jax", "jaxlib", "optax", "flax", "numpy", "scipy", "pandas")


def provenance() -> dict[str, Any]:
    """Versions of Python and of the packages in use, the platform, the commit of the working folder, the date (UTC).

    What does not exist is None: a package that is not installed, the commit of a folder outside of git.

    >>> sorted(provenance())
    ['date', 'git', 'platform', 'versions']
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    commit = _run("git", "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _run("git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changes is None else bool(changes)}


def _run(*command: str) -> str | None:
    """What a command prints, stripped; None if it fails, is missing or takes longer than five seconds."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        return done.stdout.strip() if done.returncode == 0 else None
    return None
