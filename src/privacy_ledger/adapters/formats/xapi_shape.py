"""The members of an xAPI statement, their types and formats; numbers are those of xAPI 1.0.3, Part Two.

A member that the specification does not name is refused, and so is null outside of extensions
(2.2). IRIs, language tags and media types are checked by their form. What must hold between
members is in `xapi_rules`.
"""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

__all__ = [
    "IRI",
    "UUID",
    "Account",
    "Activity",
    "Attachment",
    "Component",
    "Context",
    "ContextActivities",
    "ContextAgent",
    "ContextGroup",
    "Definition",
    "Extensions",
    "Named",
    "Party",
    "Result",
    "Score",
    "Statement",
    "StatementRef",
    "Thing",
    "Verb",
]


TAG_CHARS_MAX: Final = 100
DURATION_CHARS_MAX: Final = 100

IRI: Final = (
    r"^[A-Za-z][A-Za-z0-9+.\-]*:"
    r'(?:[^\x00-\x20<>"{}|\\^`%\x7f-\x9f\u2028\u2029]++|%[0-9A-Fa-f]{2})++\Z'
)
# A tag has no singleton twice, but for private use (RFC 5646, 2.2.6): the length bounds this look.
_LANGUAGE: Final = (
    r"^(?!(?![xX]-)(?:(?!-[xX]-).)*-([A-WY-Za-wy-z0-9])-(?:(?!-[xX]-).)*-\1-)"
    r"(?:(?:[A-Za-z]{2,3}(?:-[A-Za-z]{3}){0,3}|[A-Za-z]{4,8})(?:-[A-Za-z]{4})?"
    r"(?:-(?:[A-Za-z]{2}|[0-9]{3}))?(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*"
    r"(?:-[A-WY-Za-wy-z0-9](?:-[A-Za-z0-9]{2,8})+)*(?:-[xX](?:-[A-Za-z0-9]{1,8})+)?"
    r"|[xX](?:-[A-Za-z0-9]{1,8})+|[iI](?:-[A-Za-z0-9]{2,8})+"
    r"|en-GB-oed|sgn-BE-FR|sgn-BE-NL|sgn-CH-DE)\Z"
)
UUID: Final = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\Z"
_N: Final = r"[0-9]+(?:[.,][0-9]+)?"
# Only the smallest part of a duration may have a fraction: no digit comes after it (ISO 8601, 4.4.3.2).
_DURATION: Final = (
    rf"^P(?!.*[.,][0-9]+[A-Z].*[0-9])(?:{_N}W|(?=[0-9T])(?:{_N}Y)?(?:{_N}M)?(?:{_N}D)?"
    rf"(?:T(?=[0-9])(?:{_N}H)?(?:{_N}M)?(?:{_N}S)?)?)\Z"
)
Iri = Annotated[str, Meta(pattern=IRI)]
Uuid = Annotated[str, Meta(pattern=UUID)]
LanguageMap = dict[Annotated[str, Meta(pattern=_LANGUAGE, max_length=TAG_CHARS_MAX)], str]
Extensions = dict[Iri, object]
# Open edX writes `GroupActivity` for a problem of several questions: no version of the specification
# has it, and it is read as the activity that it is.
ActivityType = Literal["Activity", "GroupActivity"]
ObjectType = Literal["Activity", "GroupActivity", "Agent", "Group", "StatementRef", "SubStatement"]
InteractionType = Literal[
    "true-false", "choice", "fill-in", "long-fill-in", "matching", "performance", "sequencing",
    "likert", "numeric", "other",
]  # fmt: skip


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """A part of a statement; its `repr` shows no value of it."""

    def __repr__(self) -> str:
        """Return the type only: a statement is about people."""
        return f"{type(self).__name__}(...)"


class Account(_Part, frozen=True, kw_only=True):
    """An account on a system (2.4.2.4)."""

    home_page: Iri
    name: str


class Named(_Part, frozen=True, kw_only=True):
    """Who is named: by at most one identifier (2.4.2.3), and a group by its members also."""

    name: str | UnsetType = UNSET
    mbox: Annotated[str, Meta(pattern=r'^mailto:[^\s@<>"\\]+@[^\s@<>"\\]+\Z')] | UnsetType = UNSET
    mbox_sha1sum: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f]{40}\Z")] | UnsetType = field(
        name="mbox_sha1sum", default=UNSET
    )
    openid: Iri | UnsetType = UNSET
    account: Account | UnsetType = UNSET
    member: "list[Party] | UnsetType" = UNSET


class Party(Named, frozen=True, kw_only=True):
    """An Agent or a Group (2.4.2)."""

    object_type: Literal["Agent", "Group"] | UnsetType = UNSET


class Verb(_Part, frozen=True, kw_only=True):
    """What was done (2.4.3)."""

    id: Iri
    display: LanguageMap | UnsetType = UNSET


class Component(_Part, frozen=True, kw_only=True):
    """One choice, step or the like of an interaction (2.4.4.1)."""

    id: Annotated[str, Meta(min_length=1)]
    description: LanguageMap | UnsetType = UNSET


class Definition(_Part, frozen=True, kw_only=True):
    """What an activity is (2.4.4.1)."""

    name: LanguageMap | UnsetType = UNSET
    description: LanguageMap | UnsetType = UNSET
    type: Iri | UnsetType = UNSET
    more_info: Iri | UnsetType = UNSET
    extensions: Extensions | UnsetType = UNSET
    interaction_type: InteractionType | UnsetType = UNSET
    correct_responses_pattern: list[str] | UnsetType = UNSET
    choices: list[Component] | UnsetType = UNSET
    scale: list[Component] | UnsetType = UNSET
    source: list[Component] | UnsetType = UNSET
    target: list[Component] | UnsetType = UNSET
    steps: list[Component] | UnsetType = UNSET


class Activity(_Part, frozen=True, kw_only=True):
    """An activity of a context (2.4.6.2)."""

    id: Iri
    object_type: ActivityType | UnsetType = UNSET
    definition: Definition | UnsetType = UNSET


class StatementRef(_Part, frozen=True, kw_only=True):
    """A reference to another statement (2.4.4.3)."""

    object_type: Literal["StatementRef"]
    id: Uuid


class Score(_Part, frozen=True, kw_only=True):
    """An outcome in numbers (2.4.5.1)."""

    scaled: Annotated[float, Meta(ge=-1, le=1)] | UnsetType = UNSET
    raw: float | UnsetType = UNSET
    min: float | UnsetType = UNSET
    max: float | UnsetType = UNSET


class Result(_Part, frozen=True, kw_only=True):
    """An outcome (2.4.5)."""

    score: Score | UnsetType = UNSET
    success: bool | UnsetType = UNSET
    completion: bool | UnsetType = UNSET
    response: str | UnsetType = UNSET
    duration: Annotated[str, Meta(pattern=_DURATION, max_length=DURATION_CHARS_MAX)] | UnsetType = UNSET
    extensions: Extensions | UnsetType = UNSET


class ContextActivities(_Part, frozen=True, kw_only=True):
    """The activities around a statement's object (2.4.6.2)."""

    parent: Activity | list[Activity] | UnsetType = UNSET
    grouping: Activity | list[Activity] | UnsetType = UNSET
    category: Activity | list[Activity] | UnsetType = UNSET
    other: Activity | list[Activity] | UnsetType = UNSET


class ContextAgent(_Part, frozen=True, kw_only=True):
    """A further agent of a statement (xAPI 2.0)."""

    object_type: Literal["contextAgent"]
    agent: Party
    relevant_types: Annotated[list[Iri], Meta(min_length=1)] | UnsetType = UNSET


class ContextGroup(_Part, frozen=True, kw_only=True):
    """A further group of a statement (xAPI 2.0)."""

    object_type: Literal["contextGroup"]
    group: Party
    relevant_types: Annotated[list[Iri], Meta(min_length=1)] | UnsetType = UNSET


class Context(_Part, frozen=True, kw_only=True):
    """What gives a statement more meaning (2.4.6)."""

    registration: Uuid | UnsetType = UNSET
    instructor: Party | UnsetType = UNSET
    team: Party | UnsetType = UNSET
    context_activities: ContextActivities | UnsetType = UNSET
    context_agents: list[ContextAgent] | UnsetType = UNSET
    context_groups: list[ContextGroup] | UnsetType = UNSET
    revision: str | UnsetType = UNSET
    platform: str | UnsetType = UNSET
    # Stores take any subtags here, as the conformance suite does.
    language: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\Z")] | UnsetType = UNSET
    statement: StatementRef | UnsetType = UNSET
    extensions: Extensions | UnsetType = UNSET


class Attachment(_Part, frozen=True, kw_only=True):
    """The head of an attachment (2.4.11); its bytes are never taken, and a store may omit `fileUrl`."""

    usage_type: Iri
    display: LanguageMap
    content_type: Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$&^_.+\-]+/[A-Za-z0-9!#$&^_.+\-]+(?:\s*;.*)?\Z")]
    length: Annotated[int, Meta(ge=0)]
    sha2: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/=_\-]{32,128}\Z")]
    description: LanguageMap | UnsetType = UNSET
    file_url: Iri | UnsetType = UNSET


class Thing(Named, frozen=True, kw_only=True):
    """The object of a statement, of any kind (2.4.4): which members it may have, its kind decides."""

    object_type: ObjectType | UnsetType = UNSET
    id: str | UnsetType = UNSET
    definition: Definition | UnsetType = UNSET
    actor: Party | UnsetType = UNSET
    verb: Verb | UnsetType = UNSET
    object: "Thing | UnsetType" = UNSET
    result: Result | UnsetType = UNSET
    context: Context | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET
    attachments: list[Attachment] | UnsetType = UNSET


class Statement(_Part, frozen=True, kw_only=True):
    """A statement (2.4)."""

    actor: Party
    verb: Verb
    object: Thing
    id: Uuid | UnsetType = UNSET
    result: Result | UnsetType = UNSET
    context: Context | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET
    stored: str | UnsetType = UNSET
    authority: Party | UnsetType = UNSET
    version: Annotated[str, Meta(pattern=r"^(?:1\.0|2\.0)(?:\.[0-9]+)?\Z")] | UnsetType = UNSET
    attachments: list[Attachment] | UnsetType = UNSET
