"""Codecs: let arrays and objects of your own travel in messages.

An agent gets a series of measurements as a NumPy array and returns a statistic, an object of a
class that was made serializable.  Arrays need a codec that knows bytes: MsgPack, or MsgPackBlosc,
which compresses them.

Needs NumPy (``pip install 'aiomas[numpy]'``).  Run it with ``python examples/numpy_codec.py``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiomas
from aiomas.codecs import numpy_serializer

if TYPE_CHECKING:
    import numpy as np


@aiomas.serializable
class Statistic:
    def __init__(self, count: int, mean: float, largest: float) -> None:
        self.count = count
        self.mean = mean
        self.largest = largest


class Analyst(aiomas.Agent):
    @aiomas.expose
    async def analyse(self, series: np.ndarray) -> Statistic:
        print(f"analyst: got {series.size} values of {series.dtype} in the shape {series.shape}")
        # It is a view of the received message, so it cannot be changed: copy it to do that.
        assert not series.flags.writeable
        return Statistic(series.size, float(series.mean()), float(series.max()))


async def main() -> None:
    import numpy as np  # noqa: PLC0415 - the only example that needs it

    # All containers that talk to each other need the same codec and the same serializers, in the
    # same order.
    options = {
        "codec": aiomas.MsgPackBlosc,
        "extra_serializers": [
            numpy_serializer,
            Statistic.__serializer__,  # type: ignore[attr-defined] # made by @serializable
        ],
    }
    async with (
        aiomas.Container.open(("127.0.0.1", 0), **options) as here,
        aiomas.Container.open(("127.0.0.1", 0), **options) as there,
    ):
        analyst = await here.connect(Analyst(there).addr, Analyst)
        series = np.linspace(0, 1, 24 * 60).reshape(24, 60)
        statistic = await analyst.analyse(series)
        print(f"caller: got {statistic}")


if __name__ == "__main__":
    try:
        import numpy  # noqa: F401 - only to see whether it is there
    except ImportError:
        print("skipped: this example needs NumPy (pip install 'aiomas[numpy]')")
    else:
        asyncio.run(main())
