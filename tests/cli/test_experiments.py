"""Published results as configs: each runs from its file, and says what holds."""

import csv
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from gradlab.config import ConfigError, ExperimentConfig, load
from gradlab.experiments.registry import EXPERIMENTS

CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs", "experiments").glob("*.yaml"))
SMALLER = {
    "catapult": {"width": 4, "steps": 8},
    "edge_of_stability": {"steps": 40},
    "edge_of_stability_adam": {"steps": 40},
    "edge_of_stability_momentum": {"steps": 40},
    "flat_minima": {"steps": 10, "small_batch_steps": 10},
    "gradient_norms": {"depth": 2, "steps": 10},
    "hessian_outliers": {"classes": 3, "hidden": 2, "steps": 2, "examples": 64},
    "noise_growth": {"steps": 10},
    "recurrent_cliff": {"steps": 4},
    "saddle_escape": {"steps": 2, "width": 2},
}
FILES = {"config.yaml", "picture.png", "resolved.json", "results.csv"}


def test_every_experiment_has_a_config():
    names = [load(path).config.name for path in CONFIGS]
    assert [path.stem for path in CONFIGS] == names == sorted(EXPERIMENTS) == sorted(SMALLER)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_what_the_tests_measure(path):
    """Its arguments are the defaults, with which tests/experiments run; its comment has the claim and the command."""
    given = dict(load(path).config.experiment)
    defaults = inspect.signature(EXPERIMENTS[given.pop("name")].run).parameters
    assert given == {name: given[name] if name == "multiples" else item.default for name, item in defaults.items()}
    comment = [line for line in path.read_text().partition("\n\n")[0].splitlines() if line.startswith("#")]
    assert f"#     gradlab run configs/experiments/{path.name}" in comment
    assert "on 2 CPU cores" in " ".join(comment)
    assert all(source in path.read_text() for source in sources(path))


def sources(path):
    named = EXPERIMENTS[load(path).config.name].source.replace(",", "").replace(";", "").split()
    return [word for word in named if word[0].isdigit() and "." in word]


def test_the_catapults_default_rates_are_in_its_config():
    arguments = load(next(path for path in CONFIGS if path.stem == "catapult")).config.arguments
    default = inspect.signature(EXPERIMENTS["catapult"].run).parameters["multiples"].default
    assert tuple(arguments["multiples"]) == default


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_small_run_of_a_config(path, tmp_path, gradlab_command):
    out = tmp_path / "out"
    changes = [part for item in SMALLER[path.stem].items() for part in ("--set", "experiment.{}={}".format(*item))]
    result = gradlab_command("run", path, "--out", out, *changes)
    assert result.exit_code == 0, result.output
    assert {entry.name for entry in out.iterdir()} == FILES
    facts = json.loads((out / "resolved.json").read_text())
    assert facts["experiment"] == path.stem and "jax" in facts["versions"]
    assert SMALLER[path.stem].items() <= facts["arguments"].items()
    for check in facts["checks"]:
        assert check["claim"] in result.output and check["measure"].split()[0] in result.output
    assert load(out / "config.yaml").config.arguments == facts["arguments"]
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert len(rows) > 1


def test_the_numbers_in_the_files_are_those_of_the_experiment(tmp_path, gradlab_command):
    path = tmp_path / "x.yaml"
    path.write_text("experiment: {name: catapult, multiples: [1, 4.2], width: 4, steps: 5, seed: 3}")
    result = gradlab_command("run", path, "--out", tmp_path / "out")
    run = EXPERIMENTS["catapult"].run([1, 4.2], 4, 5, 3)
    rows = list(csv.DictReader((tmp_path / "out/results.csv").read_text().splitlines()))
    np.testing.assert_allclose([float(row["loss"]) for row in rows], run.loss.ravel())
    assert [row["multiple"] for row in rows] == ["1"] * 6 + ["4.2"] * 6
    checks = json.loads((tmp_path / "out/resolved.json").read_text())["checks"]
    values = [check.value for check in EXPERIMENTS["catapult"].checks(run)]
    np.testing.assert_allclose([check["value"] for check in checks], values)
    assert "arXiv 2003.02218" in result.output and "at most 1e-10" in result.output


def test_what_does_not_hold_is_said(tmp_path, gradlab_command):
    result = gradlab_command("run", CONFIGS[0], "--out", tmp_path / "out", "--set", "experiment.steps=1")
    assert CONFIGS[0].stem == "catapult" and result.exit_code == 0
    checks = json.loads((tmp_path / "out/resolved.json").read_text())["checks"]
    failed = [check["claim"] for check in checks if not check["holds"]]
    assert 0 < len(failed) < len(checks)
    assert f"warning: not borne out here: {'; '.join(failed)}" in result.output.splitlines()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{name: catapul}", "experiment.name: unknown experiment 'catapul'; did you mean 'catapult'?"),
        ("{name: catapult, step: 3}", "experiment.step: unknown argument of catapult; did you mean 'steps'?"),
        ("{name: catapult, steps: many}", "experiment.steps: must be a whole number, got the string 'many'"),
        ("{name: catapult, multiples: 2}", "experiment.multiples: must be a list, got 2"),
        ("{name: catapult, multiples: [1, x]}", "experiment.multiples.1: must be a number, got the string 'x'"),
        ("{name: catapult}\ntrain: {steps: 3}", "train: unknown key"),
        ("{name: catapult}\nsweep: {}", "has both `sweep` and `experiment`; a config is one or the other"),
        ("3", "experiment: must be a mapping with a name and the arguments of the experiment, got 3"),
    ],
)
def test_a_wrong_config_says_where(tmp_path, text, problem):
    path = tmp_path / "x.yaml"
    path.write_text(f"experiment: {text}")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("experiment.steps=0", "experiment.steps: must be >= 1, got 0"),
        ("experiment.multiples=[1.0, -1.0]", "experiment.multiples: must be > 0, got -1"),
        ("experiment.width=0", "experiment.width: must be >= 1, got 0"),
    ],
)
def test_a_value_that_the_experiment_refuses_leaves_no_folder(tmp_path, gradlab_command, change, problem):
    result = gradlab_command("run", CONFIGS[0], "--out", tmp_path / "out", "--set", change)
    assert result.exit_code == 2 and problem in result.output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_runs_nothing(tmp_path, gradlab_command):
    result = gradlab_command("run", CONFIGS[0], "--dry-run", "--set", "experiment.width=7", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "  width: 7" in result.output and "  steps: 120" in result.output
    assert not (tmp_path / "out").exists()


def test_a_sweep_of_an_experiment_is_refused(gradlab_command):
    result = gradlab_command("sweep", CONFIGS[0])
    assert result.exit_code == 2 and f"gradlab run {CONFIGS[0]}" in result.output.replace("\n", "")


def test_experiments_are_configs_of_their_own():
    assert isinstance(load(CONFIGS[0]).config, ExperimentConfig) and load(CONFIGS[0]).task is None
