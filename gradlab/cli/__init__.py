"""The command line: ``gradlab run``, ``gradlab sweep``, ``gradlab list``, ``gradlab bench``."""

from gradlab.cli.app import app, main

__all__ = ["app", "main"]
