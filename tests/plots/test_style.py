import ast
import errno
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import gradlab.plots
from gradlab.plots.style import PALETTE, axes_or_new, line_style, save_figure, short


def test_28_lines_are_different():
    styles = [tuple(line_style(index).values()) for index in range(28)]
    assert len(set(styles)) == 28


def test_colours_differ_in_lightness_from_white_paper():
    channels = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in PALETTE])
    luminance = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]
    contrast_with_white = 1.05 / (luminance + 0.05)
    assert (contrast_with_white > 2).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9, "0.9"), (0.999, "0.999"), (0.99987, "0.99987"), (0.5123456, "0.512"), (1.0, "1"), (3, "3"), (None, "None")],
)
def test_numbers_in_labels(value, text):
    assert short(value) == text


def test_a_saved_figure_is_a_whole_picture_of_the_kind_its_name_says(tmp_path):
    ax = axes_or_new(None)
    ax.plot([0, 1], [0, 1])
    save_figure(ax, tmp_path / "line.png")
    save_figure(ax.figure, tmp_path / "line.svg")
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "line.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "line.png"
    path.write_bytes(b"old")

    def full(self, file, **options):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(axes_or_new(None), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_pictures_know_neither_jax_nor_the_global_state_of_pyplot():
    for path in Path(gradlab.plots.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "jax" or "pyplot" in name for name in names), path
