"""Data sets that need no download: three of scikit-learn's, and the text of Python's standard library."""

import hashlib
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradlab.core import check

VOCABULARY = "\n" + "".join(map(chr, range(0x20, 0x7F)))  # ids 1, 2, ...; id 0 is every other character
UNKNOWN = "\N{REPLACEMENT CHARACTER}"

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}


class Dataset(NamedTuple):
    """Three disjoint sets of examples, each ``{"x": inputs, "y": targets}``."""

    train: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


class Text(NamedTuple):
    """Characters as ids, with what identifies their source."""

    tokens: np.ndarray  # (characters,) int32
    sha256: str  # of the relative path and the content of every file read
    files: int


def digits(*, images: bool = False, seed: int = 0) -> Dataset:
    """1797 handwritten digits of 8 x 8 pixels, with integer labels 0 to 9.

    All pixels are scaled by one mean and one standard deviation, those of the training pixels.

    Args:
      images: inputs as NHWC images (n, 8, 8, 1) instead of rows (n, 64).
      seed: of the shuffle before the split into 70 % train, 15 % valid and 15 % test.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.

    >>> {key: array.shape for key, array in digits(images=True).train.items()}
    {'x': (1257, 8, 8, 1), 'y': (1257,)}
    """
    raw = _sklearn_loader("load_digits")()
    data = _split(raw.data, raw.target.astype(np.int32), seed)
    data = _standardised(data, "x", axis=None)
    return Dataset(*({**part, "x": part["x"].reshape(-1, 8, 8, 1)} for part in data)) if images else data


def breast_cancer(*, seed: int = 0) -> Dataset:
    """569 tumours described by 30 measurements, with labels 0 (malignant) and 1 (benign).

    Each measurement is scaled to mean 0 and variance 1 over the training rows.

    >>> breast_cancer().train["x"].shape
    (399, 30)
    """
    raw = _sklearn_loader("load_breast_cancer")()
    return _standardised(_split(raw.data, raw.target.astype(np.int32), seed), "x", axis=0)


def diabetes(*, seed: int = 0) -> Dataset:
    """442 patients described by 10 measurements; the target is the progression of their disease a year later.

    Measurements and target are scaled to mean 0 and variance 1 over the training rows, so that predicting the mean has
    squared error 1 there.

    >>> {key: array.shape for key, array in diabetes().test.items()}
    {'x': (66, 10), 'y': (66,)}
    """
    raw = _sklearn_loader("load_diabetes")(scaled=False)
    return _standardised(_standardised(_split(raw.data, raw.target, seed), "x", axis=0), "y", axis=0)


def _sklearn_loader(name: str) -> Callable[..., Any]:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this data set comes with scikit-learn, which is not installed ({error}); run: pip install 'gradlab[lab]'"
        ) from error
    return getattr(datasets, name)


def _split(x: np.ndarray, y: np.ndarray, seed: int) -> Dataset:
    order = np.random.default_rng(seed).permutation(len(x))
    held_out = round(0.15 * len(x))
    parts = np.split(order, [len(x) - 2 * held_out, len(x) - held_out])
    return Dataset(*({"x": x[rows], "y": y[rows]} for rows in parts))


def _standardised(data: Dataset, key: str, axis: int | None) -> Dataset:
    mean, std = data.train[key].mean(axis), data.train[key].std(axis)
    std = np.where(std == 0, 1.0, std)
    return Dataset(*({**part, key: ((part[key] - mean) / std).astype(np.float32)} for part in data))


def stdlib_text(max_characters: int = 1_000_000, *, root: str | Path | None = None) -> Text:
    """The source code of Python's standard library as character ids.

    The recipe: all ``*.py`` below the standard library's folder, except in folders of tests, of installed packages
    and of the bundled applications idlelib, lib2to3, ensurepip and turtledemo, and except ``_sysconfigdata*``, which
    differs between machines.  Files are read as UTF-8 with universal newlines, in the order of their relative POSIX
    paths, until ``max_characters`` are reached; the last one is cut there.

    Args:
      max_characters: length of the text at most.
      root: another folder to read instead.

    Raises:
      ValueError: ``max_characters`` is not positive, or the folder has no such files.

    >>> text = stdlib_text(1000)
    >>> text.tokens.shape, len(text.sha256)
    ((1000,), 64)
    """
    check.positive(max_characters=max_characters)
    root = Path(sysconfig.get_paths()["stdlib"] if root is None else root)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    names = [name for name in names if _is_library_source(name)]
    if not names:
        raise ValueError(f"no Python sources below {root}; pass `root`, a folder that has some")
    digest, pieces, left = hashlib.sha256(), [], int(max_characters)
    for name in names:
        content = (root / name).read_text(encoding="utf-8", errors="replace")
        for part in (name, content):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        pieces.append(content[:left])
        left -= len(pieces[-1])
        if left == 0:
            break
    return Text(tokens=encode("".join(pieces)), sha256=digest.hexdigest(), files=len(pieces))


def _is_library_source(name: str) -> bool:
    *folders, file = name.split("/")
    return not _NOT_LIBRARY.intersection(folders) and not file.startswith("_sysconfigdata")


def encode(text: str) -> np.ndarray:
    """Ids of characters: 0 for every character that is not in ``VOCABULARY``.

    >>> encode("a b\\t").tolist()
    [67, 2, 68, 0]
    """
    table = np.zeros(0x80, np.int32)
    table[[ord(character) for character in VOCABULARY]] = np.arange(1, len(VOCABULARY) + 1)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return np.where(codes < 0x80, table[np.minimum(codes, 0x7F)], 0).astype(np.int32)


def decode(tokens: Any) -> str:
    """The text of ids; the replacement character stands for id 0.

    >>> decode(encode("x = 1"))
    'x = 1'
    """
    characters = np.array([UNKNOWN, *VOCABULARY])
    return "".join(characters[np.asarray(tokens)])
