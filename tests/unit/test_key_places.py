"""Where keys may lie: never inside of the home, for a copy of the home would carry them."""

from pathlib import Path

import pytest
from msgspec import structs

from privacy_ledger import bootstrap
from privacy_ledger.domain.errors import HomeUnusable
from tests.unit.home import home, played, settings


@pytest.mark.parametrize("place", ["home", "home/keys", "home/a/b", "link/keys", "home/../home/keys"])
@pytest.mark.parametrize("is_used", [False, True], ids=["a new home", "a home in use"])
async def test_a_key_folder_inside_of_the_home_is_refused(
    tmp_path: Path, place: str, *, is_used: bool
) -> None:
    """By whatever name it is given; nothing of a key is written there."""
    if is_used:
        async with home(tmp_path) as it:
            await it.take([played("7", event="e1")])
    (tmp_path / "link").symlink_to(tmp_path / "home")
    inside = structs.replace(settings(tmp_path), keys=tmp_path / place)
    with pytest.raises(HomeUnusable, match="PRIVACY_LEDGER_KEYS"):
        async with bootstrap.open_runtime(inside):
            pytest.fail("it was opened")
    assert sorted((tmp_path / "home").rglob("*.kek")) == []
    assert (tmp_path / "keys").exists() is is_used
