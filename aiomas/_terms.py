"""On which terms one end takes part in a connection, and which part of a cluster it talks to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from aiomas._hello import Hello, answering_proof, proof
from aiomas._limits import Limits
from aiomas._stats import Counters
from aiomas._strangers import Strangers
from aiomas.exceptions import ConnectionLost


@dataclasses.dataclass(kw_only=True)
class Generations:
    """Which generations of its cluster a container knows; shared by all its connections.

    With each part of the cluster that is given up, a new generation begins.  The old one may still
    live, out of reach, and come back: then it is not served, and finds out what it is.
    """

    accept: int = 0
    """The oldest one that is served."""
    known: int = 0
    """The newest one that may be seen; whoever sees a newer one was given up itself."""
    use: int = 0
    """The one that others are dialled with."""
    lost: set[str] = dataclasses.field(default_factory=set)
    """Base URLs of containers that were given up."""
    on_outdated: Callable[[int], object] | None = None
    """Called with the generation of a peer that is newer than all that are known."""

    def refuses(self, peer: Hello) -> str | None:
        """Return why *peer*, who has dialled us and shown the token, is not served, or ``None``."""
        if peer.generation > self.known:
            if self.on_outdated is not None:
                self.on_outdated(peer.generation)
            return (
                f"this container belongs to an older generation of its cluster ({self.known}) than "
                f"the one that dials ({peer.generation}): its host was taken for lost"
            )
        if peer.generation < self.accept or peer.url in self.lost:
            return (
                f"the one that dials belongs to a part of the cluster that was given up, as its "
                f"host was taken for lost; it is fenced (it is of generation {peer.generation}, "
                f"the cluster of generation {self.known})"
            )
        return None

    def loss(self, url: str) -> ConnectionLost | None:
        """Return what calls to the container with the base URL *url* fail with, if it is lost."""
        if url not in self.lost:
            return None
        msg = (
            f"The host of {url} was lost: the cluster has given up what ran there, and calls it "
            f"no more"
        )
        return ConnectionLost(msg)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What one end wants, and what it says about itself."""

    limits: Limits = dataclasses.field(default_factory=Limits)
    tracebacks: bool = True
    """Whether the peer may see where in our code an exception was raised."""
    call_timeout: float | None = None
    """Seconds that an own call has if its caller does not say so."""
    hello: Hello = dataclasses.field(default_factory=Hello)
    """What it says about itself."""
    expects: str | None = None
    """The proof that the peer has to show before it is served; see ``aiomas._hello``."""
    token: str | None = dataclasses.field(default=None, repr=False)
    """What the proofs are made of that whoever dials us shows and gets, if there is a token."""
    dialled: str | None = None
    """The base URL that was dialled, by an end that expects a proof."""
    proven: set[str] = dataclasses.field(default_factory=set)
    """Base URLs where nobody is called any more who does not show it, as it was shown there."""
    strangers: Strangers = dataclasses.field(default_factory=Strangers)
    """Those who have dialled us and not shown it yet."""
    counters: Counters = dataclasses.field(default_factory=Counters)
    """Where it is counted what the connections do."""
    generations: Generations = dataclasses.field(default_factory=Generations)
    """Which peers belong to a part of the cluster that was given up."""

    def of_generation(self, generation: int) -> Terms:
        """Return the terms for a peer that has dialled us and says that it is of *generation*."""
        url = self.hello.url
        if not generation or self.token is None or url is None:
            return self
        shown = answering_proof(self.token, url, generation)
        hello = dataclasses.replace(self.hello, token=shown, generation=generation)
        expects = proof(self.token, url, generation)
        return dataclasses.replace(self, hello=hello, expects=expects)

    def of_dialling(self, url: str) -> Terms:
        """Return the terms for the container with the base URL *url*, which we dial."""
        if self.token is None:
            return self
        generation = self.generations.use
        shown = proof(self.token, url, generation)
        hello = dataclasses.replace(self.hello, token=shown, generation=generation)
        expects = answering_proof(self.token, url, generation)
        return dataclasses.replace(self, hello=hello, expects=expects, dialled=url)
