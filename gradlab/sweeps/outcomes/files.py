"""Files that are whole or absent: every result is written beside its place and moved there when it is complete."""

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"  # of the process that works in a folder
_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{8}\.gradlab-tmp")


def write_atomically(path: str | os.PathLike, writer: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that at every moment, a full disk or a kill included, it is the old one or the new one.

    Args:
      path: what to write; its folder exists.
      writer: called with a binary file that lies in the same folder under a hidden name.

    Raises:
      OSError: the disk is full, the folder is missing or not writable; what was there is unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, 'loss.txt'), lambda file: file.write(b'0.5'))
    ...     os.listdir(folder), Path(folder, 'loss.txt').read_text()
    (['loss.txt'], '0.5')
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.gradlab-tmp")
    try:
        with open(beside, "xb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            error.add_note(f"while writing {path}, which is as it was before")
        raise
    _sync_folder(path.parent)


def make_run_folder(out: str | os.PathLike, overwrite: bool = False) -> Path:
    """The folder for the results of a run, made with its parents.

    With ``overwrite`` the files of the same names are replaced one by one, each when its successor is complete;
    others stay.  What an interrupted `write_atomically` left behind does not count as content, and is removed; neither
    does the lock of a process.

    Raises:
      FileExistsError: the folder has files in it, and ``overwrite`` is not set.
      NotADirectoryError: a file has that name.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, and results need a folder; choose another one (`out`, --out)")
    folder.mkdir(parents=True, exist_ok=True)
    entries = sorted(folder.iterdir())
    content = [entry.name for entry in entries if not _LEFT_OVER.fullmatch(entry.name) and entry.name != LOCK]
    if content and not overwrite:
        more = f" and {len(content) - 3} more" if len(content) > 3 else ""
        raise FileExistsError(
            f"the output folder {folder} is not empty: it holds {', '.join(content[:3])}{more}; "
            "choose another folder (`out`, --out), or replace these results (`overwrite`, --overwrite)"
        )
    for entry in entries:
        if _LEFT_OVER.fullmatch(entry.name):
            entry.unlink()
    return folder


def _sync_folder(folder: Path) -> None:
    """Makes the move itself durable, where the system lets folders be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
