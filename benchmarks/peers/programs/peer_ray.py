"""An actor of Ray that echoes; Ray starts its processes itself, so there is no server here."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import measuring

# Where Ray would make files in the home directory, which nobody asked for.
FOLDER = tempfile.TemporaryDirectory(prefix="ray-")
os.environ["RAY_AUTH_MODE"] = "disabled"  # it listens on loopback only
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # noqa: E402 - reads the variables


class Echo:
    """Returns what it gets."""

    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value


def main() -> None:
    """Call until standard input ends."""
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        object_store_memory=100 * measuring.MIB,
        _node_ip_address="127.0.0.1",
        _temp_dir=FOLDER.name,
    )
    echo = ray.remote(Echo).remote().echo

    def pipelined() -> None:
        ray.get([echo.remote(measuring.PAYLOAD) for _ in range(64)])

    measures = measuring.measures_of(lambda value: ray.get(echo.remote(value)))
    measures["in_flight_64"] = lambda seconds: measuring.rate(pipelined, 64, seconds)
    measuring.obey(measures)
    ray.shutdown()


if __name__ == "__main__":
    with FOLDER:
        main()
