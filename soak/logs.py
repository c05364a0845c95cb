"""What may stand in a log without being held against us."""

from __future__ import annotations

import logging


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a logged error is a matter of this project.

    Not so one of asyncio's TLS (seen with Python 3.11): when the transport below can be written to
    again, it writes from within that transport's own writing. If that fails because the peer is
    gone, the transport tells of its end a second time, to nobody.
    """
    twice = "_SelectorSocketTransport._call_connection_lost" in record.getMessage()
    return not (record.name == "asyncio" and twice)
