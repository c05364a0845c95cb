"""The peers' side of a conversation in lines of JSON; for Python 3.8 and 3.11 alike."""

import asyncio
import json
import os
import sys
import threading

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)


def say(what):
    """Tell the test something."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def described(exc):
    """Return what the test is told about an exception."""
    return {"types": [cls.__name__ for cls in type(exc).__mro__], "text": str(exc)}


async def obey(actions):
    """Do what the test says, one thing after the other, until it says no more.

    Args:
        actions: maps names to coroutine functions.
    """
    orders = asyncio.Queue()

    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(orders.put_nowait, json.loads(line))
        # Nobody is there any more.  Whatever still runs here must not outlive the test.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        what, *args = await orders.get()
        try:
            result = await asyncio.wait_for(actions[what](*args), 15)
        except Exception as exc:
            result = described(exc)
        say(result)
