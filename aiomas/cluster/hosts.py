"""The hosts of a cluster: what a user says about each of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from aiomas.cluster.info import LOCALHOST

_LONGEST_NAME = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_DRIVER = "driver"


@dataclasses.dataclass(frozen=True, slots=True)
class HostSpec:
    """A host of a cluster.

    Raises:
        ValueError: a field has a value that it cannot have; the message names the field.
    """

    host: str
    """How the launcher reaches it.  For SSH, a host name, ``user@name``, or an alias in the user's
    configuration of ``ssh``.  ``"localhost"`` is this machine, and needs no SSH."""
    containers: int | None = None
    """How many containers run there; ``None`` for an equal part of those that no host asks for."""
    _: dataclasses.KW_ONLY
    name: str | None = None
    """How the cluster calls it, in events, in placements, and in certificates.  By default *host*
    without the user."""
    python: str | None = None
    """The interpreter there that has aiomas; by default, what its launcher takes."""
    cwd: str | None = None
    """The working directory there; modules are found in it.  By default where the launcher begins,
    which for SSH is the home directory."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment variables of all processes there."""
    address: str | None = None
    """The host name or IP address at which others dial the containers there; by default, what the
    driver sees."""
    bind: str | None = None
    """The IP address at which the containers there listen; by default *address*."""

    def __post_init__(self) -> None:
        self._check_string("host", self.host)
        if self.host.startswith("-"):  # to ssh it would be an option
            msg = f"HostSpec.host cannot begin with '-', got {self.host!r}"
            raise ValueError(msg)
        if self.containers is not None and (
            not isinstance(self.containers, int)
            or isinstance(self.containers, bool)
            or self.containers < 0
        ):
            msg = f"HostSpec.containers must be a number from 0 up, got {self.containers!r}"
            raise ValueError(msg)
        for field in ("name", "python", "cwd", "address", "bind"):
            if getattr(self, field) is not None:
                self._check_string(field, getattr(self, field))
        label = self.label
        if len(label) > _LONGEST_NAME or not _NAME.fullmatch(label) or label == _DRIVER:
            msg = (
                f"HostSpec.name must have at most {_LONGEST_NAME} letters, digits, '.', '_', ':' "
                f"and '-', a letter or a digit first, and not be {_DRIVER!r}, got {label!r}"
            )
            raise ValueError(msg)
        if not isinstance(self.env, Mapping) or not all(
            isinstance(text, str) for pair in self.env.items() for text in pair
        ):
            msg = f"HostSpec.env must be a mapping of strings to strings, got {self.env!r}"
            raise ValueError(msg)
        for name, value in self.env.items():
            if not name or "=" in name or "\0" in name + value:  # no system has such variables
                msg = f"HostSpec.env cannot have a variable {name!r} with the value {value!r}"
                raise ValueError(msg)

    @property
    def label(self) -> str:
        """How the cluster calls it."""
        return self.name if self.name is not None else self.host.rpartition("@")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, so that no launcher has to reach it."""
        return self.host == LOCALHOST

    @staticmethod
    def _check_string(field: str, value: Any) -> None:
        if not isinstance(value, str) or not value or not value.isprintable():
            msg = f"HostSpec.{field} must be a string with something in it, got {value!r}"
            raise ValueError(msg)


def host_specs(hosts: Iterable[HostSpec | str]) -> tuple[HostSpec, ...]:
    """Return the hosts that a user has named.

    Raises:
        ValueError: there is none, two have the same name or are this machine, or one is something
            else.
    """
    if isinstance(hosts, str):
        msg = f"hosts must be a list of HostSpec or strings, got {hosts!r}"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for all parameters
    specs = []
    for host in hosts:
        if not isinstance(host, HostSpec | str):
            msg = f"hosts must be a list of HostSpec or strings, got {host!r} in it"
            raise ValueError(msg)  # noqa: TRY004 - as above
        specs.append(HostSpec(host) if isinstance(host, str) else host)
    if not specs:
        msg = "hosts must have at least one host in it; leave it out for this machine alone"
        raise ValueError(msg)
    labels = [spec.label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            msg = f"hosts has {label!r} twice: give each HostSpec a name= of its own"
            raise ValueError(msg)
    local = [spec.label for spec in specs if spec.is_local]
    if len(local) > 1:
        msg = (
            f"{LOCALHOST} is this machine: it can be in hosts once, with the containers of all, "
            f"got it as {' and as '.join(local)}"
        )
        raise ValueError(msg)
    return tuple(specs)
