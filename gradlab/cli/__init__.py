"""The command line: ``gradlab run``, ``gradlab sweep``, ``gradlab list``, ``gradlab bench``."""

import sys


def main() -> None:
    """What the command ``gradlab`` calls."""
    try:
        from gradlab.cli.app import app
    except ModuleNotFoundError as error:
        sys.exit(f"the command line needs more packages ({error}): pip install 'gradlab[lab]'")
    app(prog_name="gradlab")
