"""The commands that train nothing of their own: `report`, `inspect`, `plan` and `list`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.options import How, Quiet
from gradlab.cli.terminal import ProgressMode, Terminal, user_errors

inquiries = typer.Typer()


class Topic(StrEnum):
    """What `gradlab list` can list."""

    optimizers = "optimizers"
    schedules = "schedules"
    tasks = "tasks"
    transforms = "transforms"
    wrappers = "wrappers"
    experiments = "experiments"


@inquiries.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a sweep, such as runs/digits_sweep.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write; else DIR/report.html.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the page of a sweep: one HTML file with its table and charts, which opens without a network.

    [bold]Examples[/bold]

    gradlab report runs/digits_sweep

    gradlab report runs/digits_sweep --out digits.html
    """
    with user_errors():
        from gradlab.cli.report import report_sweep

        report_sweep(folder, out, Terminal(quiet))


@inquiries.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that gradlab run made.")],
    at: Annotated[str, typer.Option(metavar="WHERE", help="best, last, or a number of steps.")] = "last",
    instruments: Annotated[
        str, typer.Option(metavar="NAME,...", help="What to measure; else all.", show_default=False)
    ] = "",
    examples: Annotated[
        int, typer.Option(min=3, metavar="N", help="Training examples on which the loss is taken, drawn at random.")
    ] = 1000,
    optimizer: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Which run of a race.", show_default=False)
    ] = None,
    progress: How = ProgressMode.bar,
    quiet: Quiet = False,
) -> None:
    """Measure a saved run where it was best, where it ended or at any step: curvature, noise, stability, the next step.

    [bold]Examples[/bold]

    gradlab inspect runs/digits_run

    gradlab inspect runs/digits_run --at best --instruments stability,noise

    gradlab inspect runs/surface_race --optimizer Adam --at 40
    """
    terminal = Terminal(quiet, progress)
    with user_errors(terminal):
        from gradlab.cli.inspection import inspect_run

        names = [name.strip() for name in instruments.split(",") if name.strip()]
        inspect_run(folder, at, names, examples, optimizer, terminal)


@inquiries.command()
def plan(
    params: Annotated[float, typer.Option(metavar="N", help="Parameters of a transformer, such as 70e9.")],
    devices: Annotated[int, typer.Option(metavar="N", min=1, help="Devices that share data and state.")],
    optimizer: Annotated[str, typer.Option(metavar="NAME,...", help="From the registry.")] = "adamw",
    layout: Annotated[str, typer.Option(metavar="NAME", help="zero, or fsdp.")] = "fsdp",
    tensor: Annotated[int, typer.Option(metavar="N", min=1, help="Devices that split each matrix.")] = 1,
    pipeline: Annotated[int, typer.Option(metavar="N", min=1, help="Stages of layers.")] = 1,
    micro_batches: Annotated[int, typer.Option(metavar="N", min=1, help="That pass the stages in a step.")] = 1,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Devices of a copy of the state, of stages and tensor groups; at most 1024.",
            show_default=False,
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="NAME", help="How slots are kept: int8, bfloat16, ...", show_default=False)
    ] = None,
    tokens: Annotated[float, typer.Option(metavar="N", help="In a step.")] = 4e6,
    link: Annotated[float, typer.Option(metavar="N", help="Bytes a second that a device sends.")] = 50e9,
    near_link: Annotated[float, typer.Option(metavar="N", help="The same, within a tensor group.")] = 450e9,
) -> None:
    """Plan memory and traffic of a training step on many devices, from the state that the code would make.

    [bold]Examples[/bold]

    gradlab plan --params 70e9 --devices 1024 --optimizer muon

    gradlab plan --params 1e12 --devices 16384 --optimizer adamw,muon,soap --storage int8 --tensor 8

    gradlab plan --params 1e12 --devices 16384 --layout zero --tensor 8 --pipeline 4 --micro-batches 32
    """
    with user_errors():
        from gradlab.cli.plan import Links, show_plan

        names = [name.strip() for name in optimizer.split(",") if name.strip()]
        options = {"layout": layout, "shards": shards, "tokens": tokens}
        options |= {"tensor": tensor, "pipeline": pipeline, "micro_batches": micro_batches}
        show_plan(params, devices, names, storage, Links(link, near_link), Terminal(), **options)


@inquiries.command("list")
def list_(
    topic: Annotated[Topic | None, typer.Argument(help="What to list; else everything.", show_default=False)] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of optimizers in the documentation instead.")
    ] = False,
) -> None:
    """List what a config can name: optimizers, schedules, tasks, transforms, experiments, with their arguments.

    [bold]Examples[/bold]

    gradlab list schedules

    gradlab list optimizers --markdown
    """
    with user_errors():
        from gradlab.cli.listing import print_lists
        from gradlab.cli.optimizer_table import optimizer_table

        if markdown:
            if topic not in (None, Topic.optimizers):
                raise ValueError(f"--markdown prints the table of optimizers; there is none of {topic.value}")
            typer.echo(optimizer_table())
        else:
            print_lists([topic] if topic else list(Topic), Terminal())
