"""Getting room for supervisors on the nodes of a Ray cluster.

All of them are placed as one group first, so that Ray (and its autoscaler) decides about all or
nothing.  Then each one gets a group of its own on the node that was found: so one that is given up
gives back what it had, and Ray does not look for another node for it when that one is lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

from aiomas.cluster.launchers.ray_plan import Bundle, Demand, Node, Plan
from aiomas.exceptions import ClusterError

_PAUSE = 0.2  # seconds between two looks at the nodes
_OWN_TIMEOUT = 3.0  # seconds in which what was free a moment ago is there for each one alone


class Groups(Protocol):
    """What is needed of Ray; see :class:`~aiomas.cluster.launchers.ray_session.Session`."""

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""

    def reserve(self, bundles: Sequence[Bundle], strategy: str, without: Sequence[str]) -> Any:
        """Ask for a placement group."""

    def wait(self, group: Any, seconds: float) -> bool:
        """Whether it is there, after at most so long."""

    def places(self, group: Any) -> list[str]:
        """Return the nodes of its bundles."""

    def give_back(self, group: Any) -> None:
        """Remove it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Room for one supervisor, reserved."""

    bundle: Bundle
    node: Node
    group: Any


class Search:
    """The search for room; it blocks, so it has a thread of its own.

    Args:
        groups: what does it.
        demand: for what.
        ours: what we have reserved already.
        avoid: the ids of nodes on which supervisors were lost: Ray may not know yet that they do
            not live any more, so they are taken only if there is no other way.
        timeout: seconds.
    """

    def __init__(
        self,
        groups: Groups,
        demand: Demand,
        timeout: float,
        *,
        ours: Collection[Place] = (),
        avoid: Collection[str] = (),
    ) -> None:
        self._groups = groups
        self._demand = demand
        self._ours = ours
        self._avoid = avoid
        self._timeout = timeout
        self._until = time.monotonic() + timeout
        self._given_up = threading.Event()
        self._found: list[Place] = []

    def give_up(self) -> None:
        """End it, from another thread, and give back what it has found."""
        self._given_up.set()
        self._give_back()

    def run(self) -> list[Place]:
        """Return the places.

        Raises:
            ClusterError: there is no room, or not in time; the message says what is short where.
        """
        plan: Plan | None = None
        with contextlib.ExitStack() as pending:
            group = None
            while True:
                nodes = [self._with_ours(node) for node in self._groups.nodes()]
                newer, without = self._plan(nodes)
                if plan is None or (newer.fits and newer != plan):
                    pending.close()
                    plan = newer
                    group = self._groups.reserve(plan.bundles, plan.strategy, without)
                    pending.callback(self._groups.give_back, group)
                if self._groups.wait(group, _PAUSE):
                    places = self._groups.places(group)
                    pending.close()
                    self._found = self._take(plan, places)
                    if self._found and not self._given_up.is_set():
                        return self._found
                    self._give_back()
                    plan = None  # others were faster
                self._check(nodes)

    def _give_back(self) -> None:
        for place in self._found:  # twice does no harm
            self._groups.give_back(place.group)

    def _check(self, nodes: Sequence[Node]) -> None:
        if self._given_up.is_set():
            msg = "Nobody waits for places on Ray any more"
            raise ClusterError(msg)
        if time.monotonic() >= self._until:
            why = (
                f"what is in use there did not become free, and nothing was added, within "
                f"{self._timeout:g} s"
            )
            raise self._demand.shortage(nodes, why)

    def _plan(self, nodes: Sequence[Node]) -> tuple[Plan, list[str]]:
        """Return what to ask for, and the nodes that will not do for that."""
        without = [node.id for node in nodes if node.id in self._avoid]
        others = None
        if without:
            rest = [node for node in nodes if node.id not in self._avoid]
            with contextlib.suppress(ClusterError):  # of the others there are too few
                others = self._demand.plan(rest)
                if others.fits:
                    return others, without
        plan = self._demand.plan(nodes)
        return (plan, []) if others is None or plan.fits else (others, without)

    def _with_ours(self, node: Node) -> Node:
        ours: Counter[str] = Counter()
        for place in self._ours:
            if place.node.id == node.id:
                ours.update(place.bundle.resources)
        return dataclasses.replace(node, ours=ours)

    def _take(self, plan: Plan, places: Sequence[str]) -> list[Place]:
        """Reserve each bundle at its place, for itself; all or none."""
        nodes = {node.id: node for node in self._groups.nodes()}
        if not all(place in nodes for place in places):  # one has been lost meanwhile
            return []
        with contextlib.ExitStack() as undo:
            found = []
            for bundle, place in zip(plan.bundles, places, strict=True):
                fixed = dataclasses.replace(bundle, node=nodes[place])
                group = self._groups.reserve([fixed], "PACK", [])
                undo.callback(self._groups.give_back, group)
                found.append(Place(fixed, nodes[place], group))
            if all(self._own(found)):
                undo.pop_all()
                return found
        return []

    def _own(self, places: Sequence[Place]) -> Iterator[bool]:
        until = min(self._until, time.monotonic() + _OWN_TIMEOUT)
        for place in places:
            while not (ready := self._groups.wait(place.group, _PAUSE)):
                if self._given_up.is_set() or time.monotonic() >= until:
                    break
            yield ready
