"""What a supervisor remembers of the agents of a container, to make them again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat

States = Sequence[bytes | None]
"""Those of an agent and of all that are made with it, in this order."""


@dataclasses.dataclass(slots=True)
class Record:
    """Agents that one message has made."""

    target: str
    arguments: bytes
    """What is encoded here belongs to the agents; the supervisor does not look into it."""
    aids: list[list[str]]
    """For each agent the ids of all that were made with it; none if it is not to be made again."""


class Records:
    """The agents of one container that were spawned with ``respawn=True``."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._made: dict[str, list[str]] = {}  # by the id of the agent that was asked for
        self._awaited: set[str] = set()  # the same ids, for a quick look
        self._states: dict[str, bytes] = {}
        self._chosen: set[str] = set()
        self._adding = 0
        self._ended: set[str] = set()  # while some are being added
        self._early: set[str] = set()  # those that had a state before they were added

    @property
    def awaited(self) -> list[str]:
        """The ids of all agents that will be made again."""
        return [aid for made in self._made.values() for aid in made]

    @property
    def chosen(self) -> list[str]:
        """All ids but numbers that there were, as far as we have heard of them."""
        return sorted(self._chosen)

    def note(self, aids: Iterable[str]) -> None:
        """Remember the ids of agents, so that no other agent gets one of them."""
        self._chosen.update(aid for aid in aids if not _is_number(aid))

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """Surround the making of agents and :meth:`add`: they may have ended before that."""
        self._adding += 1
        try:
            yield
        finally:
            self._adding -= 1
            if not self._adding:
                self._ended.clear()
                for aid in self._early - self._awaited:
                    self._states.pop(aid, None)
                self._early.clear()

    def add(
        self,
        target: str,
        arguments: bytes,
        made: Iterable[tuple[str, Sequence[str]]],
        states: Iterable[States] = (),
    ) -> None:
        """Remember agents.

        Args:
            target: what made them.
            arguments: those of all agents of the message.
            made: for each agent that was made, in order: its id, and the ids of all that were
                made with it, itself included.
            states: for each of them, what it and those that were made with it began with.
        """
        aids = []
        for (aid, all_of_it), began_with in zip(made, chain(states, repeat(())), strict=False):
            again = [] if aid in self._ended else list(all_of_it)
            if again:
                self._made[aid] = again
                self._awaited.update(again)
                self._keep_first(again, began_with)
            aids.append(again)
        self._records.append(Record(target, arguments, aids))

    def forget(self, aid: str) -> None:
        """Do not make an agent again: it has ended by itself."""
        self.note([aid])
        self._states.pop(aid, None)
        if self._adding:
            self._ended.add(aid)
        # One that another had made will be made by that again.
        made = self._made.pop(aid, [])
        self._awaited.difference_update(made)
        for other in made:
            self._states.pop(other, None)
        made.clear()

    def save(self, aid: str, state: bytes) -> None:
        """Keep the state of an agent, if it will be made again, or that is not known yet."""
        if aid in self._awaited:
            self._states[aid] = state
        elif self._adding:
            self._states[aid] = state
            self._early.add(aid)

    def _keep_first(self, aids: Sequence[str], states: States) -> None:
        """Keep what agents began with, for those that have not saved a newer state since."""
        for aid, state in zip(aids, states, strict=False):
            if state is not None and aid not in self._ended:
                self._states.setdefault(aid, state)

    def plan(self) -> list[Record]:
        """Return what has to be made again, in order; all other agents are gone for good."""
        self._records = [record for record in self._records if any(record.aids)]
        return self._records

    def states_of(self, record: Record) -> dict[str, bytes]:
        """Return the states of the agents of *record* that have saved one, by id."""
        return {
            aid: self._states[aid] for made in record.aids for aid in made if aid in self._states
        }


class Given:
    """States that have come in advance, for agents that the next messages make."""

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}

    def put(self, states: Mapping[str, bytes]) -> None:
        """Keep states, by the keys under which they will be asked for."""
        self._states.update(states)

    def pop(self, former: Iterable[Iterable[str]]) -> list[States]:
        """Return the states of agents, which are not kept any more.

        Args:
            former: for each agent the keys of all that are made with it.
        """
        return [[self._states.pop(key, None) for key in keys] for keys in former]


def _is_number(aid: str) -> bool:
    """Whether a container may have given this id; each of its lives has numbers of its own."""
    return aid.isdecimal() and str(int(aid)) == aid
