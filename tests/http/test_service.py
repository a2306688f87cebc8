"""The service in one process: an answer for each event, exact problems, and nothing said of anybody."""

import asyncio
import gzip
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import structlog

from privacy_ledger.adapters.api_keys import Keyring
from privacy_ledger.adapters.webhook_secrets import read_webhooks
from privacy_ledger.domain.errors import HomeUnusable
from privacy_ledger.domain.topics import LEDGER_EVENTS
from privacy_ledger.interfaces.http.batches import ITEMS_MAX
from privacy_ledger.interfaces.http.bodies import BODY_BYTES_MAX
from privacy_ledger.interfaces.http.problems import Kind
from privacy_ledger.logging import configure
from tests.cli.cli import NOW, Cli, encoded, enrolled, event, rows_of, viewed
from tests.http.stage import FORMATS, NDJSON, SECRET, array, outcomes, problem, staged, webhooks_in, zipped

CARD: Final = encoded(event("play_video", context={"user_id": 7}, event={"note": "4111 1111 1111 1111"}))
CANARY: Final = "canary-zq7-marker"
STRIPE: Final = f'[stripe]\nsecrets = ["{SECRET}"]\nsource = "payments"\n'
POSTMARK: Final = '[postmark]\nusername = "hook"\npassword = "made-up"\n'


def charged(number: int) -> bytes:
    """Return one charge of person 1."""
    thing = {
        "id": f"ch_Example{number}", "object": "charge", "amount": 4900, "captured": False, "paid": True,
        "currency": "eur", "created": int(NOW.timestamp()), "status": "succeeded",
        "metadata": {"ledger_subject": "openedx:user_id:1"},
    }  # fmt: skip
    return encoded(
        {
            "id": f"evt_{number}", "object": "event", "type": "charge.succeeded",
            "created": int(NOW.timestamp()), "data": {"object": thing},
        }
    )  # fmt: skip


def stripe_signed(body: bytes, *, secret: str = SECRET) -> dict[str, str]:
    """Return the header with which Stripe signs a body."""
    at = int(time.time())  # a signature is stale within minutes, and a suite lasts longer
    signature = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={signature}"}


# Events ----------------------------------------------------------------------------------------


async def test_each_event_has_its_outcome_in_the_order_of_the_request(cli: Cli) -> None:
    """Accepted, a copy, refused by the screen, by the policy, of nobody, and no event at all."""
    nobody = encoded(event("play_video", event={"id": "v", "currentTime": 1}, session="s" * 32))
    async with staged(cli) as stage:
        answer = await stage.events(enrolled(1), enrolled(1), CARD, viewed(1), nobody, b"[]", enrolled(2))

    said = ["accepted", "duplicate", "card_number", "consent_missing", "unattributed", "not_an_object"]
    assert outcomes(answer) == [*said, "accepted"]
    assert [one["item"] for one in answer.json()["results"]] == list(range(7))
    assert answer.json()["counts"] == {"accepted": 2, "duplicate": 1, "refused": 3, "unattributed": 1}


async def test_accepted_is_durable_before_it_is_said(cli: Cli) -> None:
    """Another reader of the log has the records as soon as there is an answer."""
    async with staged(cli) as stage:
        answer = await stage.events(*[enrolled(who) for who in range(1, 51)])
        async with cli.opened() as other:
            facts = [
                row
                for row in await rows_of(other, LEDGER_EVENTS)
                if b"course.enrolled" in str(row.headers).encode()
            ]

    assert outcomes(answer) == ["accepted"] * 50
    assert len(facts) == 50


@pytest.mark.parametrize("media", [NDJSON, "application/jsonl", "application/ndjson; charset=utf-8"])
async def test_lines_are_events_and_blank_ones_are_none(cli: Cli, media: str) -> None:
    """A line that is no JSON is refused in its place, and the rest is taken."""
    body = b"\n".join([enrolled(1), b"", b"no event", enrolled(2), b""])
    async with staged(cli) as stage:
        answer = await stage.post("/v1/events/openedx", body, media=media)

    assert outcomes(answer) == ["accepted", "not_json", "accepted"]


async def test_every_format_has_its_path_and_splits_as_its_lines_do(cli: Cli) -> None:
    """Statements of a store's answer, a report that is text, one event of the platform."""
    verb, thing = "http://adlnet.gov/expapi/verbs/registered", "https://lms.example.com/course/a"
    statement = {
        "actor": {"account": {"homePage": "https://lms.example.com", "name": "grace"}},
        "verb": {"id": verb}, "timestamp": NOW.isoformat(),
        "object": {"id": thing, "definition": {"type": "http://adlnet.gov/expapi/activities/course"}},
    }  # fmt: skip
    found = json.dumps({"statements": [statement, statement], "more": ""}).encode()
    async with staged(cli) as stage:
        statements = await stage.post("/v1/events/xapi", found)
        report = await stage.post("/v1/events/cmcd", b"bl=2100,br=3200", media="text/plain")
        single = await stage.post("/v1/events/openedx", enrolled(1))

    assert (outcomes(report), outcomes(single)) == (["time_missing"], ["accepted"])
    assert len(outcomes(statements)) == 2
    assert [one["item"] for one in statements.json()["results"]] == [0, 0]


async def test_a_cloudevent_is_one_event_in_every_mode(cli: Cli) -> None:
    """Structured, as header fields, and in a batch: by source and id it is taken once."""
    about = {"specversion": "1.0", "id": "1", "source": "/lms", "type": "privacy-ledger.openedx.event"}
    whole = encoded({**about, "datacontenttype": "application/json", "data": json.loads(enrolled(1))})
    fields = {f"ce-{name}": value for name, value in about.items()}
    async with staged(cli) as stage:
        structured = await stage.post("/v1/events", whole, media="application/cloudevents+json")
        binary = await stage.post("/v1/events", enrolled(1), headers=fields)
        batch = await stage.post(
            "/v1/events", array([whole, encoded(about)]), media="application/cloudevents-batch+json"
        )

    assert (outcomes(structured), outcomes(binary)) == (["accepted"], ["duplicate"])
    assert outcomes(batch) == ["duplicate", "null_value"]


async def test_the_format_comes_from_the_query_or_from_a_key_for_one(cli: Cli) -> None:
    """Otherwise nothing tells it."""
    async with staged(cli) as stage:
        _, only = stage.keys.create("one", formats=("openedx",))
        named = await stage.post("/v1/events?format=openedx", enrolled(1))
        implied = await stage.post("/v1/events", enrolled(2), key=only)
        unknown = await stage.post("/v1/events", enrolled(3))

    assert (outcomes(named), outcomes(implied)) == (["accepted"], ["accepted"])
    assert problem(unknown) == (400, "format-missing")


async def test_requests_that_wait_are_ingested_together_and_answered_apart(cli: Cli) -> None:
    """Each has its own answer, also of a source of its own."""
    async with staged(cli) as stage:
        _, other = stage.keys.create("other-lms", formats=("openedx",))
        asked = [stage.events(enrolled(who + 1), CARD, key=other if who % 2 else "") for who in range(20)]
        answers = await asyncio.gather(*asked)

    assert [outcomes(answer) for answer in answers] == [["accepted", "card_number"]] * 20


# Problems --------------------------------------------------------------------------------------


async def test_who_has_no_key_that_is_in_force_is_let_nowhere(cli: Cli) -> None:
    """Without one, with another's, with a secret that is none, after it was revoked."""
    async with staged(cli) as stage:
        key, token = stage.keys.create("brief", formats=("openedx",))
        before = await stage.events(enrolled(1), key=token)
        stage.keys.revoke(key.id)
        wrong = f"{token[:-1]}{'0' if token[-1] != '0' else '1'}"
        answers = [await stage.events(enrolled(1), key=one) for one in (None, token, wrong, "plk_x", CANARY)]

    assert outcomes(before) == ["accepted"]
    codes = [problem(answer) for answer in answers]
    assert codes == [(401, "key-missing"), *[(401, "key-invalid")] * 4]
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="privacy-ledger"'}


async def test_a_key_is_for_its_formats_and_types_and_registers_nobody_if_so_made(cli: Cli) -> None:
    """A format is refused as a request, a type as an event."""
    async with staged(cli) as stage:
        _, other = stage.keys.create("xapi-only", formats=("xapi",))
        _, videos = stage.keys.create("videos", formats=("openedx",), types=("video.played.v1",))
        _, guest = stage.keys.create("guest", formats=("openedx",), registers=False)
        refused = await stage.events(enrolled(1), key=other)
        typed = await stage.events(enrolled(1), key=videos)
        unknown = await stage.events(enrolled(1), key=guest)

    assert problem(refused) == (403, "out-of-scope")
    assert (outcomes(typed), outcomes(unknown)) == (["out_of_scope"], ["subject_unknown"])


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/events/none", (404, "not-found")),
        ("POST", f"/v1/{CANARY}", (404, "not-found")),
        ("POST", "/v1/webhooks/stripe", (404, "not-found")),
        ("GET", "/v1/events/openedx", (405, "method-not-allowed")),
        ("POST", "/openapi.json", (405, "method-not-allowed")),
    ],
)
async def test_paths_and_methods_are_exact(
    cli: Cli, method: str, path: str, expected: tuple[int, str]
) -> None:
    """A method that is not allowed comes with those that are."""
    async with staged(cli) as stage:
        headers = {"Authorization": f"Bearer {stage.key}", "Content-Type": "application/json"}
        answer = await stage.client.request(method, path, content=b"{}", headers=headers)

    assert problem(answer) == expected
    assert ("allow" in answer.headers) == (expected[0] == 405)


BODIES: Final[list[tuple[bytes, dict[str, Any], tuple[int, str]]]] = [
    (b"{", {}, (400, "body-invalid")),
    (b"\xff{}", {}, (400, "body-invalid")),
    (b"[" * 100_000, {}, (400, "body-invalid")),
    (b"3", {}, (422, "body-shape")),
    (b"{}", {"media": "text/csv"}, (415, "media-type")),
    (b"{}", {"media": None}, (415, "media-type")),
    (b"{}", {"headers": {"Content-Encoding": "br"}}, (415, "media-type")),
    (b"no gzip", {"headers": {"Content-Encoding": "gzip"}}, (400, "encoding-damaged")),
    (zipped(b"{}")[:-4], {"headers": {"Content-Encoding": "gzip"}}, (400, "encoding-damaged")),
    (zipped(bytes(BODY_BYTES_MAX + 1)), {"headers": {"Content-Encoding": "gzip"}}, (413, "body-too-large")),
    (b" " * (BODY_BYTES_MAX + 1), {}, (413, "body-too-large")),
    (array([b"{}"] * (ITEMS_MAX + 1)), {}, (413, "too-many-items")),
    (b"{}\n" * (ITEMS_MAX + 1), {"media": NDJSON}, (413, "too-many-items")),
    (b"{}", {"headers": {"Idempotency-Key": "k" * 256}}, (400, "header-invalid")),
]


@pytest.mark.parametrize(("body", "more", "expected"), BODIES, ids=range(len(BODIES)))
async def test_bodies_that_are_not_taken_are_told_exactly_why(
    cli: Cli, body: bytes, more: dict[str, Any], expected: tuple[int, str]
) -> None:
    """None of them leaves anything in the log."""
    async with staged(cli) as stage:
        answer = await stage.post("/v1/events/openedx", body, **more)

    assert problem(answer) == expected


async def test_a_thousand_events_and_gzip_are_taken(cli: Cli) -> None:
    """As many as a request may have."""
    body = gzip.compress(array([enrolled(1 + who % 50, number=who) for who in range(ITEMS_MAX)]))
    async with staged(cli) as stage:
        answer = await stage.post("/v1/events/openedx", body, headers={"Content-Encoding": "gzip"})

    assert answer.json()["counts"] == {"accepted": ITEMS_MAX}


# Limits ----------------------------------------------------------------------------------------


async def test_a_source_that_is_too_fast_is_told_when_to_come_again(cli: Cli) -> None:
    """By events, not by requests; another source is not held up."""
    async with staged(cli, rate=10) as stage:
        _, other = stage.keys.create("other-lms", formats=("openedx",))
        first = await stage.events(*[enrolled(1 + who % 9) for who in range(ITEMS_MAX - 5)])
        second = await stage.events(*[enrolled(1)] * 200)
        third = await stage.events(enrolled(1), key=other)

    assert (first.status_code, outcomes(third)) == (200, ["accepted"])
    assert problem(second) == (429, "rate-limited")
    assert 10 <= int(second.headers["retry-after"]) <= 20


async def test_a_full_queue_is_said_at_once_and_nothing_of_it_is_kept(cli: Cli) -> None:
    """What waits is answered later; what came too late may come again."""
    async with staged(cli, items_max=10, is_running=False) as stage:
        waiting = asyncio.create_task(stage.events(*[enrolled(who) for who in range(1, 9)]))
        await stage.queued(8)
        full = await stage.events(enrolled(8), enrolled(9), enrolled(10))
        stage.wired.intake.close()
        await stage.wired.intake.run()
        answer = await waiting
        late = await stage.events(enrolled(8))

    assert problem(full) == problem(late) == (503, "busy")
    assert int(full.headers["retry-after"]) >= 1
    assert outcomes(answer) == ["accepted"] * 8


async def test_the_same_idempotency_key_gives_the_same_answer(cli: Cli) -> None:
    """At once and later; another body under it is refused, and another source's key is another's."""
    async with staged(cli) as stage:
        _, other = stage.keys.create("other-lms", formats=("openedx",))
        headers = {"Idempotency-Key": "a-1"}
        asked = [stage.events(enrolled(1), headers=headers) for _ in range(3)]
        answers = [*await asyncio.gather(*asked), await stage.events(enrolled(1), headers=headers)]
        changed = await stage.events(enrolled(2), headers=headers)
        elsewhere = await stage.events(enrolled(2), headers=headers, key=other)
        without = await stage.events(enrolled(1))

    assert [outcomes(answer) for answer in answers] == [["accepted"]] * 4
    assert problem(changed) == (422, "idempotency-key-reused")
    assert (outcomes(elsewhere), outcomes(without)) == (["accepted"], ["duplicate"])


async def test_a_ledger_that_cannot_be_written_is_said_and_takes_up_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that ends ends for the senders, too; nothing was accepted meanwhile."""

    async def full(*_: object) -> None:
        raise HomeUnusable("No.")

    async with staged(cli) as stage:
        with monkeypatch.context() as patched:
            patched.setattr(stage.runtime.log, "append", full)
            failed = await stage.events(enrolled(1))
        is_well = stage.wired.intake.is_well
        again = await stage.events(enrolled(1))
        is_well_again = stage.wired.intake.is_well

    assert problem(failed) == (503, "unavailable")
    assert (is_well, outcomes(again), is_well_again) == (False, ["accepted"], True)


# Webhooks --------------------------------------------------------------------------------------


async def test_a_webhook_is_taken_by_its_signature_alone(used: Cli, tmp_path: Path) -> None:
    """No key is asked for; a wrong signature, a changed body and none at all are refused with the reason."""
    body = charged(1)
    async with staged(used, webhooks=webhooks_in(tmp_path, STRIPE)) as stage:
        path = "/v1/webhooks/stripe"
        taken = await stage.post(path, body, key=None, headers=stripe_signed(body))
        wrong = await stage.post(path, body, key=None, headers=stripe_signed(body, secret=CANARY))
        changed = await stage.post(path, charged(2), key=None, headers=stripe_signed(body))
        unsigned = await stage.post(path, body)

    assert outcomes(taken) == ["accepted"]
    assert [problem(one) for one in (wrong, changed, unsigned)] == [(401, "signature-refused")] * 3
    reasons = [one.json()["reason"] for one in (wrong, changed, unsigned)]
    assert reasons == ["signature_invalid", "signature_invalid", "signature_missing"]


async def test_postmark_is_believed_by_its_credentials(used: Cli, tmp_path: Path) -> None:
    """As the operator put them into the webhook's address."""
    body = json.dumps({"RecordType": "Open", "MessageID": "m-1", "Recipient": "ada@example.com"}).encode()
    async with staged(used, webhooks=webhooks_in(tmp_path, POSTMARK)) as stage:
        answers = [
            await stage.client.post(
                "/v1/webhooks/postmark", content=body, auth=("hook", password),
                headers={"Content-Type": "application/json"},
            )
            for password in ("made-up", "another")
        ]  # fmt: skip

    assert [answer.status_code for answer in answers] == [200, 401]


def test_secrets_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    """Nor a file that says something else; what it says is not repeated."""
    path = tmp_path / "open.toml"
    path.write_text(STRIPE)
    path.chmod(0o644)
    with pytest.raises(HomeUnusable, match="chmod 600"):
        read_webhooks(path)
    path.chmod(0o600)
    path.write_text(f'[stripe]\nsecret = "{CANARY}"\n')
    with pytest.raises(HomeUnusable) as caught:
        read_webhooks(path)
    assert CANARY not in str(caught.value)


# Keys ------------------------------------------------------------------------------------------


async def test_a_key_is_kept_as_a_hash_in_a_file_of_its_owner(cli: Cli) -> None:
    """What is sent is nowhere; one that others can read lets nobody in."""
    async with staged(cli) as stage:
        file = cli.home / "api-keys.json"
        kept, mode = file.read_text(), file.stat().st_mode & 0o777
        file.chmod(0o640)
        file.touch()
        answer = await stage.events(enrolled(1))

    assert (mode, stage.key.rpartition("_")[2] in kept) == (0o600, False)
    assert problem(answer) == (503, "unavailable")
    with pytest.raises(HomeUnusable, match="chmod 600"):
        Keyring(file)


# What is said ----------------------------------------------------------------------------------


@pytest.fixture
def logging_set_back() -> Iterator[None]:
    """Let a test set logging up; what it prints to is gone afterwards."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("logging_set_back")
async def test_nothing_of_a_request_is_in_any_answer_or_log(
    cli: Cli, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Body, header, query, path and key, through what is taken, refused, malformed and failing."""
    configure(level="DEBUG")
    caplog.set_level(logging.DEBUG)
    for client in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
    line = encoded(event("play_video", context={"user_id": 7}, event={"id": CANARY, "currentTime": 1}))
    unknown = encoded({"event_type": CANARY, "time": CANARY, CANARY: CANARY, "context": {"user_id": CANARY}})
    bodies = [line, unknown, array([line, unknown, CARD]), line[:-5], f'"{CANARY}"'.encode(), CANARY.encode()]
    async with staged(cli) as stage:
        answers: list[httpx.Response] = []
        for body in bodies:
            for media in ("application/json", NDJSON, f"text/{CANARY}"):
                answers += [
                    await stage.post(f"/v1/events/openedx?who={CANARY}", body, media=media),
                    await stage.post("/v1/events", body, media=media, headers={"ce-id": CANARY}),
                    await stage.post(f"/v1/events/{CANARY}", body, media=media),
                    await stage.post("/v1/events/openedx", body, media=media, key=CANARY),
                    await stage.post(
                        "/v1/events/openedx", body, media=media,
                        headers={"Idempotency-Key": CANARY, "Content-Encoding": CANARY},
                    ),
                ]  # fmt: skip
    said = [answer.text + str(answer.headers) for answer in answers]
    printed = capsys.readouterr()

    assert {answer.status_code for answer in answers} >= {200, 400, 401, 404, 415}
    assert [text for text in (*said, printed.out, printed.err, caplog.text) if CANARY in text] == []
    assert "events answered" in printed.err + printed.out


async def test_the_description_loads_nothing_and_names_every_path(cli: Cli) -> None:
    """The page has no script, no image and no address; its answers are those of the document."""
    async with staged(cli) as stage:
        document = (await stage.client.get("/openapi.json")).json()
        page = await stage.client.get("/docs")

    assert set(document["paths"]) == {"/v1/events", "/v1/events/{format}"}
    assert document["openapi"] == "3.1.0"
    assert "http" not in page.text.replace("http-equiv", "")
    assert all(f"<{tag}" not in page.text for tag in ("script", "img", "link", "iframe"))
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


async def test_no_request_that_can_be_made_up_is_a_fault_of_the_service(cli: Cli) -> None:
    """Paths, methods, fields, types and bodies at random: each answer is of the document, below 500."""
    rng = random.Random(20_264)
    good = [enrolled(1), array([enrolled(1), CARD]), b"[]", b"{}", zipped(enrolled(1)), b"\x1f\x8b"]
    medias = [
        "application/json", NDJSON, "text/plain", "application/cloudevents+json", "", ";", 'a/b;c="',
        "application/cloudevents-batch+json", "application/cloudevents-batch+xml", "APPLICATION/JSON",
    ]  # fmt: skip
    fields = ["ce-id", "ce-type", "ce-source", "ce-specversion", "idempotency-key", "content-encoding"]
    paths = [f"/v1/events/{name}" for name in (*FORMATS, "none", "%00", "%ff", "a%2fb")]
    paths += ["/v1/events", "/v1/events?format=xapi", "/v1/events?format=%ff", "/v1/webhooks/stripe", "/docs"]
    statuses: set[int] = set()
    async with staged(cli) as stage:
        for _ in range(400):
            body = bytearray(rng.choice(good))
            for _ in range(rng.randrange(4)):
                body.insert(rng.randrange(len(body) + 1), rng.randrange(256))
            headers = {
                name: rng.choice(["gzip", "1.0", "x", "%", "%ff", "/a", " "])
                for name in rng.sample(fields, 2)
            }
            if rng.random() < 0.5:
                headers = {}
            answer = await stage.post(
                rng.choice(paths), bytes(body), media=rng.choice(medias), headers=headers
            )
            statuses.add(answer.status_code)

    assert max(statuses) < 500
    assert statuses <= {200, *(kind.status for kind in Kind)}
