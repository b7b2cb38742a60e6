import hashlib
import sys
from pathlib import Path

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn import datasets

from gradlab.tasks import data

LOADERS = {
    "digits": (data.digits, datasets.load_digits, np.int32),
    "breast_cancer": (data.breast_cancer, datasets.load_breast_cancer, np.int32),
    "diabetes": (data.diabetes, lambda: datasets.load_diabetes(scaled=False), np.float32),
}


def _in_unit_range(rows):
    low, high = rows.min(0), rows.max(0)
    return (rows - low) / np.where(high > low, high - low, 1)


@pytest.mark.parametrize("name", LOADERS)
def test_the_three_sets_are_a_partition_of_the_rows(name):
    load, load_raw, target_dtype = LOADERS[name]
    raw, parts = load_raw(), load()
    sizes = [len(part["x"]) for part in parts]
    assert sum(sizes) == len(raw.data) and sizes[1] == sizes[2] == round(0.15 * len(raw.data))
    rows = np.concatenate([np.column_stack([part["x"], part["y"]]) for part in parts]).astype(np.float64)
    distances = cdist(_in_unit_range(rows), _in_unit_range(np.column_stack([raw.data, raw.target])))
    assert sorted(distances.argmin(1)) == list(range(len(rows)))
    assert distances.min(1).max() < 1e-4
    for part in parts:
        assert part["x"].dtype == np.float32 and part["y"].dtype == target_dtype


@pytest.mark.parametrize("name", LOADERS)
def test_splits_depend_on_the_seed_alone(name):
    load = LOADERS[name][0]
    chex.assert_trees_all_equal(load(seed=3), load(seed=3))
    assert not np.array_equal(load(seed=3).train["y"], load(seed=4).train["y"])


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes"])
def test_columns_are_scaled_by_the_training_rows(name):
    parts = LOADERS[name][0]()
    np.testing.assert_allclose(parts.train["x"].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(parts.train["x"].std(0), 1, rtol=1e-5)
    assert np.abs(parts.valid["x"].mean(0)).max() > 1e-2


def test_the_target_of_diabetes_is_scaled_too():
    y = data.diabetes().train["y"]
    np.testing.assert_allclose([y.mean(), y.var()], [0, 1], atol=1e-5)


def test_digits_are_scaled_by_one_number_and_come_as_images_too():
    rows, images = data.digits(), data.digits(images=True)
    np.testing.assert_allclose([rows.train["x"].mean(), rows.train["x"].std()], [0, 1], atol=1e-5)
    assert len(np.unique(rows.train["x"])) == 17
    for flat, square in zip(rows, images, strict=True):
        assert square["x"].shape == (len(flat["x"]), 8, 8, 1)
        chex.assert_trees_all_equal(square["x"].reshape(-1, 64), flat["x"])
        chex.assert_trees_all_equal(square["y"], flat["y"])


def test_a_missing_scikit_learn_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradlab\[lab\]'"):
        data.digits()


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode())
    return root


def test_the_text_is_the_sources_in_the_order_of_their_paths(tmp_path):
    files = {"b.py": "second\n", "a/z.py": "first\n", "c.py": "third\n", "notes.txt": "no", "a/__init__.py": ""}
    text = data.stdlib_text(root=_write(tmp_path, files))
    assert data.decode(text.tokens) == "first\nsecond\nthird\n"
    assert (text.files, text.tokens.dtype) == (4, np.int32)
    digest = hashlib.sha256()
    for name in ("a/__init__.py", "a/z.py", "b.py", "c.py"):
        for part in (name, files[name]):
            digest.update(len(part).to_bytes(8, "big") + part.encode())
    assert text.sha256 == digest.hexdigest()


def test_tests_and_installed_packages_are_left_out(tmp_path):
    left_out = ["site-packages/numpy/a.py", "test/b.py", "json/tests/c.py", "idlelib/d.py", "_sysconfigdata_x.py"]
    _write(tmp_path, {name: "no" for name in left_out} | {"json/tool.py": "yes", "testing.py": "!"})
    assert data.decode(data.stdlib_text(root=tmp_path).tokens) == "yes!"


def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    root = _write(tmp_path, {f"{letter}.py": letter for letter in "qwerty"})
    expected, listed = data.stdlib_text(root=root), sorted(root.rglob("*.py"))
    for order in (listed, listed[::-1]):
        monkeypatch.setattr(Path, "rglob", lambda self, pattern, order=order: iter(order))
        text = data.stdlib_text(root=root)
        assert text.sha256 == expected.sha256
        chex.assert_trees_all_equal(text.tokens, expected.tokens)


def test_the_hash_covers_paths_contents_and_their_boundaries(tmp_path):
    variants = [
        {"a.py": "1", "b.py": "2"},
        {"a.py": "1", "b.py": "3"},
        {"a.py": "1", "c.py": "2"},
        {"a.py": "1b.py2"},
        {"a.py": "12", "b.py": ""},
    ]
    hashes = {data.stdlib_text(root=_write(tmp_path / str(i), files)).sha256 for i, files in enumerate(variants)}
    assert len(hashes) == len(variants)


def test_reading_stops_at_the_limit(tmp_path):
    root = _write(tmp_path, {"a.py": "12345", "b.py": "67890", "c.py": "x"})
    text = data.stdlib_text(7, root=root)
    assert (data.decode(text.tokens), text.files) == ("1234567", 2)
    assert data.stdlib_text(5, root=root).files == 1
    _write(tmp_path, {"c.py": "changed"})
    assert data.stdlib_text(7, root=root).sha256 == text.sha256


def test_newlines_and_odd_bytes_are_read_alike_everywhere(tmp_path):
    (tmp_path / "a.py").write_bytes(b"x\r\ny\xff\n")
    assert data.decode(data.stdlib_text(root=tmp_path).tokens) == f"x\ny{data.UNKNOWN}\n"


def test_the_standard_library_itself_has_text_of_the_length_asked_for():
    first, second = data.stdlib_text(50_000), data.stdlib_text(50_000)
    assert len(first.tokens) == 50_000 and first.sha256 == second.sha256
    assert (first.tokens == 0).mean() < 0.01
    assert "import" in data.decode(first.tokens)


def test_texts_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no Python sources below"):
        data.stdlib_text(root=tmp_path)
    with pytest.raises(ValueError, match="`max_characters` must be > 0, got 0"):
        data.stdlib_text(0)


@given(st.text(alphabet=data.VOCABULARY))
def test_the_vocabulary_round_trips(text):
    tokens = data.encode(text)
    assert data.decode(tokens) == text
    assert np.all((tokens >= 1) & (tokens <= len(data.VOCABULARY)))


@given(st.text(alphabet=st.characters(exclude_characters=data.VOCABULARY), min_size=1))
def test_all_other_characters_are_unknown(text):
    chex.assert_trees_all_equal(data.encode(text), np.zeros(len(text), np.int32))


def test_the_vocabulary_is_newline_and_printable_ascii():
    assert len(data.VOCABULARY) == len(set(data.VOCABULARY)) == 96
    assert all(character.isprintable() and character.isascii() for character in data.VOCABULARY[1:])
