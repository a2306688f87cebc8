"""The two bases of everything that is said about a person, and their field marks."""

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from privacy_ledger.domain.values import Category, Provenance

__all__ = ["LABEL", "Code", "CourseKey", "Fact", "Personal", "Text", "label"]

LABEL = "x-privacy-label"
"""The JSON Schema keyword under which a field's export label is published."""

Text = Annotated[str, Meta(max_length=4096)]
"""Free text as the platform sent it, at most 4,096 characters."""

Code = Annotated[str, Meta(max_length=255)]
"""An identifier or a closed vocabulary's word, at most 255 characters."""

CourseKey = Annotated[str, Meta(max_length=255, extra_json_schema={LABEL: "course.key"})]
"""A course's key; public, about no person."""


def label(name: str) -> dict[str, Any]:
    """Return the schema mark that gives a field its label in exports and masks."""
    return {LABEL: name}


class Personal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of personal values; its `repr` shows field names and never a value."""

    def __repr__(self) -> str:
        """Return the type and its field names only: values of a person never reach a log."""
        return f"{type(self).__name__}({', '.join(self.__struct_fields__)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return field names only: `rich` would print every value otherwise."""
        return [(name, ...) for name in self.__struct_fields__]


class Fact(Personal, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Something that happened to, or was done by, one data subject. Past tense, versioned tag.

    `category` and `provenance` are class attributes: one declaration drives sealing, masking,
    export labels and the catalogue.
    """

    category: ClassVar[Category]
    provenance: ClassVar[Provenance] = Provenance.OBSERVED
