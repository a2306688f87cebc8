"""Places of addresses: codes of countries and regions from a database that may be anything."""

import random
from pathlib import Path
from typing import Final

import maxminddb
import pytest

from privacy_ledger.adapters import atlas
from privacy_ledger.adapters.atlas import MaxMindAtlas, atlas_over
from privacy_ledger.ports.atlas import Place

DATABASE: Final = Path(__file__).parents[1] / "fixtures" / "geoip" / "GeoLite2-City-Test.mmdb"
KNOWN: Final = ("81.2.69.142", "89.160.20.112", "2.125.160.216", "216.160.83.56", "2001:218::1")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("81.2.69.142", Place("GB", "GB-ENG")),
        ("::ffff:81.2.69.142", Place("GB", "GB-ENG")),
        ("216.160.83.56", Place("US", "US-WA")),
        ("2001:218::1", Place("JP")),
        ("192.0.2.1", None),
        ("10.0.0.1", None),
        ("127.0.0.1", None),
        ("fe80::1%eth0", None),
        ("81.2.69.142:443", None),
        ("081.002.069.142", None),
        ("81.2.69", None),
        ("an address", None),
        ("", None),
        ("9" * 10_000, None),
    ],
)
def test_an_address_has_a_country_and_its_region_or_no_place(address: str, place: Place | None) -> None:
    """Public addresses that the database knows; whatever else is asked has none."""
    known = atlas_over(DATABASE)
    assert [known.place(address) for _ in range(2)] == [place, place]
    assert known.fault is None


@pytest.mark.parametrize(
    "record",
    [
        None, [], "GB", {"registered_country": {"iso_code": "GB"}}, {"country": "GB"}, {"country": {}},
        {"country": {"iso_code": 5}}, {"country": {"iso_code": "gb"}}, {"country": {"iso_code": "GBR"}},
    ],
)  # fmt: skip
def test_a_record_without_a_country_has_no_place(record: object) -> None:
    """Where somebody's network is registered says nothing of where they are."""
    assert atlas.place_in(record) is None


@pytest.mark.parametrize(
    "parts", [None, {}, [], [{}], ["CA"], [{"iso_code": "c"}], [{"iso_code": "LONG"}], [{"iso_code": 1}]]
)
def test_a_region_that_is_no_code_is_left_out(parts: object) -> None:
    """Its country stays."""
    assert atlas.place_in({"country": {"iso_code": "US"}, "subdivisions": parts}) == Place("US")


def test_a_database_that_is_not_there_or_is_none_is_told(tmp_path: Path) -> None:
    """Nothing is raised, and every place is unknown."""
    (tmp_path / "text.mmdb").write_text("no database\n" * 100)
    (tmp_path / "empty.mmdb").write_bytes(b"")
    (tmp_path / "short.mmdb").write_bytes(DATABASE.read_bytes()[:2000])
    unreadable = [tmp_path, *(tmp_path / f"{name}.mmdb" for name in ("text", "empty", "short"))]
    found = [(atlas_over(path).fault, atlas_over(path).place(KNOWN[0])) for path in unreadable]
    assert found == [("location_database_unreadable", None)] * len(unreadable)
    missing = atlas_over(tmp_path / "missing.mmdb")
    assert (missing.fault, missing.place(KNOWN[0])) == ("location_database_missing", None)
    none = atlas_over(None)
    assert (none.fault, none.place(KNOWN[0])) == (None, None)


def test_a_damaged_database_raises_nothing_and_is_asked_no_more(tmp_path: Path) -> None:
    """Bytes anywhere are other bytes: a place has the form of one, or the fault is told."""
    whole, drawn = DATABASE.read_bytes(), random.Random(7)
    faults = 0
    for number in range(150):
        data = bytearray(whole)
        for _ in range(40):
            data[drawn.randrange(len(data))] = drawn.randrange(256)
        path = tmp_path / f"{number}.mmdb"
        path.write_bytes(data)
        damaged = atlas_over(path)
        for address in KNOWN:
            place = damaged.place(address)
            assert place is None or (len(place.country) == 2 and place.country.isupper())
        if damaged.fault is not None:
            faults += 1
            assert damaged.place("216.160.83.57") is None
    assert 0 < faults < 150


def test_a_database_is_read_once_until_another_replaces_it(tmp_path: Path) -> None:
    """A service begins an ingest each second, and what it met before stays known."""
    path, next_one = tmp_path / "places.mmdb", tmp_path / "next.mmdb"
    path.write_bytes(DATABASE.read_bytes())
    first, again = atlas_over(path), atlas_over(path)
    next_one.write_bytes(DATABASE.read_bytes())
    next_one.replace(path)
    assert first is again
    assert atlas_over(path) is not first


def test_places_that_were_asked_for_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run meets more addresses than memory should hold."""
    monkeypatch.setattr(atlas, "PLACES_CACHED", 10)
    known = MaxMindAtlas(maxminddb.open_database(DATABASE, maxminddb.MODE_MEMORY))
    found = [known.place(f"81.2.69.{number}") for number in (142, *range(100), 142)]
    assert found[0] == found[-1] == Place("GB", "GB-ENG")
    assert len(known._found) <= 10  # noqa: SLF001 - nothing else shows it
