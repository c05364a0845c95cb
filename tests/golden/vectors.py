"""Messages and the bytes that stand for them on the wire.

A frame is the length of its payload (unsigned, 32 bits, network byte order) and the payload, which
is ``[type, id, content]`` in one of the codecs; type 0 is a request, 1 a result and 2 an exception.

The JSON and MessagePack frames below were written by hand from the published formats
(RFC 8259 and the MessagePack specification) and then compared with what aiomas 2.0.1 sends.  The
Blosc frames were captured from aiomas 2.0.1 with its `MsgPackBlosc` codec and blosc 1.11.  Nothing
here was made by the code under test, so never "repair" a vector with what that code produces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import arrow

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "callee.py", line 3, in fail\n'
    "    raise ValueError('boom')\n"
    "ValueError: boom\n"
)


@dataclass(frozen=True)
class Point:
    """A type of the user's, with a serializer of its own."""

    x: int
    y: str

    @classmethod
    def __serializer__(cls) -> tuple[type[Point], Any, Any]:
        return cls, lambda point: {"x": point.x, "y": point.y}, lambda values: cls(**values)


@dataclass(frozen=True)
class Remote:
    """Stands for an RPC service, which travels as the path of its router."""

    path: str


def remote_serializer() -> tuple[type, Any, Any]:
    """Return what an RPC connection adds for `object`, after all other serializers."""
    return object, lambda remote: remote.path, Remote


REQUEST, RESULT, EXCEPTION = 0, 1, 2

MESSAGES: dict[str, list[Any]] = {
    # What a container sends first, and what it asks when there is no such agent.
    "validate_aid": [REQUEST, 0, ["validate_aid", ["0"], {}]],
    "agent exists": [RESULT, 0, "Callee"],
    "validate_aid of nobody": [REQUEST, 13, ["validate_aid", ["99"], {}]],
    "no such agent": [RESULT, 13, None],
    # An ordinary call and its result.
    "call": [REQUEST, 1, ["agents/0/add", [1], {"b": 3}]],
    "result": [RESULT, 1, 4],
    "call without arguments": [REQUEST, 2, ["agents/0/nothing", [], {}]],
    "nothing": [RESULT, 2, None],
    "failing call": [REQUEST, 3, ["agents/0/fail", [], {}]],
    "exception": [EXCEPTION, 3, TRACEBACK],
    # Dates: the serializer that a container registers first.
    "date": [REQUEST, 4, ["agents/0/echo", [arrow.get("2015-01-01T00:00:00+00:00")], {}]],
    "date reply": [RESULT, 4, arrow.get("2015-01-01T00:00:00+00:00")],
    "date with offset": [RESULT, 4, arrow.get("2015-06-01T12:34:56.789012+02:00")],
    # A type of the user's: registered second.
    "own type": [REQUEST, 5, ["agents/0/echo", [Point(1, "z")], {}]],
    "own type reply": [RESULT, 5, Point(1, "z")],
    # RPC services: registered last.
    "agent as argument": [REQUEST, 9, ["agents/0/call_back", [Remote("agents/0"), 5], {}]],
    "callback": [REQUEST, 0, ["agents/0/add", [5], {"b": 1}]],
    "callback result": [RESULT, 0, 6],
    "agent as argument reply": [RESULT, 9, 6],
    "call for a service": [REQUEST, 10, ["agents/0/get_meter", [], {}]],
    "service as result": [RESULT, 10, Remote("agents/0/meter")],
    "call to a service": [REQUEST, 11, ["agents/0/meter/read", [], {}]],
    "call to a service reply": [RESULT, 11, 4],
    "call to nothing": [REQUEST, 12, ["agents/0/no/such", [], {}]],
    "many types": [
        RESULT,
        6,
        [None, True, False, -1, 1.5, "ä", [], {}, [1, [2, 3]], {"k": [None]}],
    ],
    "large id": [REQUEST, 70_000, ["f", [127, 128, 256, 65_536, -33, -129], {}]],
    "bytes": [REQUEST, 7, ["f", [b"\x00\xff"], {}]],
    "long text": [RESULT, 8, "spam" * 10],
    "not finite": [RESULT, 8, [math.nan, math.inf, -math.inf]],
    # Long enough for Blosc to compress them.
    "compressible call": [REQUEST, 9, ["agents/0/log", ["spam" * 40], {}]],
    "compressible result": [RESULT, 9, "spam" * 40],
}

JSON: dict[str, bytes] = {
    "validate_aid": b'\x00\x00\x00\x23[0, 0, ["validate_aid", ["0"], {}]]',
    "agent exists": b'\x00\x00\x00\x10[1, 0, "Callee"]',
    "validate_aid of nobody": b'\x00\x00\x00\x25[0, 13, ["validate_aid", ["99"], {}]]',
    "no such agent": b"\x00\x00\x00\x0d[1, 13, null]",
    "call": b'\x00\x00\x00\x27[0, 1, ["agents/0/add", [1], {"b": 3}]]',
    "result": b"\x00\x00\x00\x09[1, 1, 4]",
    "call without arguments": b'\x00\x00\x00\x24[0, 2, ["agents/0/nothing", [], {}]]',
    "nothing": b"\x00\x00\x00\x0c[1, 2, null]",
    "failing call": b'\x00\x00\x00\x21[0, 3, ["agents/0/fail", [], {}]]',
    "exception": (
        b"\x00\x00\x00\x85[2, 3, "
        rb'"Traceback (most recent call last):\n'
        rb"  File \"callee.py\", line 3, in fail\n"
        rb"    raise ValueError('boom')\n"
        rb'ValueError: boom\n"'
        b"]"
    ),
    "date": (
        b'\x00\x00\x00\x4f[0, 4, ["agents/0/echo", '
        b'[{"__type__": [0, "2015-01-01T00:00:00+00:00"]}], {}]]'
    ),
    "date reply": b'\x00\x00\x00\x36[1, 4, {"__type__": [0, "2015-01-01T00:00:00+00:00"]}]',
    "date with offset": (
        b'\x00\x00\x00\x3d[1, 4, {"__type__": [0, "2015-06-01T12:34:56.789012+02:00"]}]'
    ),
    "own type": (
        b'\x00\x00\x00\x46[0, 5, ["agents/0/echo", [{"__type__": [1, {"x": 1, "y": "z"}]}], {}]]'
    ),
    "own type reply": b'\x00\x00\x00\x2d[1, 5, {"__type__": [1, {"x": 1, "y": "z"}]}]',
    "agent as argument": (
        b'\x00\x00\x00\x46[0, 9, ["agents/0/call_back", [{"__type__": [2, "agents/0"]}, 5], {}]]'
    ),
    "callback": b'\x00\x00\x00\x27[0, 0, ["agents/0/add", [5], {"b": 1}]]',
    "callback result": b"\x00\x00\x00\x09[1, 0, 6]",
    "agent as argument reply": b"\x00\x00\x00\x09[1, 9, 6]",
    "call for a service": b'\x00\x00\x00\x27[0, 10, ["agents/0/get_meter", [], {}]]',
    "service as result": b'\x00\x00\x00\x2c[1, 10, {"__type__": [2, "agents/0/meter"]}]',
    "call to a service": b'\x00\x00\x00\x28[0, 11, ["agents/0/meter/read", [], {}]]',
    "call to a service reply": b"\x00\x00\x00\x0a[1, 11, 4]",
    "call to nothing": b'\x00\x00\x00\x25[0, 12, ["agents/0/no/such", [], {}]]',
    "many types": (
        b"\x00\x00\x00\x52"
        # ASCII only: other characters are escaped.
        rb'[1, 6, [null, true, false, -1, 1.5, "\u00e4", [], {}, [1, [2, 3]], {"k": [null]}]]'
    ),
    "large id": b'\x00\x00\x00\x38[0, 70000, ["f", [127, 128, 256, 65536, -33, -129], {}]]',
    "long text": b'\x00\x00\x00\x32[1, 8, "spamspamspamspamspamspamspamspamspamspam"]',
    # No JSON by the book, but what Python's json module writes and reads.
    "not finite": b"\x00\x00\x00\x22[1, 8, [NaN, Infinity, -Infinity]]",
    "compressible call": (
        b'\x00\x00\x00\xc2[0, 9, ["agents/0/log", ["' + b"spam" * 40 + b'"], {}]]'
    ),
    "compressible result": b'\x00\x00\x00\xaa[1, 9, "' + b"spam" * 40 + b'"]',
}

MSGPACK: dict[str, bytes] = {
    "validate_aid": (
        b"\x00\x00\x00\x15"  # 21 bytes follow
        b"\x93"  # array of 3: the message
        b"\x00"  # 0: a request
        b"\x00"  # its id
        b"\x93"  # array of 3: path, arguments, keyword arguments
        b"\xac"  # string of 12 bytes
        b"validate_aid"
        b"\x91"  # array of 1
        b"\xa1"  # string of 1 byte: agent ids are strings
        b"0"
        b"\x80"  # empty map
    ),
    "agent exists": (
        b"\x00\x00\x00\x0a"
        b"\x93"
        b"\x01"  # 1: a result
        b"\x00"
        b"\xa6"  # string of 6 bytes
        b"Callee"
    ),
    "validate_aid of nobody": b"\x00\x00\x00\x16\x93\x00\x0d\x93\xacvalidate_aid\x91\xa299\x80",
    "no such agent": (
        b"\x00\x00\x00\x04\x93\x01\x0d\xc0"  # nil
    ),
    "call": (
        b"\x00\x00\x00\x17"
        b"\x93\x00\x01"
        b"\x93\xacagents/0/add"
        b"\x91\x01"  # [1]
        b"\x81\xa1b\x03"  # {"b": 3}
    ),
    "result": b"\x00\x00\x00\x04\x93\x01\x01\x04",
    "call without arguments": (
        b"\x00\x00\x00\x17"
        b"\x93\x00\x02"
        b"\x93\xb0agents/0/nothing"
        b"\x90"  # empty array
        b"\x80"  # empty map
    ),
    "nothing": b"\x00\x00\x00\x04\x93\x01\x02\xc0",
    "failing call": b"\x00\x00\x00\x14\x93\x00\x03\x93\xadagents/0/fail\x90\x80",
    "exception": (
        b"\x00\x00\x00\x7a"
        b"\x93"
        b"\x02"  # 2: an exception
        b"\x03"
        b"\xd9\x75"  # string of 117 bytes
        b"Traceback (most recent call last):\n"
        b'  File "callee.py", line 3, in fail\n'
        b"    raise ValueError('boom')\n"
        b"ValueError: boom\n"
    ),
    "date": (
        b"\x00\x00\x00\x3a"
        b"\x93\x00\x04"
        b"\x93\xadagents/0/echo"
        b"\x91"
        b"\x81\xa8__type__"  # map with one key
        b"\x92\x00"  # [0, representation]
        b"\xb92015-01-01T00:00:00+00:00"  # string of 25 bytes
        b"\x80"
    ),
    "date reply": (
        b"\x00\x00\x00\x29\x93\x01\x04\x81\xa8__type__\x92\x00\xb92015-01-01T00:00:00+00:00"
    ),
    "date with offset": (
        b"\x00\x00\x00\x31"
        b"\x93\x01\x04"
        b"\x81\xa8__type__\x92\x00"
        b"\xd9\x20"  # string of 32 bytes, which is one too many for the short form
        b"2015-06-01T12:34:56.789012+02:00"
    ),
    "own type": (
        b"\x00\x00\x00\x28"
        b"\x93\x00\x05"
        b"\x93\xadagents/0/echo"
        b"\x91"
        b"\x81\xa8__type__"
        b"\x92\x01"  # the second serializer
        b"\x82\xa1x\x01\xa1y\xa1z"  # {"x": 1, "y": "z"}
        b"\x80"
    ),
    "own type reply": (
        b"\x00\x00\x00\x17"
        b"\x93\x01\x05"
        b"\x81\xa8__type__\x92\x01"
        b"\x82\xa1x\x01\xa1y\xa1z"  # the representation
    ),
    "agent as argument": (
        b"\x00\x00\x00\x2f"
        b"\x93\x00\x09"
        b"\x93\xb2agents/0/call_back"
        b"\x92"
        b"\x81\xa8__type__"
        b"\x92\x02"  # the last serializer
        b"\xa8agents/0"
        b"\x05"
        b"\x80"
    ),
    "callback": (b"\x00\x00\x00\x17\x93\x00\x00\x93\xacagents/0/add\x91\x05\x81\xa1b\x01"),
    "callback result": b"\x00\x00\x00\x04\x93\x01\x00\x06",
    "agent as argument reply": b"\x00\x00\x00\x04\x93\x01\x09\x06",
    "call for a service": b"\x00\x00\x00\x19\x93\x00\x0a\x93\xb2agents/0/get_meter\x90\x80",
    "service as result": (
        b"\x00\x00\x00\x1e\x93\x01\x0a\x81\xa8__type__\x92\x02\xaeagents/0/meter"
    ),
    "call to a service": b"\x00\x00\x00\x1a\x93\x00\x0b\x93\xb3agents/0/meter/read\x90\x80",
    "call to a service reply": b"\x00\x00\x00\x04\x93\x01\x0b\x04",
    "call to nothing": b"\x00\x00\x00\x17\x93\x00\x0c\x93\xb0agents/0/no/such\x90\x80",
    "many types": (
        b"\x00\x00\x00\x20"
        b"\x93\x01\x06"
        b"\x9a"  # array of 10
        b"\xc0"  # nil
        b"\xc3"  # true
        b"\xc2"  # false
        b"\xff"  # -1
        b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"  # 1.5, always with 64 bits
        b"\xa2\xc3\xa4"  # UTF-8
        b"\x90"  # []
        b"\x80"  # {}
        b"\x92\x01\x92\x02\x03"  # [1, [2, 3]]
        b"\x81\xa1k\x91\xc0"  # {"k": [nil]}
    ),
    "large id": (
        b"\x00\x00\x00\x1c"
        b"\x93\x00"
        b"\xce\x00\x01\x11\x70"  # 70,000: 32 bits, unsigned
        b"\x93\xa1f"
        b"\x96"  # array of 6; each integer in its shortest form
        b"\x7f"  # 127
        b"\xcc\x80"  # 128
        b"\xcd\x01\x00"  # 256
        b"\xce\x00\x01\x00\x00"  # 65,536
        b"\xd0\xdf"  # -33
        b"\xd1\xff\x7f"  # -129
        b"\x80"
    ),
    "bytes": (
        b"\x00\x00\x00\x0c"
        b"\x93\x00\x07"
        b"\x93\xa1f"
        b"\x91"
        b"\xc4\x02\x00\xff"  # binary of 2 bytes, not a string
        b"\x80"
    ),
    "long text": (
        b"\x00\x00\x00\x2d"
        b"\x93\x01\x08"
        b"\xd9\x28"  # string of 40 bytes
        b"spamspamspamspamspamspamspamspamspamspam"
    ),
    "not finite": (
        b"\x00\x00\x00\x1f"
        b"\x93\x01\x08"
        b"\x93"
        b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"  # NaN
        b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00"  # infinity
        b"\xcb\xff\xf0\x00\x00\x00\x00\x00\x00"  # -infinity
    ),
    "compressible call": (
        b"\x00\x00\x00\xb5"
        b"\x93\x00\x09"
        b"\x93\xacagents/0/log"
        b"\x91"
        b"\xd9\xa0" + b"spam" * 40 + b"\x80"  # string of 160 bytes
    ),
    "compressible result": (b"\x00\x00\x00\xa5\x93\x01\x09\xd9\xa0" + b"spam" * 40),
}

# After the length comes the header of Blosc: 02 01 are the versions of its format and of BloscLZ;
# the flags say 01 bytes shuffled, 02 stored without compression; 08 is the size of an element; then
# three little-endian 32-bit integers, the sizes of the contents, of a block, and of the header and
# all that follows.  Then the packed message, compressed or not.
BLOSC: dict[str, bytes] = {
    "validate_aid": bytes.fromhex(
        "000000250201130815000000100000002500000093000093ac76616c69646174655f61696491a13080"
    ),
    "agent exists": bytes.fromhex("0000001a020113080a000000080000001a000000930100a643616c6c6565"),
    "validate_aid of nobody": bytes.fromhex(
        "000000260201130816000000100000002600000093000d93ac76616c69646174655f61696491a2393980"
    ),
    "no such agent": bytes.fromhex("000000140201130804000000010000001400000093010dc0"),
    "call": bytes.fromhex(
        "000000270201130817000000100000002700000093000193ac6167656e74732f302f616464910181a16203"
    ),
    "result": bytes.fromhex("000000140201130804000000010000001400000093010104"),
    "call without arguments": bytes.fromhex(
        "000000270201130817000000100000002700000093000293b06167656e74732f302f6e6f7468696e679080"
    ),
    "nothing": bytes.fromhex("0000001402011308040000000100000014000000930102c0"),
    "failing call": bytes.fromhex(
        "000000240201130814000000100000002400000093000393ad6167656e74732f302f6661696c9080"
    ),
    "exception": bytes.fromhex(
        "0000008a"
        "020113087a000000780000008a000000"
        "930203d97554726163656261636b20286d6f737420726563656e742063616c6c206c617374293a0a"
        "202046696c65202263616c6c65652e7079222c206c696e6520332c20696e206661696c0a20202020"
        "72616973652056616c75654572726f722827626f6f6d27290a56616c75654572726f723a20626f6f"
        "6d0a"
    ),
    "date": bytes.fromhex(
        "0000004a"
        "020113083a000000380000004a000000"
        "93000493ad6167656e74732f302f6563686f9181a85f5f747970655f5f9200b9323031352d30312d"
        "30315430303a30303a30302b30303a303080"
    ),
    "date reply": bytes.fromhex(
        "00000039"
        "02011308290000002800000039000000"
        "93010481a85f5f747970655f5f9200b9323031352d30312d30315430303a30303a30302b30303a30"
        "30"
    ),
    "date with offset": bytes.fromhex(
        "00000041"
        "02011308310000003000000041000000"
        "93010481a85f5f747970655f5f9200d920323031352d30362d30315431323a33343a35362e373839"
        "3031322b30323a3030"
    ),
    "own type": bytes.fromhex(
        "00000038"
        "02011308280000002800000038000000"
        "93000593ad6167656e74732f302f6563686f9181a85f5f747970655f5f920182a17801a179a17a80"
    ),
    "own type reply": bytes.fromhex(
        "000000270201130817000000100000002700000093010581a85f5f747970655f5f920182a17801a179a17a"
    ),
    "agent as argument": bytes.fromhex(
        "0000003f"
        "020113082f000000280000003f000000"
        "93000993b26167656e74732f302f63616c6c5f6261636b9281a85f5f747970655f5f9202a8616765"
        "6e74732f300580"
    ),
    "callback": bytes.fromhex(
        "000000270201130817000000100000002700000093000093ac6167656e74732f302f616464910581a16201"
    ),
    "callback result": bytes.fromhex("000000140201130804000000010000001400000093010006"),
    "agent as argument reply": bytes.fromhex("000000140201130804000000010000001400000093010906"),
    "call for a service": bytes.fromhex(
        "000000290201130819000000180000002900000093000a93b26167656e74732f302f6765745f6d657465729080"
    ),
    "service as result": bytes.fromhex(
        "0000002e"
        "020113081e000000180000002e000000"
        "93010a81a85f5f747970655f5f9202ae6167656e74732f302f6d65746572"
    ),
    "call to a service": bytes.fromhex(
        "0000002a"
        "020113081a000000180000002a000000"
        "93000b93b36167656e74732f302f6d657465722f726561649080"
    ),
    "call to a service reply": bytes.fromhex("000000140201130804000000010000001400000093010b04"),
    "call to nothing": bytes.fromhex(
        "000000270201130817000000100000002700000093000c93b06167656e74732f302f6e6f2f737563689080"
    ),
    "many types": bytes.fromhex(
        "00000030"
        "02011308200000002000000030000000"
        "9301069ac0c3c2ffcb3ff8000000000000a2c3a49080920192020381a16b91c0"
    ),
    "large id": bytes.fromhex(
        "0000002c"
        "020113081c000000180000002c000000"
        "9300ce0001117093a166967fcc80cd0100ce00010000d0dfd1ff7f80"
    ),
    "bytes": bytes.fromhex("0000001c020113080c000000080000001c00000093000793a16691c40200ff80"),
    "long text": bytes.fromhex(
        "0000003d"
        "020113082d000000280000003d000000"
        "930108d9287370616d7370616d7370616d7370616d7370616d7370616d7370616d7370616d737061"
        "6d7370616d"
    ),
    "not finite": bytes.fromhex(
        "0000002f"
        "020113081f000000180000002f000000"
        "93010893cb7ff8000000000000cb7ff0000000000000cbfff0000000000000"
    ),
    "compressible call": bytes.fromhex(
        "00000068"
        "02011108b5000000b000000068000000"
        "180000005f0000004300000024936e677373e008000300749170e00900030973d961e0090003932f"
        "a06de0090001ac30e0085404737373612fe00955037070676ce00955036161656fe00955016d6d05"
        "0000007370616d80"
    ),
    "compressible result": bytes.fromhex(
        "0000005c"
        "02011108a5000000a00000005c000000"
        "18000000530000003700000024936d6d6d6de00600010173e00900010970e0090001d961e0090000"
        "a0e0064b036d6d6d6de0094d017373e0094d017070e0094d016161050000006d7370616d"
    ),
}

FRAMES: dict[str, dict[str, bytes]] = {"JSON": JSON, "MsgPack": MSGPACK, "MsgPackBlosc": BLOSC}

# Requests to a bare RPC server and its replies.  It registers no dates: services are type 0.
BARE_RPC: dict[str, list[tuple[bytes, bytes]]] = {
    "JSON": [
        (b'\x00\x00\x00\x1b[0, 0, ["add", [1, 2], {}]]', b"\x00\x00\x00\x09[1, 0, 3]"),
        (
            b'\x00\x00\x00\x1d[0, 1, ["get_meter", [], {}]]',
            b'\x00\x00\x00\x22[1, 1, {"__type__": [0, "meter"]}]',
        ),
        (b'\x00\x00\x00\x1e[0, 2, ["meter/read", [], {}]]', b"\x00\x00\x00\x09[1, 2, 4]"),
    ],
    "MsgPack": [
        (
            b"\x00\x00\x00\x0c\x93\x00\x00\x93\xa3add\x92\x01\x02\x80",
            b"\x00\x00\x00\x04\x93\x01\x00\x03",
        ),
        (
            b"\x00\x00\x00\x10\x93\x00\x01\x93\xa9get_meter\x90\x80",
            b"\x00\x00\x00\x15\x93\x01\x01\x81\xa8__type__\x92\x00\xa5meter",
        ),
        (
            b"\x00\x00\x00\x11\x93\x00\x02\x93\xaameter/read\x90\x80",
            b"\x00\x00\x00\x04\x93\x01\x02\x04",
        ),
    ],
    "MsgPackBlosc": [
        (
            (
                b"\x00\x00\x00\x1c\x02\x01\x13\x08\x0c\x00\x00\x00\x08\x00\x00\x00\x1c\x00\x00\x00"
                b"\x93\x00\x00\x93\xa3add\x92\x01\x02\x80"
            ),
            (
                b"\x00\x00\x00\x14\x02\x01\x13\x08\x04\x00\x00\x00\x01\x00\x00\x00\x14\x00\x00\x00"
                b"\x93\x01\x00\x03"
            ),
        ),
    ],
}

# Contents of a bare channel are anything at all, and it knows no types.
CHANNEL: dict[str, tuple[bytes, bytes]] = {
    "JSON": (b'\x00\x00\x00\x0e[0, 0, "ohai"]', b'\x00\x00\x00\x0d[1, 0, "cya"]'),
    "MsgPack": (
        b"\x00\x00\x00\x08\x93\x00\x00\xa4ohai",
        b"\x00\x00\x00\x07\x93\x01\x00\xa3cya",
    ),
    "MsgPackBlosc": (
        (
            b"\x00\x00\x00\x18\x02\x01\x13\x08\x08\x00\x00\x00\x08\x00\x00\x00\x18\x00\x00\x00"
            b"\x93\x00\x00\xa4ohai"
        ),
        (
            b"\x00\x00\x00\x17\x02\x01\x13\x08\x07\x00\x00\x00\x01\x00\x00\x00\x17\x00\x00\x00"
            b"\x93\x01\x00\xa3cya"
        ),
    ),
}
