"""The hello: what goes over the wire, what is taken for one, and when two ends fit together."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from aiomas import _hello
from aiomas._hello import Hello
from aiomas.codecs import JSON, MsgPack, MsgPackBlosc, make_codec, uuid_serializer

CONTENT = {
    "url": "tcp://here:1/",
    "token": "secret",
    "codec": "json",
    "serializers": ["Arrow", "UUID"],
    "version": 1,
    "extensions": ["cancel", "failures", "options", "ping"],
    "clock": 1.5,
}
HELLO = Hello(
    url="tcp://here:1/", token="secret", codec="json", serializers=("Arrow", "UUID"), clock=1.5
)


def changed(**changes: Any) -> dict[str, Any]:
    return {**CONTENT, **changes}


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in CONTENT.items() if k != key}


@pytest.mark.parametrize("codec", [JSON, MsgPack, MsgPackBlosc])
def test_a_hello_is_the_same_after_its_journey(codec):
    codec = codec()
    content = _hello.question(HELLO)

    assert _hello.asked(codec.decode(codec.encode(content))) == HELLO


def test_the_question_is_a_call_that_old_peers_refuse():
    path, args, kwargs = _hello.question(HELLO)

    assert path == "aiomas/hello"
    assert JSON().decode(JSON().encode(args)) == [CONTENT]
    assert kwargs == {}


def test_a_hello_speaks_for_its_codec():
    codec = make_codec(MsgPack, [uuid_serializer])

    hello = Hello(url="tcp://here:1/").speaking(codec)

    assert hello.codec == "msgpack"
    assert hello.serializers == ("UUID",)
    assert hello.url == "tcp://here:1/"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "aiomas/hello",
        [],
        ["aiomas/hello"],
        ["aiomas/hello", [CONTENT]],
        ["aiomas/hello", [], {}],
        ["aiomas/hello", [CONTENT, CONTENT], {}],
        ["aiomas/hello", [CONTENT], {}, None],
        ["aiomas/hello", CONTENT, {}],
        ["validate_aid", [CONTENT], {}],
        [b"aiomas/hello", [CONTENT], {}],
        {"aiomas/hello": CONTENT},
    ],
)
def test_other_requests_are_no_question(content):
    assert _hello.asked(content) is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        "hello",
        [],
        {},
        *(without(key) for key in ("version", "extensions", "codec", "serializers")),
        changed(version="1"),
        changed(version=None),
        changed(codec=None),
        changed(codec=b"json"),
        changed(serializers="Arrow"),
        changed(serializers=None),
        changed(extensions="ping"),
        changed(extensions={"ping": 1}),
    ],
)
def test_what_lacks_something_is_no_hello(content):
    assert Hello.read(content) is None


@pytest.mark.parametrize("key", ["url", "token"])
@pytest.mark.parametrize("value", [5, None, ["x"], b"x"])
def test_what_need_not_be_there_is_ignored_if_it_is_no_text(key, value):
    hello = Hello.read(changed(**{key: value}))

    assert hello is not None
    assert getattr(hello, key) is None
    assert Hello.read(without(key)) == hello


NO_TIMES: list[Any] = [None, "1", [], True, math.nan, math.inf, -math.inf, 10**400, -(10**400)]


@pytest.mark.parametrize("clock", NO_TIMES, ids=lambda value: repr(value)[:9])
def test_a_clock_that_shows_no_time_is_ignored(clock):
    hello = Hello.read(changed(clock=clock))

    assert hello is not None
    assert hello.clock == 0.0
    assert type(hello.clock) is float


@pytest.mark.parametrize("value", NO_TIMES, ids=lambda value: repr(value)[:9])
def test_what_is_no_time_is_none(value):
    assert _hello.seconds(value) is None


@pytest.mark.parametrize("value", [0, -5, 1.5, 10**15])
def test_a_time_is_a_number_of_seconds(value):
    assert _hello.seconds(value) == value
    assert type(_hello.seconds(value)) is float


def test_a_generation_travels_once_there_is_a_second_one():
    second = dataclasses.replace(HELLO, generation=1)

    assert JSON().decode(JSON().encode(second.content())) == changed(generation=1)
    assert Hello.read(changed(generation=1)) == second
    assert "generation" not in HELLO.content()


NO_GENERATIONS: list[Any] = [-1, True, 1.0, "1", None, [], math.nan, 2**53 + 1, 10**5000]


@pytest.mark.parametrize("generation", NO_GENERATIONS, ids=lambda value: type(value).__name__)
def test_what_is_no_generation_is_the_first_one(generation):
    hello = Hello.read(changed(generation=generation))

    assert hello is not None
    assert hello.generation == 0
    assert type(hello.generation) is int


def test_further_facts_are_for_later_versions():
    assert Hello.read(changed(colour="blue")) == HELLO


def test_the_names_in_the_lists_become_text():
    """So that they can be compared and shown, whatever a peer has sent."""
    hello = Hello.read(changed(serializers=[["x"], 5], extensions=[None]))

    assert hello is not None
    assert hello.serializers == ("['x']", "5")
    assert hello.extensions == ("None",)


def test_ends_with_the_same_codec_and_serializers_fit():
    assert HELLO.objection(HELLO) is None
    assert Hello(codec="json").objection(Hello(codec="json")) is None


@pytest.mark.parametrize(
    "peer",
    [
        Hello(codec="msgpack", serializers=("Arrow", "UUID")),
        Hello(codec="json", serializers=("UUID", "Arrow")),
        Hello(codec="json", serializers=("Arrow",)),
        Hello(codec="json", serializers=("Arrow", "UUID", "Decimal")),
    ],
)
def test_another_codec_or_list_of_serializers_is_refused_with_both(peer):
    own = Hello(codec="json", serializers=("Arrow", "UUID"))

    reason = own.objection(peer)

    assert reason is not None
    assert f"was dialled has json with {list(own.serializers)}" in reason
    assert f"dials has {peer.codec} with {list(peer.serializers)}" in reason


def test_an_odd_or_endless_name_makes_no_odd_or_endless_text():
    peer = Hello(codec="x\n" * 1_000, serializers=("y\n" * 1_000,) * 1_000)

    reason = Hello(codec="json").objection(peer)

    assert reason is not None
    assert reason.isprintable()
    assert len(reason) < 3_000


@pytest.mark.parametrize("token", [None, "", "Secret", "secret ", "geheim", "sécret", "\ud800"])
def test_who_does_not_show_the_proof_is_refused_and_does_not_see_it(token):
    reason = Hello(url="tcp://here:1/").objection(Hello(token=token), "secret")

    assert reason is not None
    assert "token" in reason
    assert "secret" not in reason


def test_who_has_another_proof_is_told_that_it_may_be_for_another_url():
    own = Hello(url="tcp://here:1/")

    assert "dial it by its URL tcp://here:1/" in str(own.objection(Hello(token="x"), "secret"))
    assert "dial it by" not in str(own.objection(Hello(), "secret"))


@pytest.mark.parametrize("token", ["secret", "sécret", "\ud800"])
def test_who_shows_the_proof_fits(token):
    assert Hello().objection(Hello(token=token), token) is None
    assert Hello(token=token).shows(token)


def test_a_proof_is_nothing_to_who_needs_none():
    assert Hello().objection(Hello(token="secret")) is None


def test_a_proof_is_that_of_rfc_2104_for_the_url():
    # $ printf tcp://here:1/ | openssl dgst -sha256 -hmac secret
    assert _hello.proof("secret", "tcp://here:1/") == (
        "0682be7557b9dded299f234552bb5d2fa110d9908cce3ec5b7266bcf702fe9a7"
    )


def test_a_proof_of_a_later_generation_is_that_of_a_text_that_names_it():
    url = "tcp://here:1/"

    assert _hello.proof("secret", url, 0) == _hello.proof("secret", url)
    assert _hello.answering_proof("secret", url, 0) == _hello.answering_proof("secret", url)
    # $ printf 'generation 12 tcp://here:1/' | openssl dgst -sha256 -hmac secret
    assert _hello.proof("secret", url, 12) == (
        "1abf38d6df1fce2176157d67d077ca4e476d6b6e3d40fcb80c0b90aeeb9a8605"
    )
    # $ printf 'generation 12 welcome tcp://here:1/' | openssl dgst -sha256 -hmac secret
    assert _hello.answering_proof("secret", url, 12) == (
        "9ab3c100ba32b5ead271bdfb6fbbe702fac7175e1b7b0b2b3731bf3632bdb569"
    )


def test_each_token_url_generation_and_direction_has_a_proof_of_its_own():
    proofs = {
        make(token, url, generation)
        for generation in (0, 1, 12)
        for make in (_hello.proof, _hello.answering_proof)
        for token in ("secret", "geheim", "\ud800")
        for url in ("tcp://here:1/", "tcp://here:2/", "ipc://[\udc80]/")
    }

    assert len(proofs) == 54
    assert not any("secret" in proof for proof in proofs)


@pytest.mark.parametrize(
    ("peer", "fits"),
    [
        (Hello(), True),
        (Hello(version=2), True),
        (Hello(version=0), False),
        (Hello(version=-1), False),
        (Hello(extensions=()), False),
        (Hello(extensions=_hello.EXTENSIONS[1:]), False),
        (Hello(extensions=("x", *_hello.EXTENSIONS)), True),
    ],
)
def test_extensions_are_used_if_both_know_all_of_them(peer, fits):
    assert Hello().fits(peer) is fits


def test_a_refusal_is_told_from_other_answers():
    assert _hello.refused(_hello.refusal("no")) == "no"


@pytest.mark.parametrize(
    "content", [None, "no", {}, {"refusal": "no"}, {"version": 1}, {"version": 1, "refusal": None}]
)
def test_what_is_no_refusal_refuses_nothing(content):
    assert _hello.refused(content) is None
    assert _hello.refused(CONTENT) is None


def test_a_refusal_is_no_welcome():
    assert Hello.read(_hello.refusal("no")) is None


def test_the_token_is_not_in_what_is_printed():
    assert "secret" not in repr(HELLO)


# --- peers with another codec ---------------------------------------------------------------------


def foreign_question(codec: type[JSON | MsgPack]) -> bytes:
    instance = make_codec(codec, [uuid_serializer])
    return instance.encode([0, 3, _hello.question(Hello().speaking(instance))])


def test_the_answer_to_a_foreign_hello_has_both_codecs_and_serializers():
    answer = _hello.foreign_answer(foreign_question(MsgPack), make_codec(JSON, [uuid_serializer]))

    assert answer is not None
    kind, message_id, content = MsgPack().decode(answer)
    assert (kind, message_id) == (1, 3)
    reason = _hello.refused(content)
    assert reason == "this end speaks json with ['UUID'], the request came in msgpack with ['UUID']"


def test_a_compatible_codec_of_a_user_is_not_taken_for_a_foreign_one():
    class Mine(JSON):
        pass

    assert _hello.foreign_answer(foreign_question(JSON), Mine()) is None


def test_an_object_in_a_foreign_request_does_no_harm():
    payload = JSON().encode([0, 3, {"__type__": [0, "x"]}])

    answer = _hello.foreign_answer(payload, MsgPack())

    assert answer is not None
    assert JSON().decode(answer)[:2] == [2, 3]


def test_a_compressed_message_that_swells_gets_no_answer():
    payload = MsgPackBlosc().encode([0, 3, "x" * 1_000_000])
    assert len(payload) < 65_536

    assert _hello.foreign_answer(payload, JSON()) is None
