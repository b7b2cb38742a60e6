"""The commands and their options; each imports what it needs when it is called, so that ``--help`` stays quick."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.terminal import ProgressMode, Terminal, user_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train, race, sweep and compare gradient-based optimizers from YAML files.",
    epilog="Start with: [bold]gradlab run configs/digits_run.yaml[/bold], and [bold]gradlab run --help[/bold].",
)
bench_app = typer.Typer(no_args_is_help=True, help="Measure speed against optax on the same machine.")
app.add_typer(bench_app, name="bench")

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


class Topic(StrEnum):
    """What `gradlab list` can list."""

    optimizers = "optimizers"
    schedules = "schedules"
    tasks = "tasks"
    transforms = "transforms"
    experiments = "experiments"


@app.command()
def run(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/digits_run.yaml.", show_default=False),
    ] = None,
    assignments: Assignments = None,
    out: Out = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    trial: Annotated[
        tuple[Path, str] | None,
        typer.Option(
            "--trial",
            metavar="DIR UID",
            help="Run one trial of a sweep again, alone, and compare; no CONFIG.",
            show_default=False,
        ),
    ] = None,
    progress: How = ProgressMode.bar,
    quiet: Quiet = False,
) -> None:
    """Train one optimizer, or race several, as a config says.

    [bold]Examples[/bold]

    gradlab run configs/digits_run.yaml

    gradlab run configs/digits_run.yaml --set optimizer.learning_rate=1e-2 --set train.epochs=5 --out runs/fast

    gradlab run configs/surface_race.yaml --set task.name=himmelblau --dry-run

    gradlab run --trial runs/digits_sweep 3f2a
    """
    if (config is None) == (trial is None):
        raise typer.BadParameter("give either a CONFIG or --trial DIR UID")
    terminal = Terminal(quiet, progress)
    with user_errors(terminal):
        from gradlab.cli.runs import run_config
        from gradlab.cli.trials import rerun_trial

        if trial is not None:
            rerun_trial(*trial, terminal)
            return
        run_config(config, assignments or [], out, overwrite=overwrite, dry_run=dry_run, terminal=terminal)


@app.command()
def sweep(
    config: Config,
    assignments: Assignments = None,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep that the folder holds unfinished; fail without one.")
    ] = False,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who draws the trials: sobol, tpe, coordinate, ...", show_default=False),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who decides which trials go on: halving, hyperband, median, pbt, hypergrad, ...",
            show_default=False,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run chunks as tasks of Ray: ray, or ray://host:port.", show_default=False
        ),
    ] = None,
    writers: Annotated[
        list[str] | None,
        typer.Option(
            "--writer",
            metavar="NAME",
            help="Write the curves to tensorboard, wandb (offline) or mlflow as well. May be repeated.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    progress: How = ProgressMode.bar,
    quiet: Quiet = False,
) -> None:
    """Train many configurations of an optimizer as lanes of one compiled program.

    A sweep that was interrupted or killed goes on where it was when the same command is given again.

    [bold]Examples[/bold]

    gradlab sweep configs/digits_sweep.yaml

    gradlab sweep configs/digits_sweep.yaml --dry-run

    gradlab sweep configs/digits_sweep.yaml --set sweep.trials=16 --set 'sweep.space.optimizer.b1=[0.8, 0.9]'

    gradlab sweep configs/digits_sweep.yaml --scheduler halving --out runs/halving
    """
    named = {"sweep.sampler": sampler, "sweep.scheduler": scheduler}
    assignments = [*(assignments or []), *(f"{key}={name}" for key, name in named.items() if name is not None)]
    assignments += [f"writers=[{', '.join(writers)}]"] if writers else []
    terminal = Terminal(quiet, progress)
    with user_errors(terminal):
        from gradlab.cli.sweeps import sweep_config

        sweep_config(
            config,
            assignments,
            out,
            overwrite=overwrite,
            resume=resume,
            cluster=cluster,
            dry_run=dry_run,
            terminal=terminal,
        )


@app.command()
def contest(
    config: Config,
    assignments: Assignments = None,
    out: Out = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    progress: How = ProgressMode.bar,
    quiet: Quiet = False,
) -> None:
    """Tune several optimizers with one budget, then compare them on fresh seeds.

    [bold]Examples[/bold]

    gradlab contest configs/digits_contest.yaml

    gradlab contest configs/digits_contest.yaml --set tuning.trials=3 --set train.epochs=5
    """
    terminal = Terminal(quiet, progress)
    with user_errors(terminal):
        from gradlab.cli.contests import contest_config

        contest_config(config, assignments or [], out, overwrite=overwrite, dry_run=dry_run, terminal=terminal)


@app.command()
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


@app.command()
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

    gradlab inspect runs/surface_race --optimizer adam --at 40
    """
    terminal = Terminal(quiet, progress)
    with user_errors(terminal):
        from gradlab.cli.inspection import inspect_run

        names = [name.strip() for name in instruments.split(",") if name.strip()]
        inspect_run(folder, at, names, examples, optimizer, terminal)


@app.command()
def plan(
    params: Annotated[float, typer.Option(metavar="N", help="Parameters of a transformer, such as 70e9.")],
    devices: Annotated[int, typer.Option(metavar="N", min=1, help="Devices that share data and state.")],
    optimizer: Annotated[str, typer.Option(metavar="NAME,...", help="From the registry.")] = "adamw",
    layout: Annotated[str, typer.Option(metavar="NAME", help="zero, or fsdp.")] = "fsdp",
    shards: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Devices of a copy of the state; at most 1024.", show_default=False),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="NAME", help="How slots are kept: int8, bfloat16, ...", show_default=False)
    ] = None,
    tokens: Annotated[float, typer.Option(metavar="N", help="In a step.")] = 4e6,
    link: Annotated[float, typer.Option(metavar="N", help="Bytes a second that a device sends.")] = 50e9,
) -> None:
    """Plan memory and traffic of a training step on many devices, from the state that the code would make.

    [bold]Examples[/bold]

    gradlab plan --params 70e9 --devices 1024 --optimizer muon

    gradlab plan --params 1e12 --devices 16384 --optimizer adamw,muon,soap --storage int8
    """
    with user_errors():
        from gradlab.cli.plan import show_plan

        names = [name.strip() for name in optimizer.split(",") if name.strip()]
        options = {"layout": layout, "shards": shards, "tokens": tokens}
        show_plan(params, devices, names, storage, link, Terminal(), **options)


@app.command("list")
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


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from gradlab import __version__

        typer.echo(f"gradlab {__version__}")
        raise typer.Exit
