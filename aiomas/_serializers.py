"""Ready-made serializers for common types, to be passed in ``extra_serializers``.

The public place of these functions is :mod:`aiomas.codecs`.  They know nothing of codecs: each
returns the type, a function that makes a representation from plain values, and its inverse.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    import decimal
    import uuid

    import numpy as np

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)
SerializerOf = tuple[type[T], Callable[[T], Any], Callable[[Any], T]]


class DeferredSerializer:
    """A serializer whose type need not be imported before there is a value of it.

    As long as a type's module was not imported, nobody can have an instance to encode.  Until then
    this stands in for the type: it names itself as the type does.

    Args:
        serializer: what returns the serializer, and imports the module.
        module: where the type is defined.
        name: the name of the type.
    """

    def __init__(self, serializer: Callable[[], SerializerOf[Any]], module: str, name: str) -> None:
        self._serializer = serializer
        self.__module__ = module
        self.__name__ = self.__qualname__ = name

    def __call__(self) -> SerializerOf[Any]:
        """Import the type, and return what :meth:`aiomas.codecs.Codec.add_serializer` takes."""
        return self._serializer()

    @property
    def is_imported(self) -> bool:
        """Whether there may be instances of the type."""
        return self.__module__ in sys.modules


def datetime_serializer() -> SerializerOf[datetime.datetime]:
    """Return the serializer for :class:`datetime.datetime`, which travels in ISO 8601."""
    return datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat


def decimal_serializer() -> SerializerOf[decimal.Decimal]:
    """Return the serializer for :class:`decimal.Decimal`, which travels as a string."""
    import decimal  # noqa: PLC0415 - 1 ms that programs without such numbers need not spend

    return decimal.Decimal, str, decimal.Decimal


def uuid_serializer() -> SerializerOf[uuid.UUID]:
    """Return the serializer for :class:`uuid.UUID`, which travels as 32 hexadecimal digits."""
    import uuid  # noqa: PLC0415 - 3 ms, as it looks what system this is

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

        >>> from aiomas.codecs import JSON, serializable
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

    def __serializer__(cls: Any) -> SerializerOf[Any]:  # noqa: N807
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
