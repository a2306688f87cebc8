"""Privacy signals and cookie choices: one line of JSON is what one request said of one person's wishes.

    {"id": "s-1", "subject": "openedx:user_id:42", "occurred_at": "2026-03-02T09:00:00Z", "gpc": ["1"]}

`gpc` holds the values of the request's `Sec-GPC` fields, `gpp` a string of the Global Privacy Platform,
and `choice` what somebody chose at a banner or in a browser. A signal only restricts: of a string what it
opts out of or refuses is recorded, and what it allows is not. Only a choice under a named notice is a
consent, and only where nothing beside it may have refused. Nothing here registers anybody: the wish of a
named person whom nobody knows is refused, to be sent again, for it would wait for nobody. Pure, and total.
"""

import re
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from privacy_ledger.adapters.formats import cookies, gpc, gpp
from privacy_ledger.adapters.formats.gpp import Gpp
from privacy_ledger.adapters.formats.json_lines import decode_canonical
from privacy_ledger.adapters.formats.minimise import is_code
from privacy_ledger.adapters.formats.subjects import subject_identity
from privacy_ledger.adapters.formats.times import parse_time
from privacy_ledger.domain.cookies import CookieClass, decide
from privacy_ledger.domain.events import ConsentGranted, ConsentWithdrawn, CookieChoiceRecorded, Fact
from privacy_ledger.domain.refusals import Refusal
from privacy_ledger.domain.values import EPOCH
from privacy_ledger.ports.formats import Parsed, PersonFacts

__all__ = ["ANALYTICS", "COOKIES_MAX", "OptOut", "OptionalClass", "opt_outs_of", "parse", "refused_by_tcf"]

OptOut = Literal["sale", "sharing", "targeted_advertising"]
OptionalClass = Literal["functionality", "performance"]

ANALYTICS: Final = "improve.analyse"
"""The purpose that performance cookies serve (policy P8, P33)."""
COOKIES_MAX: Final = 200
_OPT_OUTS: Final[dict[str, OptOut]] = {
    "SaleOptOut": "sale",
    "SharingOptOut": "sharing",
    "TargetedAdvertisingOptOut": "targeted_advertising",
}
_OPTED_OUT: Final = 1
_ALL: Final[tuple[OptOut, ...]] = ("sale", "sharing", "targeted_advertising")
"""What Global Privacy Control asks: that nothing be sold or shared, nor used for ads across sites."""
_EU_SECTION: Final = 2
_STORE_ON_DEVICE: Final = 1
_MEASURE_CONTENT: Final = 8
"""Purposes of the EU's string: keep something on the device, and measure what people read."""
_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,255}")
_SESSION: Final = re.compile(r"[A-Za-z0-9_.:\-]{8,255}")


_FieldValues = Annotated[tuple[str, ...], Meta(max_length=gpc.VALUES_MAX)]


class _Choice(Struct, frozen=True, forbid_unknown_fields=True):
    """What was chosen; a class that is not named stays as it was. `cookies`: the names that wait for it."""

    source: Literal["banner", "browser"]
    performance: bool | None = None
    functionality: bool | None = None
    notice: str | None = None
    cookies: Annotated[tuple[str, ...], Meta(max_length=COOKIES_MAX)] = ()


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    occurred_at: str | None = None
    id: str | None = None
    subject: str | None = None
    session: str | None = None
    gpc: str | _FieldValues = ()
    gpp: str | None = None
    choice: _Choice | None = None


def parse(line: bytes) -> Parsed | Refusal:
    """Return the choices that one line records, or the first refusal that applies; never raises.

    A malformed string is `SIGNAL_INVALID`, unless another part of the line restricts: an opt-out is not
    lost to what stands beside it. It never stands beside a consent: what cannot be read may refuse. A line
    that neither restricts nor chooses is `UNKNOWN_EVENT`.
    """
    decoded = decode_canonical(line)
    if type(decoded) is Refusal:
        return decoded
    root, canonical = decoded
    try:
        said = msgspec.convert(root, _Line)
    except msgspec.ValidationError:
        return Refusal.SCHEMA_MISMATCH
    occurred_at = parse_time(said.occurred_at)
    at = EPOCH if type(occurred_at) is Refusal else occurred_at
    string = Gpp((), {}, ()) if said.gpp is None else gpp.decode(said.gpp)
    records = _records(said, string, at=at)
    if not records or (type(string) is Refusal and not any(map(_restricts, records))):
        return string if type(string) is Refusal else Refusal.UNKNOWN_EVENT
    may_grant = type(string) is not Refusal and _EU_SECTION not in string.unread
    consents = _consents(said, records, at=at, may_grant=may_grant)
    if type(consents) is Refusal:
        return consents
    if type(occurred_at) is Refusal:
        return occurred_at
    return _parsed(said, records, consents, at=at, canonical=canonical)


def opt_outs_of(section: gpp.Fields) -> frozenset[OptOut]:
    """Return what a US section opts out of; absent, "not applicable" and "did not" are none."""
    if section.get("Gpc") is True:
        return frozenset(_ALL)
    found = {name for field, name in _OPT_OUTS.items() if section.get(field) == _OPTED_OUT}
    return frozenset(found | ({"sale"} if section.get("OptOutSale") == "Y" else set()))


def refused_by_tcf(section: gpp.Fields) -> frozenset[OptionalClass]:
    """Return the classes of cookies that the EU's string gives no consent to.

    Keeping anything on a device needs purpose 1, unless the publisher's country asks otherwise for it;
    measuring what people read needs purpose 8, too.
    """
    given = section["PurposeConsents"]
    consents = given if isinstance(given, tuple) else ()
    if _STORE_ON_DEVICE not in consents and section.get("PurposeOneTreatment") is not True:
        return frozenset(("functionality", "performance"))
    return frozenset(("performance",)) if _MEASURE_CONTENT not in consents else frozenset()


def _records(said: _Line, string: Gpp | Refusal, *, at: datetime) -> tuple[CookieChoiceRecorded, ...]:
    """Return one record for each part of the line that says something."""
    found: list[CookieChoiceRecorded] = []
    if said.choice is not None and (said.choice.performance, said.choice.functionality) != (None, None):
        found.append(_chosen(said.choice, at=at))
    if gpc.is_on((said.gpc,) if isinstance(said.gpc, str) else said.gpc):
        found.append(CookieChoiceRecorded(occurred_at=at, source="gpc", opted_out=_ALL))
    if type(string) is not Refusal:
        found += _of_string(string, at=at)
    return tuple(found)


def _restricts(record: CookieChoiceRecorded) -> bool:
    return bool(record.refused or record.opted_out)


def _chosen(choice: _Choice, *, at: datetime) -> CookieChoiceRecorded:
    """Return the record of a choice, with how many of the cookies that wait for it may be set."""
    named: tuple[tuple[OptionalClass, bool | None], ...] = (
        ("functionality", choice.functionality), ("performance", choice.performance),
    )  # fmt: skip
    allowed = tuple([name for name, wish in named if wish is True])
    classes = frozenset(map(CookieClass, allowed))
    may_be_set = sum(decide(name, cookies.table(), allowed=classes).is_allowed for name in choice.cookies)
    return CookieChoiceRecorded(
        occurred_at=at,
        source=choice.source,
        allowed=allowed,
        refused=tuple([name for name, wish in named if wish is False]),
        cookies_allowed=may_be_set,
        cookies_blocked=len(choice.cookies) - may_be_set,
    )


def _of_string(string: Gpp, *, at: datetime) -> list[CookieChoiceRecorded]:
    """Return what a string restricts; of several sections each counts."""
    found: list[CookieChoiceRecorded] = []
    outs: set[OptOut] = set()
    for name, section in string.sections.items():
        if name != "tcfeuv2":
            outs |= opt_outs_of(section)
        elif refused := refused_by_tcf(section):
            found.append(CookieChoiceRecorded(occurred_at=at, source="tcf", refused=tuple(sorted(refused))))
    if outs:
        found.append(CookieChoiceRecorded(occurred_at=at, source="gpp", opted_out=tuple(sorted(outs))))
    return found


def _consents(
    said: _Line, records: tuple[CookieChoiceRecorded, ...], *, at: datetime, may_grant: bool
) -> tuple[Fact, ...] | Refusal:
    """Return what the records change of the consent to analytics; a refusal goes before a grant."""
    if any("performance" in record.refused for record in records):
        return (ConsentWithdrawn(occurred_at=at, purpose=ANALYTICS),)
    if not any("performance" in record.allowed for record in records):
        return ()
    notice = None if said.choice is None else said.choice.notice
    if notice is None or not is_code(notice) or "@" in notice:
        return Refusal.SCHEMA_MISMATCH  # nobody consents to what they were not told (GDPR Art. 7)
    if not may_grant:
        return ()
    return (ConsentGranted(occurred_at=at, purpose=ANALYTICS, notice=notice),)


def _parsed(
    said: _Line,
    records: tuple[CookieChoiceRecorded, ...],
    consents: tuple[Fact, ...],
    *,
    at: datetime,
    canonical: bytes,
) -> Parsed | Refusal:
    """Return the facts of whom the line names, or of the session that it names instead."""
    is_id = said.id is None or _ID.fullmatch(said.id) is not None
    is_session = said.session is None or _SESSION.fullmatch(said.session) is not None
    identity = None if said.subject is None else subject_identity(said.subject)
    if not is_id or not is_session or type(identity) is Refusal:
        return Refusal.ID_INVALID
    session = said.session if identity is None else None
    facts: tuple[Fact, ...] = (*records, *consents)
    nobodys: tuple[Fact, ...] = records if identity is None else ()
    return Parsed(
        people=() if identity is None else (PersonFacts(identities=(identity,), facts=facts),),
        unattributed=nobodys if session is None else facts,
        device=None,
        occurred_at=at,
        source_event_id=said.id,
        anonymous=None if session is None else f"session:{session}",
        digest_input=canonical,
        may_register=False,
    )
