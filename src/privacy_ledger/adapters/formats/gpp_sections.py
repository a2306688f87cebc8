"""How the sections of the Global Privacy Platform that concern the US are laid out: tables of field names.

Each value has two bits. A section is single fields, a list about sensitive data, one about children, which
some states give as a single field, and single fields again.

Source: IAB Tech Lab, Global Privacy Platform, "US National" (versions 1 and 2) and the sections of states.
"""

from typing import Final

from msgspec import Struct

__all__ = ["LAYOUTS", "NAMES", "Layout"]

NAMES: Final = {
    2: "tcfeuv2", 6: "uspv1", 7: "usnat", 8: "usca", 9: "usva", 10: "usco", 11: "usut", 12: "usct",
    13: "usfl", 14: "usmt", 15: "usor", 16: "ustx", 17: "usde", 18: "usia", 19: "usne", 20: "usnh",
    21: "usnj", 22: "ustn", 23: "usmn",
}  # fmt: skip
"""The sections that are read, by number."""

_NOTICES: Final = ("SaleOptOutNotice", "TargetedAdvertisingOptOutNotice")
_CHOICES: Final = ("SaleOptOut", "TargetedAdvertisingOptOut")
_SHARING: Final = ("SharingNotice", *_NOTICES, *_CHOICES)
_PROCESSING: Final = ("ProcessingNotice", *_NOTICES, *_CHOICES)
_UTAH: Final = ("SharingNotice", *_NOTICES, "SensitiveDataProcessingOptOutNotice", *_CHOICES)
_IOWA: Final = ("ProcessingNotice", *_NOTICES, "SensitiveDataOptOutNotice", *_CHOICES)
_NATIONAL: Final = (
    "SharingNotice", "SaleOptOutNotice", "SharingOptOutNotice", "TargetedAdvertisingOptOutNotice",
    "SensitiveDataProcessingOptOutNotice", "SensitiveDataLimitUseNotice", "SaleOptOut", "SharingOptOut",
    "TargetedAdvertisingOptOut",
)  # fmt: skip
_CALIFORNIA: Final = (
    "SaleOptOutNotice", "SharingOptOutNotice", "SensitiveDataLimitUseNotice", "SaleOptOut", "SharingOptOut",
)  # fmt: skip
_MSPA: Final = ("MspaCoveredTransaction", "MspaOptOutOptionMode", "MspaServiceProviderMode")
_PERSONAL: Final = ("PersonalDataConsents", *_MSPA)
_ADDITIONAL: Final = ("AdditionalDataProcessingConsent", *_MSPA)


class Layout(Struct, frozen=True):
    """A section of one version; `children` None: one value. `has_gpc`: a browser's signal may follow it."""

    first: tuple[str, ...]
    sensitive: int
    children: int | None
    rest: tuple[str, ...]
    has_gpc: bool = True


LAYOUTS: Final = {
    ("usnat", 1): Layout(_NATIONAL, 12, 2, _PERSONAL),
    ("usnat", 2): Layout(_NATIONAL, 16, 3, _PERSONAL),
    ("usca", 1): Layout(_CALIFORNIA, 9, 2, _PERSONAL),
    ("usva", 1): Layout(_SHARING, 8, None, _MSPA, has_gpc=False),
    ("usco", 1): Layout(_SHARING, 7, None, _MSPA),
    ("usut", 1): Layout(_UTAH, 8, None, _MSPA, has_gpc=False),
    ("usct", 1): Layout(_SHARING, 8, 3, _MSPA),
    ("usfl", 1): Layout(_PROCESSING, 8, 3, _ADDITIONAL, has_gpc=False),
    ("usmt", 1): Layout(_SHARING, 8, 3, _ADDITIONAL),
    ("usor", 1): Layout(_PROCESSING, 11, 3, _ADDITIONAL),
    ("ustx", 1): Layout(_PROCESSING, 8, None, _ADDITIONAL),
    ("usde", 1): Layout(_PROCESSING, 9, 5, _ADDITIONAL),
    ("usia", 1): Layout(_IOWA, 8, None, _MSPA),
    ("usne", 1): Layout(_PROCESSING, 8, None, _ADDITIONAL),
    ("usnh", 1): Layout(_PROCESSING, 8, 3, _ADDITIONAL),
    ("usnj", 1): Layout(_PROCESSING, 10, 5, _ADDITIONAL),
    ("ustn", 1): Layout(_PROCESSING, 8, None, _ADDITIONAL),
    ("usmn", 1): Layout(_PROCESSING, 8, None, _ADDITIONAL),
}
"""Layouts by name and version."""
