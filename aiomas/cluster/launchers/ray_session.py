"""Ray as this process uses it: connected once, and asked in threads, as its calls block.

Nothing here imports Ray before it is connected to.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiomas.cluster.launchers.ray_plan import Bundle, Node
from aiomas.exceptions import ClusterError

T = TypeVar("T")

_NODE_ID = "ray.io/node-id"  # the label that each node has


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call *function* in a thread that keeps nobody from ending."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(function(*args))
        except BaseException as exc:  # noqa: BLE001 - for who waits
            done.set_exception(exc)

    threading.Thread(target=run, name="aiomas-ray", daemon=True).start()
    return await asyncio.wrap_future(done)


class _Keeper(threading.Thread):
    """Connects this process to Ray, and disconnects it in the end.

    What Ray starts on this machine ends with the *thread* that started it.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(name="aiomas-ray-keeper", daemon=True)
        self.connected: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.over = threading.Event()
        self._options = options

    def run(self) -> None:
        import ray  # noqa: PLC0415 - as said at the top

        try:
            ray.init(**self._options)
        except BaseException as exc:  # noqa: BLE001 - for who waits
            self.connected.set_exception(exc)
            return
        self.connected.set_result(None)
        self.over.wait()
        ray.shutdown()


class Session:
    """Our use of Ray; all of its methods block.

    Ray knows one connection a process.  Who has made it is not the only one who needs it: it is
    closed when nobody does any more; one that the user has made is left alone.
    """

    _lock = threading.Lock()
    _users = 0
    _keeper: _Keeper | None = None

    def __init__(self) -> None:
        self._open = False
        self.connected_here = False
        """Whether it was this one who has connected, with its own options."""

    def open(self, address: str | None, options: Mapping[str, Any]) -> None:
        """Connect, unless we are.

        Args:
            address: that of a cluster, ``"auto"``, ``"local"``, or ``None``; see ``ray.init()``.
            options: other parameters of ``ray.init()``.

        Raises:
            ClusterError: Ray is not installed, or there is no cluster.
        """
        try:
            import ray  # noqa: PLC0415 - as said at the top
            import ray.util.client  # noqa: PLC0415
        except ImportError as exc:
            msg = (
                f"RayLauncher needs Ray, which cannot be imported ({exc}): pip install aiomas[ray]"
            )
            raise ClusterError(msg) from exc
        with Session._lock:
            if self._open:
                return
            if not ray.is_initialized():
                Session._keeper = _connect(address, options)
                self.connected_here = True
            elif ray.util.client.ray.is_connected():
                msg = (
                    "The agents on the nodes and those of this program dial each other, which a "
                    "Ray Client (ray://) does not provide for: run the program on a node, for "
                    "instance by `ray job submit`"
                )
                raise ClusterError(msg)
            Session._users += 1
            self._open = True

    def close(self) -> None:
        """Let go of the connection."""
        with Session._lock:
            if not self._open:
                return
            self._open = False
            Session._users -= 1
            keeper = Session._keeper
            if Session._users or keeper is None:
                return
            Session._keeper = None
            keeper.over.set()
            keeper.join()

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive, as Ray sees it."""
        import ray  # noqa: PLC0415 - as said at the top
        from ray._private import state  # noqa: PLC0415 - what is free where is told nowhere else

        free = state.available_resources_per_node()
        return [
            Node(
                id=node["NodeID"],
                address=node["NodeManagerAddress"],
                hostname=node["NodeManagerHostname"],
                total=node["Resources"],
                free=free.get(node["NodeID"], {}),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def reserve(self, bundles: Sequence[Bundle], strategy: str, without: Sequence[str]) -> Any:
        """Ask for a placement group, and return it at once.

        Args:
            bundles: what is in it.
            strategy: how they lie to each other.
            without: the ids of nodes that will not do.
        """
        from ray.util.placement_group import placement_group  # noqa: PLC0415 - as said at the top

        other = {_NODE_ID: f"!in({','.join(without)})"} if without else {}
        return placement_group(
            [dict(bundle.resources) for bundle in bundles],
            strategy=strategy,
            bundle_label_selector=[
                other if bundle.node is None else {_NODE_ID: bundle.node.id} for bundle in bundles
            ],
        )

    def wait(self, group: Any, seconds: float) -> bool:
        """Whether a placement group is there, after at most so long."""
        return bool(group.wait(seconds))

    def places(self, group: Any) -> list[str]:
        """Return the id of the node of each bundle of a group."""
        from ray.util.placement_group import placement_group_table  # noqa: PLC0415 - as above

        places = placement_group_table(group)["bundles_to_node_id"]
        return [places[index] for index in sorted(places)]

    def give_back(self, group: Any) -> None:
        """Remove a placement group; what runs in it ends."""
        from ray.util.placement_group import remove_placement_group  # noqa: PLC0415 - as above

        remove_placement_group(group)

    def start_actor(self, class_: type, bundle: Bundle, group: Any, options: dict[str, Any]) -> Any:
        """Start an actor that uses all of a bundle."""
        import ray  # noqa: PLC0415 - as said at the top
        from ray.util.scheduling_strategies import (  # noqa: PLC0415
            PlacementGroupSchedulingStrategy,
        )

        others = dict(bundle.resources)
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=0
        )
        return (
            ray.remote(class_)
            .options(
                num_cpus=others.pop("CPU", 0),
                num_gpus=others.pop("GPU", None),
                memory=others.pop("memory", None),
                resources=others,
                max_restarts=0,
                scheduling_strategy=strategy,
                **options,
            )
            .remote()
        )

    def kill(self, actor: Any) -> None:
        """End an actor at once."""
        import ray  # noqa: PLC0415 - as said at the top

        if ray.is_initialized():  # else all of ours have ended
            ray.kill(actor)


def _connect(address: str | None, options: Mapping[str, Any]) -> _Keeper:
    """Return the thread in which we are connected.

    Raises:
        ClusterError: it cannot be; the message says why.
    """
    keeper = _Keeper({"address": address, **options})
    keeper.start()
    try:
        keeper.connected.result()
    except (OSError, RuntimeError, ValueError) as exc:
        msg = (
            f"Ray cannot be used at address={address!r}: {exc}. Start a cluster (`ray start "
            f"--head`), name one (RAY_ADDRESS), or use RayLauncher(address='local') to have one "
            f"on this machine alone"
        )
        raise ClusterError(msg) from exc
    return keeper
