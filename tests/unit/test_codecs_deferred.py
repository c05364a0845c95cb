"""A codec may hold a serializer whose type nobody has imported yet."""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import sys
from aiomas import util
from aiomas._connections import with_arrow
from aiomas.codecs import JSON, MsgPack, Codec, make_codec
from aiomas.exceptions import DecodeError, SerializationError

def codec(base=MsgPack):
    return make_codec(base, with_arrow({}))

assert "arrow" not in sys.modules
"""


def run(program: str) -> None:
    """Run *program* in an interpreter that has not imported arrow."""
    subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)], check=True, timeout=30
    )


def test_the_codec_names_the_type_without_importing_it():
    run("""
        assert codec().type_names == ["Arrow"]
        assert repr(codec()) == "MsgPack[Arrow]"
        assert "arrow" not in sys.modules
    """)


def test_other_values_do_not_import_it():
    run("""
        taught = codec()
        taught.add_serializer(complex, lambda c: [c.real, c.imag], lambda parts: complex(*parts))
        assert taught.decode(taught.encode([1j, {"a": 2}])) == (1j, {"a": 2})
        assert taught.encode(1j) == MsgPack().encode({"__type__": [1, [0.0, 1.0]]})
        try:
            taught.encode(object)
        except SerializationError as exc:
            assert "there is no serializer for builtins.type" in str(exc)
        assert "arrow" not in sys.modules
    """)


@pytest.mark.parametrize("base", ["JSON", "MsgPack"])
def test_a_date_that_is_encoded_later_is_known(base):
    run(f"""
        taught = codec({base})
        import arrow
        date = arrow.get("2026-01-02T03:04:05+01:00")
        plain = {base}()
        assert taught.encode(date) == plain.encode({{"__type__": [0, str(date)]}})
        assert taught.decode(taught.encode([date]))[0] == date
        assert repr(taught) == "{base}[Arrow]"
    """)


def test_a_date_that_arrives_imports_it():
    run("""
        taught = codec()
        date = taught.decode(MsgPack().encode({"__type__": [0, "2026-01-02T03:04:05+00:00"]}))
        import arrow
        assert type(date) is arrow.Arrow
        assert date == arrow.get("2026-01-02T03:04:05+00:00")
        assert taught.decode(taught.encode(date)) == date
    """)


def test_what_is_no_date_is_refused_as_ever():
    run("""
        taught = codec()
        for _ in range(2):  # before and after it is loaded
            try:
                taught.decode(MsgPack().encode({"__type__": [0, "yesterday"]}))
            except DecodeError as exc:
                message = str(exc)
            assert message.startswith("The deserializer for arrow.arrow.Arrow failed: ValueError")
    """)


def test_a_second_serializer_for_the_type_is_refused_as_ever():
    run("""
        try:
            make_codec(MsgPack, with_arrow({"extra_serializers": [util.arrow_serializer]}))
        except ValueError as exc:
            message = str(exc)
        assert message == (
            "MsgPack[Arrow] has a serializer for <class 'arrow.arrow.Arrow'> already"
        )
    """)


def test_a_codec_that_adds_serializers_in_its_own_way_gets_to_see_the_type():
    run("""
        class Curious(MsgPack):
            def add_serializer(self, type, serialize, deserialize):
                self.seen = type
                super().add_serializer(type, serialize, deserialize)

        seen = codec(Curious).seen
        import arrow
        assert seen is arrow.Arrow
    """)
