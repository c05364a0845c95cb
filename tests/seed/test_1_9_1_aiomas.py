"""Section 1.9.1: the names that are found on the package itself."""

from __future__ import annotations

import pytest

import aiomas


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("expose", aiomas.rpc),
        ("serializable", aiomas.codecs),
        ("async", aiomas.util),
        ("run", aiomas.util),
        ("make_ssl_server_context", aiomas.util),
        ("make_ssl_client_context", aiomas.util),
        ("AiomasError", aiomas.exceptions),
        ("RemoteException", aiomas.exceptions),
        ("Agent", aiomas.agent),
        ("Container", aiomas.agent),
        ("SSLCerts", aiomas.agent),
        ("JSON", aiomas.codecs),
        ("MsgPack", aiomas.codecs),
        ("MsgPackBlosc", aiomas.codecs),
        ("AsyncioClock", aiomas.clocks),
        ("ExternalClock", aiomas.clocks),
    ],
)
def test_section_1_9_1_the_most_used_names(name, place):
    assert getattr(aiomas, name) is getattr(place, name)
