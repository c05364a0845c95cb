"""Section 1.9.6: aiomas.exceptions."""

from __future__ import annotations

from aiomas.exceptions import AiomasError, RemoteException


def test_section_1_9_6_aiomaserror_is_the_base_class():
    assert issubclass(AiomasError, Exception)
    assert issubclass(RemoteException, AiomasError)


def test_section_1_9_6_remoteexception_parameters():
    exc = RemoteException(origin=("host", 5555), remote_traceback="Traceback")

    assert exc.origin == ("host", 5555)
    assert exc.remote_traceback == "Traceback"
    assert "host" in str(exc)
    assert "Traceback" in str(exc)
