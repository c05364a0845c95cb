"""What is sent of the user's modules, what is refused, and that it is what was read at first."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomas.cluster import manifest, sync
from aiomas.cluster.sync import Bundle
from aiomas.exceptions import ClusterError


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def project(tmp_path):
    """A module, and a package in which there is more than one wants."""
    for name, content in {
        "agents.py": "A = 1\n",
        "pkg/__init__.py": "",
        "pkg/grid.py": "G = 1\n",
        "pkg/sub/deep/data.csv": "1;2\n",
        "pkg/run.sh": "#!/bin/sh\n",
        "pkg/__pycache__/grid.cpython-311.pyc": "x",
        "pkg/old.pyc": "x",
        "pkg/.git/config": "x",
        "pkg/.hidden": "x",
        "other.py": "O = 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "pkg/run.sh").chmod(0o755)
    (tmp_path / "pkg/empty").mkdir()
    os.mkfifo(tmp_path / "pkg/pipe")
    return tmp_path


def sent(*paths: str | Path) -> dict[str, bytes]:
    """Return the contents of all files that *paths* stand for, as they are sent."""
    bundle = Bundle.of_paths(paths)
    contents: dict[str, bytes] = {}
    for key, offset, data in bundle.pieces({e.checksum for e in bundle.entries.values()}):
        assert offset == len(contents.get(key, b""))
        contents[key] = contents.get(key, b"") + data
    return {path: contents[entry.checksum] for path, entry in bundle.entries.items()}


def test_files_and_directories_are_sent_under_their_names(project):
    assert sent(project / "agents.py", str(project / "pkg")) == {
        "agents.py": b"A = 1\n",
        "pkg/__init__.py": b"",
        "pkg/grid.py": b"G = 1\n",
        "pkg/run.sh": b"#!/bin/sh\n",
        "pkg/sub/deep/data.csv": b"1;2\n",
    }


def test_the_manifest_says_what_is_sent(project):
    bundle = Bundle.of_paths([project / "pkg"])
    assert manifest.read(bundle.manifest()) == bundle.entries
    assert bundle.entries["pkg/grid.py"] == (checksum(b"G = 1\n"), 6, False)
    assert bundle.entries["pkg/run.sh"] == (checksum(b"#!/bin/sh\n"), 10, True)
    assert bundle.size == 20
    assert repr(bundle) == "<Bundle of 4 files, 20 bytes>"
    assert Bundle.of_paths([]).manifest() == {}


def test_a_path_may_be_relative_and_end_with_a_slash(project, monkeypatch):
    monkeypatch.chdir(project / "pkg")
    assert set(sent("../agents.py", ".")) == set(sent(project / "agents.py", f"{project}/pkg/"))


def test_what_is_hidden_is_sent_if_it_is_named(project):
    assert sent(project / "pkg/.hidden") == {".hidden": b"x"}


@pytest.mark.parametrize("paths", ["agents.py", Path("agents.py"), b"agents.py"])
def test_one_path_is_no_list(paths):
    with pytest.raises(ValueError, match=r"must be a list of paths, got .*agents.py"):
        Bundle.of_paths(paths)


@pytest.mark.parametrize("path", [None, b"agents.py", "", 1])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match=r"must be a list of paths, got .* in it"):
        Bundle.of_paths([path])


def test_two_of_the_same_name_are_refused(project):
    (project / "agents").mkdir()
    twin = project / "agents/agents.py"
    twin.touch()
    with pytest.raises(ValueError, match=f"both {project}/agents.py and {twin}, which have the sa"):
        Bundle.of_paths([project / "agents.py", twin])


def test_the_root_directory_has_no_name():
    with pytest.raises(ValueError, match="sync has /, which has no name"):
        Bundle.of_paths(["/"])


def test_what_cannot_be_sent_is_named(project):
    with pytest.raises(ValueError, match=f"{project}/missing.py cannot be read: No such file"):
        Bundle.of_paths([project / "missing.py"])
    with pytest.raises(ValueError, match=f"no files to send in {project}/pkg/empty"):
        Bundle.of_paths([project / "pkg/empty"])
    with pytest.raises(ValueError, match=f"{project}/pkg/pipe is neither a file nor a directory"):
        Bundle.of_paths([project / "pkg/pipe"])
    odd = os.fsdecode(os.fsencode(project / "pkg/\udcff.py"))
    Path(odd).touch()
    with pytest.raises(ValueError, match=r"udcff.py.* cannot be sent.* no UTF-8"):
        Bundle.of_paths([project / "pkg"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
@pytest.mark.parametrize("name", ["grid.py", "sub"])
def test_what_cannot_be_read_is_named(project, name):
    path = project / "pkg" / name
    path.chmod(0)
    try:
        with pytest.raises(ValueError, match=f"{path} cannot be read: Permission denied"):
            Bundle.of_paths([project / "pkg"])
    finally:
        path.chmod(0o700)


def test_a_socket_in_a_directory_is_left_out(unix_path):
    folder = Path(unix_path).parent
    (folder / "a.py").touch()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(unix_path)
        assert set(sent(folder)) == {f"{folder.name}/a.py"}
        with pytest.raises(ValueError, match="neither a file nor a directory"):
            Bundle.of_paths([unix_path])


def test_links_inside_are_followed(project):
    pkg = project / "pkg"
    (pkg / "same.py").symlink_to("grid.py")
    (pkg / "shown").symlink_to(".hidden")
    (pkg / "twin").symlink_to(pkg / "sub")
    files = sent(pkg)
    assert files["pkg/same.py"] == b"G = 1\n"
    assert files["pkg/shown"] == b"x"
    assert files["pkg/twin/deep/data.csv"] == b"1;2\n"


def test_a_link_that_is_named_is_followed(project):
    (project / "link.py").symlink_to("agents.py")
    (project / "linked").symlink_to("pkg")
    files = sent(project / "link.py", project / "linked")
    assert files["link.py"] == b"A = 1\n"
    assert files["linked/grid.py"] == b"G = 1\n"


@pytest.mark.parametrize("target", ["../agents.py", "../pkg2", "/etc/passwd", "sub/../.."])
def test_a_link_that_leads_out_is_refused(project, target):
    (project / "pkg2").mkdir()
    (project / "pkg2/a.py").touch()
    link = project / "pkg/link"
    link.symlink_to(target)
    with pytest.raises(ValueError, match=f"link {link} leads to .*, which is not in {project}/pkg"):
        Bundle.of_paths([project / "pkg"])


def test_a_link_to_nothing_is_refused(project):
    (project / "pkg/link").symlink_to("missing")
    with pytest.raises(ValueError, match="/pkg/link leads to nothing"):
        Bundle.of_paths([project / "pkg"])


@pytest.mark.parametrize("target", [".", "..", "../sub", "deep"])
def test_links_that_go_round_are_refused(project, target):
    (project / "pkg/sub/deep/back").symlink_to(project / "pkg/sub")
    (project / "pkg/sub/round").symlink_to(target)
    with pytest.raises(ValueError, match=r"is in itself \(at "):
        Bundle.of_paths([project / "pkg"])


def test_too_many_files_are_refused(project, monkeypatch):
    monkeypatch.setattr(manifest, "MOST_FILES", 5)
    paths = [project / "pkg", project / "agents.py"]
    assert len(Bundle.of_paths(paths).entries) == 5
    with pytest.raises(ValueError, match=f"with {project}/other.py there are more than 5 files"):
        Bundle.of_paths([*paths, project / "other.py"])


def test_too_many_directories_are_refused(project, monkeypatch):
    monkeypatch.setattr(manifest, "MOST_FILES", 5)
    for number in range(5):
        (project / f"many/{number}").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"with {project}/many there are more than 5"):
        Bundle.of_paths([project / "many"])


def test_a_path_that_is_too_long_is_refused(tmp_path):
    deep = tmp_path.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    with pytest.raises(ValueError, match="longer than 1024 bytes"):
        Bundle.of_paths([tmp_path])


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"large.bin has 1048576.0 MiB.* at most 128.0 MiB"):
        Bundle.of_paths([tmp_path])


def test_files_that_are_too_large_together_are_refused(project, monkeypatch):
    monkeypatch.setattr(manifest, "MOST_BYTES", 25)
    message = f"together have 26 bytes, of which {project}/pkg has 20 bytes; at most 25 bytes"
    with pytest.raises(ValueError, match=message):
        Bundle.of_paths([project / "agents.py", project / "pkg"])


def test_where_a_file_is_in_the_tree(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "linked").symlink_to("pkg")
    (project / "pkg/same.py").symlink_to("grid.py")
    bundle = Bundle.of_paths(["agents.py", "linked"])
    assert bundle.locate(f"{project}/agents.py") == "agents.py"
    assert bundle.locate(f"{project}/pkg/../agents.py") == "agents.py"
    assert bundle.locate(f"{project}/linked/sub/deep/data.csv") == "linked/sub/deep/data.csv"
    assert bundle.locate(f"{project}/pkg/sub/deep/data.csv") == "linked/sub/deep/data.csv"
    assert bundle.locate(f"{project}/linked/same.py") == "linked/same.py"
    assert bundle.locate(f"{project}/linked/grid.py") == "linked/grid.py"
    for elsewhere in ("other.py", "pkg", "pkg/.hidden", "agents.pyx", "missing.py"):
        assert bundle.locate(f"{project}/{elsewhere}") is None
    assert bundle.locate("agents.py") is None
    assert bundle.locate("") is None


def test_where_a_file_is_that_is_sent_by_way_of_a_link_alone(project):
    (project / "link.py").symlink_to("agents.py")
    bundle = Bundle.of_paths([project / "link.py"])
    assert bundle.locate(f"{project}/link.py") == "link.py"
    assert bundle.locate(f"{project}/agents.py") == "link.py"


def test_equal_contents_are_sent_once(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"same")
    bundle = Bundle.of_paths([tmp_path])
    assert list(bundle.pieces([checksum(b"same")])) == [(checksum(b"same"), 0, b"same")]
    assert list(bundle.pieces([])) == []
    assert list(bundle.batches([])) == []


@given(content=st.binary(max_size=50), piece=st.integers(1, 20))
def test_pieces_make_up_the_content(tmp_path_factory, content, piece):
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "PIECE", piece)
        bundle = Bundle.of_paths([path])
        pieces = list(bundle.pieces([checksum(content)]))
    assert b"".join(data for _, _, data in pieces) == content
    assert {key for key, _, _ in pieces} == {checksum(content)}
    offsets = list(range(0, len(content), piece)) or [0]
    assert [offset for _, offset, _ in pieces] == offsets
    assert all(0 < len(data) <= piece for _, _, data in pieces) or pieces[0][2] == content == b""


@given(
    sizes=st.lists(st.integers(0, 50), max_size=20, unique=True),
    piece=st.integers(1, 30),
    most=st.integers(1, 5),
)
def test_batches_are_the_same_pieces_in_the_same_order(tmp_path_factory, sizes, piece, most):
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / str(size) for size in sizes]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "PIECE", piece)
        patch.setattr(sync, "BATCH", most)
        bundle = Bundle.of_paths(paths)
        wanted = [entry.checksum for entry in bundle.entries.values()]
        batches = list(bundle.batches(wanted))
        assert [part for batch in batches for part in batch] == list(bundle.pieces(wanted))
    for batch in batches:
        assert 0 < len(batch) <= most
        assert sum(len(data) for _, _, data in batch) <= piece
    for batch, following in itertools.pairwise(batches):  # they are well filled
        size = sum(len(data) for _, _, data in [*batch, following[0]])
        assert size > piece or len(batch) == most


@pytest.mark.parametrize("new", [b"A = 2\n", b"A = 1\n\n", b"A = 1", b""])
def test_a_file_that_has_changed_is_not_sent(project, new):
    path = project / "agents.py"
    bundle = Bundle.of_paths([path])
    path.write_bytes(new)
    with pytest.raises(ClusterError, match=f"{path} has changed since"):
        list(bundle.pieces([bundle.entries["agents.py"].checksum]))


def test_a_file_that_changes_while_it_is_sent_is_never_sent_wholly(tmp_path, monkeypatch):
    monkeypatch.setattr(sync, "PIECE", 2**16)
    path = tmp_path / "a.py"
    path.write_bytes(b"x" * 2**20)
    bundle = Bundle.of_paths([path])
    pieces = bundle.pieces([bundle.entries["a.py"].checksum])
    received = [next(pieces)]
    with path.open("r+b") as file:
        file.seek(2**20 - 1)
        file.write(b"y")
    with pytest.raises(ClusterError, match="has changed"):
        received.extend(pieces)
    assert len(received) == 15  # of 16


@pytest.mark.parametrize("kind", ["gone", "link", "pipe"])
def test_a_file_that_is_replaced_is_not_sent(project, kind):
    path = project / "agents.py"
    bundle = Bundle.of_paths([path])
    path.rename(project / "real.py")
    if kind == "link":
        path.symlink_to("real.py")
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ClusterError, match=f"{path} cannot be sent to a host of the cluster: .+"):
        list(bundle.pieces([bundle.entries["agents.py"].checksum]))


def test_a_file_that_grows_is_not_read_for_ever(project, monkeypatch):
    path = project / "agents.py"
    monkeypatch.setattr(sync, "_check_total", lambda _: path.write_text("A = 1\nB = 2\n"))
    with pytest.raises(ValueError, match=f"{path} changes while it is read"):
        Bundle.of_paths([path])


def test_only_what_is_in_the_bundle_can_be_asked_for(project):
    bundle = Bundle.of_paths([project / "agents.py"])
    with pytest.raises(ClusterError, match="a host asks for a file that is not sent"):
        list(bundle.pieces(["/etc/passwd"]))
