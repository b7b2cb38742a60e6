"""The command line: ``gradlab run``, ``gradlab sweep``, ``gradlab contest``, ``gradlab list``, ``gradlab bench``."""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
"""On the CPU XLA leaves decompositions to SciPy's OpenBLAS, whose threads wait busily for the cores that XLA's threads
use: a step of SOAP can take a hundred times as long."""


def main() -> None:
    """What the command ``gradlab`` calls."""
    try:
        from gradlab.cli.app import app
    except ModuleNotFoundError as error:
        sys.exit(f"the command line needs more packages ({error}): pip install 'gradlab[lab]'")
    app(prog_name="gradlab")
