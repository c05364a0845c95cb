"""Remembers what was found at the paths of remote calls, so that most need no search.

A path that was resolved once leads to the same function for as long as the same function is there
under the same names.  That is looked at each time, which takes a tenth of the time of the search.
What is remembered keeps no agent of a container alive.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from aiomas.routing import DictRouter, Router

_MOST = 131_072  # paths of one root router, some 200 bytes each

PLAIN, TASK, UNSURE = range(3)
"""Kinds of functions: one whose results were no awaitables, a coroutine function, any other."""

_Known = tuple[dict[Any, Any], Any, type, str, Callable[..., Any], int]


class Paths:
    """What is known of the paths from one root router.

    Args:
        root: the router.
    """

    def __init__(self, root: Router) -> None:
        self._root = root
        self.known: dict[str, _Known] = {}
        """For each path: a dictionary, the key of the object in there, the class of the object, the
        name of its attribute, the function that the method is made of, and the kind of that.

        To be used if the class and the method's ``__func__`` still are the same; else :meth:`find`
        it.  (A named tuple takes twice as long to be taken apart.)
        """

    @classmethod
    def of(cls, root: Router) -> Paths:
        """Return the one for *root*, which all its connections share."""
        if root.paths is None:
            root.paths = cls(root)
        paths: Paths = root.paths
        return paths

    def resolve(self, path: str) -> Callable[..., Any]:
        """Do the same as :meth:`.Router.resolve`."""
        if path in self.known:
            objects, key, cls, name, plain, _ = self.known[path]
            obj = objects.get(key)
            method: Callable[..., Any] | None = getattr(obj, name, None)
            is_same = type(obj) is cls and getattr(method, "__func__", None) is plain
            if method is not None and is_same:
                return method
        return self.find(path)

    def find(self, path: str) -> Callable[..., Any]:
        """Do the same as :meth:`.Router.resolve`, and note what was found if that can be used."""
        self.known.pop(path, None)  # even if nothing is found any more
        router, function = self._root.find(path)
        objects = self._objects(router, path)
        if (
            objects is not None
            and isinstance(function, types.MethodType)
            and isinstance(plain := function.__func__, types.FunctionType)
            and function.__self__ is router.obj
        ):
            cls, name = type(router.obj), path.rpartition("/")[2]
            if len(self.known) >= _MOST:
                del self.known[next(iter(self.known))]  # the oldest one
            self.known[path] = objects, router.name, cls, name, plain, kind_of(plain)
        return function

    def note(self, path: str, kind: int) -> None:
        """Remember of which kind the function at *path* is."""
        if path in self.known:
            self.known[path] = *self.known[path][:-1], kind

    def forget(self) -> None:
        """Forget everything: a router has changed its place."""
        self.known.clear()

    def _objects(self, router: Router, path: str) -> dict[Any, Any] | None:
        """Return the dictionary in which the object of *router* is under the router's name.

        ``None`` if that is not all that has to be so: if there is a second registry on the way.
        """
        parent, above = router.parent, router
        if isinstance(parent, DictRouter):
            if not parent.follows_values(router):
                return None
            # Nobody is hidden who was found once: that is for those who are not there yet.
            objects: dict[Any, Any] = parent.obj
            above = parent
        else:  # as long as no router changes its place, it is there
            objects = {router.name: router.obj}
        while above.parent is not None:
            above = above.parent
            if type(above) is not Router:
                return None
        leads_here = path.rpartition("/")[0] == router.path
        return objects if above is self._root and leads_here else None


def kind_of(function: types.FunctionType) -> int:
    """Return the kind of a function that was not called yet."""
    # One that is only said to be a coroutine function may run before it returns something.
    return TASK if function.__code__.co_flags & inspect.CO_COROUTINE else UNSURE


def is_coroutine_function(function: Any) -> bool:
    """Do the same as the function of `inspect`, in a tenth of the time for most of them."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(function)
