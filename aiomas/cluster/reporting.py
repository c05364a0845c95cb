"""Errors of control services, in a form that tells the driver more than a traceback."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from aiomas.cluster.events import error_content
from aiomas.exceptions import AiomasError, ClusterError, ContainerDied

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def reporting(
    method: Callable[Concatenate[S, P], Awaitable[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, dict[str, Any]]]:
    """Let *method* return its result or its error in a form that can travel."""

    async def report(self: S, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        try:
            return {"value": await method(self, *args, **kwargs)}
        except (ContainerDied, ClusterError) as exc:
            return {"error": error_content(exc)}
        except (AiomasError, OSError) as exc:
            return {"error": {"message": f"{type(exc).__name__}: {exc}"}}

    functools.update_wrapper(report, method)
    return report
