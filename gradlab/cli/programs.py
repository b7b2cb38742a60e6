"""Compiled programs kept on disk, so that the same sweep with other values compiles nothing."""

import os
from pathlib import Path

import jax

MOST_BYTES = 2 * 1024**3  # the programs used longest ago go when the folder has grown to this


def keep_programs() -> Path | None:
    """Turns JAX's persistent cache of compiled programs on, unless the user has set it up or off.

    ``JAX_COMPILATION_CACHE_DIR`` names another folder, and ``JAX_ENABLE_COMPILATION_CACHE=false`` turns it off.

    Returns:
      The folder; None if there is none.
    """
    if not jax.config.jax_enable_compilation_cache:
        return None
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "gradlab" / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    return Path(jax.config.jax_compilation_cache_dir)
