"""Names: what is good, its normal form, and what is refused with words that help."""

from __future__ import annotations

import ipaddress
import unicodedata

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.authority import Names, PkiError, check_name, identity, parse_names, parse_serial

# --- names of CAs and devices ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a", "device-1", "10.0.0.3", "fd00::3", "shop.plant.example", "My device", "Büro", "x" * 64],
)
def test_name_of_a_device_is_returned_as_it_is(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("x" * 65, "has 65 characters: 64 fit"),
        ("a\nb", "control"),
        ("a\x00", "control"),
        ("a\x1b[31m", "control"),
        ("a\u202eb", "control or invisible"),
        ("a\u200bb", "control or invisible"),
        ("a\u2028b", "control or invisible"),
        ("a\ud800", "control or invisible"),
        ("Bu\u0308ro", "decomposed"),
        ("a/b", "path separator"),
        ("..\\b", "path separator"),
        ("..", "starts with '.'"),
        (".", "starts with '.'"),
        (".hidden", "starts with '.'"),
        ("-x", "starts with"),
        (" a", "blank at an end"),
        ("a ", "blank at an end"),
        ("*", "wildcard"),
        ("*.plant.example", "wildcard"),
        ("a?", "wildcard"),
    ],
)
def test_bad_name_of_a_device_is_refused(name, problem):
    with pytest.raises(PkiError, match=problem) as caught:
        check_name(name)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("ca", "name", "uri"),
    [
        ("plant", "shop", "spiffe://plant/shop"),
        ("Plant One GmbH", "shop", "spiffe://plant-one-gmbh/shop"),
        ("plant.example", "shop.plant.example", "spiffe://plant.example/shop.plant.example"),
        ("plant", "fd00::3", "spiffe://plant/fd00%3A%3A3"),
        ("plant", "My device", "spiffe://plant/My%20device"),
        ("plant", "Büro", "spiffe://plant/B%C3%BCro"),
        ("Büro 1", "shop", "spiffe://b-ro-1/shop"),
    ],
)
def test_identity_is_made_of_the_names(ca, name, uri):
    assert identity(ca, name) == uri
    # It is one that is accepted, too.
    assert parse_names(uris=[uri]).uris == (uri,)


@pytest.mark.parametrize(("ca", "name"), [("", "a"), ("a", ""), ("a", "b/c"), ("电力", "a")])
def test_identity_of_bad_names_is_refused(ca, name):
    with pytest.raises(PkiError):
        identity(ca, name)


@given(st.text(max_size=70), st.text(max_size=70))
def test_identities_of_good_names_differ_as_the_names_do(one, other):
    try:
        ids = {identity("plant", one), identity("plant", other)}
    except PkiError:
        return
    assert len(ids) == len({one, other})
    assert all(uri.isascii() and uri.isprintable() and uri.count("/") == 3 for uri in ids)


# --- DNS names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("localhost", "localhost"),
        ("Shop.Plant.EXAMPLE", "shop.plant.example"),
        ("shop.plant.example.", "shop.plant.example"),
        ("*.plant.example", "*.plant.example"),
        ("1host.example", "1host.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        # Letters that IDNA 2003 would turn into others.
        ("straße.example", "xn--strae-oqa.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        (".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_dns_name_gets_its_normal_form(text, normal):
    assert parse_names([text]) == parse_names(dns=[text]) == Names(dns=(normal,))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (".", "is empty"),
        ("*.", "wildcard"),
        ("a..b", "label ''"),
        (".a", "label ''"),
        ("a\n.example", "label 'a.+n'"),
        ("a\x00.example", "label"),
        ("a\u202eb.example", "IDNA"),
        ("a/b", "label"),
        ("a b", "label"),
        ("my_host", "underscore"),
        ("-a", "label"),
        ("a-", "label"),
        ("ab--c.example", "reserved"),
        ("a" * 64, "label"),
        (".".join(["a" * 63] * 4), "253"),
        ("[::1]", "label"),
        ("10.0.0.300", "no IP address either"),
        ("10.0.0.0/8", "label"),
        ("plant.1", "no IP address either"),
        ("*", "wildcard"),
        ("*.example", "at least two labels"),
        ("**.plant.example", "wildcard"),
        ("a*.plant.example", "wildcard"),
        ("shop.*.example", "wildcard"),
        ("*.*.plant.example", "wildcard"),
        ("xn--.example", "IDNA"),
        ("xn--a.example", "IDNA"),
        ("xn--bcher-kv.example", "IDNA"),
        ("xn--a-ecp.ru", "IDNA"),
        ("♥.example", "IDNA"),
        ("\u0301a.example", "IDNA"),
        ("\uff41.example", "IDNA"),
        ("ü-.example", "IDNA"),
        ("-ü.example", "IDNA"),
        ("üü--ü.example", "IDNA"),
        ("ü" * 60 + ".example", "label"),
        ("\ud800.example", "IDNA"),
        ("https://plant.example", "label"),
        ("plant.example:5555", "label"),
        ("me@plant.example", "label"),
    ],
)
def test_bad_dns_name_is_refused(text, problem):
    with pytest.raises(PkiError, match=problem) as caught:
        parse_names([text])

    assert str(caught.value).isprintable()


def in_idna_2008(label: str) -> str | None:
    try:
        return idna.encode(label).decode()
    except (idna.InvalidCodepointContext, idna.IDNABidiError):
        raise  # rules for single scripts, which are for registries to check
    except idna.IDNAError:
        return None


def is_new(letter: str) -> bool:
    return unicodedata.category(letter) == "Cn"


def test_letters_are_those_of_idna_2008():
    differing = []
    for letter in map(chr, [*range(0x80, 0x3100), *range(0xD700, 0xD800), *range(0xF900, 0x10000)]):
        label = f"a{letter}a"
        # Upper case, and what is composed differently, is put right before. Some letters are newer
        # than this Python.
        if label != unicodedata.normalize("NFC", label).lower() or is_new(letter):
            continue
        try:
            found = parse_names([label]).dns[0]
        except PkiError:
            found = None
        try:
            if found != in_idna_2008(label):
                differing.append(hex(ord(letter)))
        except (idna.InvalidCodepointContext, idna.IDNABidiError):
            continue

    # Two that are letters by exception, and three dots that a browser would take for ours.
    assert differing == ["0xf0b", "0x3002", "0x3007", "0xff0e", "0xff61"]


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["10.0.0.3", "::1", "fd00::3", "FD00:0:0::3"])
def test_address_becomes_an_address_wherever_it_is_given(text):
    expected = Names(ips=(ipaddress.ip_address(text),))

    assert parse_names([text]) == parse_names(dns=[text]) == parse_names(ips=[text]) == expected


@pytest.mark.parametrize("text", ["", "shop", "10.0.0", "10.0.0.0/8", "010.0.0.1", "10.0.0.3\n"])
def test_bad_address_is_refused(text):
    with pytest.raises(PkiError, match="expected one like") as caught:
        parse_names(ips=[text])

    assert str(caught.value).isprintable()


def test_address_with_a_zone_is_refused():
    with pytest.raises(PkiError, match="leave out '%eth0'"):
        parse_names(["fe80::1%eth0"])


# --- URIs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://plant/shop",
        "spiffe://plant.example/floor-1/shop",
        "https://plant.example/shop?x=1#y",
        "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "tag:plant.example,2026:shop",
    ],
)
def test_absolute_uri_is_taken_as_it_is(uri):
    assert parse_names(uris=[uri]) == Names(uris=(uri,))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "shop",
        "//plant/shop",
        "/shop",
        "spiffe:",
        "https:///shop",
        "https://[::1",
        "https://plant/a b",
        "https://plant/a\n",
        "https://plant/bü",
        "https://plant/%zz",
        "https://plant/\x1b[31m",
    ],
)
def test_bad_uri_is_refused(uri):
    with pytest.raises(PkiError, match="no absolute one") as caught:
        parse_names(uris=[uri])

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe:plant",
        "spiffe://plant",
        "spiffe://plant/",
        "spiffe://plant/shop/",
        "spiffe://plant//shop",
        "spiffe://Plant/shop",
        "SPIFFE://plant/shop",
        "spiffe://plant:80/shop",
        "spiffe://me@plant/shop",
        "spiffe://plant/shop?x",
        "spiffe://plant/shop#",
        "spiffe://plant/../shop",
    ],
)
def test_bad_spiffe_identity_is_refused(uri):
    with pytest.raises(PkiError, match="no SPIFFE identity"):
        parse_names(uris=[uri])


def test_two_uris_are_refused():
    with pytest.raises(PkiError, match="a device has one identity"):
        parse_names(uris=["spiffe://plant/a", "spiffe://plant/b"])


# --- all of them ----------------------------------------------------------------------------------


def test_what_is_given_twice_counts_once_and_the_order_stays():
    names = parse_names(
        ["b", "10.0.0.3", "B."],
        dns=["a", "b", "10.0.0.3"],
        ips=["fd00:0::3", "fd00::3"],
        uris=["urn:x:y", "urn:x:y"],
    )

    assert str(names) == "DNS:b, DNS:a, IP:10.0.0.3, IP:fd00::3, URI:urn:x:y"
    assert names.as_dict() == {
        "dns": ["b", "a"],
        "ips": ["10.0.0.3", "fd00::3"],
        "uris": ["urn:x:y"],
    }


def test_nothing_gives_no_names():
    assert parse_names() == Names()
    assert str(Names()) == ""


@given(st.text(max_size=40))
def test_any_text_is_accepted_in_a_stable_form_or_refused(text):
    for kind in ("dns", "ips", "uris"):
        try:
            names = parse_names(**{kind: [text]})
        except PkiError:
            continue
        again = parse_names(dns=names.dns, ips=map(str, names.ips), uris=names.uris)
        assert again == names
        assert str(names).isascii()
        assert str(names).isprintable()


# --- serial numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a1b", "A1B", "0x0a1b", "0A:1B", "000a1b", " a1b\n"])
def test_serial_number_gets_its_normal_form(text):
    assert parse_serial(text) == "a1b"


@pytest.mark.parametrize(
    "text", ["", "0", "0x", "00:00", "shop", "-1", "+1", "1_0", "f" * 41, "\u0661"]
)
def test_bad_serial_number_is_refused(text):
    with pytest.raises(PkiError, match="expected 1 to 40 hexadecimal digits"):
        parse_serial(text)
