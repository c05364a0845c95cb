"""Terms: which proofs are shown and expected, and who belongs to a part that was given up."""

from __future__ import annotations

import dataclasses

import pytest

from aiomas._hello import Hello, answering_proof, proof
from aiomas._terms import Generations, Terms

HERE, THERE = "tcp://here:1/", "tcp://there:2/"


@pytest.fixture
def terms():
    return Terms(
        hello=Hello(url=HERE, token=answering_proof("secret", HERE)),
        expects=proof("secret", HERE),
        token="secret",
        generations=Generations(accept=1, known=3, use=2),
    )


class TestProofs:
    def test_a_peer_of_the_first_generation_is_met_as_ever(self, terms):
        assert terms.of_generation(0) is terms

    def test_a_peer_has_to_show_that_it_is_of_the_generation_that_it_says(self, terms):
        other = terms.of_generation(3)
        assert other.expects == proof("secret", HERE, 3)
        assert other.hello == Hello(
            url=HERE, token=answering_proof("secret", HERE, 3), generation=3
        )

    def test_who_is_dialled_is_shown_the_generation_in_use(self, terms):
        other = terms.of_dialling(THERE)
        assert other.dialled == THERE
        assert other.expects == answering_proof("secret", THERE, 2)
        assert other.hello == Hello(url=HERE, token=proof("secret", THERE, 2), generation=2)

    def test_before_there_is_a_second_generation_nothing_is_said_of_any(self, terms):
        terms.generations.use = 0
        assert terms.of_dialling(THERE).hello == Hello(url=HERE, token=proof("secret", THERE))
        assert "generation" not in terms.of_dialling(THERE).hello.content()

    def test_what_is_known_is_shared(self, terms):
        others = [terms.of_generation(3), terms.of_dialling(THERE)]
        assert all(other.generations is terms.generations for other in others)
        assert all(other.proven is terms.proven for other in others)

    @pytest.mark.parametrize("generation", [0, 5])
    def test_without_a_token_there_is_none_of_that(self, generation):
        terms = Terms(hello=Hello(url=HERE), generations=Generations(known=5, use=5))
        assert terms.of_generation(generation) is terms
        assert terms.of_dialling(THERE) is terms

    def test_the_token_is_not_in_what_is_printed(self, terms):
        assert "secret" not in repr(dataclasses.replace(terms, token="secret"))


class TestGenerations:
    @pytest.mark.parametrize(
        ("generation", "served"), [(0, False), (1, True), (2, True), (3, True), (4, False)]
    )
    def test_those_from_the_oldest_to_the_newest_one_are_served(self, terms, generation, served):
        reason = terms.generations.refuses(Hello(url=THERE, generation=generation))
        assert (reason is None) == served

    def test_an_older_one_is_fenced(self, terms):
        assert "was given up" in terms.generations.refuses(Hello(generation=0))
        assert "is fenced" in terms.generations.refuses(Hello(generation=0))

    def test_a_newer_one_says_that_we_are_outdated(self, terms):
        seen: list[int] = []
        terms.generations.on_outdated = seen.append
        for generation in range(6):
            terms.generations.refuses(Hello(generation=generation))
        assert seen == [4, 5]
        reason = terms.generations.refuses(Hello(generation=9))
        assert "this container belongs to an older generation of its cluster (3)" in reason

    def test_what_is_lost_is_fenced_although_its_generation_is_served(self, terms):
        terms.generations.lost.add(THERE)
        assert "is fenced" in terms.generations.refuses(Hello(url=THERE, generation=2))
        assert terms.generations.refuses(Hello(url=HERE, generation=2)) is None

    def test_calls_to_what_is_lost_have_an_error_that_says_so(self, terms):
        terms.generations.lost.add(THERE)
        assert str(terms.generations.loss(THERE)).startswith(f"The host of {THERE} was lost")
        assert terms.generations.loss(HERE) is None
