import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap

import pytest

from gradlab.sweeps.outcomes.files import make_run_folder, write_atomically


def full_disk(file):
    file.write(b"half of the new con")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "results.csv"
    for text in (b"old", b"new and longer"):
        write_atomically(path, lambda file, text=text: file.write(text))
        assert path.read_bytes() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [b"old content", None])
def test_a_full_disk_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "results.csv"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, full_disk)
    assert "results.csv, which is as it was before" in caught.value.__notes__[0]
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if before is None else [before])


def test_errors_of_the_writer_and_interrupts_leave_what_was_there(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(b"old content")

    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old content"]


def test_a_kill_in_the_middle_of_writing_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(b"old content")
    program = f"""
        import time
        from gradlab.sweeps.outcomes.files import write_atomically

        def slow(file):
            file.write(b"half of the new content" * 10000)
            file.flush()
            print("writing", flush=True)
            time.sleep(600)

        write_atomically({str(path)!r}, slow)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old content"
    assert len(list(tmp_path.iterdir())) == 2  # what the killed process had written lies beside
    make_run_folder(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("sync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "x", lambda file: file.write(b"x"))
    assert calls == ["sync", "replace", "sync"]


def test_new_files_have_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", lambda file: file.write(b""))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_run_folder_is_made_with_its_parents_and_may_be_empty(tmp_path):
    folder = make_run_folder(tmp_path / "runs" / "first")
    assert folder.is_dir() and make_run_folder(folder) == folder


def test_a_folder_with_files_is_an_error_unless_overwritten_and_keeps_them(tmp_path):
    for name in ("results.csv", "notes.txt", "a", "b"):
        (tmp_path / name).write_text(name)
    with pytest.raises(
        FileExistsError,
        match="holds a, b, notes.txt and 1 more; choose another folder .`out`, --out.*`overwrite`, --overwrite",
    ):
        make_run_folder(tmp_path)
    make_run_folder(tmp_path, overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "notes.txt", "results.csv"]


def test_what_an_interrupted_write_left_is_no_content(tmp_path):
    (tmp_path / ".curves.npz.0123abcd.gradlab-tmp").write_text("half")
    make_run_folder(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".hidden").write_text("mine")
    with pytest.raises(FileExistsError):
        make_run_folder(tmp_path)
    make_run_folder(tmp_path, overwrite=True)
    assert (tmp_path / ".hidden").exists()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        make_run_folder(tmp_path / "out", overwrite=True)
