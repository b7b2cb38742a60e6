"""What a program reads on the standard error while a command works, and what a person sees."""

import datetime
import io
import json
import math

import pytest
from rich.console import Console

from gradlab.cli import contests
from gradlab.cli.sweeps import note_of
from gradlab.cli.terminal import ProgressMode, Terminal, user_errors
from gradlab.sweeps.engine.run import SweepProgress
from tests.cli.test_contest import CONTEST

FACTS = {"what", "done", "total", "seconds", "compile_seconds", "remaining", "best", "metric", "bucket", "buckets"}


def events(text):
    """The objects of the lines, each with a time of its own that does not run backwards."""
    found = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    times = [datetime.datetime.fromisoformat(event.pop("time")) for event in found]
    assert times == sorted(times)
    assert all(time.utcoffset() == datetime.timedelta(0) for time in times)
    return found


def progress_of(result):
    """The progress lines of a command that succeeded; the line after them says that it is done."""
    assert result.exit_code == 0, result.output
    *before, last = events(result.stderr)
    assert last["event"] == "done"
    assert set(last) == {"event", "folder"}
    lines = [event for event in before if event["event"] == "progress"]
    assert all(event.keys() == {"event", *FACTS} for event in lines)
    for line in lines:
        assert line["compile_seconds"] >= 0 and line["seconds"] > 0
        assert line["remaining"] >= 0 and (line["remaining"] == 0 or line["done"] < line["total"])
    return lines


def test_a_sweep_tells_programs_how_far_it_is(folder, gradlab_command):
    result = gradlab_command("sweep", "sweep.yaml", "--progress", "json")
    lines = progress_of(result)
    assert {line["what"] for line in lines} == {"quadratic"}
    done = [line["done"] for line in lines]
    assert done == sorted(set(done))
    assert done[-1] == lines[-1]["total"] == 8 * 2 * 10
    assert {line["bucket"] for line in lines} == {0, 1}
    best = [line["best"] for line in lines]
    assert best == sorted(best, reverse=True)
    assert {line["metric"] for line in lines} == {"eval_loss"}
    assert json.loads(result.stderr.splitlines()[-1])["folder"] == "runs/sweep"
    assert "The 5 best of 8 trials" in result.stdout


def test_a_run_tells_the_best_so_far(folder, gradlab_command):
    sets = ["--set", "optimizer.learning_rate=1.9", "--set", "task.condition=1.0", "--set", "train.eval_every=1"]
    lines = progress_of(gradlab_command("run", "run.yaml", "--progress", "json", *sets))
    assert [line["done"] for line in lines] == list(range(1, 13))
    assert {(line["what"], line["total"], line["bucket"], line["buckets"]) for line in lines} == {("sgd", 12, 0, 1)}
    assert {line["metric"] for line in lines} == {"eval_loss"}
    best = [line["best"] for line in lines]
    assert best == sorted(best, reverse=True)


def test_a_run_keeps_the_best_when_it_gets_worse(folder, gradlab_command):
    sets = ["--set", "optimizer.learning_rate=1.5", "--set", "train.eval_every=1"]  # diverges slowly
    lines = progress_of(gradlab_command("run", "run.yaml", "--progress", "json", *sets))
    assert len({line["best"] for line in lines}) < len(lines)
    assert lines[-1]["best"] == min(line["best"] for line in lines)


def test_a_race_tells_which_optimizer_it_runs_and_a_loss_that_is_not_finite_is_null(folder, gradlab_command):
    sets = ["--set", "race.wild.learning_rate=1e300"]
    lines = progress_of(gradlab_command("run", "race.yaml", "--progress", "json", *sets))
    assert {(line["what"], line["bucket"], line["buckets"]) for line in lines} == {("slow", 0, 2), ("wild", 1, 2)}
    (slow,) = [line for line in lines if line["what"] == "slow" and line["done"] == 10]
    assert math.isfinite(slow["best"])
    assert json.loads('{"best": null}') == {"best": lines[-1]["best"]}


class StoppedWatch:
    """Ten seconds, four of which went into compiling."""

    def read(self):
        return 10.0, 4.0


def test_a_contest_counts_all_its_sweeps_together(folder, gradlab_command, monkeypatch):
    monkeypatch.setattr(contests, "Stopwatch", StoppedWatch)
    (folder / "contest.yaml").write_text(CONTEST)
    lines = progress_of(gradlab_command("contest", "contest.yaml", "--progress", "json"))
    done = [line["done"] for line in lines]
    assert done == sorted(done)
    assert done[-1] == lines[-1]["total"]
    assert len({line["total"] for line in lines}) == 1
    assert {(line["seconds"], line["compile_seconds"]) for line in lines} == {(10.0, 4.0)}
    for line in lines:
        assert line["remaining"] == pytest.approx(6 * (line["total"] / line["done"] - 1))
    whats = list(dict.fromkeys(line["what"] for line in lines))
    assert [what.rpartition(", ")[2] for what in whats] == ["tuning", "fresh seeds"] * (len(whats) // 2)


def test_a_trial_that_runs_again_tells_its_own_steps(folder, gradlab_command):
    gradlab_command("sweep", "sweep.yaml", "--quiet")
    uid = (folder / "runs/sweep/results.csv").read_text().splitlines()[1].split(",")[0]
    result = gradlab_command("run", "--trial", "runs/sweep", uid, "--progress", "json")
    lines = progress_of(result)
    assert {line["what"] for line in lines} == {f"trial {uid}"}
    assert lines[-1]["done"] == lines[-1]["total"] == 20


def test_warnings_and_errors_are_lines_of_json_too(folder, gradlab_command):
    space = "sweep.space={optimizer.learning_rate: {log: [1e-4, 1e-2]}}"  # the best is at the edge
    sets = ["--set", space, "--set", "sweep.sampler=grid"]
    result = gradlab_command("sweep", "sweep.yaml", *sets, "--progress", "json")
    (warning,) = [event for event in events(result.stderr) if event["event"] == "warning"]
    assert "optimizer.learning_rate = 0.01 of 0.0001 to 0.01" in warning["message"]
    result = gradlab_command("sweep", "sweep.yaml", "--progress", "json")
    assert result.exit_code == 2
    (error,) = events(result.stderr)
    assert error["event"] == "error"
    assert "is not empty" in error["message"]


def test_without_progress_the_results_are_told(folder, gradlab_command):
    result = gradlab_command("run", "run.yaml", "--progress", "none")
    assert result.stderr == ""
    assert "results in runs/run" in result.stdout


@pytest.mark.parametrize("mode", ProgressMode)
def test_quiet_says_nothing_but_errors(mode, folder, gradlab_command):
    result = gradlab_command("run", "run.yaml", "--quiet", "--progress", mode)
    assert (result.stdout, result.stderr) == ("", "")
    result = gradlab_command("run", "run.yaml", "--quiet", "--progress", mode)
    assert result.stdout == ""
    assert "is not empty" in result.stderr


def test_an_unknown_way_is_refused(folder, gradlab_command):
    result = gradlab_command("sweep", "sweep.yaml", "--progress", "xml")
    assert result.exit_code == 2
    assert "xml" in result.stderr
    assert not (folder / "runs").exists()


def test_an_interrupt_is_told_in_json(capsys):
    with pytest.raises(BaseException) as caught, user_errors(Terminal(mode=ProgressMode.json)):
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130
    assert events(capsys.readouterr().err) == [
        {"event": "error", "message": "interrupted: nothing of this run was saved"}
    ]


NOW = SweepProgress(40_000, 51_200, 2, 4, 1075.2, 112.34, 399.0, 0.98765, "valid_accuracy")


def seen(width, now=NOW):
    """The last state of the bar of a terminal."""
    terminal = Terminal()
    terminal.notes = Console(file=io.StringIO(), record=True, width=width, force_terminal=True)
    with terminal.progress("language_model", 51_200) as show:
        show(now.done, note_of(now), now._asdict())
    return [line.rstrip() for line in terminal.notes.export_text().splitlines()[-2:]]


@pytest.mark.parametrize("width", [80, 140])
def test_the_bar_shows_compiling_apart_and_the_best(width):
    above, below = seen(width)
    assert above.endswith("78% 6 min 39 s left")
    assert "language_model ━━" in above
    assert below == "best valid_accuracy 0.9877, 16 min 03 s + 1 min 52 s compiling, bucket 3 of 4"


def test_a_narrow_bar_keeps_the_best():
    above, below = seen(50)
    assert above.endswith("6 min 39 s left")
    assert below.startswith("best valid_accuracy 0.9877, ")
    assert len(below) <= 50


def test_a_bar_at_its_end_has_no_time_left_and_one_program_no_number():
    above, below = seen(80, NOW._replace(done=51_200, buckets=1, bucket=0))
    assert above.endswith("100%")
    assert below.endswith("compiling")


def test_the_total_may_grow():
    above, _ = seen(80, NOW._replace(total=80_000))
    assert above.endswith("50% 6 min 39 s left")
