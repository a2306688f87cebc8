"""Messages of the Open edX event bus, made up by the platform's own schemas."""

import base64
import json
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import fastavro

Members = dict[str, Any]

SCHEMAS: Final = Path(__file__).parents[1] / "fixtures" / "openedx-events-avro"
AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
COURSE: Final = "course-v1:ExampleX+CS101+T1"
BLOCK: Final = "block-v1:ExampleX+CS101+T1+type@sequential+block@exam1"
SOURCE: Final = "openedx/lms/web"
LEARNING: Final = "org.openedx.learning."
ENROLLED: Final = f"{LEARNING}course.enrollment.created.v1"
UNENROLLED: Final = f"{LEARNING}course.unenrollment.completed.v1"
CERTIFIED: Final = f"{LEARNING}certificate.created.v1"
REGISTERED: Final = f"{LEARNING}student.registration.completed.v1"
LOGGED_IN: Final = f"{LEARNING}auth.session.login.completed.v1"
GRADED: Final = f"{LEARNING}course.persistent_grade_summary.changed.v1"
POSTED: Final = f"{LEARNING}forum.thread.created.v1"
ATTEMPTED: Final = f"{LEARNING}exam.attempt.submitted.v1"
TRACKED: Final = "org.openedx.analytics.tracking.event.emitted.v1"
CATALOG: Final = "org.openedx.content_authoring.course.catalog_info.changed.v1"


def user(number: int, name: str) -> Members:
    """Return a user, with the nested record of personal data."""
    pii = {"username": name, "email": f"{name}@example.com", "name": f"{name} Example"}
    return {"id": number, "is_active": True, "pii": pii}


ADA: Final = user(7, "ada")
BOB: Final = user(8, "bob")
_COURSE: Final = {"course_key": COURSE, "display_name": "One", "start": None, "end": None}
_ENROLMENT: Final = {
    "user": ADA, "course": _COURSE, "mode": "audit", "is_active": True,
    "creation_date": "2026-03-01T12:00:00+00:00", "created_by": BOB,
}  # fmt: skip
RECORDS: Final[dict[str, Members]] = {
    ENROLLED: {"enrollment": _ENROLMENT},
    UNENROLLED: {"enrollment": {**_ENROLMENT, "created_by": None}},
    CERTIFIED: {
        "certificate": {
            "user": ADA, "course": _COURSE, "mode": "verified", "grade": "0.9", "name": "ada Example",
            "download_url": "https://lms.example.com/c/ada", "current_status": "downloadable",
            "previous_status": "notpassing",
        }
    },
    REGISTERED: {"user": ADA},
    LOGGED_IN: {"user": ADA},
    GRADED: {
        "grade": {
            "user_id": 7, "course": _COURSE, "course_edited_timestamp": "", "course_version": "1",
            "grading_policy_hash": "x", "percent_grade": 0.75, "letter_grade": "B", "passed_timestamp": "",
        }
    },
    POSTED: {
        "thread": {
            "body": "Hello there", "commentable_id": "course", "id": "t1", "truncated": False,
            "url": "https://lms.example.com/t1", "user": ADA, "course_id": COURSE, "thread_type": "question",
            "anonymous": False, "anonymous_to_peers": False, "title": "A question", "title_truncated": False,
            "group_id": None, "team_id": None, "category_id": None, "category_name": None,
            "discussion": None, "user_course_roles": ["Student"], "user_forums_roles": [],
            "options": {"followed": True},
        }
    },
    ATTEMPTED: {
        "exam_attempt": {
            "student_user": ADA, "course_key": COURSE, "usage_key": BLOCK, "exam_type": "timed",
            "requesting_user": BOB,
        }
    },
    TRACKED: {
        "tracking_log": {
            "name": "edx.course.enrollment.activated", "timestamp": "2026-03-01T12:00:00+00:00",
            "data": json.dumps({"user_id": 7, "mode": "audit"}),
            "context": json.dumps({"user_id": 7, "course_id": COURSE}),
        }
    },
    CATALOG: {
        "catalog_info": {
            "course_key": COURSE, "name": "One", "hidden": False, "invitation_only": False,
            "schedule_data": {
                "start": "", "pacing": "self", "end": None, "enrollment_start": None, "enrollment_end": None,
            },
        }
    },
}  # fmt: skip


def schema_of(type_: str) -> Members:
    """Return the schema of a type of event."""
    name = type_.replace(".", "+").removesuffix("+v1")
    found: Members = json.loads((SCHEMAS / f"{name}+v1_schema.avsc").read_bytes())
    return found


def headers(type_: str, **changes: str) -> dict[str, str]:
    """Return the headers that the platform sends beside a record."""
    return {
        "ce_type": type_, "ce_id": "5f3a0000-0000-11ee-8000-000000000001", "ce_source": SOURCE,
        "ce_specversion": "1.0", "ce_time": "2026-03-01T12:00:00+00:00", "ce_minorversion": "0",
        "sourcehost": "lms.example.com", "sourcelib": "9.18.0", "content-type": "application/avro",
        "ce_datacontenttype": "application/avro", **changes,
    }  # fmt: skip


def framed(record: Members, schema: Members) -> bytes:
    """Return a record in the framing of a schema registry."""
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return b"\0\0\0\0\x07" + stream.getvalue()


def message(type_: str, record: Members | None = None, **more: object) -> Members:
    """Return a message as a line has it, in Avro."""
    schema = schema_of(type_)
    value = base64.b64encode(framed(RECORDS[type_] if record is None else record, schema)).decode()
    return {"headers": headers(type_), "value": value, "schema": schema, **more}
