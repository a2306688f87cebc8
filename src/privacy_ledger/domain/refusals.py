"""Why something was refused: reason codes, in their order of precedence."""

from enum import StrEnum
from typing import final

__all__ = ["Refusal"]


@final
class Refusal(StrEnum):
    """A reason code; the first that applies, from the top, is the answer.

    The codes are public: they stand in summaries, reports, DLQ entries and tombstone causes.
    """

    # Requests that nobody known sent.
    SIGNATURE_MISSING = "signature_missing"
    SIGNATURE_INVALID = "signature_invalid"
    SIGNATURE_STALE = "signature_stale"
    # Bytes that are no event.
    LINE_TOO_LONG = "line_too_long"
    NOT_UTF8 = "not_utf8"
    NUL_BYTE = "nul_byte"
    TOO_DEEP = "too_deep"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEY = "duplicate_key"
    NULL_VALUE = "null_value"
    # What must not be kept whatever the event is: a card's number or code, then a secret.
    CARD_NUMBER = "card_number"
    SECRET = "secret"  # noqa: S105 - a reason code
    SCHEMA_MISMATCH = "schema_mismatch"
    SIGNAL_INVALID = "signal_invalid"
    # Events that the mapping or the policy does not take.
    UNKNOWN_EVENT = "unknown_event"
    OUT_OF_SCOPE = "out_of_scope"
    TIME_MISSING = "time_missing"
    TIME_NAIVE = "time_naive"
    TIME_INVALID = "time_invalid"
    TIME_FUTURE = "time_future"
    ID_INVALID = "id_invalid"
    UNKNOWN_PURPOSE = "unknown_purpose"
    UNKNOWN_CLASSIFICATION = "unknown_classification"
    # The person and the order of their facts.
    SUBJECT_ERASED = "subject_erased"
    SUBJECT_UNKNOWN = "subject_unknown"
    TOO_OLD_TO_REGISTER = "too_old_to_register"
    BEFORE_SUBJECT = "before_subject"
    SCOPE_ERASED = "scope_erased"
    PAST_RETENTION = "past_retention"
    ID_REUSED = "id_reused"
    DUPLICATE = "duplicate"
    COOKIE_UNKNOWN = "cookie_unknown"
    COOKIE_FORBIDDEN = "cookie_forbidden"
    CONSENT_MISSING = "consent_missing"
    MINOR_UNAPPROVED = "minor_unapproved"
    # What a removal says as its tombstone's cause.
    WITHDRAWN = "withdrawn"
    ERASED = "erased"
    RETENTION = "retention"
    DISCARDED = "discarded"
    RECTIFIED = "rectified"
    # Commands.
    WINDOW_OPEN = "window_open"
    BUDGET_EXHAUSTED = "budget_exhausted"
    ALREADY_RELEASED = "already_released"
    CATALOGUE_EMPTY = "catalogue_empty"
    HOLD_UNKNOWN = "hold_unknown"
    NOT_NOTIFIED = "not_notified"
    KEPT_BY_LAW = "kept_by_law"
    NOT_ERASED = "not_erased"
    CLOCK_DISAGREES = "clock_disagrees"
    ENTRY_UNKNOWN = "entry_unknown"
    RECEIPT_UNKNOWN = "receipt_unknown"
    VERSION_UNKNOWN = "version_unknown"
    VERSION_SPEAKS = "version_speaks"
    VERSION_BEHIND = "version_behind"
    VERSION_DIFFERS = "version_differs"
    ERASED_REAPPEARS = "erased_reappears"
