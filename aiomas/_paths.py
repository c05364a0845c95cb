"""Remembers what was found at the paths of remote calls, so that most need no search.

A path that was resolved once leads to the same function for as long as an object of the same class
is there.  That is looked at each time, which takes a fifth of the time of the search.  What is
remembered keeps no agent alive.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from aiomas.routing import DictRouter, Router

_MOST = 16_384  # paths of one root router, some 200 bytes each

# Where the object has to be: under which key of which dictionary; then its class, the name of the
# attribute, and the function.  (A named tuple takes twice as long to be taken apart.)
_Known = tuple[dict[Any, Any], Any, type, str, Callable[..., Any]]


class Paths:
    """What is known of the paths from one root router.

    Args:
        root: the router.
    """

    def __init__(self, root: Router) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}
        self._changes = Router.changes

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
        if known is not None and self._changes == Router.changes:
            objects, key, cls, name, function = known
            obj = objects.get(key)
            if type(obj) is cls:
                # The class or the instance may have got another attribute of that name.
                method = getattr(obj, name, None)
                if type(method) is _Method and method.__func__ is function:
                    return method
        return self._find(path)

    def _find(self, path: str) -> Callable[..., Any]:
        """Search for it, and note what was found if it can be seen later whether it still holds."""
        if self._changes != Router.changes or len(self._known) >= _MOST:
            self._known.clear()
            self._changes = Router.changes
        self._known.pop(path, None)  # even if nothing is found any more
        router, function = self._root.find(path)
        objects = self._objects(router, path)
        if objects is not None and type(function) is _Method and function.__self__ is router.obj:
            name = path.rpartition("/")[2]
            self._known[path] = objects, router.name, type(router.obj), name, function.__func__
        return function

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


_Method = types.MethodType
