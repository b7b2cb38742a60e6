"""Policy of the whole suite: 64-bit arithmetic, so that oracles agree to rounding; warnings are errors.

Most of the suite's time is XLA's compiling, so it is cheap here: no expensive passes of LLVM, and the older emitter of
kernels on the CPU, which compiles in half the time.  XLA's own passes, which decide about kernels, copies and donation,
run as in any other process.
"""

import itertools
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see gradlab.cli
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import chex  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

_run = itertools.count(1)


@pytest.fixture(autouse=True)
def _fresh_trace_counts():
    chex.clear_trace_counter()


@pytest.fixture(autouse=True)
def _free_programs():
    """Each program holds memory maps, of which Linux allows a process 65,530: with all of the suite's it crashes."""
    yield
    if next(_run) % 200 == 0:
        jax.clear_caches()
