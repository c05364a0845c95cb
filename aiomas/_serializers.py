"""Ready-made serializers for common types, to be passed in ``extra_serializers``.

The public place of these functions is :mod:`aiomas.codecs`.  They know nothing of codecs: each
returns the type, a function that makes a representation from plain values, and its inverse.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)
SerializerOf = tuple[type[T], Callable[[T], Any], Callable[[Any], T]]


def datetime_serializer() -> SerializerOf[datetime.datetime]:
    """Return the serializer for :class:`datetime.datetime`, which travels in ISO 8601."""
    return datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat


def decimal_serializer() -> SerializerOf[decimal.Decimal]:
    """Return the serializer for :class:`decimal.Decimal`, which travels as a string."""
    return decimal.Decimal, str, decimal.Decimal


def uuid_serializer() -> SerializerOf[uuid.UUID]:
    """Return the serializer for :class:`uuid.UUID`, which travels as 32 hexadecimal digits."""
    return uuid.UUID, lambda value: value.hex, uuid.UUID


def enum_serializer(cls: type[E]) -> Callable[[], SerializerOf[E]]:
    """Return an entry of ``extra_serializers`` for the enumeration *cls*; members travel by name.

    Members of an ``IntEnum`` or ``StrEnum`` need none: they travel as the number or string.
    """

    def serializer() -> SerializerOf[E]:
        return cls, lambda member: member.name, lambda name: cls[name]

    return serializer


def dataclass_serializer(cls: type[T]) -> Callable[[], SerializerOf[T]]:
    """Return an entry of ``extra_serializers`` for the dataclass *cls*.

    Its fields travel as a list in their order, so both sides need the same definition.  Fields
    that are no parameters (``init=False``) are computed anew on the other side.

    Raises:
        TypeError: *cls* is no dataclass.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        msg = f"{cls!r} is no dataclass"
        raise TypeError(msg)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    names = [field.name for field in fields]

    def serialize(obj: T) -> list[Any]:
        return [getattr(obj, name) for name in names]

    def deserialize(values: Any) -> T:
        return cls(**dict(zip(names, values, strict=True)))

    def serializer() -> SerializerOf[T]:
        return cls, serialize, deserialize

    return serializer


def numpy_serializer() -> SerializerOf[np.ndarray[Any, Any]]:
    """Return the serializer for NumPy arrays, for codecs that know :class:`bytes` (not JSON).

    The received array is a read-only view of the message's bytes, without a copy; ``.copy()`` it
    to change it.  Arrays of Python objects are refused.

    Raises:
        ImportError: NumPy is not installed (``pip install 'aiomas[numpy]'``).
    """
    import numpy as np  # noqa: PLC0415 - an extra, which most programs do not have
    from numpy.lib import format as npy  # noqa: PLC0415

    def serialize(array: np.ndarray[Any, Any]) -> list[Any]:
        if array.dtype.hasobject:
            msg = f"an array of {array.dtype} holds Python objects, which cannot travel"
            raise TypeError(msg)
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return [npy.dtype_to_descr(array.dtype), list(array.shape), raw]

    def deserialize(representation: Any) -> np.ndarray[Any, Any]:
        descr, shape, raw = representation
        dtype = npy.descr_to_dtype(descr if isinstance(descr, str) else _descr(descr))  # type: ignore[arg-type]
        if dtype.hasobject:
            msg = f"an array of {dtype} would hold Python objects"
            raise TypeError(msg)
        return np.frombuffer(raw, dtype=dtype).reshape(shape)

    return np.ndarray, serialize, deserialize


def _descr(fields: Any) -> list[tuple[Any, ...]]:
    """Make a structured type's description again from what codecs leave of it."""
    return [tuple(_descr(part) if _is_descr(part) else part for part in field) for field in fields]


def _is_descr(part: Any) -> bool:
    return isinstance(part, tuple | list) and bool(part) and isinstance(part[0], tuple | list)
