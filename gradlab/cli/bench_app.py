"""``gradlab bench``: its commands and their options."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.options import Overwrite, Quiet
from gradlab.cli.terminal import Terminal, user_errors

bench_app = typer.Typer(no_args_is_help=True, help="Measure speed against optax on the same machine.")


@bench_app.command()
def speed(
    rows: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Rows to measure, as 'step/*'; else all. May be repeated.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds, and slow baselines estimated.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each row; else 15, or 5 with --quick.")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="PLATFORM", help="cpu, gpu or tpu; else jax's default.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for speed.json and speed.csv.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure gradlab's speed as ratios to optax: medians over paired rounds in one process.

    [bold]Examples[/bold]

    gradlab bench speed --quick

    gradlab bench speed --rows 'traces/*' --rows import --out runs/speed

    gradlab bench speed --device gpu --rows 'device-*'
    """
    with user_errors():
        from gradlab.cli.bench import bench_speed

        files = {"out": out, "overwrite": overwrite}
        bench_speed(rows or ["*"], quick=quick, rounds=rounds, device=device, terminal=Terminal(quiet), **files)


@bench_app.command("sweep")
def sweep_speed(
    tasks: Annotated[str, typer.Option(metavar="NAME,...", help="Networks to train.")] = "mlp,cnn,chars",
    lanes: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Numbers of configurations; else 1,8,64,256,1024, or 1,8,64 with --quick."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of a configuration; else what suits the task.")
    ] = None,
    rivals: Annotated[
        str, typer.Option(metavar="NAME,...", help="What runs besides gradlab's lanes side by side.")
    ] = "gradlab-map,gradlab-loop,loop,scan,processes,vmap,optuna",
    parts: Annotated[str, typer.Option(metavar="NAME,...", help="Tables to make.")] = "speed,parity,memory",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer lanes and rounds, and more estimates.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for tables and picture.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure how fast configurations train as lanes, against loops, scans, processes, a vmap by hand and Optuna.

    [bold]Examples[/bold]

    gradlab bench sweep --quick

    gradlab bench sweep --tasks mlp --lanes 1,64 --rivals loop,vmap --parts speed --out runs/sweep_speed
    """
    with user_errors():
        from gradlab.cli.bench import bench_sweep, sweep_request

        request = sweep_request(tasks=tasks, lanes=lanes, rivals=rivals, parts=parts, steps=steps, quick=quick)
        bench_sweep(request, out=out, overwrite=overwrite, terminal=Terminal(quiet))


@bench_app.command("instruments")
def instruments_cost(
    rows: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Rows to measure, as 'cost/*'; else all. May be repeated.", show_default=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each row; else 15, or 3 with --quick.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the tables.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure what the instruments cost, in gradients of the same batch, and what they save.

    [bold]Examples[/bold]

    gradlab bench instruments --quick

    gradlab bench instruments --rows 'cost/*' --rows products/top-eigenvalue --out runs/instruments
    """
    with user_errors():
        from gradlab.cli.bench import bench_instruments

        request = {"quick": quick, "rounds": rounds, "out": out, "overwrite": overwrite}
        bench_instruments(rows or ["*"], terminal=Terminal(quiet), **request)


@bench_app.command()
def storage(
    parts: Annotated[str, typer.Option(metavar="NAME,...", help="Tables to make: bytes, time, gaps.")] = "bytes,time",
    optimizers: Annotated[
        str, typer.Option(metavar="NAME,...", help="Whose final losses are compared, or all.")
    ] = "adamw,lion,muon,soap",
    storages: Annotated[str, typer.Option(metavar="NAME,...", help="With which, or all.")] = "all",
    task: Annotated[str, typer.Option(metavar="NAME", help="On what: digits_mlp or chars.")] = "digits_mlp",
    layers: Annotated[int, typer.Option(min=1, help="Of the GPT-2 whose shapes are counted and timed.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each time.")] = 11,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the tables.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure what moments in fewer bits save, cost, and change: bytes, time of a step, final losses.

    [bold]Examples[/bold]

    gradlab bench storage --parts bytes

    gradlab bench storage --parts gaps --optimizers all --task chars --out runs/gaps
    """
    with user_errors():
        from gradlab.cli.bench_storage import Request, bench_storage

        request = Request(parts, optimizers, storages, task, layers, rounds)
        bench_storage(request, out=out, overwrite=overwrite, terminal=Terminal(quiet))
