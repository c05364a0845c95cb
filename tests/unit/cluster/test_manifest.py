"""The list of a tree's files: what travels comes back, and nothing that could do harm is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas import codecs
from aiomas.cluster import manifest
from aiomas.cluster.manifest import Entry

A = "a" * 64
B = "b" * 64

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
names = names.filter(lambda name: name not in {".", ".."} and len(name.encode()) <= 200)


@given(st.dictionaries(names, st.tuples(st.integers(0, 2**20), st.booleans())))
def test_what_travels_comes_back(files):
    entries = {
        f"x/{name}": Entry(f"{size:064x}", size, executable)
        for name, (size, executable) in files.items()
    }
    codec = codecs.MsgPack()
    assert manifest.read(codec.decode(codec.encode(manifest.plain(entries)))) == entries


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/./x",
        ".",
        "a//x",
        "a/",
        "a\0b",
        "\udcff",
        "x" * 1025,
        "ä" * 513,
        b"x",
        1,
        None,
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(path):
    with pytest.raises(ValueError, match="cannot be in a tree of modules"):
        manifest.read({path: [A, 1, False]})


def test_a_path_may_be_long_and_have_odd_characters():
    paths = ["x" * 1024, "a b", "..a", "a..", "...", "a\\b", "-rf", "ä\n"]
    assert list(manifest.read({path: [A, 1, False] for path in paths})) == paths


@pytest.mark.parametrize(
    "fields",
    [
        None,
        A,
        [A, 1],
        [A, 1, False, 0],
        [A.upper(), 1, False],
        [A[1:], 1, False],
        [A + "\n", 1, False],
        ["../" + A[3:], 1, False],
        [A.encode(), 1, False],
        [A, -1, False],
        [A, manifest.LARGEST_FILE + 1, False],
        [A, True, False],
        [A, 1.0, False],
        [A, 1, 1],
    ],
)
def test_an_entry_that_is_none_is_refused(fields):
    with pytest.raises(ValueError, match=r"for 'x\.py', got"):
        manifest.read({"x.py": fields})


def test_too_many_files_are_refused(monkeypatch):
    monkeypatch.setattr(manifest, "MOST_FILES", 2)
    entries = {str(number): [A, 1, False] for number in range(3)}
    with pytest.raises(ValueError, match="at most 2 files, got 3"):
        manifest.read(entries)
    del entries["2"]
    assert len(manifest.read(entries)) == 2


def test_too_many_bytes_are_refused():
    part = manifest.MOST_BYTES // 4
    entries = {str(number): [A, part, False] for number in range(4)}
    assert len(manifest.read(entries)) == 4
    entries["x"] = [B, 1, False]
    with pytest.raises(ValueError, match=r"at most 256.0 MiB, got \d+ bytes"):
        manifest.read(entries)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="'y' with the checksum of a file of another size"):
        manifest.read({"x": [A, 1, False], "y": [A, 2, False]})
    with pytest.raises(ValueError, match="'a/b' as a file, and 'a/b/c/d' below it"):
        manifest.read({"a/b/c/d": [A, 1, False], "a/b": [A, 1, False]})
    with pytest.raises(ValueError, match="a manifest is a dictionary, got list"):
        manifest.read([])
