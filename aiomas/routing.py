"""Routers map the paths of remote calls to functions; nothing here does any I/O.

Only functions marked with :func:`expose` can be reached, and only through routers that were
registered: by listing an attribute in :class:`Service`, with :meth:`Router.add`, or with
:meth:`Router.set_sub_router`.  Private names (``_name``) are never reached.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar, overload

__all__ = ["Router", "RoutingDict", "Service", "ServiceDict", "expose"]

F = TypeVar("F", bound=Callable[..., Any])


class HasRouter(Protocol):
    """An object whose functions can be called remotely."""

    @property
    def router(self) -> Router:
        """The object's router."""


class GoneError(LookupError):
    """What was at a path has ended; the text is for the peer."""


class NotYetError(LookupError):
    """What will be at a path is not there yet; the text is for the peer."""


@overload
def expose(func: F) -> F: ...
@overload
def expose(*, idempotent: bool) -> Callable[[F], F]: ...
def expose(func: F | None = None, *, idempotent: bool = False) -> F | Callable[[F], F]:
    """Decorator that lets remote peers call *func*, a function or coroutine function.

    The function is not wrapped; it gains the attribute ``__rpc__``.  Used as
    ``@expose(idempotent=True)`` it says as well that calling the function again with the same
    arguments changes nothing, so that callers who ask for it may have failed calls repeated.

    The attribute is looked at when a path is called for the first time.  What is to be called no
    longer has to be removed or replaced: a mark that is taken away does not end that.

    Args:
        func: the function.
        idempotent: whether a repetition does no harm.

    Raises:
        TypeError: *func* cannot be called (a property, say).
    """
    if func is None:
        return lambda func: _expose(func, idempotent=idempotent)
    return _expose(func, idempotent=idempotent)


_LONGEST_PATH = 4096  # characters


def _expose(func: F, *, idempotent: bool) -> F:
    if not callable(func) and not isinstance(func, staticmethod | classmethod):
        msg = f"Only functions can be exposed, got {func!r}"
        raise TypeError(msg)
    func.__rpc__ = True  # type: ignore[attr-defined]
    if idempotent:
        func.__rpc_idempotent__ = True  # type: ignore[attr-defined]
    return func


def is_idempotent(function: object) -> bool:
    """Whether an exposed function was declared idempotent."""
    function = getattr(function, "__func__", function)
    return getattr(function, "__rpc_idempotent__", None) is True


def not_found(path: str) -> str:
    """Return what a peer is told that calls what it cannot call."""
    return f"There is no exposed function at {path!r:.300}"


class Router:
    """Resolves paths to the exposed functions of *obj* and of its registered children.

    Args:
        obj: an instance, a class, a module or a dictionary.
    """

    __slots__ = ("__weakref__", "_sub_routers", "name", "obj", "parent", "paths")

    def __init__(self, obj: Any) -> None:
        self.obj = obj
        """The object to which this router belongs."""
        self.name = ""
        """The name of the router; empty for a root router."""
        self.parent: Router | None = None
        """The parent router, or ``None`` for a root router."""
        self.paths: Any = None
        """What is remembered of the paths from here; see ``aiomas._paths``."""
        self._sub_routers: dict[str, Router] | None = None

    def __repr__(self) -> str:
        return f"<Router {self.path!r} of {type(self.obj).__name__}>"

    @property
    def path(self) -> str:
        """The path to this router from the root router, without a slash at the end."""
        names: list[str] = []
        router: Router | None = self
        while router is not None and router.parent is not None:
            names.append(router.name)
            router = router.parent
        return "/".join(reversed(names))

    @property
    def root(self) -> Router:
        """The router at the top, from which paths count."""
        router = self
        while router.parent is not None:
            router = router.parent
        return router

    def resolve(self, path: str) -> Callable[..., Any]:
        """Return the exposed function at *path* (names separated by ``/``).

        Raises:
            LookupError: there is no such function, or it is not exposed, or it is private.
        """
        return self.find(path)[1]

    def find(self, path: str) -> tuple[Router, Callable[..., Any]]:
        """Return the exposed function at *path*, and the router of the object that it belongs to.

        Raises:
            LookupError: there is no such function, or it is not exposed, or it is private.
        """
        if len(path) > _LONGEST_PATH:
            raise LookupError(not_found(path))
        router: Router | None = self
        *names, function_name = path.split("/")
        for name in names:
            if router is not None:
                private = name.startswith("_")
                router = None if private else router._sub_router(name)  # noqa: SLF001
        function = None if router is None else router._function(function_name)  # noqa: SLF001
        if router is None or function is None:
            raise LookupError(not_found(path))
        return router, function

    expose = staticmethod(expose)
    """Alias for :func:`expose`."""

    def add(self, name: str) -> None:
        """Register the router of ``obj.<name>`` (or ``obj[name]``) under this name.

        Raises:
            LookupError: there is no such attribute, or it has no router.
        """
        obj = self.obj
        child = obj.get(name) if isinstance(obj, Mapping) else getattr(obj, name, None)
        router = router_of(child)
        if router is None:
            msg = f"{type(obj).__name__} has no {name!r} with a router"
            raise LookupError(msg)
        self.set_sub_router(router, name)

    def set_sub_router(self, router: Router, name: str) -> None:
        """Register *router* as a child of this one under *name*.

        Raises:
            ValueError: *router* is registered elsewhere already, or *name* cannot be in a path.
        """
        if not name or "/" in name:
            msg = f"A router's name is not empty and has no '/', got {name!r}"
            raise ValueError(msg)
        if router.parent is not None and (router.parent is not self or router.name != name):
            msg = f"{router!r} is registered already, it cannot be {name!r} as well"
            raise ValueError(msg)
        ancestor: Router | None = self
        while ancestor is not None:
            if ancestor is router:
                msg = f"{router!r} cannot be a part of itself, as {name!r} of {self!r}"
                raise ValueError(msg)
            ancestor = ancestor.parent
        router.name = name
        router.parent = self
        if self._sub_routers is None:
            self._sub_routers = {}
        elif self._sub_routers.get(name, router) is not router:
            self._changed()
        self._sub_routers[name] = router

    def clear(self) -> None:
        """Forget all children."""
        self._changed()
        for router in (self._sub_routers or {}).values():
            router.parent = None
            router.name = ""
        self._sub_routers = None

    def _changed(self) -> None:
        """Let nobody remember a path that leads through here."""
        router: Router | None = self
        while router is not None:
            if router.paths is not None:
                router.paths.forget()
            router = router.parent

    def _sub_router(self, name: str) -> Router | None:
        return self._sub_routers.get(name) if self._sub_routers else None

    def _function(self, name: str) -> Callable[..., Any] | None:
        if not name or name.startswith("_"):
            return None
        obj = self.obj
        if isinstance(obj, Mapping):
            function = obj.get(name)
            return function if _is_exposed(function) else None
        # Look at the attribute itself before getattr(), which would run a property's code, and
        # which would find an answer for any name on an object like a proxy.
        if not _is_exposed(_static_attribute(obj, name)):
            return None
        function = getattr(obj, name)
        return function if callable(function) else None


class Service:
    """Descriptor that gives each instance of a class a router of its own, made on first use.

    It has to be the class attribute ``router``::

        class Eggs:
            router = Service()


        class Spam:
            router = Service(["eggs"])

            def __init__(self):
                self.eggs = Eggs()

    Args:
        sub_routers: names of attributes that hold objects with a router, to be registered as
            children.  They are looked up when the router is used first.
    """

    def __init__(self, sub_routers: Iterable[str] = ()) -> None:
        if isinstance(sub_routers, str):
            msg = f"sub_routers is a list of names, got the string {sub_routers!r}"
            raise TypeError(msg)
        self.sub_routers = tuple(sub_routers)
        # For instances that have no room for their router, by their ids: a router keeps its
        # instance alive, so that no other object gets the same id.
        self._routers: dict[int, Router] = {}

    expose = staticmethod(expose)
    """Alias for :func:`expose`."""

    @overload
    def __get__(self, instance: None, owner: type) -> Service: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Router: ...
    def __get__(self, instance: object | None, owner: type) -> Service | Router:
        """Return the router of *instance*."""
        if instance is None:
            return self
        router = self.find(instance)
        if router is None:
            store, key = self._place(instance)
            router = store[key] = self.make_router(instance)
            try:
                for name in self.sub_routers:
                    router.add(name)
            except BaseException:
                del store[key]
                router.clear()
                raise
        return router

    def __set__(self, instance: object, value: object) -> None:
        """Refuse to replace a router."""
        msg = "The router of an object cannot be replaced"
        raise AttributeError(msg)

    def find(self, instance: object) -> Router | None:
        """Return the router of *instance* if it has been made already."""
        store, key = self._place(instance)
        router: Router | None = store.get(key)
        # A copy of an instance has got the router of the original.
        return router if router is not None and router.obj is instance else None

    def _place(self, instance: object) -> tuple[dict[Any, Any], Any]:
        store = getattr(instance, "__dict__", None)
        return (self._routers, id(instance)) if store is None else (store, _ATTRIBUTE)

    def make_router(self, instance: object) -> Router:
        """Return a new router for *instance*; a subclass may place it in a hierarchy."""
        return Router(instance)


_ATTRIBUTE = "__aiomas_router__"


class RoutingDict(MutableMapping[str, Any]):
    """A dictionary of exposed functions, and of objects with a router, that can be called remotely.

    Args:
        dict: the dictionary to wrap; a new one by default.
    """

    def __init__(self, dict: builtins.dict[str, Any] | None = None) -> None:
        self.dict: builtins.dict[str, Any] = {} if dict is None else dict
        """The wrapped dictionary."""
        self.router = DictRouter(self.dict)
        """The dictionary's router."""
        for key in self.dict:
            self.router.adopt(key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dict!r})"

    def __getitem__(self, key: str) -> Any:
        return self.dict[key]

    def __setitem__(self, key: str, value: Any) -> None:
        router_of(value)  # if that cannot be made, nothing has changed
        self.router.release(key)
        self.dict[key] = value
        self.router.adopt(key)

    def __delitem__(self, key: str) -> None:
        self.router.release(key)
        del self.dict[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.dict)

    def __len__(self) -> int:
        return len(self.dict)


ServiceDict = RoutingDict


class DictRouter(Router):
    """The router of a :class:`RoutingDict`: whatever has a router is registered by being in it."""

    __slots__ = ("hidden", "missing")

    def __init__(self, obj: Any) -> None:
        super().__init__(obj)
        self.missing: Callable[[str], None] | None = None
        """Called with a name that is not there; may raise a `GoneError` or `NotYetError`."""
        self.hidden: Container[str] = ()
        """Names that are treated as if they were not there."""

    def _sub_router(self, name: str) -> Router | None:
        router = None
        if name not in self.hidden:
            router = super()._sub_router(name) or self.adopt(name)
        if router is None and self.missing is not None:
            self.missing(name)
        return router

    def set_sub_router(self, router: Router, name: str) -> None:
        super().set_sub_router(router, name)
        self._changed()  # the dictionary's own value of that name is hidden from now on

    def follows_values(self, router: Router) -> bool:
        """Whether *router* is that of the value at its name, as any of its class would have one.

        Else it was registered by hand, or not every instance of the class has a router of its own.
        """
        by_hand = router.name in (self._sub_routers or ())
        cls = type(self.obj.get(router.name))
        return not by_hand and isinstance(getattr(cls, "router", None), Service)

    def adopt(self, name: str) -> Router | None:
        """Return the router of the value at *name*, if it has one; register it if it is new."""
        router = router_of(self.obj.get(name))
        if router is not None and router.parent is None:
            router.parent = self
            router.name = name
        return router

    def release(self, name: str) -> None:
        """Undo :meth:`adopt`: the value at *name* goes."""
        router = router_of(self.obj.get(name), make=False)
        if router is not None and router.parent is self and router.name == name:
            router.parent = None
            router.name = ""


def router_of(obj: object, *, make: bool = True) -> Router | None:
    """Return the router of *obj*, or ``None`` if it has none (yet, unless it is to be made)."""
    if isinstance(obj, Router):
        return obj
    # Looked up on the class, since an object like a proxy has an answer for any name.
    if isinstance(obj, RoutingDict):
        return obj.router
    service = getattr(type(obj), "router", None)
    if isinstance(service, Service):
        return service.__get__(obj, type(obj)) if make else service.find(obj)
    router = getattr(obj, "__dict__", {}).get("router")
    return router if isinstance(router, Router) else None


def _is_exposed(function: object) -> bool:
    if isinstance(function, staticmethod | classmethod) and _is_exposed(function.__func__):
        return True
    return getattr(function, "__rpc__", None) is True


def _static_attribute(obj: object, name: str) -> object:
    own: dict[str, Any] = getattr(obj, "__dict__", {})
    if name in own:
        return own[name]
    classes = obj.__mro__ if isinstance(obj, type) else type(obj).__mro__
    for cls in classes:
        if name in cls.__dict__:
            return cls.__dict__[name]
    return None
