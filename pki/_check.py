"""Checks of certificates that exist: what is good, what needs renewal, what is broken, what to do.

Nothing here raises for what it finds.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from pki import _keys, _pem, _profile, _read
from pki._names import is_below, matches, parse_names, printable
from pki._values import Finding, Names, PkiError, Severity

GOOD, RENEW, BROKEN = Severity.GOOD, Severity.RENEW, Severity.BROKEN
WITHIN = dt.timedelta(days=30)


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the highest severity; GOOD if there are no findings."""
    return max((finding.severity for finding in findings), default=GOOD)


def check(
    certificate: bytes,
    ca: bytes,
    *,
    key: bytes | None = None,
    passphrase: str | None = None,
    hosts: Iterable[str] = (),
    crl: bytes | None = None,
    within: dt.timedelta = WITHIN,
    now: dt.datetime | None = None,
) -> tuple[Finding, ...]:
    """Check a device's certificate: chain, key, hosts, expiry, profile, revocation.

    Does not raise for what is wrong with what it is given: that is a finding.

    Parameters:
        ca: the CAs that it may be from (PEM, any number).
        key: its private key. As with hosts and crl, what is not given is not checked.
        hosts: DNS names and addresses by which it must be reachable.
        crl: revocation lists (PEM, any number).
        within: what expires in less time than this needs renewal.
    """
    now = now or dt.datetime.now(dt.UTC)
    try:
        cert = _pem.certificate(certificate)
        info = _read.info_of(cert)
    except PkiError as error:
        return (Finding(BROKEN, "chain", f"{error}. Issue another"),)
    if info.is_ca:
        text = f"certificate of {info.subject} is a CA's, not a device's: put the device's there"
        return (Finding(BROKEN, "profile", text),)
    findings = [*_chain(cert, ca, within, now), *_expiry(cert, "renew it", within, now)]
    if key is not None:
        findings.append(_key(cert, key, passphrase))
    findings += [_host(info.names, host) for host in hosts]
    findings += _conformity(cert, "renew it")
    if crl is not None:
        findings += _revocation(cert, ca, crl, within, now)
    return tuple(findings)


def check_ca(
    certificate: bytes,
    *,
    key: bytes | None = None,
    passphrase: str | None = None,
    crl: bytes | None = None,
    within: dt.timedelta = WITHIN,
    now: dt.datetime | None = None,
) -> tuple[Finding, ...]:
    """Check a CA: its signature, key, expiry, profile and revocation list.

    Does not raise for what is wrong with what it is given: that is a finding. An encrypted key
    without a passphrase is not compared.
    """
    now = now or dt.datetime.now(dt.UTC)
    try:
        cert = _pem.certificate(certificate, what="CA certificate")
        info = _read.info_of(cert)
    except PkiError as error:
        return (Finding(BROKEN, "chain", f"{error}. Take it from a backup"),)
    if not info.is_ca:
        text = f"certificate of {info.subject} is no CA's: put the CA's there"
        return (Finding(BROKEN, "profile", text),)
    findings = [_self_signature(cert), *_expiry(cert, "rotate the CA", within, now)]
    if key is not None:
        findings.append(_ca_key(cert, key, passphrase))
    findings += _conformity(cert, "rotate the CA")
    if crl is not None:
        findings += _crl(cert, crl, within, now)[1]
    return tuple(findings)


# --- chain ----------------------------------------------------------------------------------------


def _chain(
    cert: x509.Certificate, ca: bytes, within: dt.timedelta, now: dt.datetime
) -> Iterator[Finding]:
    try:
        issuer = find_issuer(cert, ca)
    except PkiError as error:
        yield Finding(BROKEN, "chain", str(error))
        return
    yield Finding(GOOD, "chain", f"issued by {_read.text_of(issuer.subject)}")
    for finding in (*_expiry(issuer, "rotate the CA", within, now), *_conformity(issuer, "rotate")):
        if finding.severity is not GOOD:
            yield Finding(finding.severity, "chain", f"its CA: {finding.text}")
    if cert.not_valid_after_utc > issuer.not_valid_after_utc:
        yield Finding(RENEW, "chain", "is valid for longer than its CA: renew it")
    for problem in violations(_read.names_of(cert), _read.common_name(cert.subject), issuer):
        yield Finding(BROKEN, "chain", f"{problem}. Issue one with other names")


def find_issuer(cert: x509.Certificate, ca: bytes) -> x509.Certificate:
    """Return which of the CAs (PEM) has signed a certificate.

    Raises:
        PkiError: none has, or they cannot be read.
    """
    named = [
        authority
        for authority in _pem.certificates(ca, what="CA certificate")
        if authority.subject == cert.issuer
    ]
    if not named:
        msg = (
            f"issued by {_read.text_of(cert.issuer)}, which is not among the CAs given: put its CA "
            "there, or issue one by a CA that is"
        )
        raise PkiError(msg)
    for authority in named:
        if _has_issued(authority, cert):
            return authority
    msg = (
        f"not signed by the {_read.text_of(cert.issuer)} that is given, which has the same name "
        "and another key, or is no CA: put the right CA there, or issue another"
    )
    raise PkiError(msg)


def _has_issued(authority: x509.Certificate, cert: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return _profile.is_ca(authority)


def _self_signature(cert: x509.Certificate) -> Finding:
    if _has_issued(cert, cert):
        return Finding(GOOD, "chain", f"root {_read.text_of(cert.subject)}")
    text = "is not signed by itself: it is no root, or it was changed. Take it from a backup"
    return Finding(BROKEN, "chain", text)


def violations(names: Names, common_name: str, ca: x509.Certificate) -> list[str]:
    """Return which names a CA's constraints do not permit."""
    constraints, _ = _profile.extension(ca, x509.NameConstraints)
    if constraints is None:
        return []
    permitted = list(constraints.permitted_subtrees or ())
    excluded = list(constraints.excluded_subtrees or ())
    found = [
        f"{name} is outside of what the CA is permitted to sign"
        for name in (*names.dns, *names.ips)
        if not _is_permitted(name, permitted, excluded)
    ]
    # OpenSSL takes a common name for a host's if there is no DNS name, and it looks like one.
    if not names.dns and "." in common_name and not _is_permitted(common_name, permitted, excluded):
        found.append(
            f"the name {printable(common_name)!r} is outside of what the CA is permitted to sign "
            "(where there is no DNS name, OpenSSL compares it, unless it has no dot)"
        )
    return found


def _is_permitted(
    name: str | ipaddress.IPv4Address | ipaddress.IPv6Address,
    permitted: list[x509.GeneralName],
    excluded: list[x509.GeneralName],
) -> bool:
    kind = x509.DNSName if isinstance(name, str) else x509.IPAddress
    allowed = [item.value for item in permitted if isinstance(item, kind)]
    denied = [item.value for item in excluded if isinstance(item, kind)]
    return (not allowed or any(_is_within(name, item) for item in allowed)) and not any(
        _is_within(name, item) for item in denied
    )


def _is_within(name: object, subtree: object) -> bool:
    if isinstance(name, str):
        return is_below(name.lower(), str(subtree).lower().removeprefix("."))
    return isinstance(subtree, ipaddress.IPv4Network | ipaddress.IPv6Network) and name in subtree


# --- the other topics -----------------------------------------------------------------------------


def _expiry(
    cert: x509.Certificate, remedy: str, within: dt.timedelta, now: dt.datetime
) -> Iterator[Finding]:
    first, last = cert.not_valid_before_utc, cert.not_valid_after_utc
    if now < first:
        text = f"not valid before {first:%Y-%m-%d %H:%M} UTC: check the clock of this machine"
        yield Finding(BROKEN, "expiry", text)
    elif now > last:
        yield Finding(BROKEN, "expiry", f"expired on {last:%Y-%m-%d %H:%M} UTC: {remedy}")
    elif last - now < within:
        text = f"expires on {last:%Y-%m-%d %H:%M} UTC, in {_span(last - now)}: {remedy}"
        yield Finding(RENEW, "expiry", text)
    else:
        yield Finding(GOOD, "expiry", f"valid until {last:%Y-%m-%d}, for {_span(last - now)}")


def _span(time: dt.timedelta) -> str:
    hours = int(time.total_seconds()) // 3600
    number, unit = (hours // 24, "day") if hours >= 48 else (hours, "hour")  # noqa: PLR2004
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _key(cert: x509.Certificate, key: bytes, passphrase: str | None) -> Finding:
    try:
        private = _keys.load(key, passphrase)
    except PkiError as error:
        return Finding(BROKEN, "key", str(error))
    if _keys.spki(private.public_key()) == _keys.spki(cert.public_key()):
        return Finding(GOOD, "key", "private key and certificate belong together")
    text = "private key and certificate do not belong together: put the right one of them there"
    return Finding(BROKEN, "key", text)


def _ca_key(cert: x509.Certificate, key: bytes, passphrase: str | None) -> Finding:
    try:
        if _keys.is_encrypted(key) and passphrase is None:
            return Finding(GOOD, "key", "private key is encrypted (not compared)")
    except PkiError as error:
        return Finding(BROKEN, "key", str(error))
    return _key(cert, key, passphrase)


def _host(names: Names, host: str) -> Finding:
    try:
        wanted = parse_names([host])
    except PkiError as error:
        return Finding(BROKEN, "host", str(error))
    if any(ip in names.ips for ip in wanted.ips) or any(
        matches(pattern.lower(), name) for name in wanted.dns for pattern in names.dns
    ):
        return Finding(GOOD, "host", f"is good for {host}")
    text = f"is not good for {printable(host)}, only for {names}: issue one with this name"
    return Finding(BROKEN, "host", text)


def _conformity(cert: x509.Certificate, remedy: str) -> Iterator[Finding]:
    found = _profile.deviations(cert)
    for severity, text in found:
        why = "; strict verifiers refuse it" if severity is BROKEN else ""
        yield Finding(severity, "profile", f"{text}{why}: {remedy}")
    if not found:
        yield Finding(GOOD, "profile", "follows the profile")


# --- revocation -----------------------------------------------------------------------------------


def _revocation(
    cert: x509.Certificate, ca: bytes, crl: bytes, within: dt.timedelta, now: dt.datetime
) -> Iterator[Finding]:
    try:
        issuer = find_issuer(cert, ca)
    except PkiError:
        return  # said under `chain`
    loaded, findings = _crl(issuer, crl, within, now)
    yield from findings
    if loaded is None:
        return
    entry = loaded.get_revoked_certificate_by_serial_number(cert.serial_number)
    if entry is None:
        yield Finding(GOOD, "revoked", "is not revoked")
        return
    when = entry.revocation_date_utc
    text = f"was revoked on {when:%Y-%m-%d %H:%M} UTC: issue another, with a new key"
    yield Finding(BROKEN, "revoked", text)


def _crl(
    ca: x509.Certificate, data: bytes, within: dt.timedelta, now: dt.datetime
) -> tuple[x509.CertificateRevocationList | None, list[Finding]]:
    """Return the newest revocation list that a CA has signed, and what there is to say of it."""
    try:
        named = [crl for crl in _read.load_crls(data) if crl.issuer == ca.subject]
        signed = [crl for crl in named if _read.has_signed(ca, crl)]
        infos = {_read.crl_info(crl).number: crl for crl in signed}
    except PkiError as error:
        return None, [Finding(BROKEN, "crl", f"{error}. Get it from the CA again")]
    if not infos:
        text = (
            "revocation list is not signed by the CA whose name it has: get it from the CA again"
            if named
            else f"there is no revocation list of {_read.text_of(ca.subject)}, and who checks one "
            "refuses all of its certificates: get it from the CA"
        )
        return None, [Finding(BROKEN, "crl", text)]
    number, crl = max(infos.items())
    return crl, [_freshness(number, _read.crl_info(crl).next_update, crl, within, now)]


def _freshness(
    number: int,
    last: dt.datetime,
    crl: x509.CertificateRevocationList,
    within: dt.timedelta,
    now: dt.datetime,
) -> Finding:
    remedy = "make a new one with `crl`, and distribute it"
    if now < crl.last_update_utc:
        text = f"revocation list {number} is from the future: check the clock of this machine"
        return Finding(BROKEN, "crl", text)
    if now > last:
        text = f"revocation list {number} is stale since {last:%Y-%m-%d %H:%M} UTC: {remedy}"
        return Finding(BROKEN, "crl", text)
    if last - now < within:
        text = f"revocation list {number} is stale in {_span(last - now)}: {remedy}"
        return Finding(RENEW, "crl", text)
    return Finding(GOOD, "crl", f"revocation list {number} is good until {last:%Y-%m-%d}")
