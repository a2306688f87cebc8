# ruff: noqa: E501 - a table reads by its rows
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_ledger.adapters.formats.minimise import (
    course_in_path,
    course_key,
    device_of,
    is_action,
    is_code,
    plain_path,
    plain_target,
)

AT = datetime(2026, 3, 1, tzinfo=UTC)
COURSE = "course-v1:ExampleX+CS101+2026_T1"
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/", "/"),
        ("/dashboard", "/dashboard"),
        ("/dashboard?next=/u/ada&email=ada@example.com#top", "/dashboard"),
        (f"/courses/{COURSE}/info", f"/courses/{COURSE}/info"),
        ("/courses/course-v1%3AExampleX%2BCS101%2B2026_T1/info", f"/courses/{COURSE}/info"),
        ("/courses/ExampleX/6002/2026_T1/progress/", "/courses/ExampleX/6002/2026_T1/progress/"),
        (f"/courses/{COURSE}/progress/42/", f"/courses/{COURSE}/progress/:id/"),
        ("/courses/1234/users/14320", "/courses/:id/users/:id"),
        ("/courses/ExampleX/users/ada", "/courses/ExampleX/users/:id"),
        ("/u/ada", "/u/:id"),
        ("/user/ada/posts", "/user/:id/posts"),
        ("/api/user/v1/accounts/ada", "/api/user/:id/accounts/:id"),
        ("/~ada/notes", "/:id/notes"),
        ("/mail/ada@example.com", "/mail/:id"),
        ("/mail/ada%40example.com", "/mail/:id"),
        ("/order/12345", "/order/:id"),
        ("/order/A-12345-B", "/order/:id"),
        ("/order/7", "/order/:id"),
        ("/x/0b9e39477cf34507a7a48f74be381fdd", "/x/:id"),
        ("/x/2b1c9e70-1f55-4b0e-9b0a-0d8f5a1c2e3d/y", "/x/:id/y"),
        ("/x/" + "a" * 65, "/x/:id"),
        ("/héloïse/", "/:id/"),
        ("/search;jsessionid=abc", "/search"),
    ],
)
def test_a_path_loses_its_query_and_its_identifiers(path: str, plain: str) -> None:
    """What is not plainly the name of a page becomes `:id`; a course's key stays."""
    assert plain_path(path) == plain


def test_the_acting_person_is_struck_from_the_path() -> None:
    """A username that stands where no word announces it is replaced as well."""
    assert plain_path("/team/ada/list", names=("ada",)) == "/team/:id/list"


@pytest.mark.parametrize("path", ["/" + "/".join(["a"] * 70), "/" + "/".join(["w" * 60] * 20)])
def test_a_path_that_would_need_cutting_is_none(path: str) -> None:
    """Nothing is truncated in silence."""
    assert plain_path(path) is None


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com/a?user_id=7#x", "example.com/a"),
        ("HTTPS://ada:secret@Example.COM:8443/a", "example.com/a"),
        ("//example.com/a", "example.com/a"),
        ("/courses/x", "/courses/x"),
        ("http://203.0.113.7/a", ":id/a"),
        ("http://[2001:db8::1]/a", ":id/a"),
        ("https://example.com", "example.com"),
        ("https://example.com?email=ada@example.com", "example.com"),
        ("https://example.com\\@other.example/u/ada", "example.com/:id/u/:id"),
        ("mailto:ada@example.com", None),
        ("tel:+15550100", None),
        ("javascript:alert(1)", None),
        ("data:text/plain,ada", None),
        ("ada@example.com", None),
        ("", None),
    ],
)
def test_a_target_keeps_host_and_path_only(url: str, target: str | None) -> None:
    """Credentials, ports, addresses, queries and foreign schemes are not kept."""
    assert plain_target(url) == target


@pytest.mark.parametrize("key", [COURSE, "ExampleX/CS101/2026_T1", "ccx-v1:ExampleX+CS101+T1+ccx@3"])
def test_a_key_of_the_platform_is_a_course(key: str) -> None:
    """Three forms are in use."""
    assert course_key(key) == key


@pytest.mark.parametrize(
    "value",
    [
        None, 3, "", "course-v1:ExampleX+CS101", "ExampleX/CS101", "1234/users/14320", "a/b/c/d", f"{COURSE}\n",
        "course-v1:ExampleX+CS101+ada@example.com", "course-v1:a+b+" + "c" * 300, f" {COURSE}",
    ],
)  # fmt: skip
def test_anything_else_is_no_course(value: object) -> None:
    """A key is taken whole or not at all."""
    assert course_key(value) is None


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (f"/courses/{COURSE}/info", COURSE),
        (f"https://example.com/courses/{COURSE}?x=1", COURSE),
        ("/courses/course-v1%3AExampleX%2BCS101%2B2026_T1/", COURSE),
        ("https://example.com/courses/ExampleX/CS101/T1/about", "ExampleX/CS101/T1"),
        (f"/api/courses/v1/blocks/{COURSE}", COURSE),
        ("/api/courses/v1/blocks/x", None),
        ("/courses/ExampleX", None),
        (f"/search?course=/courses/{COURSE}/", None),
    ],
)
def test_a_course_is_read_from_its_pages(path: str, key: str | None) -> None:
    """Only the path counts, and the older form only at its start."""
    assert course_in_path(path) == key


@pytest.mark.parametrize(
    ("agent", "browser", "system", "device_class"),
    [
        (f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} Chrome/128.0.0.0 Safari/537.36", "Chrome", "Linux", "desktop"),
        (f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {WEBKIT} Chrome/128.0.0.0 Mobile Safari/537.36", "Chrome Mobile", "Android", "mobile"),
        (f"Mozilla/5.0 (Linux; Android 13; SM-X700) {WEBKIT} Chrome/128.0.0.0 Safari/537.36", "Chrome", "Android", "tablet"),
        ("Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1", "Mobile Safari", "iOS", "tablet"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot", None, "bot"),
        ("", None, None, "other"),
        ("ada@example.com", None, None, "other"),
        ("x" * 100_000, None, None, "other"),
    ],
)  # fmt: skip
def test_an_agent_becomes_families(
    agent: str, browser: str | None, system: str | None, device_class: str
) -> None:
    """Versions, models and the string itself are gone."""
    device = device_of(agent, occurred_at=AT)
    assert (device.browser, device.system, device.device_class) == (browser, system, device_class)


@pytest.mark.parametrize(
    "name", ["play_video", "edx.course.enrollment.activated", "edx.ui.lms.link_clicked", "seq_goto"]
)
def test_a_plain_word_is_an_action(name: str) -> None:
    """Names that platforms give their events are kept."""
    assert is_action(name)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "edx.ada@example.com", "edx.user.123456", "edx.0b9e39477cf34507", "a" * 256, "a..b", "a\n"],
)
def test_a_name_that_may_hold_an_identifier_is_no_action(name: str) -> None:
    """Digits, hex, addresses and over-long names do not pass."""
    assert not is_action(name)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_a_bound(text: str) -> None:
    """Whatever comes in, nothing raises and what comes out fits its field."""
    for plain in (plain_path(text), plain_target(text), plain_target(f"https://{text}")):
        assert plain is None or (len(plain) <= 512 and not {"?", "#", "@"} & set(plain))
    device = device_of(text, occurred_at=AT)
    assert len(device.browser or "") <= 64
    assert len(device.system or "") <= 64
    course_in_path(text)
    is_code(text)
