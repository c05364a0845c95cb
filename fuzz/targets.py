"""What can be fuzzed, by name; needs no fuzzer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fuzz.checks import MIB, within_memory
from fuzz.connection import SEPARATOR, converse
from fuzz.decoding import decode, prepare

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Target:
    """Something that takes any bytes.

    Args:
        name: what it is called on the command line.
        take: takes the bytes, and raises something if it does not stand them.
        tokens: parts of inputs that are worth trying anywhere.
        base: bytes of memory that each input may take.
        factor: bytes of memory that it may take for each of its own.
        prepare: called before an input is measured: what is done once belongs to none of them.
    """

    name: str
    take: Callable[[bytes], None]
    tokens: tuple[bytes, ...]
    base: int
    factor: int
    prepare: Callable[[], object] = lambda: None

    @property
    def corpus(self) -> Path:
        """The folder with inputs that are worth keeping."""
        return ROOT / "fuzz" / "corpus" / self.name

    def run(self, data: bytes, *, measure: bool = False) -> None:
        """Take *data*; *measure* its memory even if it is not in the sample."""
        self.prepare()
        within_memory(self.take, data, base=self.base, factor=self.factor, always=measure)


_JSON_TOKENS = (
    b'{"__type__": [0, ',
    b'"__type__"',
    b"[0, 0, ",
    b'"2024-02-29T00:00:00+01:00"',
    b'"1E-7"',
    b'"sNaN"',
    b'"RED"',
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0.0",
    b'"\\ud800"',
    b'"\\u0000"',
    b"18446744073709551616",
    b'{"left": 1, "right": 2}',
    b"[[[[[[[[",
    b"]]]]]]]]",
    b"null",
    b"true",
)
_MSGPACK_TOKENS = (
    b"\x81\xa8__type__\x92\x00",
    b"\xa8__type__",
    b"\x93\x00\x00",
    b"\xa3RED",
    b"\xa4sNaN",
    b"\xa3<f8",
    b"\xa31E9",
    b"\xc4\x08\0\0\0\0\0\0\0\0",
    b"\xc7\x0c\xff",
    b"\xd6\xff\0\0\0\1",
    b"\xd7\xff",
    b"\xd4\x05x",
    b"\xca\x7f\xc0\0\0",
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\xcf\xff\xff\xff",
    b"\xd3\x80\0\0\0\0\0\0\0",
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\x01\0",
    b"\xdf\0\0\xff\xff",
    b"\x91" * 8,
    b"\xdb\0\0\0\2\xed\xa0",
    b"\xc1",
    b"\x80",
    b"\x90",
    b"\xc0",
)
_BLOSC_TOKENS = (b"\x02\x01\x13\x08", b"\x02\x01\x33\x01", b"\xff\xff\xff\x7f", b"\x10\0\0\0")
_STEPS = (
    SEPARATOR,
    *(
        SEPARATOR + b"!" + name
        for name in (
            b"call",
            b"drop",
            b"pause",
            b"resume",
            b"turn",
            b"wait",
            b"close",
            b"eof",
            b"lost",
        )
    ),
    SEPARATOR + b'=[0, 0, ["echo", [1], {}]]',
    SEPARATOR + b"#",
    SEPARATOR + b'=[1, 0, "x"]',
    SEPARATOR + b'=[2, 0, "x"]',
    b'["later", [1], {}]',
    b'["leaf/twice", [1], {}]',
    b'["fail", ["x"], {}]',
    b'["fail_later", ["x"], {}]',
    b'["give", [], {}]',
    b'["cancelled", [], {}]',
    b'["odd", [9], {}]',
    b'["odd_later", [9], {}]',
    b'["grow", ["x", 9], {}]',
    b'["hang_up", [], {}]',
    b'{"a": 1}',
    b'["call_back", [{"__type__": [1, "leaf"]}, 1], {}]',
    b'{"__type__": [1, "leaf"]}',
    b'{"__type__": [0, 1]}',
    b'["call_back_twice", [{"__type__": [1, ""]}], {}]',
    b"[3, 0, [{}, ",
    b"[4, 0, null]",
    b"[5, 1.5, null]",
    b"[6, 1.5, 2.5]",
    b'[7, 0, ["k", "t", "not_sent"]]',
    b'["aiomas/hello", [{}], {}]',
    b"65536",
    b"131072",
    b"-1",
    b"1000000",
)

TARGETS = {
    target.name: target
    for target in (
        Target("json", partial(decode, "json"), _JSON_TOKENS, MIB, 100, partial(prepare, "json")),
        # Its unpacker sets memory aside for each level of nesting, before what is in it was seen.
        Target(
            "msgpack",
            partial(decode, "msgpack"),
            _MSGPACK_TOKENS,
            64 * MIB,
            100,
            partial(prepare, "msgpack"),
        ),
        Target(
            "msgpack-blosc",
            partial(decode, "msgpack-blosc"),
            _MSGPACK_TOKENS + _BLOSC_TOKENS,
            128 * MIB,
            100,
            partial(prepare, "msgpack-blosc"),
        ),
        Target(
            "connection", converse, _STEPS + _JSON_TOKENS[:3] + _MSGPACK_TOKENS, 128 * MIB, 1000
        ),
    )
}
"""All targets."""
