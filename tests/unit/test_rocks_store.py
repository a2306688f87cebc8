"""A worker's store: what damages its files is noticed, and it never answers wrongly."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from privacy_ledger.adapters.rocks_store import RocksFolder, RocksStore
from privacy_ledger.domain.errors import StoreCorrupt

KEYS = [b"i%05d" % number for number in range(6000)]
FLIPS = 60


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, dict[bytes, bytes]]:
    """Return a closed store of several files, and what it holds."""
    rng = Random(7)
    held = {key: rng.randbytes(100) for key in KEYS}
    store = RocksStore(tmp_path / "0")
    store.write([(key, held[key]) for key in KEYS[:5000]])
    store.compact()
    store.write([(key, held[key]) for key in KEYS[5000:]])
    store.close()
    return tmp_path / "0", held


def _read(path: Path) -> tuple[list[bytes | None], list[tuple[bytes, bytes]]]:
    """Return what a store answers, by key and by scan."""
    store = RocksStore(path)
    try:
        return store.get_many(KEYS), list(store.scan(b"i"))
    finally:
        store.close()


def _scan(path: Path, prefix: bytes = b"i") -> list[tuple[bytes, bytes]]:
    store = RocksStore(path)
    try:
        return list(store.scan(prefix))
    finally:
        store.close()


@pytest.mark.parametrize("read", [_read, _scan])
def test_a_flipped_bit_in_a_table_is_noticed_or_harmless(
    whole: tuple[Path, dict[bytes, bytes]], tmp_path: Path, read: Callable[[Path], object]
) -> None:
    """Wherever it falls: the store says that it is damaged, or its answers are all right."""
    path, _ = whole
    right = read(path)
    rng, noticed = Random(11), 0
    for _ in range(FLIPS):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        victim = rng.choice(sorted(copy.glob("*.sst")))
        content = bytearray(victim.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        victim.write_bytes(content)
        try:
            assert read(copy) == right
        except StoreCorrupt:
            noticed += 1
    assert noticed > FLIPS // 2


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_a_missing_file_is_noticed(whole: tuple[Path, dict[bytes, bytes]], pattern: str) -> None:
    """And a store that was destroyed begins empty."""
    path, _ = whole
    min(path.glob(pattern)).unlink()
    with pytest.raises(StoreCorrupt, match="restores it from its changelog"):
        _read(path)
    RocksFolder(path.parent).remove(0)
    assert _scan(path) == []


def test_a_scan_begins_where_it_is_told(whole: tuple[Path, dict[bytes, bytes]]) -> None:
    """And ends with its prefix."""
    store = RocksStore(whole[0])
    store.write([(b"j", b"other")])
    found = [key for key, _ in store.scan(b"i", start=b"05998")]
    store.close()
    assert found == [b"i05998", b"i05999"]


_FILL = """
import sys
from pathlib import Path
from privacy_ledger.adapters.rocks_store import RocksStore
from privacy_ledger.domain.errors import StoreFull
store = RocksStore(Path(sys.argv[1]))
try:
    for number in range(1000):
        store.write([(b"k%04d" % number, bytes(100_000))])
except StoreFull:
    sys.exit(0)
sys.exit(1)
"""


def test_a_full_device_is_named_and_leaves_an_earlier_state(tmp_path: Path) -> None:
    """Here a bound on the size of a file stands for the device; with space again it goes on."""
    bound = 2_000_000
    child = subprocess.run(
        [sys.executable, "-c", _FILL, str(tmp_path / "0")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bound, bound)),
        capture_output=True, timeout=60, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-500:]
    store = RocksStore(tmp_path / "0")
    kept = [key for key, _ in store.scan(b"k")]
    store.write([(b"more", b"1")])
    store.close()
    assert kept == [b"k%04d" % number for number in range(len(kept))]
    assert _scan(tmp_path / "0", prefix=b"m") == [(b"more", b"1")]
