"""What is sent once both ends have agreed on the extensions, and how they agree; as `vectors`.

The types of messages are 3 for a request with options, 4 for a cancellation, 5 and 6 for a ping and
its pong, and 7 for a typed failure.  All times are 12.5 s by the clock of the sender.

The frames were written by hand as well, from the page about the wire format and the specification
of MessagePack.
"""

from __future__ import annotations

import struct
from typing import Any


def _hello(codec: str, url: str) -> dict[str, Any]:
    return {
        "url": url,
        "token": None,
        "codec": codec,
        "serializers": ["Arrow", "Point", "object"],
        "version": 1,
        "extensions": ["cancel", "failures", "options", "ping"],
        "clock": 12.5,
    }


def messages(codec: str) -> dict[str, list[Any]]:
    """Return what the frames of *codec* mean, with objects as they travel."""
    name = {"JSON": "json", "MsgPack": "msgpack", "MsgPackBlosc": "msgpack-blosc"}[codec]
    call = ["agents/0/add", [1], {"b": 3}]
    return {
        "hello": [0, 0, ["aiomas/hello", [_hello(name, "local://dialler/")], {}]],
        "welcome": [1, 0, _hello(name, "local://acceptor/")],
        "call with a deadline": [3, 1, [{"timeout": 2.0, "sent": 12.5}, call]],
        "one-way call": [3, 2, [{"one_way": True}, call]],
        "call again": [3, 3, [{"again": True}, call]],
        "cancel": [4, 1, None],
        "ping": [5, 12500, None],
        "pong": [6, 12500, 12500],
        "failure": [7, 1, ["lookup", "LookupError: no", "not_executed"]],
        "proxy as argument": [
            0,
            4,
            ["agents/0/keep", [{"__type__": [2, "local://elsewhere/7"]}], {}],
        ],
    }


_JSON: dict[str, bytes] = {
    "hello": (
        b'\x00\x00\x00\xde[0, 0, ["aiomas/hello", [{"url": "local://dialler/", "token": null, '
        b'"codec": "json", "serializers": ["Arrow", "Point", "object"], "version": 1, '
        b'"extensions": ["cancel", "failures", "options", "ping"], "clock": 12.5}], {}]]'
    ),
    "welcome": (
        b'\x00\x00\x00\xc7[1, 0, {"url": "local://acceptor/", "token": null, '
        b'"codec": "json", "serializers": ["Arrow", "Point", "object"], "version": 1, '
        b'"extensions": ["cancel", "failures", "options", "ping"], "clock": 12.5}]'
    ),
    "call with a deadline": (
        b'\x00\x00\x00\x49[3, 1, [{"timeout": 2.0, "sent": 12.5}, ["agents/0/add", [1], {"b": 3}]]]'
    ),
    "one-way call": (
        b'\x00\x00\x00\x3c[3, 2, [{"one_way": true}, ["agents/0/add", [1], {"b": 3}]]]'
    ),
    "call again": b'\x00\x00\x00\x3a[3, 3, [{"again": true}, ["agents/0/add", [1], {"b": 3}]]]',
    "cancel": b"\x00\x00\x00\x0c[4, 1, null]",
    "ping": b"\x00\x00\x00\x10[5, 12500, null]",
    "pong": b"\x00\x00\x00\x11[6, 12500, 12500]",
    "failure": b'\x00\x00\x00\x35[7, 1, ["lookup", "LookupError: no", "not_executed"]]',
    "proxy as argument": (
        b'\x00\x00\x00\x49[0, 4, ["agents/0/keep", [{"__type__": [2, "local://elsewhere/7"]}], {}]]'
    ),
}

_ABOUT_MSGPACK = (
    b"\xa5token\xc0"  # nil
    b"\xa5codec\xa7msgpack"
    b"\xabserializers\x93\xa5Arrow\xa5Point\xa6object"
    b"\xa7version\x01"
    b"\xaaextensions\x94\xa6cancel\xa8failures\xa7options\xa4ping"
    b"\xa5clock\xcb\x40\x29\x00\x00\x00\x00\x00\x00"  # 12.5, with 64 bits
)
_CALL = b"\x93\xacagents/0/add\x91\x01\x81\xa1b\x03"

_MSGPACK: dict[str, bytes] = {
    "hello": (
        b"\x00\x00\x00\x9f\x93\x00\x00\x93\xacaiomas/hello\x91"
        b"\x87"  # map with 7 keys
        b"\xa3url\xb0local://dialler/" + _ABOUT_MSGPACK + b"\x80"
    ),
    "welcome": (b"\x00\x00\x00\x90\x93\x01\x00\x87\xa3url\xb1local://acceptor/" + _ABOUT_MSGPACK),
    "call with a deadline": (
        b"\x00\x00\x00\x38"
        b"\x93\x03\x01"
        b"\x92"  # array of 2: options and call
        b"\x82"
        b"\xa7timeout\xcb\x40\x00\x00\x00\x00\x00\x00\x00"  # 2.0
        b"\xa4sent\xcb\x40\x29\x00\x00\x00\x00\x00\x00" + _CALL
    ),
    "one-way call": b"\x00\x00\x00\x22\x93\x03\x02\x92\x81\xa7one_way\xc3" + _CALL,
    "call again": b"\x00\x00\x00\x20\x93\x03\x03\x92\x81\xa5again\xc3" + _CALL,
    "cancel": b"\x00\x00\x00\x04\x93\x04\x01\xc0",
    "ping": b"\x00\x00\x00\x06\x93\x05\xcd\x30\xd4\xc0",  # 12,500: 16 bits, unsigned
    "pong": b"\x00\x00\x00\x08\x93\x06\xcd\x30\xd4\xcd\x30\xd4",
    "failure": b"\x00\x00\x00\x28\x93\x07\x01\x93\xa6lookup\xafLookupError: no\xacnot_executed",
    "proxy as argument": (
        b"\x00\x00\x00\x34"
        b"\x93\x00\x04"
        b"\x93\xadagents/0/keep"
        b"\x91\x81\xa8__type__\x92\x02\xb3local://elsewhere/7"
        b"\x80"
    ),
}


def _stored(payload: bytes) -> bytes:
    """Return the frame of what Blosc has not compressed; see the comment in `vectors`."""
    sizes = struct.pack("<LLL", len(payload), len(payload), len(payload) + 16)
    payload = b"\x02\x01\x13\x08" + sizes + payload
    return struct.pack("!L", len(payload)) + payload


_BLOSC = {
    name: _stored(frame[4:].replace(b"\xa7msgpack", b"\xadmsgpack-blosc"))
    for name, frame in _MSGPACK.items()
}

FRAMES: dict[str, dict[str, bytes]] = {"JSON": _JSON, "MsgPack": _MSGPACK, "MsgPackBlosc": _BLOSC}
