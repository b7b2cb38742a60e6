import datetime
import platform
import subprocess
import sys

import jax

from gradlab.sweeps.outcomes.provenance import provenance


def git(folder, *arguments):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(("git", *identity, *arguments), cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_versions_and_date():
    facts = provenance()
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["versions"]["python"] == platform.python_version()
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(facts["date"])
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)


def test_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "config.yaml").write_text("a: 1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.chdir(tmp_path)
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance()["git"] == {"commit": commit, "changed": False}
    (tmp_path / "config.yaml").write_text("a: 2")
    assert provenance()["git"] == {"commit": commit, "changed": True}


def test_no_commit_outside_of_git_nor_without_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert provenance()["git"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["git"] is None


def test_results_and_samplers_import_pandas_and_scipy_only_when_used():
    program = (
        "import sys, gradlab.sweeps.outcomes.results, gradlab.sweeps.samplers.designs;"
        "print(sorted({'pandas', 'matplotlib', 'scipy.stats', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
