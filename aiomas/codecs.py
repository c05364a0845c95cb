"""Codecs turn messages into bytes and back.

:class:`JSON` is the default, :class:`MsgPack` is smaller and faster and knows :class:`bytes`,
:class:`MsgPackBlosc` compresses large messages as well.  Every codec can be taught further types
with :meth:`Codec.add_serializer`; ready-made serializers for common types are re-exported here.

An object with a serializer of its own travels as ``{"__type__": [typeid, representation]}``, where
*typeid* is the position of the serializer in the order in which they were added.  A dictionary
whose only key is ``"__type__"`` is therefore reserved and no ordinary message content.
"""

from __future__ import annotations

import json
import re
import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgpack
from msgpack.exceptions import StackError

from aiomas import _json, _msgpack
from aiomas._large import large_messages
from aiomas._serializers import (
    DeferredSerializer,
    dataclass_serializer,
    datetime_serializer,
    decimal_serializer,
    enum_serializer,
    numpy_serializer,
    serializable,
    uuid_serializer,
)
from aiomas.exceptions import DecodeError, SerializationError

__all__ = [
    "JSON",
    "Codec",
    "MsgPack",
    "MsgPackBlosc",
    "dataclass_serializer",
    "datetime_serializer",
    "decimal_serializer",
    "enum_serializer",
    "numpy_serializer",
    "serializable",
    "uuid_serializer",
]

T = TypeVar("T")
Serialize = Callable[[Any], Any]
Serializer = tuple[type, Serialize, Callable[[Any], Any]]

TYPE_KEY = "__type__"
_TYPE_KEY_BYTES = TYPE_KEY.encode()
_SMALL_BUFFER = 1024  # bytes for the beginning, as there may be thousands of connections
_unpackb = msgpack.unpackb


class Shortcuts(NamedTuple):
    """What a codec does with messages that hold no objects, in fewer steps."""

    encode: Callable[[Any], bytes]
    """Does the same as :meth:`Codec.encode`, or raises anything."""
    decode: Callable[..., Any]
    """Called with a message and ``use_list=False``, returns the same value as
    :meth:`Codec.decode_message`, or raises anything.

    It is for messages of at most :attr:`Codec.max_nesting` bytes, or that are shallow.  (To be the
    library's own function it has to take the option; a function around it would cost a quarter.)
    """
    mark: bytes
    """What is in the bytes of every message that holds objects."""


class Codec(ABC):
    """Base class of all codecs.

    A subclass implements :meth:`encode` and :meth:`decode`, and passes :meth:`serialize_obj` and
    :meth:`deserialize_obj` to the library that does the work.
    """

    name: ClassVar[str]
    """What the codec is called when two ends compare theirs; the name of the class by default."""

    max_size: int = sys.maxsize
    """The largest message, in bytes, before it is compressed; a connection sets its *max_frame*."""

    max_nesting: int = sys.maxsize
    """The most levels of lists and maps within the content of a message that is decoded."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "name"):  # a subclass of a codec is compatible with it
            cls.name = cls.__name__
        if "decode" in vars(cls) and "decode_message" not in vars(cls):
            cls.decode_message = Codec.decode_message  # type: ignore[method-assign]  # calls decode

    def __init__(self) -> None:
        self._serializers: dict[type, tuple[int, Serialize]] = {}
        self._deserializers: list[tuple[type | DeferredSerializer, Callable[[Any], Any]]] = []
        self._deferred: dict[int, DeferredSerializer] = {}  # by typeid; those not yet imported
        self._failures: list[DecodeError] | None = None  # a list while a message is decoded

    def __repr__(self) -> str:
        names = ", ".join(cls.__qualname__ for cls, _ in self._deserializers)
        return f"{type(self).__name__}[{names}]"

    @property
    def type_names(self) -> list[str]:
        """The names of the types that the codec was taught, in order."""
        return [cls.__name__ for cls, _ in self._deserializers]

    @abstractmethod
    def encode(self, data: Any) -> bytes:
        """Return *data* as bytes.

        Raises:
            SerializationError: *data* holds something that this codec cannot encode.
        """

    def encode_large(self, data: Any) -> bytes | memoryview:
        """Do the same as :meth:`encode`, in memory that may be used again and again.

        That is worth it for a large message, whose memory takes longer to get than to fill.
        """
        return self.encode(data)

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """Return the value that *data* (any bytes-like object) stands for.

        Raises:
            DecodeError: *data* does not stand for anything, or one of the objects in it cannot
                be made again.
        """

    def decode_message(self, data: bytes | memoryview) -> tuple[Any, DecodeError | None]:
        """Like :meth:`Codec.decode`, but bad content does not make the message unreadable.

        Returns:
            The value and ``None``; or, where an object in it could not be made again, the value
            with ``None`` in its place, and the error; or, where the content as a whole cannot be
            had (it is nested too deeply, say), ``(type, id, None)`` and the error.

        Raises:
            DecodeError: *data* as a whole is unreadable.
        """
        try:
            value, failure = self._with_failure(self.decode, data)
        except DecodeError:
            raise  # with the cause that it has
        except Exception as exc:  # a codec of a user, which may raise anything
            raise _undecodable(self, exc) from exc
        if _levels_exceed(self.max_nesting + 1, value):
            return _without_content(value, self._too_deep())
        return value, failure

    def shortcuts(self) -> Shortcuts | None:
        """Return faster functions for messages that hold no objects, if there are some."""
        return None

    def is_shallow(self, data: bytes) -> bool:
        """Whether it is easy to see that a message is not nested too deeply."""
        return len(data) <= self.max_nesting

    def add_serializer(
        self, type: type[T], serialize: Callable[[T], Any], deserialize: Callable[[Any], T]
    ) -> None:
        """Teach the codec to encode and decode instances of *type*.

        Args:
            type: the serializer is used for direct instances of this class, not of subclasses.
                ``object`` stands for everything that has no serializer of its own.
                Subclasses of types that the codec encodes natively (such as ``IntEnum``) never
                get here: they travel as their base type.
            serialize: takes an instance, returns something that the codec can encode.
            deserialize: takes what *serialize* returned (after a round trip through the codec)
                and returns the object.

        Raises:
            ValueError: *type* has a serializer already.
        """
        self._load_deferred()
        if type in self._serializers:
            msg = f"{self!r} has a serializer for {type!r} already"
            raise ValueError(msg)
        self._serializers[type] = len(self._deserializers), serialize
        self._deserializers.append((type, deserialize))

    def _defer_serializer(self, deferred: DeferredSerializer) -> None:
        """Add a serializer, but load it only when there is a value of its type."""
        if type(self).add_serializer is not Codec.add_serializer:  # it wants to see the type
            self.add_serializer(*deferred())
            return
        typeid = len(self._deserializers)

        def deserialize(representation: Any) -> Any:
            if typeid in self._deferred:
                self._load(typeid)
            return self._deserializers[typeid][1](representation)

        self._deferred[typeid] = deferred
        self._deserializers.append((deferred, deserialize))

    def _load_deferred(self) -> None:
        """Load the deferred serializers of which there may be values by now."""
        for typeid, deferred in list(self._deferred.items()):
            if deferred.is_imported:
                self._load(typeid)

    def _load(self, typeid: int) -> None:
        cls, serialize, deserialize = self._deferred[typeid]()
        del self._deferred[typeid]
        self._serializers[cls] = typeid, serialize
        self._deserializers[typeid] = cls, deserialize

    def serialize_obj(self, obj: Any) -> dict[str, Any]:
        """Return something that the codec can encode in the place of *obj*.

        Raises:
            SerializationError: there is no serializer for the type of *obj*, or it failed.
        """
        cls = type(obj)
        if self._deferred and cls not in self._serializers:
            self._load_deferred()
        try:
            typeid, serialize = self._serializers.get(cls) or self._serializers[object]
        except KeyError:
            msg = (
                f"{type(self).__name__} cannot encode {reprlib.repr(obj)}: there is no serializer "
                f"for {cls.__module__}.{cls.__qualname__} (pass one in extra_serializers)"
            )
            raise SerializationError(msg) from None
        try:
            return {TYPE_KEY: [typeid, serialize(obj)]}
        except SerializationError:
            raise
        except Exception as exc:  # user code, which may raise anything
            msg = f"The serializer for {cls.__module__}.{cls.__qualname__} failed: {exc!r}"
            raise SerializationError(msg) from exc

    def deserialize_obj(self, obj_repr: dict[Any, Any]) -> Any:
        """Return the object that *obj_repr* stands for, or *obj_repr* if it is an ordinary dict.

        Raises:
            DecodeError: it stands for an object, but of an unknown type or in a bad form, or the
                deserializer failed.  Within :meth:`decode_message`, which reports the error, this
                returns ``None`` instead, so that the rest of the message is decoded.
        """
        if len(obj_repr) != 1 or TYPE_KEY not in obj_repr:
            return obj_repr
        if self._failures:  # nobody will get to see the others
            return None
        try:
            return self._deserialize(obj_repr[TYPE_KEY])
        except DecodeError as exc:
            if self._failures is None:
                raise
            self._failures.append(exc)
            return None

    def _deserialize(self, typed: Any) -> Any:
        match typed:
            case [int(typeid), representation] if type(typeid) is int:  # no bool
                if not 0 <= typeid < len(self._deserializers):
                    msg = f"There is no serializer with number {reprlib.repr(typeid)} in {self!r}"
                    raise DecodeError(msg)
                cls, deserialize = self._deserializers[typeid]
            case _:
                msg = f"A dictionary with the only key {TYPE_KEY!r} is reserved for objects"
                raise DecodeError(msg)
        try:
            return deserialize(representation)
        except Exception as exc:  # user code, which may raise anything
            msg = f"The deserializer for {cls.__module__}.{cls.__qualname__} failed: {exc!r}"
            raise DecodeError(msg) from exc

    def _with_failure(
        self, decode: Callable[[Any], Any], data: Any
    ) -> tuple[Any, DecodeError | None]:
        """Return what *decode* makes of *data*, and why the first of its objects failed."""
        outer, self._failures = self._failures, []  # a deserializer may decode something itself
        try:
            value = decode(data)
            # An object around this one failed because this one did.
            return value, self._failures[0] if self._failures else None
        finally:
            self._failures = outer

    def _too_deep(self) -> DecodeError:
        limited = self.max_nesting < sys.maxsize
        limit = f"max_nesting={self.max_nesting}" if limited else f"of {type(self).__name__}"
        return DecodeError(f"The content is nested too deeply, over the limit {limit}")


class JSON(Codec):
    """Encodes messages as JSON (UTF-8).

    Tuples become lists, and dictionary keys strings.  ``NaN``, the infinities and lone surrogates
    travel as in Python's :mod:`json`: as the tokens ``NaN``, ``Infinity`` and ``-Infinity``, and as
    escapes.  An integer with more digits than :func:`sys.get_int_max_str_digits` is refused.
    """

    name = "json"

    def __init__(self) -> None:
        super().__init__()
        self._idle_writer: _json.Writer | None = None
        self._read = _json.make_reader(self.deserialize_obj)
        self._read_plain = _json.make_reader()

    def encode(self, data: Any) -> bytes:
        # Taken away while it writes: a serializer that encodes something itself needs another
        # one.  And so does the next message after an error, as this one stopped half-way.
        write, self._idle_writer = self._idle_writer, None
        if write is None:
            write = _json.make_writer(self.serialize_obj)
        try:
            text = "".join(write(data, 0))
        except SerializationError:
            raise  # with the cause that it has
        except (TypeError, ValueError, RecursionError) as exc:
            raise _unencodable(self, exc) from exc
        self._idle_writer = write
        return text.encode()

    def decode(self, data: bytes) -> Any:
        return _decode(self, data, JSON.decode_message)

    def decode_message(self, data: bytes | memoryview) -> tuple[Any, DecodeError | None]:
        try:
            text = data.decode() if type(data) is bytes else str(data, "utf-8")
        except ValueError as exc:
            raise _undecodable(self, exc) from exc
        finally:
            del data  # an error keeps this call's names, and must not keep a view of a buffer
        # A hook is a call for each dictionary, which is not needed in the usual case.
        has_objects = TYPE_KEY in text or _ESCAPED_ASCII in text
        # Each level takes an opening and a closing character; the message itself is one more.
        may_be_deep = (
            len(text) > 2 * self.max_nesting
            and text.count("[") + text.count("{") > self.max_nesting + 1
        )
        try:
            if has_objects and not may_be_deep:
                return self._with_failure(self._read, text)
            value = self._read_plain(text)
            if may_be_deep and _json_levels_exceed(self.max_nesting + 1, value):
                return _without_content(value, self._too_deep())
            return self._with_failure(self._read, text) if has_objects else (value, None)
        except json.JSONDecodeError as exc:
            raise _undecodable(self, exc) from exc
        except (ValueError, RecursionError) as exc:  # JSON, but nothing that Python can hold
            deep = isinstance(exc, RecursionError)
            error = self._too_deep() if deep else _undecodable(self, exc)
            error.__cause__ = exc
            head = _JSON_HEAD.match(text)
            return _without_content((int(head[1]), int(head[2]), None) if head else None, error)


_ESCAPED_ASCII = "\\u00"  # the type key may be written in this way as well
_JSON_HEAD = re.compile(r"\s*\[\s*(0|[1-9]\d{0,18})\s*,\s*(0|[1-9]\d{0,18})\s*,", re.ASCII)


class MsgPack(Codec):
    """Encodes messages as `MessagePack <https://msgpack.org>`_.

    Lists become tuples.  Dictionary keys may be text, bytes, numbers, booleans and ``None``.
    """

    name = "msgpack"

    def __init__(self) -> None:
        super().__init__()
        self._pack = msgpack.Packer(default=self._serialize, buf_size=_SMALL_BUFFER).pack
        self._serializing = False
        self._shortcuts: Shortcuts | None = None

    def encode(self, data: Any) -> bytes:
        # A serializer that encodes something itself must not do so into our half-filled buffer.
        pack = msgpack.Packer(default=self._serialize).pack if self._serializing else self._pack
        try:
            packed: bytes = pack(data)
        except SerializationError:
            raise  # with the cause that it has
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise _unencodable(self, exc) from exc
        return packed

    def encode_large(self, data: Any) -> bytes | memoryview:
        if type(self) is not MsgPack:
            return self.encode(data)
        try:
            return large_messages.pack(data)
        except Exception:  # noqa: BLE001 - it holds objects, or cannot be encoded, as is said there
            return self.encode(data)

    def decode(self, data: bytes) -> Any:
        return _decode(self, data, MsgPack.decode_message)

    def _serialize(self, obj: Any) -> dict[str, Any]:
        nested, self._serializing = self._serializing, True
        try:
            return self.serialize_obj(obj)
        finally:
            self._serializing = nested

    def decode_message(self, data: bytes | memoryview) -> tuple[Any, DecodeError | None]:
        # First the plain value: no deserializer sees anything before all of it was looked at.
        try:
            value = _unpackb(data, use_list=False)
        except Exception as exc:  # noqa: BLE001 - looked at there
            value, error = self._unpack_odd(data, exc)
            if error is not None:
                return _without_content(_msgpack.head_of(bytes(data)), error)
        size, limit = len(data), self.max_nesting + 1
        if size <= limit and type(data) is bytes and not data.partition(_TYPE_KEY_BYTES)[1]:
            return value, None  # as most are: what follows finds the same in twice the steps
        if size > limit and _msgpack.levels_exceed(limit, data, value):
            return _without_content(value, self._too_deep())
        if not _msgpack.may_hold_key(_TYPE_KEY_BYTES, data, value):
            return value, None
        del value  # or a large message would be in memory twice
        return self._with_failure(self._unpack_objects, data)

    def shortcuts(self) -> Shortcuts | None:
        if type(self) is not MsgPack:
            return None
        if self._shortcuts is None:
            # Without a function for objects: a serializer may encode something itself.
            packer = msgpack.Packer(buf_size=_SMALL_BUFFER)
            self._shortcuts = Shortcuts(packer.pack, _unpackb, _TYPE_KEY_BYTES)
        return self._shortcuts

    def is_shallow(self, data: bytes) -> bool:
        return _msgpack.is_short_and_shallow(self.max_nesting, data)

    def _unpack_odd(
        self, data: bytes | memoryview, exc: Exception
    ) -> tuple[Any, DecodeError | None]:
        """Return the value of a message that has unusual keys, or why there is none."""
        try:
            return _msgpack.unpack_checked(data, exc), None
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as failure:
            deep = isinstance(failure, StackError | RecursionError)
            error = self._too_deep() if deep else _undecodable(self, failure)
            error.__cause__ = failure
            return None, error

    def _unpack_objects(self, packed: bytes) -> Any:
        return msgpack.unpackb(
            packed, use_list=False, strict_map_key=False, object_hook=self.deserialize_obj
        )


class MsgPackBlosc(MsgPack):
    """Encodes messages as MessagePack and compresses them with `Blosc <https://blosc.org>`_."""

    name = "msgpack-blosc"

    def __init__(self) -> None:
        super().__init__()
        import blosc  # noqa: PLC0415 - 67 ms that only users of this codec should spend

        self._blosc = blosc

    def encode(self, data: Any) -> bytes:
        packed = super().encode(data)
        if len(packed) > self.max_size:
            msg = f"A message of {len(packed)} bytes is over the limit max_frame={self.max_size}"
            raise SerializationError(msg)
        compressed: bytes = self._blosc.compress(packed)
        return compressed

    def decode(self, data: bytes) -> Any:
        return _decode(self, data, MsgPackBlosc.decode_message)

    def decode_message(self, data: bytes | memoryview) -> tuple[Any, DecodeError | None]:
        # The header says what will come out, so look at it before memory is set aside for that.
        # The library looks at the rest of it, but not at whether all of it is there.
        if len(data) < _BLOSC_HEADER:
            raise _undecodable(self, ValueError(f"{len(data)} bytes are less than a header"))
        size = int.from_bytes(data[4:8], "little")
        if size > self.max_size:
            msg = f"{size} bytes are compressed in it, over the limit max_frame={self.max_size}"
            raise _undecodable(self, ValueError(msg))
        try:
            packed = self._blosc.decompress(data)
        except (self._blosc.blosc_extension.error, ValueError, TypeError) as exc:
            raise _undecodable(self, exc) from exc
        del data  # as in JSON
        return super().decode_message(packed)


_BLOSC_HEADER = 16  # bytes: https://www.blosc.org/c-blosc/README_CHUNK_FORMAT.html


def _decode(codec: Codec, data: bytes, own: Callable[..., Any]) -> Any:
    """Do what ``decode()`` of a class does whose ``decode_message()`` is *own*."""
    read = type(codec).decode_message  # that of Codec, if a subclass has a decode() that calls ours
    value, failure = (own if read is Codec.decode_message else read)(codec, data)
    if failure is not None:
        raise failure
    return value


def _levels_exceed(limit: int, value: Any) -> bool:
    """Return whether there are more than *limit* levels of lists and maps in *value*."""
    if limit > sys.maxsize:
        return False  # no limit
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(limit):
        # By identity, as what a codec of a user returns may share parts, or hold itself.
        inner = {
            id(item): item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, _CONTAINERS)
        }
        if not inner:
            return False
        level = list(inner.values())
    return bool(level)


def _json_levels_exceed(limit: int, value: Any) -> bool:
    """Do the same four times as fast; nothing in JSON is shared, or an instance of a subclass."""
    level = [value] if type(value) in _JSON_CONTAINERS else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) in _JSON_CONTAINERS
        ]
    return bool(level)


_CONTAINERS = (tuple, list, dict)
_JSON_CONTAINERS = frozenset({list, dict})


def _without_content(message: Any, error: DecodeError) -> tuple[Any, DecodeError]:
    """Return type and id of a *message* whose content is unusable, and the error for its call.

    Raises:
        DecodeError: *error*, if there is no type and id: then it cannot be told whose it is.
    """
    match message:
        case [int(kind), int(message_id), _]:
            return (kind, message_id, None), error
        case _:
            raise error


def _unencodable(codec: Codec, exc: Exception) -> SerializationError:
    return SerializationError(f"{type(codec).__name__} cannot encode this message: {exc}")


def _undecodable(codec: Codec, exc: Exception) -> DecodeError:
    return DecodeError(
        f"This is no {type(codec).__name__} message: {str(exc) or type(exc).__name__}"
    )


def make_codec(
    codec: type[Codec], extra_serializers: Iterable[Callable[[], Serializer]] | None
) -> Codec:
    """Return an instance of *codec* that knows all of *extra_serializers*, in their order."""
    instance = codec()
    for serializer in checked_serializers(extra_serializers):
        if isinstance(serializer, DeferredSerializer):
            instance._defer_serializer(serializer)  # noqa: SLF001 - for containers alone
        else:
            instance.add_serializer(*serializer())
    return instance


def checked_serializers(
    extra_serializers: Iterable[Callable[[], Serializer]] | None,
) -> tuple[Callable[[], Serializer], ...]:
    """Return *extra_serializers* as a tuple.

    Raises:
        TypeError: it is no list of functions.
    """
    if callable(extra_serializers):
        msg = f"extra_serializers is a list of functions, got the function {extra_serializers!r}"
        raise TypeError(msg)
    serializers = tuple(extra_serializers or ())
    for serializer in serializers:
        if not callable(serializer):
            msg = f"extra_serializers is a list of functions, got {serializer!r} in it"
            raise TypeError(msg)
    return serializers
