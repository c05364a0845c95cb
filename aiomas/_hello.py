"""What the two ends of a connection tell each other first, where they talk about themselves.

The end that dialled may ask for the extensions of the protocol with one ordinary request, the
hello.  A peer that does not know it answers with an error, as to any path that it does not know,
and then only what every version understands is ever sent on that connection.

Containers may have a token in common.  It is never sent: each end shows a proof that it knows it,
which is of no use to anybody but the two ends.  Where parts of a cluster have been given up, the
proof also says of which generation of the cluster the end is that has dialled.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from aiomas.codecs import JSON, Codec, MsgPack, MsgPackBlosc
from aiomas.exceptions import DecodeError, SerializationError

PATH = "aiomas/hello"
"""The path of the request."""
VERSION = 1
"""The version of the extensions."""
EXTENSIONS = ("cancel", "failures", "options", "ping")
"""What the version consists of; all of it is used, or nothing."""

STRANGER = "this container belongs to a cluster: it has a token, which the peer has not shown"
"""Why a peer is not served that has not shown that it knows our token."""

_OTHER_NAME = (
    ": what it has shown is for another token, or for another name of this container; dial it by "
    "its URL {}"
)
LARGEST_FIRST = 65_536
"""Bytes of the first message, where it counts, or has to be read with other codecs."""

_NEWEST = 2**53  # which every codec can carry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hello:
    """What one end says about itself.

    Args:
        url: the base URL of the container, if it is one.
        token: a proof that it knows what all containers of one cluster know, and nobody else.
        codec: the name of the codec.
        serializers: the names of the types that have serializers, in their order.
        version: the version of the extensions.
        extensions: their names.
        clock: the time of the sender's clock, in seconds.
        generation: the generation of its cluster, of which the proof is.
    """

    url: str | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    codec: str = ""
    serializers: tuple[str, ...] = ()
    version: int = VERSION
    extensions: tuple[str, ...] = EXTENSIONS
    clock: float = 0.0
    generation: int = 0

    def speaking(self, codec: Codec) -> Hello:
        """Return the same with the facts about *codec*."""
        return dataclasses.replace(self, codec=codec.name, serializers=tuple(codec.type_names))

    def content(self) -> dict[str, Any]:
        """Return what is sent."""
        content = dataclasses.asdict(self)
        if not self.generation:  # nobody needs to know of generations before there is a second one
            del content["generation"]
        return content

    @classmethod
    def read(cls, content: Any) -> Hello | None:
        """Return what was sent, or ``None`` if it is no hello."""
        match content:
            case {
                "version": int(version),
                "extensions": [*extensions],
                "codec": str(codec),
                "serializers": [*serializers],
            }:
                url, token = content.get("url"), content.get("token")
                return cls(
                    url=url if isinstance(url, str) else None,
                    token=token if isinstance(token, str) else None,
                    codec=codec,
                    serializers=tuple(map(str, serializers)),
                    version=version,
                    extensions=tuple(map(str, extensions)),
                    clock=seconds(content.get("clock")) or 0.0,
                    generation=_generation(content.get("generation")),
                )
        return None

    def objection(self, peer: Hello, expected: str | None = None) -> str | None:
        """Return why this end and *peer* cannot talk to each other, or ``None``.

        Args:
            peer: what the end that dials says.
            expected: the proof that it has to show, if any.
        """
        if expected is not None and not peer.shows(expected):
            return STRANGER + (_OTHER_NAME.format(self.url) if peer.token is not None else "")
        if (self.codec, self.serializers) != (peer.codec, peer.serializers):
            return (
                f"codecs and extra_serializers have to be the same at both ends: the one that "
                f"was dialled has {_described(self)}, the one that dials has {_described(peer)}"
            )
        return None

    def shows(self, expected: str) -> bool:
        """Whether the proof that was sent is the *expected* one."""
        import hmac  # noqa: PLC0415 - 1 ms that only those who have a token should spend

        return hmac.compare_digest(_bytes_of(expected), _bytes_of(self.token or ""))

    def fits(self, peer: Hello) -> bool:
        """Whether both know the extensions."""
        return peer.version >= VERSION and set(EXTENSIONS) <= set(peer.extensions)


def proof(token: str, url: str, generation: int = 0) -> str:
    """Return what an end shows that dials the container with the base URL *url*.

    It is of use there only, so that a stranger who was dialled cannot pass it on to others; and for
    this *generation* only.
    """
    return _signed(token, url, generation)


def answering_proof(token: str, url: str, generation: int = 0) -> str:
    """Return what the container with the base URL *url* shows to the end that has dialled it.

    Args:
        token: the token of both.
        url: the base URL of the end that was dialled.
        generation: that of the end that has dialled.
    """
    return _signed(token, f"welcome {url}", generation)


def _signed(token: str, text: str, generation: int) -> str:
    import hmac  # noqa: PLC0415 - as above

    # No URL begins like this, nor like an answer does, so that one proof is never another one.
    text = f"generation {generation} {text}" if generation else text
    return hmac.new(_bytes_of(token), _bytes_of(text), "sha256").hexdigest()


def _generation(value: Any) -> int:
    """Return the generation that a peer says it is of; for what is none, the proof will not do."""
    return value if type(value) is int and 0 <= value <= _NEWEST else 0


def seconds(value: Any) -> float | None:
    """Return a time that a peer has sent, or ``None`` if that is no time."""
    if type(value) not in {int, float}:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def question(hello: Hello) -> tuple[str, tuple[Any], dict[str, Any]]:
    """Return the content of the request."""
    return PATH, (hello.content(),), {}


def asked(content: Any) -> Hello | None:
    """Return the hello in the content of a request, or ``None`` if it is another request."""
    match content:
        case [str(path), [hello], _] if path == PATH:
            return Hello.read(hello)
    return None


def refusal(reason: str) -> dict[str, Any]:
    """Return the answer to a hello that does not fit."""
    return {"version": VERSION, "refusal": reason}


def refused(content: Any) -> str | None:
    """Return why a hello was refused, or ``None`` if it was not."""
    match content:
        case {"version": int(), "refusal": str(reason)}:
            return reason
    return None


def foreign_answer(payload: bytes, codec: Codec) -> bytes | None:
    """Answer the first message of a peer that has another codec than ours, in its own.

    Returns:
        The payload of the answer, or ``None`` if *payload* is no request in a codec of aiomas.
    """
    if len(payload) > LARGEST_FIRST:
        return None
    for other in (JSON, MsgPack, MsgPackBlosc):
        if other.name == codec.name or (other is MsgPackBlosc and not _may_be_blosc(payload)):
            continue
        foreign = other()
        foreign.max_size = LARGEST_FIRST
        try:
            match foreign.decode_message(payload)[0]:
                case [0, int(message_id), content]:
                    return _foreign_answer(foreign, codec, message_id, content)
        except (DecodeError, SerializationError):
            continue
    return None


def _may_be_blosc(payload: bytes) -> bool:
    """Look at the header, which has the size of the whole: loading Blosc takes its time."""
    return len(payload) == int.from_bytes(payload[12:16], "little")


def _foreign_answer(foreign: Codec, codec: Codec, message_id: int, content: Any) -> bytes:
    reason = f"this end speaks {codec.name} with {codec.type_names}, the request came in "
    hello = asked(content)
    if hello is None:
        return foreign.encode([2, message_id, f"HandshakeError: {reason}{foreign.name}"])
    reason += _described(hello)
    return foreign.encode([1, message_id, refusal(reason)])


def _described(hello: Hello) -> str:
    """Return codec and serializers, however odd or long what a peer has sent is."""
    name = hello.codec if hello.codec.isprintable() else ascii(hello.codec)
    return f"{name:.100} with {list(hello.serializers)!s:.2000}"


def _bytes_of(token: str) -> bytes:
    return token.encode(errors="surrogatepass")  # JSON can carry anything


def without_serializers(codec: Codec) -> Codec:
    """Return a codec of the same kind and with the same limits that knows no serializers."""
    plain = type(codec)()
    plain.max_size, plain.max_nesting = codec.max_size, codec.max_nesting
    return plain
