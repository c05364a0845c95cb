"""Remembers what was found at the paths of remote calls, so that most need no search.

A path that was resolved once leads to the same function for as long as the same object is there.
That is looked at each time, which costs a tenth of the search.  What is remembered holds no object
that could be called.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from aiomas.routing import DictRouter, Router

_MOST = 16_384  # paths of one root router, some 300 bytes each


class _Known(NamedTuple):
    changes: int  # of the hierarchy, when it was found
    registry: DictRouter | None  # that the object has to be in ...
    key: str  # ... with this name
    ref: weakref.ref[Any]
    name: str
    function: types.FunctionType


class Paths:
    """What is known of the paths from one root router.

    Args:
        root: the router.
    """

    def __init__(self, root: Router) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}

    @classmethod
    def of(cls, root: Router) -> Paths:
        """Return the one for *root*, which all its connections share."""
        if root.paths is None:
            root.paths = cls(root)
        paths: Paths = root.paths
        return paths

    def resolve(self, path: str) -> Callable[..., Any]:
        """Do the same as :meth:`.Router.resolve`."""
        known = self._known.get(path)
        if known is not None:
            changes, registry, key, ref, name, function = known
            obj = ref()
            if (
                obj is not None
                and changes == Router.changes
                and (
                    registry is None
                    or (registry.obj.get(key) is obj and key not in registry.hidden)
                )
            ):
                # The class or the instance may have got another attribute of that name.
                method = getattr(obj, name)
                if type(method) is types.MethodType and method.__func__ is function:
                    return method
            del self._known[path]
        router, function = self._root.find(path)
        self._remember(path, router, function)
        return function

    def _remember(self, path: str, router: Router, method: Callable[..., Any]) -> None:
        """Note what was found, if it can be seen later whether it is still there."""
        if type(method) is not types.MethodType or method.__self__ is not router.obj:
            return
        name = path.rpartition("/")[2]
        registry, above = None, router
        if isinstance(router.parent, DictRouter):
            registry = above = router.parent
        while above.parent is not None and type(above.parent) is Router:
            above = above.parent
        # Another way leads there, or there is a second registry on it.
        if above is not self._root or f"{router.path}/{name}".lstrip("/") != path:
            return
        try:
            ref = weakref.ref(router.obj)
        except TypeError:  # its class has no room for that
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[path] = _Known(
            Router.changes, registry, router.name, ref, name, method.__func__
        )
