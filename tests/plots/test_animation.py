import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from gradlab.plots import PALETTE
from gradlab.plots.animation import _draw, race_gif, race_steps
from gradlab.plots.surface import MARK, ground_png

X, Y = np.linspace(-2, 2, 21), np.linspace(-1, 1, 11)
BOWL = X**2 + 3 * Y[:, None] ** 2
STEPS = np.arange(31)[:, None]
PATHS = {
    "slow": [1.5, 0.8] * 0.9**STEPS,
    "fast": [-1.5, 0.8] * 0.7**STEPS,
    "lost": [[-1.0, -0.5], [1.0, 0.5], [np.nan, 0.0]],
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    path = tmp_path_factory.mktemp("race") / "race.gif"
    race_gif(path, X, Y, BOWL, PATHS, minima=[[0, 0]], title="bowl", frames=9)
    assert path.read_bytes().startswith(b"GIF89a") and path.stat().st_size < 300_000
    assert [entry.name for entry in path.parent.iterdir()] == ["race.gif"]
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        shown = []
        for index in range(image.n_frames):
            image.seek(index)
            shown.append((np.asarray(image.convert("RGB")).astype(int), image.info["duration"]))
    return shown


def pixels(picture, color):
    """Where the picture has exactly this colour."""
    return np.argwhere((picture == [round(255 * part) for part in to_rgb(color)]).all(-1))


def square(picture, index):
    """The middle of the square of a path, left of the legend."""
    places = pixels(picture, PALETTE[index])
    return places[places[:, 1] < 500]


def test_each_step_is_a_frame_and_the_last_one_stays(frames):
    assert len(frames) == len(race_steps(31, 9)) == 8
    assert [duration for _, duration in frames[:-1]] == [80] * 7
    assert frames[-1][1] > 800


def test_the_squares_move_and_nothing_else(frames):
    first, last = frames[0][0], frames[-1][0]
    right, centre = np.median(square(first, 0), 0), np.median(square(last, 0), 0)
    assert right[1] - centre[1] > 100 and centre[0] - right[0] > 50
    changed = (first != last).any(-1)
    assert 0.001 < changed.mean() < 0.1
    assert not changed[-20:].any() and not changed[:, -60:].any()  # axis and legend


def test_a_lost_path_stays_where_it_was_last(frames):
    np.testing.assert_allclose(np.median(square(frames[-1][0], 2), 0), np.median(square(frames[2][0], 2), 0), atol=3)


def test_the_colours_of_lines_and_marks_survive_the_palette(frames):
    assert (frames[4][0][:4] == 255).all()
    assert all(len(pixels(frames[4][0], color)) > 20 for color in (*PALETTE[:3], MARK))


def test_a_frame_has_the_paths_up_to_its_step():
    ax = Figure().subplots()
    ax.plot([0, 1], [0, 1])  # of the frame before
    _draw(ax, {"slow": PATHS["slow"], "lost": np.array(PATHS["lost"][:2])}, tail=4, last=6, title="bowl")
    done, tail, square, lost, lost_square = ax.lines
    np.testing.assert_array_equal(done.get_xydata(), PATHS["slow"][:7])
    np.testing.assert_array_equal(tail.get_xydata(), PATHS["slow"][4:7])
    np.testing.assert_array_equal(square.get_xydata(), PATHS["slow"][6:7])
    np.testing.assert_array_equal(lost.get_xydata(), PATHS["lost"][:2])
    np.testing.assert_array_equal(lost_square.get_xydata(), PATHS["lost"][1:2])
    assert ax.get_title() == "bowl, step 6"


def test_frames_are_closer_together_at_the_beginning():
    steps = race_steps(1000, 50)
    assert steps[0] == 0 and steps[-1] == 999 and (np.diff(steps) > 0).all()
    assert (np.diff(np.diff(steps)) >= -1).all()
    np.testing.assert_array_equal(race_steps(1, 80), [0])


def test_what_is_no_race_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one path"):
        race_gif(tmp_path / "x.gif", X, Y, BOWL, {})
    with pytest.raises(ValueError, match="`frames` must be at least 2, got 1"):
        race_gif(tmp_path / "x.gif", X, Y, BOWL, PATHS, frames=1)
    with pytest.raises(ValueError, match=r"\(11, 21\), got \(21, 11\)"):
        race_gif(tmp_path / "x.gif", X, Y, BOWL.T, PATHS)
    assert list(tmp_path.iterdir()) == []


def test_the_ground_fills_its_picture(tmp_path):
    (tmp_path / "ground.png").write_bytes(ground_png(X, Y, BOWL, (120, 90)))
    with Image.open(tmp_path / "ground.png") as image:
        assert image.size == (120, 90)
        picture = np.asarray(image.convert("RGB")).astype(int)
    middle, corners = picture[45, 60], picture[[1, 1, -2, -2], [1, -2, 1, -2]]
    assert (corners.sum(-1) > middle.sum()).all() and np.ptp(corners, axis=0).max() < 12
    assert (corners[:, 2] < 240).all()  # yellow, not a white margin
