"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.terminal import ProgressMode

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/digits_run.yaml.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Change a value of the config; the value is YAML. May be repeated."
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the results; else runs/<config name>.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that the folder holds.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be compiled, and how many bytes it takes; train nothing.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
How = Annotated[
    ProgressMode,
    typer.Option(
        "--progress", help="A bar, a line of JSON for each segment on the standard error, or nothing until the end."
    ),
]
