"""The collection events: what platform services tell about a learner, as facts.

Names and mapping follow the policy's clauses P3-P10 and P35; a released version never changes.
"""

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from privacy_ledger.domain.events.base import Code, CourseKey, Fact, Text, label
from privacy_ledger.domain.values import Category, Provenance, UtcTime

__all__ = [
    "AccountClosed",
    "AccountLoggedIn",
    "AccountRegistered",
    "AccountUpdated",
    "CertificateIssued",
    "ConsentGranted",
    "ConsentWithdrawn",
    "CookieChoiceRecorded",
    "CourseCompleted",
    "CourseEnrolled",
    "CourseGraded",
    "CoursePostCreated",
    "CourseQuizAnswered",
    "CourseUnenrolled",
    "DeviceObserved",
    "EmailClicked",
    "EmailDeliveryReported",
    "EmailOpened",
    "EmailSuppressionChanged",
    "LocationDerived",
    "ObjectionRaised",
    "PaymentConfirmed",
    "ProfileFieldCleared",
    "ProfileFieldSet",
    "RegionDerived",
    "RevealRecorded",
    "StudyResponseRecorded",
    "UsageLinkClicked",
    "UsageOther",
    "UsagePageViewed",
    "VideoCaptionsToggled",
    "VideoCompleted",
    "VideoLoaded",
    "VideoPaused",
    "VideoPlayed",
    "VideoQoeReported",
    "VideoSeeked",
    "VideoSpeedChanged",
]

PROGRAMME: Final = r"^(study|beta)\.[a-z0-9][a-z0-9-]*$"
"""The purposes of studies and of beta features, each with a consent and keys of its own."""
Name = Annotated[str, Meta(max_length=255, extra_json_schema=label("contact.name"))]
Email = Annotated[str, Meta(max_length=320, extra_json_schema=label("contact.email"))]
Username = Annotated[str, Meta(max_length=255, extra_json_schema=label("account.username"))]
Score = Annotated[float, Meta(ge=0, extra_json_schema=label("coursework.score"))]
Millis = Annotated[int, Meta(ge=0, le=10**10)]


class _Account(Fact, frozen=True, kw_only=True):
    category: ClassVar[Category] = Category.ACCOUNT
    provenance: ClassVar[Provenance] = Provenance.PROVIDED
    occurred_at: UtcTime


class AccountRegistered(_Account, frozen=True, kw_only=True, tag="account.registered.v1"):
    """The data subject opened an account."""

    username: Username | None = None
    name: Name | None = None
    email: Email | None = None


class AccountUpdated(_Account, frozen=True, kw_only=True, tag="account.updated.v1"):
    """Account details were changed; a field that is absent kept its value."""

    username: Username | None = None
    name: Name | None = None
    email: Email | None = None


class AccountLoggedIn(_Account, frozen=True, kw_only=True, tag="account.logged_in.v1"):
    """The data subject logged in."""

    category: ClassVar[Category] = Category.ACCOUNT
    provenance: ClassVar[Provenance] = Provenance.OBSERVED


class AccountClosed(_Account, frozen=True, kw_only=True, tag="account.closed.v1"):
    """The account was closed; erasure follows after thirty days (policy P3)."""


class _Profile(Fact, frozen=True, kw_only=True):
    category: ClassVar[Category] = Category.PROFILE
    provenance: ClassVar[Provenance] = Provenance.PROVIDED
    occurred_at: UtcTime


class ProfileFieldSet(_Profile, frozen=True, kw_only=True, tag="profile.field_set.v1"):
    """The data subject gave one optional profile field a value (policy P4)."""

    field: Code
    value: Annotated[str, Meta(max_length=4096, extra_json_schema=label("profile.value"))]


class ProfileFieldCleared(_Profile, frozen=True, kw_only=True, tag="profile.field_cleared.v1"):
    """The data subject cleared one optional profile field (policy P4)."""

    field: Code


class _Coursework(Fact, frozen=True, kw_only=True):
    category: ClassVar[Category] = Category.COURSEWORK
    provenance: ClassVar[Provenance] = Provenance.OBSERVED
    occurred_at: UtcTime
    course: CourseKey


class CourseEnrolled(_Coursework, frozen=True, kw_only=True, tag="course.enrolled.v1"):
    """The data subject enrolled in a course."""

    mode: Code | None = None


class CourseUnenrolled(_Coursework, frozen=True, kw_only=True, tag="course.unenrolled.v1"):
    """The data subject left a course."""


class CourseQuizAnswered(_Coursework, frozen=True, kw_only=True, tag="course.quiz_answered.v1"):
    """The data subject answered a problem; answers are their own words (policy P6)."""

    problem: Code
    answers: Annotated[
        tuple[tuple[Code, Text], ...], Meta(max_length=200, extra_json_schema=label("coursework.answers"))
    ] = ()
    is_correct: bool | None = None
    score: Score | None = None
    score_max: Score | None = None
    attempt: Annotated[int, Meta(ge=0)] | None = None


class CoursePostCreated(_Coursework, frozen=True, kw_only=True, tag="course.post_created.v1"):
    """The data subject wrote in a discussion."""

    category: ClassVar[Category] = Category.COURSEWORK
    provenance: ClassVar[Provenance] = Provenance.PROVIDED
    kind: Literal["thread", "response", "comment"]
    title: Annotated[str, Meta(max_length=4096, extra_json_schema=label("coursework.post"))] | None = None
    body: Annotated[str, Meta(max_length=65536, extra_json_schema=label("coursework.post"))] | None = None


class CourseGraded(_Coursework, frozen=True, kw_only=True, tag="course.graded.v1"):
    """The data subject's grade in a course was computed."""

    score: Score | None = None
    letter: Code | None = None
    has_passed: bool | None = None


class CourseCompleted(_Coursework, frozen=True, kw_only=True, tag="course.completed.v1"):
    """The data subject completed a course; outlives the events that led to it."""


class CertificateIssued(_Coursework, frozen=True, kw_only=True, tag="certificate.issued.v1"):
    """A certificate was issued; outlives the events that led to it."""

    certificate: Code | None = None


class _Video(Fact, frozen=True, kw_only=True):
    category: ClassVar[Category] = Category.PATTERNS
    provenance: ClassVar[Provenance] = Provenance.OBSERVED
    occurred_at: UtcTime
    course: CourseKey | None = None
    video: Code


class VideoLoaded(_Video, frozen=True, kw_only=True, tag="video.loaded.v1"):
    """A video was loaded and can be played."""


class VideoPlayed(_Video, frozen=True, kw_only=True, tag="video.played.v1"):
    """A video was started or resumed."""

    position_ms: Millis | None = None


class VideoPaused(_Video, frozen=True, kw_only=True, tag="video.paused.v1"):
    """A video was paused."""

    position_ms: Millis | None = None


class VideoSeeked(_Video, frozen=True, kw_only=True, tag="video.seeked.v1"):
    """The player jumped from one position to another."""

    from_ms: Millis | None = None
    to_ms: Millis | None = None


class VideoCompleted(_Video, frozen=True, kw_only=True, tag="video.completed.v1"):
    """A video was played to its end or stopped there."""

    position_ms: Millis | None = None


class VideoSpeedChanged(_Video, frozen=True, kw_only=True, tag="video.speed_changed.v1"):
    """The playback speed was changed."""

    speed: Code | None = None


class VideoCaptionsToggled(_Video, frozen=True, kw_only=True, tag="video.captions_toggled.v1"):
    """Captions or the transcript were shown or hidden."""

    is_shown: bool


class VideoQoeReported(Fact, frozen=True, kw_only=True, tag="video.qoe_reported.v1"):
    """A player said how well a playback went, and nothing of who watched (policy P22; CTA-5004).

    Throughput and lengths are rounded to hundreds. Of several kinds of objects the highest rate and the
    shortest buffer count. `is_startup`: the player waited for its first content, or to go on.
    """

    category: ClassVar[Category] = Category.USAGE
    provenance: ClassVar[Provenance] = Provenance.OBSERVED
    occurred_at: UtcTime
    video: Code | None = None
    bitrate_kbps: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    throughput_kbps: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    buffer_ms: Millis | None = None
    starved_ms: Millis | None = None
    start_delay_ms: Millis | None = None
    dropped_frames: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    is_starved: bool | None = None
    is_startup: bool | None = None
    state: (
        Literal[
            "ended", "failed", "paused", "playing", "preloading", "quit", "rebuffering", "seeking",
            "starting", "waiting",
        ]
        | None
    ) = None  # fmt: skip
    stream: Literal["live", "recorded"] | None = None


class _Usage(Fact, frozen=True, kw_only=True):
    category: ClassVar[Category] = Category.USAGE
    provenance: ClassVar[Provenance] = Provenance.OBSERVED
    occurred_at: UtcTime


class UsagePageViewed(_Usage, frozen=True, kw_only=True, tag="usage.page_viewed.v1"):
    """A page was viewed; the path has no query and no identifier."""

    course: CourseKey | None = None
    path: Annotated[str, Meta(max_length=512, extra_json_schema=label("usage.path"))] | None = None


class UsageLinkClicked(_Usage, frozen=True, kw_only=True, tag="usage.link_clicked.v1"):
    """A link was followed; only the host and path of its target are kept."""

    course: CourseKey | None = None
    target: Annotated[str, Meta(max_length=512, extra_json_schema=label("usage.path"))] | None = None


class UsageOther(_Usage, frozen=True, kw_only=True, tag="usage.other.v1"):
    """Something else was done in a course; `action` is the producer's word for it."""

    course: CourseKey | None = None
    action: Code


class DeviceObserved(Fact, frozen=True, kw_only=True, tag="device.observed.v1"):
    """Families of browser, system and device; the raw user agent is never kept (policy P7)."""

    category: ClassVar[Category] = Category.DEVICE
    provenance: ClassVar[Provenance] = Provenance.DERIVED
    occurred_at: UtcTime
    browser: Annotated[str, Meta(max_length=64, extra_json_schema=label("device.browser"))] | None = None
    system: Annotated[str, Meta(max_length=64, extra_json_schema=label("device.system"))] | None = None
    device_class: Literal["desktop", "mobile", "tablet", "bot", "other"] = "other"


class LocationDerived(Fact, frozen=True, kw_only=True, tag="location.derived.v1"):
    """The country that an address points to; nothing finer is kept (policy P9)."""

    category: ClassVar[Category] = Category.LOCATION
    provenance: ClassVar[Provenance] = Provenance.DERIVED
    occurred_at: UtcTime
    country: Annotated[str, Meta(pattern="^[A-Z]{2}$", extra_json_schema=label("location.country"))]


class RegionDerived(Fact, frozen=True, kw_only=True, tag="location.derived.v2"):
    """The country that an address points to, and its region (ISO 3166-2); nothing finer (policy P9, P44)."""

    category: ClassVar[Category] = Category.LOCATION
    provenance: ClassVar[Provenance] = Provenance.DERIVED
    occurred_at: UtcTime
    country: Annotated[str, Meta(pattern="^[A-Z]{2}$", extra_json_schema=label("location.country"))]
    region: (
        Annotated[str, Meta(pattern="^[A-Z]{2}-[A-Z0-9]{1,3}$", extra_json_schema=label("location.region"))]
        | None
    ) = None


class StudyResponseRecorded(Fact, frozen=True, kw_only=True, tag="study.response_recorded.v1"):
    """The data subject took part in a study, or in the test of a beta feature (policy P45, P46).

    `programme` is the purpose that they consented to; what it collects serves nothing else.
    """

    category: ClassVar[Category] = Category.COURSEWORK
    provenance: ClassVar[Provenance] = Provenance.PROVIDED
    occurred_at: UtcTime
    programme: Annotated[str, Meta(pattern=PROGRAMME, max_length=80)]
    item: Code
    response: Annotated[Text, Meta(extra_json_schema=label("study.response"))] | None = None


class PaymentConfirmed(Fact, frozen=True, kw_only=True, tag="payment.confirmed.v1"):
    """A payment processor confirmed a payment; card numbers are never complete (policy P5, P21).

    `reference` is the processor's own, with no run of digits that could be a card number;
    `amount_minor` counts the currency's smallest unit; of the card at most brand and last four digits.
    """

    category: ClassVar[Category] = Category.BILLING
    provenance: ClassVar[Provenance] = Provenance.PROVIDED
    occurred_at: UtcTime
    reference: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z]{1,12}_(?!.*[0-9]{12})[A-Za-z0-9]{4,64}$",
            extra_json_schema=label("payment.reference"),
        ),
    ]
    amount_minor: Annotated[int, Meta(ge=0, le=10**12, extra_json_schema=label("payment.amount"))]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$", extra_json_schema=label("payment.currency"))]
    brand: Annotated[str, Meta(pattern="^[a-z]{2,16}$", extra_json_schema=label("payment.card"))] | None = (
        None
    )
    last_four: Annotated[str, Meta(pattern="^[0-9]{4}$", extra_json_schema=label("payment.card"))] | None = (
        None
    )
    country: Annotated[str, Meta(pattern="^[A-Z]{2}$", extra_json_schema=label("payment.country"))] | None = (
        None
    )


class _Email(Fact, frozen=True, kw_only=True):
    category: ClassVar[Category] = Category.COMMUNICATION
    provenance: ClassVar[Provenance] = Provenance.OBSERVED
    occurred_at: UtcTime


class EmailDeliveryReported(_Email, frozen=True, kw_only=True, tag="email.delivery_reported.v1"):
    """An e-mail provider said what became of one message; its words and addresses are dropped (P23).

    `message` is the provider's id of it. `reason` says why it was not delivered, or not even sent.
    """

    message: Code | None = None
    outcome: Literal["processed", "deferred", "delivered", "bounced", "dropped"]
    reason: Literal["bounced", "complained", "content", "invalid", "other", "unsubscribed"] | None = None
    is_permanent: bool | None = None


class EmailOpened(_Email, frozen=True, kw_only=True, tag="email.opened.v1"):
    """A message was opened (policy P23); `is_automatic`: a program fetched its images, not the person."""

    message: Code | None = None
    is_automatic: bool = False


class EmailClicked(_Email, frozen=True, kw_only=True, tag="email.clicked.v1"):
    """A link in a message was followed; only the host and path of its target are kept (policy P23)."""

    message: Code | None = None
    target: Annotated[str, Meta(max_length=512, extra_json_schema=label("usage.path"))] | None = None


class EmailSuppressionChanged(_Email, frozen=True, kw_only=True, tag="email.suppression_changed.v1"):
    """An e-mail provider began to send the data subject nothing more, or ended that (policy P14, P38).

    The end of a suppression is no consent: consent is given to the platform (GDPR Art. 7).
    """

    is_suppressed: bool
    reason: Literal["bounced", "complained", "other", "unsubscribed"] | None = None


class _Evidence(Fact, frozen=True, kw_only=True):
    category: ClassVar[Category] = Category.EVIDENCE
    provenance: ClassVar[Provenance] = Provenance.PROVIDED
    occurred_at: UtcTime


class ConsentGranted(_Evidence, frozen=True, kw_only=True, tag="consent.granted.v1"):
    """The data subject consented to one purpose (GDPR Art. 7); counts for later events only."""

    purpose: Code
    notice: Code
    is_assumed: bool = False


class ConsentWithdrawn(_Evidence, frozen=True, kw_only=True, tag="consent.withdrawn.v1"):
    """The data subject withdrew consent for one purpose (GDPR Art. 7(3))."""

    purpose: Code


class ObjectionRaised(_Evidence, frozen=True, kw_only=True, tag="objection.raised.v1"):
    """The data subject objected to one purpose (GDPR Art. 21)."""

    purpose: Code


class CookieChoiceRecorded(_Evidence, frozen=True, kw_only=True, tag="cookie.choice_recorded.v1"):
    """The data subject, or a browser for them, chose what cookies and partners may do (policy P35).

    A class that is in neither list stays as it was. A signal (`gpc`, `gpp`, `tcf`) allows nothing. The
    counts are of the cookies that waited for the choice; their names are not kept.
    """

    source: Literal["banner", "browser", "gpc", "gpp", "tcf"]
    allowed: tuple[Literal["functionality", "performance"], ...] = ()
    refused: tuple[Literal["functionality", "performance"], ...] = ()
    opted_out: tuple[Literal["sale", "sharing", "targeted_advertising"], ...] = ()
    cookies_allowed: Annotated[int, Meta(ge=0)] | None = None
    cookies_blocked: Annotated[int, Meta(ge=0)] | None = None


class RevealRecorded(_Evidence, frozen=True, kw_only=True, tag="audit.revealed.v1"):
    """Somebody of the privacy team looked at this person's values in clear, and why."""

    category: ClassVar[Category] = Category.EVIDENCE
    provenance: ClassVar[Provenance] = Provenance.OBSERVED
    reason: Annotated[str, Meta(max_length=1024, extra_json_schema=label("audit.reason"))]
