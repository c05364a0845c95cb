"""Starts supervisors on hosts that are reached with ssh."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aiomas.cluster.launchers.command import CommandLauncher

_ALIVE_INTERVAL = 5  # seconds without a sign of the other end after which ssh asks for one
_ALIVE_COUNT = 3  # of them without an answer end the connection


class SSHLauncher(CommandLauncher):
    """Starts supervisors with the ``ssh`` of the system.

    So the user's own configuration, agent, jump hosts and known hosts apply, and a connection that
    the user shares (``ControlPath``) is used if it is there; none is left behind, and what the
    configuration forwards is not forwarded.  Nobody is ever asked for a password.

    Args:
        options: further options of ``ssh``, such as ``["-p", "2222"]`` or
            ``["-o", "ControlPath=none"]``; they go before those of the user's configuration.
        python: the interpreter there, if :class:`~aiomas.cluster.hosts.HostSpec` does not say it.
        ssh: the name or the path of the program.
        connect_timeout: seconds that connecting may take.
    """

    def __init__(
        self,
        *,
        options: Sequence[str] = (),
        python: str = "python3",
        ssh: str = "ssh",
        connect_timeout: float = 10.0,
    ) -> None:
        if isinstance(options, str):
            msg = f"options must be a list of words, got {options!r}"
            raise ValueError(msg)  # noqa: TRY004 - one kind of error for all parameters
        if not math.isfinite(connect_timeout) or connect_timeout <= 0:
            msg = f"connect_timeout must be a positive number of seconds, got {connect_timeout!r}"
            raise ValueError(msg)
        # What comes first counts: nobody can change the former, and the options can the latter.
        fixed = (
            "BatchMode=yes",
            "ClearAllForwardings=yes",  # a port can be forwarded by one connection only
            "RemoteCommand=none",
        )
        usual = (
            "ControlMaster=no",  # one that we start would outlive us
            f"ConnectTimeout={math.ceil(connect_timeout)}",
            f"ServerAliveInterval={_ALIVE_INTERVAL}",
            f"ServerAliveCountMax={_ALIVE_COUNT}",
        )
        prefix = [ssh, "-T", *_given(fixed), *options, *_given(usual), "{host}", "--"]
        super().__init__(prefix, python=python, shell=True)  # noqa: S604 - not here, but there


def _given(options: Sequence[str]) -> list[str]:
    return [word for option in options for word in ("-o", option)]
