"""How many containers go onto which node of a Ray cluster, and what is short where.

Plain arithmetic: it does not know Ray itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from aiomas.cluster.hosts import HostSpec
from aiomas.exceptions import ClusterError

STRATEGIES = ("STRICT_SPREAD", "SPREAD", "PACK", "STRICT_PACK")

_TINY = 1e-6  # what Ray counts in is coarser
_MOST_NODES = 20  # that a message tells about
_LEAST = 0.001  # of a node, to be there without containers


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node of a Ray cluster that is alive."""

    id: str
    address: str
    hostname: str
    total: Mapping[str, float]
    """Its resources, by their names in Ray."""
    free: Mapping[str, float]
    """Those that nobody has reserved."""
    ours: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Those that this cluster has reserved, which it waits for in vain."""

    @property
    def possible(self) -> dict[str, float]:
        """Those that we could have if nobody else had any."""
        return {name: amount - self.ours.get(name, 0) for name, amount in self.total.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """What one supervisor and its containers need, on one node."""

    resources: Mapping[str, float]
    containers: int
    node: Node | None = None
    """Where it has to be, if that is fixed."""
    host: HostSpec | None = None
    """What the user has said about it, if anything."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Bundles that are reserved together."""

    bundles: tuple[Bundle, ...]
    strategy: str
    fits: bool
    """Whether there is room for them now; else there may be later."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of Ray."""

    hosts: tuple[HostSpec, ...]
    """Those that the user has named; none, if any nodes will do."""
    containers: int | None
    each: Mapping[str, float]
    """What one container needs."""
    strategy: str
    per_new_node: int | None = None
    """How many containers go onto a node that is added; ``None`` if none will be."""

    def plan(self, nodes: Sequence[Node]) -> Plan:
        """Return what to reserve on these nodes.

        Raises:
            ClusterError: there can never be room for it there.
        """
        return self._on_named_nodes(nodes) if self.hosts else self._on_any_nodes(nodes)

    def shortage(self, nodes: Sequence[Node], why: str) -> ClusterError:
        """Return the error that says what is short where."""
        what = "as many containers as fit" if self.containers is None else _count(self.containers)
        if self.hosts:
            what += " on " + ", ".join(host.label for host in self.hosts)
        each = " and ".join(f"{name} {amount:g}" for name, amount in self.each.items())
        where = "; ".join(self._describe(node) for node in nodes[:_MOST_NODES]) or "none is alive"
        if len(nodes) > _MOST_NODES:
            where += f"; and {len(nodes) - _MOST_NODES} more"
        msg = f"Ray cannot place {what} ({each} each, {self.strategy}): {why}. Its nodes: {where}"
        return ClusterError(msg)

    def _describe(self, node: Node) -> str:
        amounts = ", ".join(
            f"{name} {node.free.get(name, 0):g} of {node.total.get(name, 0):g} free"
            for name in self.each
        )
        here, ever = self._room(node.free), self._room(node.possible)
        return (
            f"{node.address} ({node.hostname}) has {amounts}: room for {here} now, {ever} at most"
        )

    def _room(self, resources: Mapping[str, float]) -> int:
        return min(
            int((resources.get(name, 0) + _TINY) / amount) for name, amount in self.each.items()
        )

    def _bundle(self, containers: int, node: Node | None, host: HostSpec | None) -> Bundle:
        resources = {name: amount * containers for name, amount in self.each.items()}
        if not containers:
            assert node is not None  # noqa: S101 - only those that a user names may have none
            resources = {f"node:{node.address}": _LEAST}
        return Bundle(resources, containers, node, host)

    def _on_any_nodes(self, nodes: Sequence[Node]) -> Plan:
        free = [self._room(node.free) for node in nodes]
        total = [self._room(node.possible) for node in nodes]
        wanted = self.containers
        if wanted is None:
            wanted = max(1, max(free, default=0) if self.strategy == "STRICT_PACK" else sum(free))
        sizes = _divide(free, wanted, self.strategy)
        fits = sizes is not None
        if sizes is None:
            sizes = _divide(total, wanted, self.strategy)
        if sizes is None and self.per_new_node is not None:
            sizes = self._with_new_nodes(total, wanted)
        if sizes is None:
            ever = max(total, default=0) if self.strategy == "STRICT_PACK" else sum(total)
            where = "no single node has" if self.strategy == "STRICT_PACK" else "they do not have"
            raise self.shortage(
                nodes,
                f"even if nobody else used them, {where} room for more than {ever}. Use fewer "
                f"containers, let each one need less (cpus_per_container), or add nodes; if Ray's "
                f"autoscaler adds them, say so with RayLauncher(containers_per_new_node=...)",
            )
        bundles = tuple(self._bundle(size, None, None) for size in sizes)
        return Plan(bundles, self.strategy, fits)

    def _with_new_nodes(self, total: Sequence[int], wanted: int) -> list[int]:
        assert self.per_new_node is not None  # noqa: S101 - else none are added
        if self.strategy == "STRICT_PACK":
            return [wanted]
        sizes = [room for room in total if room]
        missing = wanted - sum(sizes)
        while missing > 0:
            sizes.append(min(missing, self.per_new_node))
            missing -= sizes[-1]
        return sizes

    def _on_named_nodes(self, nodes: Sequence[Node]) -> Plan:
        free = {node.id: self._room(node.free) for node in nodes}
        total = {node.id: self._room(node.possible) for node in nodes}
        shares = self._shares()
        bundles: list[Bundle] = []
        for host in self.hosts:
            node = self._find(nodes, host, taken=[b.node for b in bundles if b.node])
            size = host.containers
            if size is None:
                size = max(1, free[node.id]) if shares is None else shares.pop()
            free[node.id] -= size
            total[node.id] -= size
            if total[node.id] < 0:
                why = f"{host.label} would have {_count(size)}, too many for node {node.address}"
                raise self.shortage(nodes, why)
            bundles.append(self._bundle(size, node, host))
        # Each of them is where it has to be, so how they lie to each other is fixed as well.
        return Plan(tuple(bundles), "PACK", min(free.values()) >= 0)

    def _shares(self) -> list[int] | None:
        """Return how many containers the hosts have that do not say it, the last one's first."""
        silent = sum(host.containers is None for host in self.hosts)
        if self.containers is None or not silent:
            return None
        each, more = divmod(self.containers, silent)
        return [each] * (silent - more) + [each + 1] * more

    def _find(self, nodes: Sequence[Node], host: HostSpec, taken: Sequence[Node]) -> Node:
        """Return the node that a user means; if it can be several, one that is not taken yet."""
        name = host.host.rpartition("@")[2]
        found = [node for node in nodes if name in {node.address, node.hostname, node.id}]
        for node in found:
            if node not in taken:
                return node
        if found:
            return found[0]
        why = f"no node that is alive has the IP address, host name or id {name!r}"
        raise self.shortage(nodes, why)


def _divide(rooms: Sequence[int], wanted: int, strategy: str) -> list[int] | None:
    """Return how many containers go onto each of the nodes that get any, or ``None``: no room."""
    if strategy == "STRICT_PACK":
        return [wanted] if max(rooms, default=0) >= wanted else None
    if sum(rooms) < wanted:
        return None
    left = sorted((room for room in rooms if room > 0), reverse=True)
    sizes = [0] * len(left)
    if strategy == "PACK":
        for place, room in enumerate(left):
            sizes[place] = min(room, wanted)
            wanted -= sizes[place]
    while wanted:
        for place, room in enumerate(left):
            if sizes[place] < room and wanted:
                sizes[place] += 1
                wanted -= 1
    return [size for size in sizes if size]


def _count(containers: int) -> str:
    return f"{containers} container" + "s" * (containers != 1)
