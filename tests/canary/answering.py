"""The program with one more ear: it says what its caches and its keystore release to the run that asks.

A line with key ids in the file `CANARY_ASKING` is answered in a file beside it, by the thread that
folds, so that what is asked is the very keystore that the passes use.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Final

from privacy_ledger import _keystore, bootstrap
from privacy_ledger.domain.key_release import OPERATE, READ_VIEWS, RIGHTS
from privacy_ledger.interfaces.cli import main
from privacy_ledger.ports.keys import DataKey
from privacy_ledger.ports.runtime import Ids, Wrap

__all__: list[str] = []

POLL_S: Final = 0.1
_tasks: set[asyncio.Task[None]] = set()
_open = _keystore.open_vault


def _opening(places: _keystore.KeyPlaces, *, ids: Ids, wrap: Wrap) -> _keystore.OpenedKeystore:
    keystore = _open(places, ids=ids, wrap=wrap)
    if asking := os.environ.get("CANARY_ASKING"):
        _tasks.add(asyncio.get_running_loop().create_task(_listen(keystore, Path(asking))))
    return keystore


async def _listen(keystore: _keystore.OpenedKeystore, asking: Path) -> None:
    while True:
        await asyncio.sleep(POLL_S)
        _answer(keystore, asking)


def _answer(keystore: _keystore.OpenedKeystore, asking: Path) -> None:
    if asking.exists():
        kids = [bytes.fromhex(kid) for kid in json.loads(asking.read_bytes())]
        given = {
            kid
            for caller in (OPERATE, READ_VIEWS, RIGHTS)
            for kid, key in keystore.bare.released_to(caller).open_keys(kids).items()
            if isinstance(key, DataKey)
        }
        asking.unlink()
        part = asking.with_suffix(".part")
        part.write_text(json.dumps({"asked": len(kids), "given": len(given)}))
        part.rename(asking.with_suffix(".answer"))


if __name__ == "__main__":
    vars(bootstrap)["open_vault"] = _opening
    main()
