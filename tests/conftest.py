"""Policy of the whole suite: 64-bit arithmetic, so that oracles agree to rounding; warnings are errors.

Most of the suite's time is XLA's compiling, so it is cheap here: no expensive passes of LLVM, the older emitter of
kernels on the CPU, which compiles in half the time, and a program that two tests compile is compiled once.  XLA's own
passes, which decide about kernels, copies and donation, run as in any other process.
"""

import itertools
import os
import tempfile

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see gradlab.cli
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import chex  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# A program that is read while another process writes it is compiled instead, which is no finding of a test.
HALF_WRITTEN = "ignore:Error reading persistent compilation cache entry:UserWarning"

_run = itertools.count(1)


def pytest_configure(config):
    """One folder of compiled programs for all processes of a run, unless the environment names one that outlives it."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.programs = tempfile.TemporaryDirectory(prefix="gradlab-programs-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.programs.name
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    config.addinivalue_line("filterwarnings", HALF_WRITTEN)
    os.environ["PYTHONWARNINGS"] = HALF_WRITTEN  # processes that tests start


def pytest_unconfigure(config):
    if hasattr(config, "programs"):
        del os.environ["JAX_COMPILATION_CACHE_DIR"]
        config.programs.cleanup()


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    chex.clear_trace_counter()


@pytest.fixture(autouse=True)
def _free_programs():
    """Each program holds memory maps, of which Linux allows a process 65,530: with all of the suite's it crashes."""
    yield
    if next(_run) % 200 == 0:
        jax.clear_caches()
