"""Every projection, live, says what the oracle says of the records that were written."""

from privacy_ledger.domain.key_release import SUMS
from privacy_ledger.domain.permissions import Permissions
from privacy_ledger.domain.topics import ANALYTICS_PARTIALS
from privacy_ledger.domain.values import NOBODY, SubjectRef
from privacy_ledger.engine.declaration import PassDeclaration
from privacy_ledger.streams import progress, subject_view
from privacy_ledger.streams.held import HELD, Parked
from privacy_ledger.streams.states import INDEX, PERMISSIONS, IndexRow
from privacy_ledger.testing.checkers.evidence import Evidence, Ledger, short
from privacy_ledger.testing.oracle import Expected, Subject

__all__ = ["meaning"]


async def meaning(evidence: Evidence) -> list[str]:
    """Return each projection and partial sum that differs from what the oracle expects."""
    found: list[str] = []
    ledger = evidence.ledger
    for partition, said in (await evidence.expected()).items():
        for declaration in ledger.declared.values():
            found += await _folded(evidence, declaration, said, partition=partition)
        for ref, want in said.subjects.items():
            found += await _projected(ledger, ref, want)
        found += await _partials(ledger, said, partition=partition)
    return found


async def _folded(
    evidence: Evidence, declaration: PassDeclaration, said: Expected, *, partition: int
) -> list[str]:
    """Return what differs in the tables that every pass folds for itself."""
    found: list[str] = []
    rows: dict[SubjectRef, list[IndexRow]] = {}
    for key, row in await evidence.pairs(declaration, INDEX, partition=partition):
        rows.setdefault(SubjectRef(key[:16]), []).append(row)
    may = dict(await evidence.pairs(declaration, PERMISSIONS, partition=partition))
    held = await evidence.pairs(declaration, HELD, partition=partition)
    parked = {key for key, state in held if isinstance(state, Parked)}
    for ref, want in said.subjects.items():
        name = f"{declaration.name} of {short(ref)}"
        live = {row.record_id: row.purposes for row in rows.pop(ref, [])}
        if live != want.live:
            lost, extra = len(want.live.keys() - live.keys()), len(live.keys() - want.live.keys())
            found.append(f"index in {name}: {lost} lost, {extra} too many, or other purposes")
        if (ref in parked) is not want.is_parked:
            found.append(f"parked in {name}: {ref in parked}")
        if not _is_as_expected(may.get(ref), want):
            found.append(f"permissions in {name}")
    found += [f"index in {declaration.name} of an unexpected {short(ref)}" for ref in rows if ref != NOBODY]
    return found


def _is_as_expected(permissions: Permissions | None, want: Subject) -> bool:
    """Return whether permissions say what the oracle says; of the ended only that they are."""
    may = permissions or Permissions()
    if want.is_ended:
        return may.is_ended
    said = (may.is_ended, may.is_restricted, may.is_registered, dict(may.grants), set(may.objections))
    return said == (False, want.is_restricted, want.is_registered, want.grants, set(want.objected))


async def _projected(ledger: Ledger, ref: SubjectRef, want: Subject) -> list[str]:
    """Return which views of one subject differ."""
    found = []
    view = await ledger.views.get(subject_view.TABLE, ref)
    if (subject_view.SubjectPart() if view is None else subject_view.merge(view)) != want.subject_view:
        found.append(f"subject view of {short(ref)}")
    courses = await ledger.views.get(progress.TABLE, ref)
    if ({} if courses is None else progress.merge(courses)) != want.progress:
        found.append(f"progress of {short(ref)}")
    return found


async def _partials(ledger: Ledger, said: Expected, *, partition: int) -> list[str]:
    """Return which sealed windows have other sums than the oracle's."""
    found = []
    for release, counts in said.windows.items():
        if release in said.is_capped:
            continue
        key = bytes.fromhex(release) + partition.to_bytes(4, "big")
        row = await ledger.log.latest(ANALYTICS_PARTIALS, partition, key)
        states = ledger.state_codec(ledger.declared["analytics"], SUMS)
        partial = None if row is None else states.open_partial(row)
        if partial is None:
            found.append(f"no partial sum of a window in partition {partition}")
        elif {course: count for course, count in partial.cells.items() if count} != counts:
            found.append(f"partial sum of a window in partition {partition}")
    return found
