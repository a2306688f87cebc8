"""Cookies: names have a class by a table, and what nobody classed, or is marketing, is blocked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.cookies import table
from privacy_ledger.domain.cookies import NAME_CHARS_MAX, CookieClass, CookieTable, decide
from privacy_ledger.domain.refusals import Refusal

EVERYTHING = frozenset(CookieClass)
NOTHING: frozenset[CookieClass] = frozenset()
TABLE = CookieTable(
    [
        ("sid", CookieClass.ESSENTIAL), ("_a*", CookieClass.PERFORMANCE), ("_ad*", CookieClass.MARKETING),
        ("_ad_theme", CookieClass.FUNCTIONALITY), ("m_*_x", CookieClass.PERFORMANCE),
        ("_b*", CookieClass.PERFORMANCE), ("*_b", CookieClass.MARKETING),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sid", CookieClass.ESSENTIAL),
        ("SID", None),
        ("sid2", None),
        ("_a", CookieClass.PERFORMANCE),
        ("_a1", CookieClass.PERFORMANCE),
        ("_ad1", CookieClass.MARKETING),
        ("_ad_theme", CookieClass.FUNCTIONALITY),
        ("_ad_theme2", CookieClass.MARKETING),
        ("m_token_x", CookieClass.PERFORMANCE),
        ("m_x", None),
        ("_b_b", CookieClass.MARKETING),
        ("", None),
        ("a b", None),
        ("_a=1", None),
        ("_aé", None),
        ("_a" + "b" * NAME_CHARS_MAX, None),
    ],
)
def test_a_name_has_the_class_that_says_most_of_it(name: str, kind: CookieClass | None) -> None:
    """A whole name before a pattern, a long pattern before a short one, and the stricter of two alike."""
    assert TABLE.class_of(name) is kind


@pytest.mark.parametrize("pattern", ["", "*", "**", "a*b*c*", "a b", "a;b"])
def test_a_pattern_that_means_nothing_is_no_row(pattern: str) -> None:
    """Nor one that stands twice."""
    with pytest.raises(ValueError, match="pattern"):
        CookieTable([(pattern, CookieClass.ESSENTIAL)])
    with pytest.raises(ValueError, match="once"):
        CookieTable([("a", CookieClass.ESSENTIAL), ("a", CookieClass.MARKETING)])


@pytest.mark.parametrize(
    ("name", "allowed", "reason"),
    [
        ("csrftoken", NOTHING, None),
        ("sessionid", NOTHING, None),
        ("edx-jwt-cookie-signature", NOTHING, None),
        ("MoodleSessionlms", NOTHING, None),
        ("_ga", NOTHING, Refusal.CONSENT_MISSING),
        ("_ga_A1B2C3", {CookieClass.PERFORMANCE}, None),
        ("_ga", {CookieClass.FUNCTIONALITY}, Refusal.CONSENT_MISSING),
        ("openedx-language-preference", NOTHING, Refusal.CONSENT_MISSING),
        ("openedx-language-preference", {CookieClass.FUNCTIONALITY}, None),
        ("_fbp", EVERYTHING, Refusal.COOKIE_FORBIDDEN),
        ("_gcl_au", EVERYTHING, Refusal.COOKIE_FORBIDDEN),
        ("nobody-classed-this", EVERYTHING, Refusal.COOKIE_UNKNOWN),
        ("", EVERYTHING, Refusal.COOKIE_UNKNOWN),
    ],
)
def test_the_packages_table_decides(
    name: str, allowed: frozenset[CookieClass], reason: Refusal | None
) -> None:
    """Essential ones need no choice, and no choice allows marketing."""
    decision = decide(name, table(), allowed=frozenset(allowed))
    assert (decision.reason, decision.is_allowed) == (reason, reason is None)


@pytest.mark.parametrize("word", ["track", "analyt", "stat", "ads", "pixel", "_ga", "visitor", "campaign"])
def test_nothing_that_tells_visitors_apart_is_essential(word: str) -> None:
    """A tracker cannot be slipped in by a pattern either."""
    for name in (word, f"_{word}", f"{word}_id", f"session_{word}"):
        assert table().class_of(name) is not CookieClass.ESSENTIAL


@pytest.mark.parametrize(
    "name",
    [
        "IDE", "MUID", "NID", "TDID", "UserMatchHistory", "__eoi", "__gads", "__gpi", "__hstc", "_fbc",
        "_fbp",
        "_gac_UA-1", "_gcl_au", "_gcl_aw", "_mkto_trk", "_opt_awcid", "_opt_awmid", "_pin_unauth", "_scid",
        "_ttp", "_uetsid", "_uetvid", "bcookie", "cto_bundle", "demdex", "fr", "hubspotutk", "li_sugr",
        "personalization_id", "test_cookie", "uuid2", "yabs-sid", "yabs-vdrf", "yandexuid",
    ],
)  # fmt: skip
def test_no_choice_allows_what_advertisers_set(name: str) -> None:
    """Also what their vendors call security or statistics."""
    assert decide(name, table(), allowed=EVERYTHING).reason is Refusal.COOKIE_FORBIDDEN


@pytest.mark.parametrize(
    "name",
    [
        "_clck",
        "_ga",
        "_ga_A1B2C3",
        "_gid",
        "_hjSessionUser_1",
        "_pk_id.1.1f",
        "_ym_uid",
        "mp_1_mixpanel",
        "s_vi",
    ],
)
def test_what_tells_visitors_apart_waits_for_a_choice(name: str) -> None:
    """Whatever else they allowed."""
    allowed = EVERYTHING - {CookieClass.PERFORMANCE}
    assert decide(name, table(), allowed=allowed).reason is Refusal.CONSENT_MISSING


def test_the_table_is_not_empty() -> None:
    """It has names of every class."""
    known = ("sessionid", "theme", "_gid", "IDE")
    assert {table().class_of(name) for name in known} == set(CookieClass)
    assert len(table()) > 300


@given(st.text(max_size=300), st.sets(st.sampled_from(CookieClass)))
def test_any_name_has_an_answer_and_unknown_means_no(name: str, allowed: set[CookieClass]) -> None:
    """It never raises."""
    decision = decide(name, table(), allowed=frozenset(allowed))
    assert decision.is_allowed == (
        decision.kind is CookieClass.ESSENTIAL
        or (decision.kind in allowed and decision.kind is not CookieClass.MARKETING)
    )
