"""Which names are good, and their normal form: of CAs and devices, DNS, addresses, URIs.

Every name that goes into a certificate has passed here, whether a user typed it or a signing
request brought it.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable
from typing import NoReturn

from pki._values import IPAddress, IPNetwork, Names, PkiError

NAME_LIMIT = 64
"""Characters of a common name (RFC 5280, ub-common-name)."""
CA_NAME_LIMIT = 55
"""Characters of a CA's name: its common name has a blank and eight digits behind it."""

_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_URI = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
)
_FOLDED = str.maketrans(
    {"ß": "ss", "\N{GREEK SMALL LETTER FINAL SIGMA}": "\N{GREEK SMALL LETTER SIGMA}"}
)
"""Letters of their own in IDNA 2008, though they fold to others."""
_NOT_IN_LABELS = re.compile(
    "[\u034f\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"  # ignorable
    "\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb"  # parts of old Korean syllables
    "\u20d0-\u20f0\U0001d165-\U0001d244"  # marks of symbols and of music
    "\u0640\u07fa\u302e\u302f\u3031-\u3035\u303b]"  # exceptions
)
"""Letters and marks that IDNA 2008 does not allow all the same (RFC 5892, 2.6 to 2.9)."""
_TRUST_DOMAIN = re.compile("[a-z0-9._-]{1,255}")
_SPIFFE_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~%-]+)+")


# --- names of CAs and devices ---------------------------------------------------------------------


def check_name(name: str, *, limit: int = NAME_LIMIT, what: str = "name") -> str:
    """Return the name of a CA or a device, if it is good.

    It becomes the common name and part of the identity and, of a device, the name of a directory
    or file: 1 to 64 characters (a CA: 55), none of them a control character, path separator or
    wildcard; it neither starts with ``.`` or ``-`` nor has a blank at an end.

    Raises:
        PkiError: says what is wrong with it.
    """
    if problem := _problem_of(name, limit):
        msg = f"{what} {printable(name)!r} {problem}"
        raise PkiError(msg)
    return name


def _problem_of(name: str, limit: int) -> str | None:
    problems = {
        "is empty: give it a name": not name.strip(),
        f"has {len(name)} characters: {limit} fit into a certificate": len(name) > limit,
        "has control or invisible characters: leave them out": name != printable(name),
        "has letters in decomposed form: type it anew, or use ASCII": (
            name != unicodedata.normalize("NFC", name)
        ),
        "has a path separator: a name is one part of a path": "/" in name or "\\" in name,
        "has a wildcard: give a plain name, wildcards belong into DNS names": (
            "*" in name or "?" in name
        ),
        "starts with '.' or '-', or has a blank at an end: start with a letter or digit": (
            name.startswith((".", "-")) or name != name.strip()
        ),
    }
    return next((problem for problem, is_so in problems.items() if is_so), None)


def printable(text: str) -> str:
    """Return a text that does nothing to a terminal: control and invisible characters escaped."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char)[0] == "C" or unicodedata.category(char) in {"Zl", "Zp"}
        else char
        for char in text
    )


def trust_domain(ca_name: str) -> str:
    """Return what stands for a CA in identities: its name in the letters that SPIFFE knows.

    Raises:
        PkiError: nothing of the name is left.
    """
    domain = re.sub("[^a-z0-9._-]+", "-", ca_name.lower()).strip("-.")
    if not domain:
        msg = (
            f"name {printable(ca_name)!r} of the CA has neither a Latin letter nor a digit, and so "
            "no form in URIs: add some"
        )
        raise PkiError(msg)
    return domain


def identity(ca_name: str, name: str) -> str:
    """Return the identity of a device, ``spiffe://CA-NAME/NAME``.

    Of the CA's name, lower case letters, digits, dots, dashes and underscores stay, and what is
    between them becomes one dash. In the device's name, other characters are percent-encoded.

    Raises:
        PkiError: a name is bad.
    """
    check_name(ca_name, limit=CA_NAME_LIMIT, what="name of the CA")
    return f"spiffe://{trust_domain(ca_name)}/{urllib.parse.quote(check_name(name), safe='')}"


# --- subject alternative names --------------------------------------------------------------------


def parse_names(
    hosts: Iterable[str] = (),
    *,
    dns: Iterable[str] = (),
    ips: Iterable[str] = (),
    uris: Iterable[str] = (),
) -> Names:
    """Turn what a user typed into names; what is given twice counts once, the order stays.

    >>> str(parse_names(["Bücher.example.", "10.0.0.3"], uris=["spiffe://plant/shop"]))
    'DNS:xn--bcher-kva.example, IP:10.0.0.3, URI:spiffe://plant/shop'

    Parameters:
        hosts: DNS names and addresses, mixed.
        dns: DNS names. What is an address becomes one.

    Raises:
        PkiError: an empty name, a control character, a wildcard other than ``*.`` before at least
            two labels, an invalid international name, no address, no absolute URI, two URIs.
    """
    names: list[str] = []
    addresses: list[IPAddress] = []
    for text in (*hosts, *dns):
        address = _address_in(text)
        if address is None:
            names.append(_dns_name(text))
        else:
            addresses.append(address)
    addresses += [parse_ip(text) for text in ips]
    identities = tuple(dict.fromkeys(_uri(text) for text in uris))
    if len(identities) > 1:
        msg = f"{len(identities)} URIs ({', '.join(identities)}): a device has one identity"
        raise PkiError(msg)
    return Names(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(addresses)), identities)


def _address_in(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        msg = (
            f"IP address {printable(text)!r} has a zone, which means something on one machine "
            f"only: leave out '%{printable(address.scope_id)}'"
        )
        raise PkiError(msg)
    return address


def parse_ip(text: str) -> IPAddress:
    """Return an address.

    Raises:
        PkiError: it is none, or has a zone.
    """
    address = _address_in(text)
    if address is None:
        msg = f"IP address {printable(text)!r} is none: expected one like 10.0.0.3 or fd00::3"
        raise PkiError(msg)
    return address


def _dns_name(text: str) -> str:
    """Return the normal form of a DNS name: lower case A-labels, no dot at the end."""
    name = unicodedata.normalize("NFC", text).lower().removesuffix(".")
    if name.startswith("*."):
        # OpenSSL matches no wildcard with a single label behind it.
        if name.count(".") < 2:  # noqa: PLR2004
            _bad_dns(text, "has a wildcard for a whole domain: put at least two labels behind '*.'")
        return f"*.{_plain_dns_name(text, name[2:])}"
    return _plain_dns_name(text, name)


def _plain_dns_name(text: str, name: str) -> str:
    if not name:
        _bad_dns(text, "is empty")
    if "*" in name:
        _bad_dns(text, "has a wildcard that is not the whole first label, as in *.example.org")
    labels = [_label(text, label) for label in name.split(".")]
    result = ".".join(labels)
    if len(result) > 253:  # noqa: PLR2004
        _bad_dns(text, "is longer than the 253 characters of a DNS name")
    if labels[-1].isdigit():
        _bad_dns(text, "ends in a number, and is no IP address either")
    return result


def _label(text: str, label: str) -> str:
    if not label.isascii():
        if not _is_u_label(label):
            _bad_dns(text, f"has the label {printable(label)!r}, which is invalid in IDNA")
        label = f"xn--{label.encode('punycode').decode()}"
    elif label.startswith("xn--"):
        if not _is_a_label(label):
            _bad_dns(text, f"has the label {label!r}, which is invalid in IDNA")
    elif label[2:4] == "--":
        _bad_dns(text, f"has the label {label!r}: '--' in third place is reserved")
    if not _LABEL.fullmatch(label):
        _bad_dns(
            text,
            f"has the label {printable(label)!r}: a label has 1 to 63 letters, digits and dashes, "
            "no dash at an end (strict verifiers accept no underscore)",
        )
    return label


def _is_u_label(label: str) -> bool:
    """Whether these are letters, marks and digits that IDNA 2008 allows in a label (RFC 5892).

    Without the rules for single scripts, which matter to registries.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return (
        folded == label.translate(_FOLDED)
        and all(
            char == "-" or unicodedata.category(char) in {"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"}
            for char in label
        )
        and not _NOT_IN_LABELS.search(label)
        and unicodedata.category(label[0])[0] != "M"
        and not label.startswith("-")
        and not label.endswith("-")
        and label[2:4] != "--"
    )


def _is_a_label(label: str) -> bool:
    try:
        decoded = label.removeprefix("xn--").encode().decode("punycode")
        encoded = decoded.encode("punycode").decode()
    except ValueError:
        return False
    return not decoded.isascii() and f"xn--{encoded}" == label and _is_u_label(decoded)


def _bad_dns(text: str, problem: str) -> NoReturn:
    msg = f"DNS name {printable(text)!r} {problem}"
    raise PkiError(msg)


def _uri(text: str) -> str:
    match = _URI.fullmatch(text)
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        match = None
    if match is None or text.partition(":")[2].startswith("///"):
        msg = (
            f"URI {printable(text)!r} is no absolute one: expected something like "
            "'spiffe://plant/device-1', other characters than ASCII as %xx"
        )
        raise PkiError(msg)
    if parts.scheme == "spiffe" and not (
        text.startswith("spiffe://")
        and _TRUST_DOMAIN.fullmatch(parts.netloc)
        and _SPIFFE_PATH.fullmatch(parts.path)
        and text == f"spiffe://{parts.netloc}{parts.path}"
    ):
        msg = f"URI {text!r} is no SPIFFE identity: expected spiffe://ca-name/device-name"
        raise PkiError(msg)
    return text


# --- constraints ----------------------------------------------------------------------------------


def parse_dns_constraint(text: str) -> str:
    """Return a DNS name that, with all below it, is permitted.

    Raises:
        PkiError: it is no DNS name, or has a wildcard or a dot before it.
    """
    if text.startswith((".", "*")) or _address_in(text) is not None:
        msg = (
            f"DNS name {printable(text)!r} cannot be permitted: give a plain one like example.org, "
            "all names below it are permitted too"
        )
        raise PkiError(msg)
    return _dns_name(text)


def parse_ip_constraint(text: str) -> IPNetwork:
    """Return a network (or a single address as one) that is permitted.

    Raises:
        PkiError: it is none, or has bits of a host.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        msg = (
            f"IP network {printable(text)!r} cannot be permitted ({error}): "
            "expected one like 10.0.0.0/8 or fd00::/8, or an address"
        )
        raise PkiError(msg) from error


def is_below(name: str, domain: str) -> bool:
    """Whether a DNS name is a domain's or below it."""
    return f".{name}".endswith(f".{domain}")


def matches(pattern: str, name: str) -> bool:
    """Whether a DNS name of a certificate (maybe with a wildcard) is good for a host."""
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return pattern == name
