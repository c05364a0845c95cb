"""Codecs turn messages into bytes and back.

:class:`JSON` is the default, :class:`MsgPack` is smaller and faster and knows :class:`bytes`,
:class:`MsgPackBlosc` compresses large messages as well.  Every codec can be taught further types
with :meth:`Codec.add_serializer`; ready-made serializers for common types are re-exported here.

An object with a serializer of its own travels as ``{"__type__": [typeid, representation]}``, where
*typeid* is the position of the serializer in the order in which they were added.  A dictionary
whose only key is ``"__type__"`` is therefore reserved and no ordinary message content.
"""

from __future__ import annotations

import inspect
import json
import reprlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import msgpack
from msgpack.exceptions import StackError

from aiomas._serializers import (
    dataclass_serializer,
    datetime_serializer,
    decimal_serializer,
    enum_serializer,
    numpy_serializer,
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


class Codec(ABC):
    """Base class of all codecs.

    A subclass implements :meth:`encode` and :meth:`decode`, and passes :meth:`serialize_obj` and
    :meth:`deserialize_obj` to the library that does the work.
    """

    max_size: int = sys.maxsize
    """The largest message, in bytes, before it is compressed; a connection sets its *max_frame*."""

    def __init__(self) -> None:
        self._serializers: dict[type, tuple[int, Serialize]] = {}
        self._deserializers: list[tuple[type, Callable[[Any], Any]]] = []
        self._failure: DecodeError | None = None

    def __repr__(self) -> str:
        names = ", ".join(cls.__qualname__ for cls, _ in self._deserializers)
        return f"{type(self).__name__}[{names}]"

    @abstractmethod
    def encode(self, data: Any) -> bytes:
        """Return *data* as bytes.

        Raises:
            SerializationError: *data* holds something that this codec cannot encode.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """Return the value that *data* (any bytes-like object) stands for.

        Raises:
            DecodeError: *data* does not stand for anything, or one of the objects in it cannot
                be made again.
        """

    def decode_message(self, data: bytes) -> tuple[Any, DecodeError | None]:
        """Like :meth:`Codec.decode`, but one bad object does not make the rest unreadable.

        Returns:
            The value and ``None``; or, where an object in it could not be made again, the value
            with ``None`` in its place, and the error.

        Raises:
            DecodeError: *data* as a whole is unreadable.
        """
        try:
            return self.decode(data), None
        except DecodeError:
            raise  # with the cause that it has
        except Exception as exc:  # a codec of a user, which may raise anything
            raise _undecodable(self, exc) from exc

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
        if type in self._serializers:
            msg = f"{self!r} has a serializer for {type!r} already"
            raise ValueError(msg)
        self._serializers[type] = len(self._deserializers), serialize
        self._deserializers.append((type, deserialize))

    def serialize_obj(self, obj: Any) -> dict[str, Any]:
        """Return something that the codec can encode in the place of *obj*.

        Raises:
            SerializationError: there is no serializer for the type of *obj*, or it failed.
        """
        cls = type(obj)
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
                deserializer failed.
        """
        if len(obj_repr) != 1 or TYPE_KEY not in obj_repr:
            return obj_repr
        match obj_repr[TYPE_KEY]:
            case [int(typeid), representation] if 0 <= typeid < len(self._deserializers):
                cls, deserialize = self._deserializers[typeid]
            case [int(typeid), _]:
                msg = f"There is no serializer with number {typeid} in {self!r}"
                raise DecodeError(msg)
            case _:
                msg = f"A dictionary with the only key {TYPE_KEY!r} is reserved for objects"
                raise DecodeError(msg)
        try:
            return deserialize(representation)
        except Exception as exc:  # user code, which may raise anything
            msg = f"The deserializer for {cls.__module__}.{cls.__qualname__} failed: {exc!r}"
            raise DecodeError(msg) from exc

    def _deserialize_or_note(self, obj_repr: dict[Any, Any]) -> Any:
        """Be the object hook of :meth:`decode_message`: note the error and go on."""
        try:
            return self.deserialize_obj(obj_repr)
        except DecodeError as exc:
            if self._failure is None:  # an object around this one fails because this one did
                self._failure = exc
            return None

    def _take_failure(self) -> DecodeError | None:
        failure, self._failure = self._failure, None
        return failure


class JSON(Codec):
    """Encodes messages as JSON (UTF-8).

    Tuples become lists, and dictionary keys strings.  ``NaN`` and the infinities travel as the
    tokens ``NaN``, ``Infinity`` and ``-Infinity``, as in Python's :mod:`json`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._encode = json.JSONEncoder(default=self.serialize_obj).encode
        self._decode = json.JSONDecoder(object_hook=self._deserialize_or_note).decode
        self._decode_plain = json.JSONDecoder().decode

    def encode(self, data: Any) -> bytes:
        try:
            return self._encode(data).encode()
        except SerializationError:
            raise  # with the cause that it has
        except (TypeError, ValueError, RecursionError) as exc:
            raise _unencodable(self, exc) from exc

    def decode(self, data: bytes) -> Any:
        value, failure = self.decode_message(data)
        if failure is not None:
            raise failure
        return value

    def decode_message(self, data: bytes) -> tuple[Any, DecodeError | None]:
        try:
            text = str(data, "utf-8")
            if TYPE_KEY not in text:  # the usual case, and without a call for each dictionary
                return self._decode_plain(text), None
            return self._decode(text), self._take_failure()
        except (ValueError, RecursionError) as exc:
            self._take_failure()  # or the next message would be blamed for it
            raise _undecodable(self, exc) from exc


class MsgPack(Codec):
    """Encodes messages as `MessagePack <https://msgpack.org>`_.

    Lists become tuples.  Dictionary keys may be any scalar.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pack = msgpack.Packer(default=self._serialize).pack
        self._serializing = False

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

    def decode(self, data: bytes) -> Any:
        value, failure = self.decode_message(data)
        if failure is not None:
            raise failure
        return value

    def _serialize(self, obj: Any) -> dict[str, Any]:
        nested, self._serializing = self._serializing, True
        try:
            return self.serialize_obj(obj)
        finally:
            self._serializing = nested

    def decode_message(self, data: bytes) -> tuple[Any, DecodeError | None]:
        try:
            if len(data) <= _SMALL and _TYPE_KEY_BYTES not in bytes(data):
                value = msgpack.unpackb(data, use_list=False, strict_map_key=False)
                return value, None
            value = msgpack.unpackb(
                data,
                use_list=False,
                strict_map_key=False,
                object_hook=self._deserialize_or_note,
            )
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
            self._take_failure()  # or the next message would be blamed for it
            error = _undecodable(self, exc)
            head = _head_of(data) if isinstance(exc, _UNREPRESENTABLE) else None
            if head is None:
                raise error from exc
            error.__cause__ = exc
            return head, error
        return value, self._take_failure()


def _head_of(data: bytes) -> tuple[Any, Any, None] | None:
    """Return the first two parts of a message of three, whose last part cannot be represented.

    So that content which is nested too deeply, say, is an error for one call and not for all.
    """
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(bytes(data[:_HEAD_SIZE]))
    try:
        if unpacker.read_array_header() != _MESSAGE_PARTS:
            return None
        return unpacker.unpack(), unpacker.unpack(), None
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return None


_MESSAGE_PARTS = 3
_HEAD_SIZE = 32  # two numbers need less
# What is raised for bytes that are MessagePack, but nothing that Python can hold.
_UNREPRESENTABLE = (StackError, RecursionError, UnicodeDecodeError, TypeError)

# Looking for the type key saves a call for each dictionary, but searching a large message that
# was made for it takes milliseconds; such messages always pay for the calls.
_SMALL = 4096


class MsgPackBlosc(MsgPack):
    """Encodes messages as MessagePack and compresses them with `Blosc <https://blosc.org>`_."""

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

    def decode_message(self, data: bytes) -> tuple[Any, DecodeError | None]:
        # The header says what will come out, so look at it before memory is set aside for that.
        size = int.from_bytes(data[4:8], "little")
        if size > self.max_size:
            msg = f"{size} bytes are compressed in it, over the limit max_frame={self.max_size}"
            raise _undecodable(self, ValueError(msg))
        try:
            packed = self._blosc.decompress(bytes(data))
        except (self._blosc.blosc_extension.error, ValueError, TypeError) as exc:
            raise _undecodable(self, exc) from exc
        return super().decode_message(packed)


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


@overload
def serializable(cls: type[T], *, repr: bool = True) -> type[T]: ...
@overload
def serializable(cls: None = None, *, repr: bool = True) -> Callable[[type[T]], type[T]]: ...
def serializable(
    cls: type[T] | None = None, *, repr: bool = True
) -> type[T] | Callable[[type[T]], type[T]]:
    """Class decorator that makes instances of a class ready to travel.

    The class needs an attribute (or property) for each parameter of its ``__init__()``.  It gains
    the methods ``__asdict__()``, ``__fromdict__(dict)`` and ``__serializer__()``; the last one is
    what ``extra_serializers`` takes::

        >>> @serializable
        ... class Point:
        ...     def __init__(self, x, y):
        ...         self.x = x
        ...         self.y = y
        >>> codec = JSON()
        >>> codec.add_serializer(*Point.__serializer__())
        >>> codec.decode(codec.encode(Point(1, 2)))
        Point(x=1, y=2)

    Args:
        cls: the class.
        repr: whether the class gets a generic ``__repr__()`` as well.

    Raises:
        TypeError: ``__init__()`` takes ``*args`` or ``**kwargs``, so that its parameters have no
            names.
    """
    if cls is None:
        return lambda cls: serializable(cls, repr=repr)

    parameters = list(inspect.signature(cls).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            msg = f"{cls.__qualname__}.__init__() takes {parameter}, which is no attribute"
            raise TypeError(msg)
    names = [parameter.name for parameter in parameters]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]

    def __asdict__(self: T) -> dict[str, Any]:  # noqa: N807
        return {name: getattr(self, name) for name in names}

    def __fromdict__(cls: type[T], attributes: dict[str, Any]) -> T:  # noqa: N807
        keywords = dict(attributes)
        return cls(*[keywords.pop(name) for name in positional], **keywords)

    def __serializer__(cls: Any) -> Serializer:  # noqa: N807
        return cls, cls.__asdict__, cls.__fromdict__

    def __repr__(self: T) -> str:  # noqa: N807
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({values})"

    cls.__asdict__ = __asdict__  # type: ignore[attr-defined]
    cls.__fromdict__ = classmethod(__fromdict__)  # type: ignore[attr-defined]
    cls.__serializer__ = classmethod(__serializer__)  # type: ignore[attr-defined]
    if repr:
        cls.__repr__ = __repr__  # type: ignore[assignment,method-assign]
    return cls
