"""Interpreters of their own: what people start N of, and what memory is measured in."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gradlab.bench.machine import usable_cores
from gradlab.sweeps.engine.clock import compile_seconds

ENDS_WITHIN = 10.0  # seconds


class Workers:
    """New processes, each with one function that all call at the same time; a context manager.

    Entering it takes until all have imported what their functions need.

    Args:
      starts: one for each process: a function that can be pickled and makes what the process runs when it is told to.
      pinned: give each process a core of its own, as long as there are enough.
    """

    def __init__(self, starts: Sequence[Callable[[], Callable[[], Any]]], pinned: bool = False):
        self._starts, self._pinned = starts, pinned
        self._compiled = [0.0] * len(starts)
        self._running: list[tuple[Any, Any]] = []  # process, pipe

    def __enter__(self) -> "Workers":
        context = multiprocessing.get_context("spawn")
        for index, start in enumerate(self._starts):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._running.append((process, pipe))
            if self._pinned:
                _pin(process.pid, index)
            pipe.send(start)
        self._receive()
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._running:
            pipe.close()
            process.join(ENDS_WITHIN)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()

    def run(self) -> list[Any]:
        """Every process calls its function; the results in order.

        Raises:
          RuntimeError: a process ended.
        """
        for _, pipe in self._running:
            pipe.send(None)
        return self._receive()

    def compile_seconds(self) -> float:
        """What the process that compiled longest has spent on it so far."""
        return max(self._compiled)

    def _receive(self) -> list[Any]:
        results = []
        for index, (process, pipe) in enumerate(self._running):
            try:
                result, self._compiled[index] = pipe.recv()
            except EOFError:
                process.join(ENDS_WITHIN)
                message = f"a process of the benchmark ended with exit code {process.exitcode}; it says why above"
                raise RuntimeError(message) from None
            results.append(result)
        return results


def _pin(pid: int, index: int) -> None:
    if hasattr(os, "sched_setaffinity") and index < usable_cores():
        os.sched_setaffinity(pid, {sorted(os.sched_getaffinity(0))[index]})


def _serve(pipe: Any) -> None:
    """The life of a process: it receives a function, says that it is ready, and runs it as often as it is told to."""
    jax.config.update("jax_enable_compilation_cache", False)
    run = None
    start = pipe.recv()
    pipe.send((None, compile_seconds()))
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        run = start() if run is None else run
        pipe.send((run(), compile_seconds()))
