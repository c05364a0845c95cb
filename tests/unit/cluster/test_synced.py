"""The store of a host: only what changed is asked for, and only what is whole and right is kept."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import signal
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster import cachedir, sync, synced
from aiomas.cluster.sync import Bundle
from aiomas.cluster.synced import Store
from aiomas.exceptions import ClusterError


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_of(*contents: bytes) -> dict[str, list]:
    return {f"{n}.py": [checksum(c), len(c), False] for n, c in enumerate(contents)}


def cached(base: Path) -> set[str]:
    """Return what is in the cache beside the contents of stores that are open."""
    return {path.name for path in base.iterdir() if not path.name.startswith(".")}


def in_tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir(0o700)
    return path


@pytest.fixture
def base(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def project(tmp_path):
    pkg = tmp_path / "pkg"
    pkg.mkdir()
    (pkg / "__init__.py").touch()
    (pkg / "a.py").write_bytes(b"a" * 300_000)
    (pkg / "b.py").write_bytes(b"b")
    (pkg / "run.sh").write_bytes(b"#!/bin/sh\n")
    (pkg / "run.sh").chmod(0o755)
    return pkg


@pytest.fixture
def store(run, base):
    store = Store.open(run, base)
    yield store
    store.close()


def send(bundle, store):
    """Send what is missing, and return how many contents that was."""
    missing = store.missing(bundle.manifest())
    for batch in bundle.batches(missing):
        for piece in batch:
            store.put(*piece)
    return len(missing)


def synchronize(paths, run, base, target, **kwargs):
    store = Store.open(run, base, **kwargs)
    try:
        number = send(Bundle.of_paths(paths), store)
        store.build(target)
        store.prune()
    finally:
        store.close()
    return number


def test_the_tree_is_what_was_sent(project, run, base):
    assert synchronize([project], run, base, run / "tree") == 4
    assert in_tree(run / "tree") == {
        "pkg/__init__.py": b"",
        "pkg/a.py": b"a" * 300_000,
        "pkg/b.py": b"b",
        "pkg/run.sh": b"#!/bin/sh\n",
    }
    assert in_tree(base).keys() == cached(base)  # nothing but contents is left


def test_only_what_has_changed_is_sent(project, run, base):
    synchronize([project], run, base, run / "1")
    assert synchronize([project], run, base, run / "2") == 0
    (project / "b.py").write_bytes(b"c")
    assert synchronize([project], run, base, run / "3") == 1
    (project / "b.py").rename(project / "d.py")
    assert synchronize([project], run, base, run / "4") == 0
    assert in_tree(run / "1")["pkg/b.py"] == in_tree(run / "2")["pkg/b.py"] == b"b"
    assert in_tree(run / "3")["pkg/b.py"] == in_tree(run / "4")["pkg/d.py"] == b"c"
    assert "pkg/b.py" not in in_tree(run / "4")


@pytest.mark.parametrize("umask", [0, 0o277])
def test_all_that_is_written_is_private_whatever_the_umask_is(project, run, base, umask):
    before = os.umask(umask)
    try:
        synchronize([project], run, base, run / "tree")
    finally:
        os.umask(before)
    for top in (base, run / "tree"):
        for path in (top, *top.rglob("*")):
            expected = 0o700 if path.is_dir() or path.name == "run.sh" else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_a_program_that_changes_its_files_does_not_change_the_cache(project, run, base):
    synchronize([project], run, base, run / "1")
    (run / "1/pkg/b.py").write_bytes(b"mine")
    assert synchronize([project], run, base, run / "2") == 0
    assert (run / "2/pkg/b.py").read_bytes() == b"b"


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 16), st.data())
def test_contents_arrive_in_any_order_and_pieces(tmp_path_factory, contents, size, data):
    folder = tmp_path_factory.mktemp("sync")
    contents = list(dict.fromkeys(contents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "PIECE", size)
        store = Store.open(folder, folder / "cache")
        try:
            missing = store.missing(manifest_of(*contents))
            assert set(missing) == {checksum(content) for content in contents}
            for content in data.draw(st.permutations(contents)):
                for offset in range(0, len(content) or 1, size):
                    store.put(checksum(content), offset, content[offset : offset + size])
            store.build(folder / "tree")
        finally:
            store.close()
    assert in_tree(folder / "tree") == {f"{n}.py": c for n, c in enumerate(contents)}


wrong_pieces = {
    "a gap": [(0, b"012"), (4, b"4567")],
    "the same again": [(0, b"012"), (3, b"3"), (3, b"3")],
    "not from the start": [(3, b"34567")],
    "too long": [(0, b"012345678")],
    "too long at the end": [(0, b"0123"), (4, b"45678")],
    "something else": [(0, b"01234568")],
    "nothing": [(0, b"")],
    "nothing in between": [(0, b"0123"), (4, b"")],
    "a negative offset": [(-8, b"01234567")],
}


@pytest.mark.parametrize("pieces", wrong_pieces.values(), ids=wrong_pieces.keys())
def test_wrong_pieces_are_refused_and_leave_nothing(store, run, base, pieces):
    content = b"01234567"
    key = checksum(content)
    assert store.missing(manifest_of(content)) == [key]
    *good, bad = pieces
    for offset, data in good:
        store.put(key, offset, data)
    with pytest.raises(ClusterError, match=key):
        store.put(key, *bad)
    assert in_tree(base) == {}
    with pytest.raises(ClusterError, match="1 of 1 contents of the modules are missing"):
        store.build(run / "tree")
    assert not (run / "tree").exists()
    store.put(key, 0, content)  # it can be repeated
    store.build(run / "tree")
    assert in_tree(run / "tree") == {"0.py": content}


def test_what_nobody_wants_is_refused(store, base):
    store.missing(manifest_of(b"a", b"b"))
    store.put(checksum(b"a"), 0, b"a")
    for key, data in ((checksum(b"a"), b"a"), (checksum(b"c"), b"c"), ("../x", b"c")):
        with pytest.raises(ClusterError, match="nobody wants"):
            store.put(key, 0, data)
    assert cached(base) == {checksum(b"a")}


def test_a_content_that_begins_again_forgets_what_has_come_before(store, run):
    store.missing(manifest_of(b"abc", b"xyz"))
    store.put(checksum(b"abc"), 0, b"a")
    store.put(checksum(b"xyz"), 0, b"x")
    store.put(checksum(b"abc"), 0, b"ab")
    store.put(checksum(b"abc"), 2, b"c")
    store.put(checksum(b"xyz"), 0, b"xyz")
    store.build(run / "tree")
    assert in_tree(run / "tree") == {"0.py": b"abc", "1.py": b"xyz"}


@pytest.mark.parametrize("again", ["same store", "new store"])
def test_a_transfer_that_was_cut_off_leaves_nothing_and_can_be_repeated(
    project, run, base, monkeypatch, again
):
    monkeypatch.setattr(sync, "PIECE", 100_000)
    bundle = Bundle.of_paths([project])
    store = Store.open(run, base)
    missing = store.missing(bundle.manifest())
    large = bundle.entries["pkg/a.py"].checksum
    missing.sort(key=lambda key: key == large)
    for key, offset, data in bundle.pieces(missing):
        if offset < 200_000:
            store.put(key, offset, data)
    if again == "new store":
        store.close()
        assert in_tree(base).keys() == cached(base) == set(missing) - {large}
        store = Store.open(run, base)
    assert send(bundle, store) == 1
    store.build(run / "tree")
    store.close()
    store.close()
    assert len(in_tree(run / "tree")) == 4
    assert in_tree(base).keys() == cached(base)


def test_two_stores_at_once(project, run, base):
    bundle = Bundle.of_paths([project])
    first, second = Store.open(run, base), Store.open(run, base)
    for store in (first, second):
        assert len(store.missing(bundle.manifest())) == 4
    for piece in bundle.pieces(e.checksum for e in bundle.entries.values()):
        first.put(*piece)
        second.put(*piece)
    first.build(run / "1")
    first.close()
    second.build(run / "2")
    second.close()
    assert in_tree(run / "1") == in_tree(run / "2") != {}
    assert len(cached(base)) == 4


def test_many_stores_at_once(project, run, base):
    failures = []
    start = threading.Barrier(4)

    def work(number):
        start.wait(10)
        for turn in range(5):
            try:
                synchronize([project], run, base, run / f"{number}-{turn}", limit=0)
            except Exception as exc:  # noqa: BLE001 - shown below
                failures.append(exc)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(len(in_tree(path)) == 4 for path in run.iterdir())


def test_what_others_remove_from_the_cache_is_still_there_for_a_run(project, run, base):
    synchronize([project], run, base, run / "1")
    store = Store.open(run, base)
    assert store.missing(Bundle.of_paths([project]).manifest()) == []
    for name in cached(base):
        (base / name).unlink()
    store.build(run / "2")
    store.close()
    assert in_tree(run / "2") == in_tree(run / "1")


@pytest.mark.parametrize("damage", ["shorter", "longer", "other", "link"])
def test_what_is_damaged_in_the_cache_is_sent_again(project, run, base, damage):
    synchronize([project], run, base, run / "1")
    broken = base / checksum(b"a" * 300_000)
    match damage:
        case "shorter":
            broken.write_bytes(b"")
        case "longer":
            broken.write_bytes(b"a" * 300_001)
        case "other":
            broken.write_bytes(b"b" * 300_000)
        case "link":
            broken.unlink()
            broken.symlink_to(project / "a.py")
    assert synchronize([project], run, base, run / "2") == 1
    assert in_tree(run / "2") == in_tree(run / "1")
    assert synchronize([project], run, base, run / "3") == 0
    assert not broken.is_symlink()


def test_what_was_not_used_for_longest_is_removed_from_a_large_cache(run, base):
    contents = [bytes([n]) * 1000 for n in range(5)]
    store = Store.open(run, base)
    store.missing(manifest_of(*contents))
    for age, content in enumerate(contents):
        store.put(checksum(content), 0, content)
        os.utime(base / checksum(content), (1000 - age, 1000 - age))
    store.close()
    (base / "other").write_bytes(bytes(5000))  # not ours
    store = Store.open(run, base, limit=3000)
    store.missing(manifest_of(contents[4]))  # the oldest one is used again
    store.prune()
    store.close()
    assert cached(base) == {checksum(contents[n]) for n in (0, 1, 4)} | {"other"}


@pytest.mark.parametrize("used", range(3))
def test_what_an_earlier_run_has_used_was_used_last(run, base, used):
    contents = [bytes([n]) * 1000 for n in range(3)]
    store = Store.open(run, base)
    store.missing(manifest_of(*contents))
    for content in contents:
        store.put(checksum(content), 0, content)
        os.utime(base / checksum(content), (1000, 1000))
    store.close()
    for manifest in (manifest_of(contents[used]), {}):
        store = Store.open(run, base, limit=1000 if not manifest else 3000)
        assert store.missing(manifest) == []
        store.prune()
        store.close()
    assert cached(base) == {checksum(contents[used])}


def test_what_the_run_needs_stays_however_large_it_is(project, run, base):
    synchronize([project], run, base, run / "1", limit=0)
    assert len(cached(base)) == 4
    (project / "b.py").write_bytes(b"c")
    synchronize([project], run, base, run / "2", limit=0)
    assert cached(base) == {path.name for path in base.iterdir()}
    assert checksum(b"b") not in cached(base)
    assert checksum(b"c") in cached(base)


def test_a_cache_that_cannot_be_pruned_does_no_harm(store, base):
    store.prune()
    for path in base.iterdir():
        path.rmdir()
    base.rmdir()
    store.prune()


@pytest.mark.parametrize("path", ["../x.py", "/tmp/x.py", "a/../../x.py", "x\0.py"])
def test_a_manifest_that_leads_elsewhere_is_refused(store, path):
    with pytest.raises(ValueError, match="cannot be in a tree"):
        store.missing({path: [checksum(b""), 0, False]})


def test_a_tree_that_is_there_already_is_left_alone(store, run):
    store.missing({})
    (run / "tree").mkdir()
    (run / "tree/mine.py").touch()
    with pytest.raises(ClusterError, match=f"cannot be written to {run}/tree: File exists"):
        store.build(run / "tree")
    assert in_tree(run / "tree") == {"mine.py": b""}


def test_a_tree_that_cannot_be_finished_is_removed(store, run):
    store.missing({"a.py": [checksum(b""), 0, False], "x" * 300: [checksum(b""), 0, False]})
    store.put(checksum(b""), 0, b"")
    with pytest.raises(ClusterError, match=r"cannot be written to .*xxx: File name too long"):
        store.build(run / "tree")
    assert not (run / "tree").exists()


def no_home(monkeypatch, base):
    monkeypatch.setattr(cachedir, "default_base", lambda: None)
    return None, "the user has no home directory"


def no_directory(monkeypatch, base):
    base.write_bytes(b"")
    return base / "sync", f"{base}/sync cannot be used: Not a directory"


def no_locks(monkeypatch, base):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    return base, f"{base} cannot be used: No locks available"


def no_writing(monkeypatch, base):
    real = Path.mkdir

    def mkdir(path, *args, **kwargs):
        if base in path.parents:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return base, f"{base} cannot be used: Read-only file system"


@pytest.mark.parametrize("trouble", [no_home, no_directory, no_locks, no_writing])
def test_without_a_cache_the_run_directory_is_used(project, run, base, monkeypatch, trouble):
    place, why = trouble(monkeypatch, base)
    for turn in (1, 2):
        store = Store.open(run, place)
        assert store.why_uncached == why
        assert send(Bundle.of_paths([project]), store) == 4
        assert send(Bundle.of_paths([project]), store) == 0  # but not twice in a run
        store.build(run / f"{turn}")
        store.prune()
        store.close()
        assert len(in_tree(run / f"{turn}")) == 4
    assert {path.name for path in run.iterdir()} == {"1", "2"}


def test_a_file_system_without_links_keeps_nothing_but_works(project, run, base, monkeypatch):
    def link(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for turn in (1, 2):
        assert synchronize([project], run, base, run / f"{turn}") == 4
    assert in_tree(run / "2") == in_tree(run / "1")
    assert cached(base) == set()


def test_a_store_says_whether_it_keeps_contents(store, run):
    assert store.why_uncached == ""
    assert str(run.with_name("cache")) in repr(store)


def test_a_cache_that_others_can_change_is_refused(run, base):
    base.mkdir()
    base.chmod(0o770)
    with pytest.raises(ClusterError, match=f"{base} cannot hold .* set XDG_CACHE_HOME"):
        Store.open(run, base)


def test_no_place_at_all_is_explained(tmp_path):
    missing = tmp_path / "missing"
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=f"cannot be written to {missing}.*No such file"):
        Store.open(missing, tmp_path / "file/sync")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("when", ["put", "build"])
def test_a_full_disk_is_explained_and_leaves_nothing(run, base, store, monkeypatch, number, when):
    real = synced._new_file

    def new_file(path):
        if (path.parent == run / "tree") == (when == "build"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    store.missing(manifest_of(b"abc"))
    if when == "build":
        store.put(checksum(b"abc"), 0, b"abc")
    monkeypatch.setattr(synced, "_new_file", new_file)
    where, variable = (base, "XDG_CACHE_HOME") if when == "put" else (run, "AIOMAS_RUN_DIR")
    message = rf"no room in {where}/.*\({os.strerror(number)}\).* or set {variable} to"
    arguments = (checksum(b"abc"), 0, b"abc") if when == "put" else (run / "tree",)
    with pytest.raises(ClusterError, match=message):
        getattr(store, when)(*arguments)
    assert not (run / "tree").exists()
    assert cached(base) == (set() if when == "put" else {checksum(b"abc")})
    monkeypatch.setattr(synced, "_new_file", real)
    if when == "put":
        store.put(checksum(b"abc"), 0, b"abc")
    store.build(run / "tree")
    assert in_tree(run / "tree") == {"0.py": b"abc"}


def test_a_disk_that_fills_up_while_a_content_comes(run, base, store):
    content = bytes(100_000)
    store.missing(manifest_of(content))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        store.put(checksum(content), 0, content[:40_000])
        with pytest.raises(ClusterError, match=r"cannot be written to .*File too large"):
            store.put(checksum(content), 40_000, content[40_000:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert in_tree(base) == {}
    store.put(checksum(content), 0, content)
    store.build(run / "tree")
    assert in_tree(run / "tree") == {"0.py": content}
