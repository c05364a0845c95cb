"""Ending containers whose agents are to be made again elsewhere, so that no answered call is lost.

First it is looked whether that is possible.  Then the containers refuse calls; the states of agents
are what the last calls have left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from aiomas.cluster.archive import Former
from aiomas.cluster.awaiting import all_of
from aiomas.cluster.members import Member
from aiomas.cluster.roster import Roster
from aiomas.exceptions import ClusterError

_MARGIN = 5.0  # seconds that a supervisor may be late to what its containers have
_NOWHERE = (
    "No other container of this cluster runs, so {} agents could not be made again: add others "
    "before, with add_host() or scale(), or do without these agents, remove_host(..., drain=False)"
)


class Draining:
    """Ends containers with the last states of their agents.

    Args:
        roster: the containers of the cluster.
        formers: returns all agents of containers of a host that can be made again.
    """

    def __init__(
        self,
        roster: Roster,
        formers: Callable[[Member, Iterable[int]], Awaitable[list[Former]]],
    ) -> None:
        self._roster = roster
        self._formers = formers

    async def begin(self, by_host: Mapping[Member, Sequence[int]]) -> None:
        """See to it that the agents of some containers can be made again, before anything ends.

        Raises:
            ClusterError: they cannot, and nothing has changed.
        """
        indices = [index for theirs in by_host.values() for index in theirs]
        # All at once, or agents would be made again where the next ones are ended.
        self._roster.drain(indices)
        try:
            await self._check_room(by_host)
            # Who cannot give a state can say so while nothing is lost.
            await all_of(member.call("checkpoint", theirs) for member, theirs in by_host.items())
            for member in by_host:
                self._check_runs(member)
        except BaseException:
            self._roster.keep(indices)
            raise

    async def retire(
        self, member: Member, indices: Sequence[int], timeout: float
    ) -> tuple[list[Former], list[str]]:
        """End containers with the last states of their agents.

        Returns:
            These agents, and what has kept states from being had.

        Raises:
            ClusterError: the host is lost.
        """
        problems: list[str] = []
        bound = 2 * (3 * timeout + _MARGIN)  # for their last calls and states, and their ends
        try:
            problems += await member.call("retire", indices, timeout, timeout=bound)
            await member.call("hand_over", indices)
        except ClusterError as exc:
            if not member.runs:
                raise
            problems.append(str(exc))
        self._check_runs(member)
        return await self._formers(member, indices), problems

    async def _check_room(self, by_host: Mapping[Member, Sequence[int]]) -> None:
        if self._roster.running():
            return
        formers = [await self._formers(*theirs) for theirs in by_host.items()]
        if count := sum(map(len, formers)):
            raise ClusterError(_NOWHERE.format(count))

    def _check_runs(self, member: Member) -> None:
        if not member.runs:  # what happens to its agents is what the user wants for lost hosts
            msg = f"Host {member.name} was lost when it was about to hand its agents over"
            raise ClusterError(msg)


def check_states(member: Member, problems: Sequence[str]) -> None:
    """Tell whose agents were made again with states that are not their last ones.

    Raises:
        ClusterError: there are some.
    """
    if problems:
        msg = (
            f"All was done, but some agents of host {member.name} have not had their last states, "
            f"and were made again with those that were saved before: {'; '.join(problems)}"
        )
        raise ClusterError(msg)
