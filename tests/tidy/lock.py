"""Pins every dependency: `requirements.lock` with hashes, and exact constraints in `pyproject.toml`.

Neither holds a download address (decision 0002). `--upgrade` drops the present pins first.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
HEADER = "# Written by `poe lock`. Install with: pip install --require-hashes -r requirements.lock\n"
EXPORT = ("export", "--format", "requirements.txt", "--no-emit-project", "--all-groups", "--no-header")
TABLE = "[tool.uv]\n"

_PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==([^\s;\\]+)(?: ; ([^\\]+?))?(?: \\)?$", re.MULTILINE)
_CONSTRAINTS = re.compile(r"^constraint-dependencies = \[\n(?:    .*\n)*\]\n", re.MULTILINE)


def pins(lock: str) -> list[str]:
    """Return the requirements of a lock without their hashes, in its order."""
    return [
        f"{name}=={version} ; {marker}" if marker else f"{name}=={version}"
        for name, version, marker in _PIN.findall(lock)
    ]


def constraints(project: str) -> list[str]:
    """Return the constraints that a `pyproject.toml` gives to the resolver."""
    found: list[str] = tomllib.loads(project)["tool"]["uv"].get("constraint-dependencies", [])
    return found


def with_constraints(project: str, wanted: list[str]) -> str:
    """Return a `pyproject.toml` whose constraints are `wanted`, and nothing else changed."""
    bare = _CONSTRAINTS.sub("", project)
    lines = "".join(f'    "{requirement}",\n' for requirement in wanted)
    block = f"constraint-dependencies = [\n{lines}]\n" if wanted else ""
    return bare.replace(TABLE, TABLE + block, 1)


def write(*, is_upgrade: bool) -> None:
    """Resolve, and write both files."""
    if is_upgrade:
        PROJECT.write_text(with_constraints(PROJECT.read_text(encoding="utf-8"), []), encoding="utf-8")
        _uv("lock", "--upgrade")
    LOCK.write_text(HEADER + _uv(*EXPORT), encoding="utf-8")
    wanted = pins(LOCK.read_text(encoding="utf-8"))
    PROJECT.write_text(with_constraints(PROJECT.read_text(encoding="utf-8"), wanted), encoding="utf-8")
    _uv("lock")
    print(f"{len(wanted)} dependencies pinned")


def _uv(*arguments: str) -> str:
    return subprocess.run(("uv", *arguments), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    write(is_upgrade="--upgrade" in sys.argv[1:])
