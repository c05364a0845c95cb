"""What is remembered of agents: who is made again, with what state."""

from __future__ import annotations

import pytest

from aiomas.cluster.records import Given, Record, Records


@pytest.fixture
def records():
    records = Records()
    records.add("m:A", b"ab", [("0", ["0"]), ("1", ["1", "2"])])
    records.add("m:B", b"c", [("3", ["3"])])
    return records


def test_nothing_is_made_again_at_first():
    records = Records()
    assert records.plan() == []
    assert records.awaited == []


def test_agents_are_made_again_in_order_with_all_that_they_made(records):
    assert records.plan() == [
        Record("m:A", b"ab", [["0"], ["1", "2"]]),
        Record("m:B", b"c", [["3"]]),
    ]
    assert records.awaited == ["0", "1", "2", "3"]


def test_one_that_ended_by_itself_is_not_made_again(records):
    records.forget("0")
    records.forget("3")
    assert records.plan() == [Record("m:A", b"ab", [[], ["1", "2"]])]
    assert records.awaited == ["1", "2"]


def test_one_that_another_made_is_made_again_by_that(records):
    records.forget("2")
    assert records.awaited == ["0", "1", "2", "3"]


def test_unknown_ones_are_forgotten_without_a_word(records):
    records.forget("nobody")
    assert len(records.plan()) == 2


def test_the_latest_states_are_kept(records):
    for aid, state in (("0", b"old"), ("0", b"new"), ("2", b"inner"), ("3", b"B")):
        records.save(aid, state)
    one, other = records.plan()
    assert records.states_of(one) == {"0": b"new", "2": b"inner"}
    assert records.states_of(other) == {"3": b"B"}


def test_the_state_of_one_that_ended_is_dropped(records):
    records.save("3", b"B")
    records.forget("3")
    records.add("m:B", b"c", [("3", ["3"])])
    assert records.states_of(records.plan()[1]) == {}


def test_states_of_agents_that_are_not_made_again_are_not_kept(records):
    records.save("9", b"of an agent that was spawned without respawn=True")
    with records.adding():
        records.save("7", b"of another one")
        with records.adding():
            pass
    assert records._states == {}


def test_what_one_had_made_has_no_state_any_more_when_it_has_ended(records):
    records.save("1", b"of the maker")
    records.save("2", b"inner")
    records.forget("1")
    records.save("2", b"inner")
    assert records._states == {}


def test_the_state_of_one_that_is_being_made_is_kept(records):
    with records.adding():
        records.save("9", b"early")
        with records.adding():
            records.save("8", b"of another one")
        records.add("m:C", b"d", [("9", ["9"])])
        records.save("9", b"new")
    assert records.states_of(records.plan()[2]) == {"9": b"new"}
    assert list(records._states) == ["9"]


def test_one_that_ended_before_it_was_added_is_not_made_again():
    records = Records()
    with records.adding():
        records.forget("0")
        records.add("m:A", b"ab", [("0", ["0"]), ("1", ["1"])])
    assert records.awaited == ["1"]
    assert records.plan() == [Record("m:A", b"ab", [[], ["1"]])]


def test_the_end_of_others_is_not_remembered_for_longer_than_one_is_added():
    records = Records()
    records.forget("0")
    with records.adding(), records.adding():
        pass
    records.add("m:A", b"a", [("0", ["0"])])
    assert records.awaited == ["0"]


def test_ids_that_were_chosen_are_remembered_for_ever():
    records = Records()
    records.note(["boss", "5", "007"])
    records.forget("boss")
    records.forget("aide")
    records.forget("6")
    records.plan()
    assert records.chosen == ["007", "aide", "boss"]


class TestFirstStates:
    """Those that agents had in another container."""

    @pytest.fixture
    def records(self):
        return Records()

    def states(self, records):
        return {aid: s for record in records.plan() for aid, s in records.states_of(record).items()}

    def test_they_are_kept_until_there_are_newer_ones(self, records):
        records.add("m:A", b"ab", [("0", ["0", "1"]), ("2", ["2"])], [[b"a", b"b"], [b"c"]])
        records.save("1", b"new")
        assert self.states(records) == {"0": b"a", "1": b"new", "2": b"c"}

    def test_newer_ones_may_have_come_before(self, records):
        with records.adding():
            records.save("0", b"new")
            records.add("m:A", b"a", [("0", ["0"])], [[b"old"]])
        assert self.states(records) == {"0": b"new"}

    def test_some_have_none(self, records):
        made = [("0", ["0", "1", "9"]), ("2", ["2"]), ("3", ["3"])]
        records.add("m:A", b"abc", made, [[None, b"b"], []])
        assert self.states(records) == {"1": b"b"}

    def test_there_may_be_more_than_were_made(self, records):
        records.add(
            "m:A", b"ab", [("0", ["0"])], [[b"a", b"of one that it does not make any more"], [b"b"]]
        )
        assert self.states(records) == {"0": b"a"}
        assert records.plan() == [Record("m:A", b"ab", [["0"]])]

    def test_those_of_agents_that_have_ended_already_are_not_kept(self, records):
        with records.adding():
            records.forget("1")
            records.forget("2")
            made = [("0", ["0", "1"]), ("2", ["2"])]
            records.add("m:A", b"ab", made, [[b"a", b"b"], [b"c"]])
        assert self.states(records) == {"0": b"a"}


def test_given_states_are_had_once_in_the_order_of_their_keys():
    given = Given()
    given.put({"a": b"1", "b": b"2"})
    given.put({"c": b"3"})
    assert given.pop([["c", "x"], [], ["a"]]) == [[b"3", None], [], [b"1"]]
    assert given.pop([["c", "b"]]) == [[None, b"2"]]
    assert given.pop(()) == []
