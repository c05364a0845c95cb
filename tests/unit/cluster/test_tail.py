"""Log files are printed, several with the index in front, until the run ends."""

from __future__ import annotations

import shutil
import threading

import pytest

from aiomas.cluster import tail


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_one_file_is_printed_as_it_is(folder, capsys):
    (folder / "3.log").write_text("a\nb\nc\n")
    tail.show({3: folder / "3.log"}, lines=2, wait=False)
    assert capsys.readouterr().out == "b\nc\n"


def test_lines_of_several_files_say_whose_they_are(folder, capsys):
    (folder / "0.log").write_text("a\nb\n")
    (folder / "1.log").write_text("c\n")
    tail.show({i: folder / f"{i}.log" for i in range(2)}, lines=5, wait=False)
    assert capsys.readouterr().out == "[0] a\n[0] b\n[1] c\n"


def test_a_file_that_is_not_there_is_an_error(folder):
    with pytest.raises(FileNotFoundError):
        tail.show({3: folder / "3.log"}, lines=2, wait=False)
    with pytest.raises(FileNotFoundError):
        tail.show({3: folder / "3.log"}, lines=2, wait=True)


def test_of_several_files_those_that_are_not_there_are_left_out(folder, capsys):
    (folder / "0.log").write_text("a\n")
    files = {i: folder / f"{i}.log" for i in range(3)}
    tail.show(files, lines=5, wait=False)
    assert capsys.readouterr().out == "[0] a\n"
    timer = threading.Timer(0.3, shutil.rmtree, [folder])
    timer.start()
    tail.show(files, lines=5, wait=True)
    timer.join()
    assert capsys.readouterr().out == "[0] a\n"


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_added_follows(folder, capsys, count):
    files = {i: folder / f"{i}.log" for i in range(count)}
    for file in files.values():
        file.write_text("a\n")

    def go_on():
        with files[0].open("a") as log:
            log.write("b\nno end")
        shutil.rmtree(folder)

    timer = threading.Timer(0.3, go_on)
    timer.start()
    tail.show(files, lines=5, wait=True)
    timer.join()
    seen = [line.removeprefix("[0] ") for line in capsys.readouterr().out.splitlines()]
    assert [line for line in seen if line != "[1] a"] == ["a", "b", "no end"]
