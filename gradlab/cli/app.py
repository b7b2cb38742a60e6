"""The commands and their options; each imports what it needs when it is called, so that ``--help`` stays quick."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.bench_app import bench_app
from gradlab.cli.inquiries import inquiries
from gradlab.cli.options import Assignments, Config, DryRun, How, Out, Overwrite, Quiet
from gradlab.cli.terminal import ProgressMode, Terminal, user_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train, race, sweep and compare gradient-based optimizers from YAML files.",
    epilog="Start with: [bold]gradlab run configs/digits_run.yaml[/bold], and [bold]gradlab run --help[/bold].",
)
app.add_typer(inquiries)
app.add_typer(bench_app, name="bench")


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
    given = {"--set": assignments, "--out": out, "--overwrite": overwrite, "--dry-run": dry_run}
    of_a_config = [name for name, value in given.items() if value]
    if trial is not None and of_a_config:
        message = "it runs a trial as the sweep did, and leaves no files"
        raise typer.BadParameter(f"--trial does not go with {' or '.join(of_a_config)}: {message}; leave that out")
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


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from gradlab import __version__

        typer.echo(f"gradlab {__version__}")
        raise typer.Exit
