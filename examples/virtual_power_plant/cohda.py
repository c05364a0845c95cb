"""COHDA, the negotiation: what one agent knows, how it decides and what it tells its neighbours.

The algorithm is by C. Hinrichs, S. Lehnhoff and M. Sonnenschein: "COHDA: A Combinatorial
Optimization Heuristic for Distributed Agents", Agents and Artificial Intelligence (CCIS 449),
Springer 2014, doi:10.1007/978-3-662-44440-5_2. Each agent repeats three steps:

perceive
    It merges what neighbours say into its working memory: the *system configuration* (the newest
    choice of each agent that it has heard of) and the best *solution candidate* of anybody.
decide
    It looks for the own schedule that suits the choices of all others best. If that beats the
    candidate, it becomes a new candidate. If not, the agent does what the candidate wants it to.
act
    If that changed anything, it tells its neighbours.

Nobody knows anything but the goal, its own feasible schedules, and what it hears. Candidates get
better with each step and are finite in number, so the negotiation ends: all agents then hold the
same candidate, and none of them can improve it alone by `Goal.min_gain_wh` or more.

Liberties are taken with the paper's messages, which hold the whole working memory each time.
A neighbour is told only those choices that it has not been told before (connections lose nothing
and keep the order, so it has the rest). A candidate says only *which* schedule each agent picked,
by number: nobody needs the schedules themselves to compare or to follow a candidate. And a
schedule travels as `pack` makes it, which is faster to send and to add up than 24 numbers.

Nothing here does I/O or knows of time. A schedule is a tuple of 24 integers, in watts; distances
are energies in watt-hours, the sum over the hours of the absolute difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import add, sub
from random import Random
from struct import Struct
from typing import NamedTuple

from .units import Schedule


class Goal(NamedTuple):
    """What is negotiated about."""

    target: Schedule
    """What all agents' schedules should add up to."""
    min_gain_wh: int = 1
    """A candidate must be better than the last by this much; 1 or more, or it would never end."""


class Choice(NamedTuple):
    """What an agent currently intends to do."""

    agent: int
    counter: int
    """How many choices that agent made before: tells a newer choice from an older one."""
    pick: int
    """The schedule's number, which only the agent itself can interpret."""
    packed: bytes
    """The schedule, see `pack`."""


class Candidate(NamedTuple):
    """A proposal: what each agent known to its creator should do, and how good that would be."""

    distance_wh: int
    creator: int
    picks: dict[int, int]
    """Number of the schedule, by agent."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """Return a sorting key, least first: most agents, smallest distance, creator.

        A total order makes merging independent of the order in which messages come in. No agent
        creates two candidates that agree in all three, because each betters the last.
        """
        return (-len(self.picks), self.distance_wh, self.creator)


# As they travel: containers of plain values, which any codec can encode.
ChoiceEntry = tuple[int, int, int, bytes]
CandidateEntry = tuple[int, int, Sequence[int], Sequence[int]]
GoalEntry = tuple[Schedule, int]
Message = tuple[GoalEntry | None, CandidateEntry | None, Sequence[ChoiceEntry]]


def distance_wh(target: Sequence[int], powers: Sequence[int]) -> int:
    """Return the energy by which hourly `powers` miss the `target`; both in watts."""
    return sum(map(abs, map(sub, target, powers)))


_BIAS = 1 << 31  # makes powers of up to 2 GW positive


def pack(schedule: Schedule) -> bytes:
    """Write a schedule as 64-bit integers, least significant byte first, biased to be positive.

    Read as one long integer, such schedules can be added and subtracted at once, since no hour's
    sum ever carries over into the next hour's bits. Agents do that a million times.
    """
    return _layout(len(schedule)).pack(*(power + _BIAS for power in schedule))


def unpack_sum(packed: int, count: int, hours: int) -> Schedule:
    """Return the sum of `count` packed schedules that were added as long integers."""
    layout = _layout(hours)
    bias = count * _BIAS
    return tuple(power - bias for power in layout.unpack(packed.to_bytes(layout.size, "little")))


@cache
def _layout(hours: int) -> Struct:
    return Struct(f"<{hours}Q")


class WorkingMemory:
    """What an agent knows about the others: their newest choices and the best candidate.

    Merging is commutative, associative and idempotent: agents that have heard the same things
    know the same, in whatever order and however often they heard them.
    """

    def __init__(self, goal: Goal, choice: Choice) -> None:
        self.goal = goal
        self.choices = {choice.agent: choice}
        self._sum = int.from_bytes(choice.packed, "little")
        distance = distance_wh(goal.target, self.total)
        self.candidate = Candidate(distance, choice.agent, {choice.agent: choice.pick})

    @property
    def total(self) -> Schedule:
        """Sum of all known choices, in watts."""
        return unpack_sum(self._sum, len(self.choices), len(self.goal.target))

    def learn(self, entries: Iterable[ChoiceEntry]) -> list[int]:
        """Keep those choices that are newer than the known ones. Return whose they are."""
        choices = self.choices
        agents = []
        for agent, counter, pick, packed in entries:
            known = choices.get(agent)
            if known is None or counter > known.counter:
                agents.append(agent)
                choices[agent] = Choice(agent, counter, pick, packed)
                self._sum += int.from_bytes(packed, "little")
                if known is not None:
                    self._sum -= int.from_bytes(known.packed, "little")
        return agents

    def consider(self, candidate: Candidate) -> bool:
        """Keep a candidate if it is better than the known one. Tell whether it was."""
        if candidate.rank >= self.candidate.rank:
            return False
        self.candidate = candidate
        return True


@dataclass
class Backlog:
    """What a neighbour has still to be told."""

    goal: bool = True
    candidate: bool = True
    choices: dict[int, None] = field(default_factory=dict)
    """Agents whose newest choice it may not know: an ordered set."""

    def __bool__(self) -> bool:
        return self.candidate or bool(self.choices)


class Negotiator:
    """One agent's part in the negotiation.

    Args:
        number: the agent's number, different from all others'.
        schedules: its feasible schedules. It starts with the first one.
        neighbours: the numbers of the agents it talks to.
    """

    def __init__(
        self, number: int, schedules: Sequence[Schedule], neighbours: Iterable[int]
    ) -> None:
        self.number = number
        self.schedules = schedules
        self.memory: WorkingMemory | None = None
        """None until it heard of the goal."""
        self._backlogs = {neighbour: Backlog() for neighbour in neighbours}
        self._unsettled = False

    @property
    def schedule(self) -> Schedule:
        """Return the schedule that the agent intends to run, in watts."""
        if self.memory is None:
            return self.schedules[0]
        return self.schedules[self.memory.choices[self.number].pick]

    def start(self, goal: Goal) -> WorkingMemory:
        """Take part: choose the first schedule, and have that to tell to all neighbours."""
        self.memory = WorkingMemory(goal, self._choice(0, 0))
        self._spread_choices([self.number])
        self._unsettled = True
        return self.memory

    def perceive(self, sender: int, message: Message) -> None:
        """Merge what a neighbour says."""
        goal, candidate, entries = message
        memory = self.memory
        if memory is None:
            if goal is None:
                error = f"agent {sender} told agent {self.number} nothing of the goal"
                raise ValueError(error)
            memory = self.start(Goal(*goal))
        news = memory.learn(entries)
        if news:
            self._spread_choices(news, source=sender)
            self._unsettled = True
        if candidate is not None:
            self._perceive_candidate(sender, candidate, memory)

    def _perceive_candidate(
        self, sender: int, entry: CandidateEntry, memory: WorkingMemory
    ) -> None:
        distance, creator, agents, picks = entry
        rank = (-len(agents), distance, creator)
        if rank < memory.candidate.rank:
            candidate = Candidate(distance, creator, dict(zip(agents, picks, strict=True)))
            memory.consider(candidate)
            self._spread_candidate()
            self._unsettled = True
        if rank == memory.candidate.rank:
            self._backlogs[sender].candidate = False

    def decide(self) -> None:
        """Look for a better candidate, else do what the best one wants. Then nothing is open."""
        memory = self.memory
        if memory is None or not self._unsettled:
            return
        self._unsettled = False
        own = memory.choices[self.number]
        pick, distance = self._best_answer(memory)
        least = memory.candidate.distance_wh - memory.goal.min_gain_wh
        if len(memory.candidate.picks) < len(memory.choices) or distance <= least:
            picks = {agent: choice.pick for agent, choice in memory.choices.items()}
            picks[self.number] = pick
            memory.candidate = Candidate(distance, self.number, picks)
            self._spread_candidate()
        wanted = memory.candidate.picks[self.number]
        if wanted != own.pick:
            self._spread_choices(memory.learn([self._choice(own.counter + 1, wanted)]))

    def _choice(self, counter: int, pick: int) -> Choice:
        return Choice(self.number, counter, pick, pack(self.schedules[pick]))

    def _best_answer(self, memory: WorkingMemory) -> tuple[int, int]:
        """Return the number of the own schedule that suits the others best, and the distance."""
        lacking = list(map(add, map(sub, memory.goal.target, memory.total), self.schedule))
        # This line is where the time goes.
        distances = [sum(map(abs, map(sub, lacking, option))) for option in self.schedules]
        best = min(distances)
        return distances.index(best), best

    def message_for(self, neighbour: int) -> Message | None:
        """Return what the neighbour has not been told yet, or None. It counts as told then."""
        backlog = self._backlogs[neighbour]
        memory = self.memory
        if memory is None or not backlog:
            return None
        goal = memory.goal if backlog.goal else None
        candidate: CandidateEntry | None = None
        if backlog.candidate:
            distance, creator, picks = memory.candidate
            candidate = (distance, creator, list(picks), list(picks.values()))
        entries = [memory.choices[agent] for agent in backlog.choices]
        self._backlogs[neighbour] = Backlog(goal=False, candidate=False)
        return goal, candidate, entries

    def _spread_choices(self, agents: list[int], source: int | None = None) -> None:
        for neighbour, backlog in self._backlogs.items():
            if neighbour != source:
                backlog.choices.update(dict.fromkeys(agents))
            elif backlog.choices:
                for agent in agents:
                    backlog.choices.pop(agent, None)

    def _spread_candidate(self) -> None:
        for backlog in self._backlogs.values():
            backlog.candidate = True


def small_world(count: int, shortcuts: float, rng: Random) -> list[list[int]]:
    """Return the neighbours of each of `count` agents: a ring with random short cuts.

    This is the variant of Watts' and Strogatz' small world by M. E. J. Newman and D. J. Watts,
    "Renormalization group analysis of the small-world network model", Physics Letters A 263,
    1999: short cuts are added to the ring, not rewired from it, so that nobody gets cut off.

    Args:
        count: the number of agents.
        shortcuts: how many there are per agent, between 0 and 1; each serves both of its ends.
        rng: decides where they lead.
    """
    neighbours: list[dict[int, None]] = [{} for _ in range(count)]

    def link(one: int, other: int) -> None:
        if one != other:
            neighbours[one][other] = None
            neighbours[other][one] = None

    for agent in range(count):
        link(agent, (agent + 1) % count)
    for agent in range(count):
        if rng.random() < shortcuts:
            link(agent, rng.randrange(count))
    return [sorted(linked) for linked in neighbours]
