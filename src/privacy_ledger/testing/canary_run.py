"""What a canary run found, and whether that is a pass: one verdict for every kind of installation.

A run is judged in both directions. A token outside of what was handed out, or an envelope that opens,
fails it; so does a search that misses what was planted, an attack that opens nothing while everything
is still there, and a person who was not erased and cannot be read any more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from privacy_ledger.testing.canary import Canary, tokens_of
from privacy_ledger.testing.canary_keys import (
    BLOCK_BYTES,
    KeyRow,
    Opened,
    envelopes_in,
    keks_in,
    key_rows_in,
    open_with,
    opened_by_force,
    unwrapped,
    unwrapped_anywhere,
)
from privacy_ledger.testing.canary_search import PLANTED_MIN, Search, Searched, prove
from privacy_ledger.testing.scanner import Hit

__all__ = ["CanaryReport", "Hunt", "Places"]

Places = Mapping[str, Sequence[Path]]
SHOWN: Final = 20
"""Hits that a verdict names."""


class CanaryReport(Struct, kw_only=True):
    """What was counted. A hit is named by place, file, token and encoding, and never by its value."""

    people: int
    erased: int
    tokens: int
    planted: int = 0
    missed: tuple[tuple[str, str], ...] = ()
    files: int = 0
    size: int = 0
    hits_before: tuple[str, ...] = ()
    hits_after: tuple[str, ...] = ()
    handed_out: int = 0
    readable_before: int = 0
    envelopes: int = 0
    keys: int = 0
    pairs: int = 0
    opened: int = 0
    opened_final: int = 0
    others_opened: int = 0
    asked: int = 0
    released: int = 0
    released_before: int = 0

    def faults(self) -> tuple[str, ...]:
        """Return why the run fails, one sentence each; none where it passed."""
        claims = (
            (
                self.planted >= PLANTED_MIN and not self.missed,
                f"{self.planted} leaks were planted, and not found: {self.missed}",
            ),
            (not self.hits_before, f"before the erasure: {self.hits_before[:SHOWN]}"),
            (not self.hits_after, f"after the erasure: {self.hits_after[:SHOWN]}"),
            (self.handed_out > 0, "what was handed out holds no token: the search or the drive is blind"),
            (self.readable_before == self.erased > 0, "the attack did not read everybody before the erasure"),
            (self.envelopes > 0 and self.keys > 0, "nothing was left to be tried"),
            (not self.opened, f"{self.opened} envelopes or keys of the erased open with what is in use"),
            (not self.opened_final, f"{self.opened_final} envelopes or keys of the erased open from copies"),
            (self.others_opened > 0, "nobody who was not erased can be read any more"),
            (self.asked > 0 and self.released_before > 0, "no live process was asked for what it had"),
            (not self.released, f"live processes released {self.released} keys or texts of the erased"),
        )
        return tuple(text for holds, text in claims if not holds)


class Hunt:
    """Searches and attacks the places of one installation, and keeps the account."""

    def __init__(self, people: Sequence[Canary], erased: Sequence[Canary], *, seed: int) -> None:
        """Take all people, and those of them who will be erased."""
        self._erased = erased
        self._others = [one.tokens["video"].encode() for one in people if one not in erased]
        self._seed = seed
        tokens = tokens_of(people)
        self._search = Search(tokens)
        self.refs: frozenset[bytes] = frozenset()
        self.kids: frozenset[bytes] = frozenset()
        self.wrapped: tuple[bytes, ...] = ()
        self._known: dict[tuple[bytes, bytes], bytes] = {}
        self.report = CanaryReport(people=len(people), erased=len(erased), tokens=len(tokens))

    # Before ---------------------------------------------------------------------------------

    def before(
        self,
        places: Places,
        *,
        handed_out: Places,
        masked: Sequence[Path] = (),
        copies: Sequence[Path],
        rows: Sequence[KeyRow] = (),
        keys: Path,
    ) -> None:
        """Search everything while everybody is there, and show that copies can be read with the keys.

        `masked`: what shows of a person nothing but the courses. `rows`: keys of a keystore that is in
        no file of its own.
        """
        report = self.report
        proof = prove({**places, **handed_out}, seed=self._seed)
        report.planted, report.missed = proof.planted, proof.missed
        searched = self._search.run({**places, "masked": masked})
        self._count(searched)
        report.hits_before = tuple(
            _name(place, hit)
            for place, hits in searched.hits.items()
            for hit in hits
            if place != "masked" or not hit.name.endswith(" course")
        )
        report.handed_out = sum(map(len, self._search.run(handed_out).hits.values()))
        self._read(copies, (*key_rows_in(copies), *rows), keks_in([keys]))

    def _read(self, copies: Sequence[Path], rows: Sequence[KeyRow], keks: Sequence[bytes]) -> None:
        """Read everybody, and learn what is the erased people's: references, keys, and texts."""
        ref_of = {row.kid: row.ref for row in rows}
        secrets = unwrapped(_forms(rows), keks, kids=ref_of)
        opened = open_with(envelopes_in(copies, ref_of).values(), secrets.values())
        whose = _owners(opened, ref_of, self._erased)
        self.report.readable_before = len(set(whose.values()))
        self.refs = frozenset(whose)
        mine = [row for row in rows if row.ref in self.refs]
        self.kids = frozenset(row.kid for row in mine)
        self.wrapped = tuple(_forms(mine))
        self._known = {
            (one.kid, one.nonce): text[:BLOCK_BYTES] for one, text in opened.texts if one.kid in self.kids
        }

    # After ----------------------------------------------------------------------------------

    def after(self, places: Places) -> None:
        """Search everything again: nobody's value is anywhere."""
        searched = self._search.run(places)
        self._count(searched)
        self.report.hits_after += tuple(
            _name(place, hit) for place, hits in searched.hits.items() for hit in hits
        )

    def read_with_what_is_in_use(
        self, everywhere: Sequence[Path], *, keystore: Sequence[Path], rows: Sequence[KeyRow] = (), keys: Path
    ) -> None:
        """Try all envelopes of the erased, in copies too, with the keys of the keystore that is in use.

        Its files are also tried byte by byte, wherever in them a wrapped key may be left.
        """
        rows = (*key_rows_in(keystore), *rows)
        keks = keks_in([keys])
        mine = self._mine(rows)
        secrets = unwrapped(_forms(rows), keks, kids={row.kid for row in rows} | mine)
        for file in keystore:
            if file.exists():
                secrets |= unwrapped_anywhere(file.read_bytes(), keks, kids=mine)
        self.report.opened += self._opened(everywhere, rows, secrets)

    def read_with_all(self, everywhere: Sequence[Path], *, rows: Sequence[KeyRow] = (), keys: Path) -> None:
        """Try the same with the keys of every copy and backup of the keystore, as after the final roll.

        Wrapped forms that were seen before count as found, whatever holds them: a log, a free page.
        """
        rows = (*key_rows_in(everywhere), *rows)
        mine = self._mine(rows)
        secrets = unwrapped(
            [*_forms(rows), *self.wrapped], keks_in([keys]), kids={row.kid for row in rows} | mine
        )
        self.report.opened_final += self._opened(everywhere, rows, secrets)

    def asked_live(self, *, asked: int, released: int, is_before: bool = False) -> None:
        """Count what live processes were asked for, and how much of it they gave."""
        if is_before:
            self.report.released_before += released
        else:
            self.report.asked += asked
            self.report.released += released

    def _mine(self, rows: Sequence[KeyRow]) -> frozenset[bytes]:
        """Return the ids of all keys that the erased ever had, as far as a keystore still names them."""
        return self.kids | {row.kid for row in rows if row.ref in self.refs}

    def _opened(
        self, everywhere: Sequence[Path], rows: Sequence[KeyRow], secrets: Mapping[bytes, bytes]
    ) -> int:
        """Return how many keys of the erased were got, and envelopes of theirs opened."""
        mine = self._mine(rows)
        found = envelopes_in(everywhere, mine | {row.kid for row in rows}).values()
        envelopes = [one for one in found if one.kid in mine]
        named = open_with(envelopes, secrets.values())
        forced = opened_by_force(envelopes, secrets.values(), known=self._known)
        report = self.report
        others = (one for one in found if one.kid not in mine)
        report.others_opened = open_with(others, secrets.values()).holding(self._others)
        report.envelopes = max(report.envelopes, len(envelopes))
        report.keys = max(report.keys, len(secrets))
        report.pairs += len(envelopes) * len(secrets)
        return len(mine & secrets.keys()) + len(named.texts) + forced

    def _count(self, searched: Searched) -> None:
        self.report.files = max(self.report.files, searched.files)
        self.report.size = max(self.report.size, searched.size)


def _forms(rows: Iterable[KeyRow]) -> Iterator[bytes]:
    return (row.wrapped for row in rows if row.wrapped is not None)


def _owners(opened: Opened, ref_of: Mapping[bytes, bytes], people: Sequence[Canary]) -> dict[bytes, int]:
    """Return which of these people each reference is, by a token of theirs under its keys."""
    texts: dict[bytes, list[bytes]] = {}
    for one, text in opened.texts:
        texts.setdefault(ref_of[one.kid], []).append(text)
    return {
        ref: number
        for ref, found in texts.items()
        for number, person in enumerate(people)
        if any(token.encode() in text for text in found for token in person.tokens.values())
    }


def _name(place: str, hit: Hit) -> str:
    return f"{place}: {hit.path.name}: {hit.name}, {hit.encoding}"
