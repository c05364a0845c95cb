"""What the driver has is named as others can import it; what has no such name is refused."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from aiomas import codecs, util
from aiomas.cluster.loading import load
from aiomas.cluster.naming import CODECS, codec_name, importable_name, serializer_names
from tests.ids import plain


class Codec(codecs.JSON):
    class Nested:
        def method(self):
            """Is reached through both classes."""


class TestNames:
    @pytest.mark.parametrize(
        ("codec", "cls"),
        [
            ("json", codecs.JSON),
            ("msgpack", codecs.MsgPack),
            ("msgpack-blosc", codecs.MsgPackBlosc),
            (codecs.MsgPack, codecs.MsgPack),
        ],
    )
    def test_a_codec_is_a_name_or_a_class(self, codec, cls):
        assert util.obj_from_str(codec_name(codec)) is cls

    @pytest.mark.parametrize("codec", ["pickle", "", 5, None, int, codecs.JSON()], ids=plain)
    def test_what_is_no_codec_is_refused(self, codec):
        with pytest.raises(ValueError, match="codec must be one of json, msgpack"):
            codec_name(codec)

    def test_a_codec_that_cannot_be_imported_is_refused(self):
        class Local(codecs.JSON):
            pass

        with pytest.raises(ValueError, match="top level of a module"):
            codec_name(Local)

    def test_serializers_are_names_or_callables(self):
        names = serializer_names(["m:f", util.arrow_serializer, codecs.uuid_serializer])
        assert names[0] == "m:f"
        assert util.obj_from_str(names[1]) is util.arrow_serializer
        assert util.obj_from_str(names[2]) is codecs.uuid_serializer

    def test_a_single_name_is_no_list_of_serializers(self):
        with pytest.raises(ValueError, match="extra_serializers must be a list of them, got 'm:f'"):
            serializer_names("m:f")

    def test_what_is_nested_in_a_class_has_a_name(self):
        assert importable_name(Codec.Nested) == f"{__name__}:Codec.Nested"
        assert importable_name(Codec.Nested.method) == f"{__name__}:Codec.Nested.method"

    def test_what_was_loaded_from_a_file_is_named_by_the_file(self, tmp_path):
        file = tmp_path.resolve() / "program.py"
        file.write_text("class Worker:\n    class Inner: pass\n")
        before = set(sys.modules)
        try:
            worker = load(f"{file}:Worker")
            assert importable_name(worker) == f"{file}:Worker"
            assert load(importable_name(worker.Inner)) is worker.Inner
        finally:
            for name in set(sys.modules) - before:
                del sys.modules[name]

    @pytest.mark.parametrize("obj", [lambda: None, 5, "x", None, object()], ids=plain)
    def test_what_has_no_name_is_refused(self, obj):
        with pytest.raises(ValueError, match="cannot be imported by another process"):
            importable_name(obj)


class TestMain:
    @pytest.fixture
    def main(self, monkeypatch):
        """Let another module be the main one; and a class that was defined there."""
        module = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", module)
        cls = type("Worker", (), {"__module__": "__main__"})
        module.Worker = cls  # type: ignore[attr-defined]
        return module

    def test_a_script_is_named_by_its_file(self, main, tmp_path):
        main.__file__ = str(tmp_path / "script.py")
        (tmp_path / "script.py").touch()
        assert importable_name(main.Worker) == f"{tmp_path.resolve()}/script.py:Worker"

    def test_a_module_that_was_run_is_named_by_its_name(self, main):
        main.__spec__ = importlib.util.spec_from_loader("package.program", None)
        assert importable_name(main.Worker) == "package.program:Worker"

    @pytest.mark.parametrize("file", [None, "<stdin>"])
    def test_an_interactive_session_is_refused(self, main, file):
        main.__file__ = file
        with pytest.raises(ValueError, match=r"interactive session.*write it into a module"):
            importable_name(main.Worker)


def test_the_names_of_codecs_are_those_that_are_documented():
    assert set(CODECS) == {"json", "msgpack", "msgpack-blosc"}
