"""The program as an older build had it: its step of `progress` did not know seeking in a video."""

from privacy_ledger.domain.events import VideoSeeked
from privacy_ledger.interfaces.cli import main
from privacy_ledger.streams.progress import Progress, ProgressPart
from privacy_ledger.streams.record import Record

__all__: list[str] = []

_right = Progress.step


def _older(self: Progress, part: ProgressPart | None, record: Record) -> ProgressPart:
    if isinstance(record.body, VideoSeeked):
        return part or ProgressPart()
    return _right(self, part, record)


if __name__ == "__main__":
    Progress.step = _older  # type: ignore[method-assign] # what a deployment replaces
    main()
