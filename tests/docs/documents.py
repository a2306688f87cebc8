"""The documents that the tests run: their blocks of code, the names they mention, and a shell."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import environ, killpg, pathsep
from pathlib import Path
from typing import Final

__all__ = [
    "CLUSTER_ADDRESS",
    "INSTALL",
    "ROOT",
    "Block",
    "Done",
    "Step",
    "blocks_of",
    "codes_of",
    "environment",
    "run_steps",
    "steps_of",
]

ROOT: Final = Path(__file__).parents[2]
INSTALL: Final = "python -m pip install uv && "
PREFIX: Final = re.compile(r"uv run (?:--extra [a-z]+ )?(?=privacy-ledger )")
CLUSTER_ADDRESS: Final = "127.0.0.1:9092"
"""The address of a cluster in the documents; a test puts that of its own broker in its place."""

_FENCE: Final = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`([^`\n]+)`")
_EXIT: Final = re.compile(r"\s+# exit (\d+)$")
_FAILED: Final = 99


@dataclass(frozen=True)
class Block:
    """A fenced block: its file and line, the words of its info string, and what it holds."""

    file: str
    line: int
    info: tuple[str, ...]
    body: str

    def __str__(self) -> str:
        """Return where it stands."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Step:
    """One command of a block, and the exit code that the document promises."""

    place: str
    command: str
    code: int


@dataclass(frozen=True)
class Done:
    """What a run of steps did; `failure` names the first step that ended otherwise than promised."""

    out: str
    failure: str


def blocks_of(file: str) -> tuple[Block, ...]:
    """Return the fenced blocks of a document, from the top."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return tuple(
        Block(file, text.count("\n", 0, found.start()) + 1, tuple(found["info"].split()), found["body"])
        for found in _FENCE.finditer(text)
    )


def steps_of(block: Block) -> tuple[Step, ...]:
    """Return the commands of a block in order; a backslash at a line's end joins the next line."""
    steps: list[Step] = []
    joined = ""
    for number, line in enumerate(block.body.splitlines(), start=block.line + 1):
        joined += line.removeprefix("$ ")
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        found = _EXIT.search(joined)
        command = joined[: found.start()] if found else joined
        if command.strip() and not command.lstrip().startswith("#"):
            steps.append(Step(f"{block.file}:{number}", command, int(found[1]) if found else 0))
        joined = ""
    return tuple(steps)


def codes_of(file: str) -> Iterator[str]:
    """Yield what a document marks as code: each command of its blocks, and each span in its text."""
    for block in blocks_of(file):
        if block.info[:1] in (("sh",), ("console",)):
            yield from (step.command for step in steps_of(block))
    text = (ROOT / file).read_text(encoding="utf-8")
    yield from _INLINE.findall(_FENCE.sub("", text))


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a reader with a new account: nothing of the ledger's is set."""
    kept = {key: value for key, value in environ.items() if not key.startswith("PRIVACY_LEDGER_")}
    own = {
        "HOME": str(folder / "account"),
        "XDG_DATA_HOME": str(folder / "account" / "data"),
        "PATH": pathsep.join([str(Path(sys.executable).parent), environ["PATH"]]),
        "COLUMNS": "200",
    }
    return {**kept, **own, **more}


def run_steps(
    steps: Sequence[Step], folder: Path, env: Mapping[str, str], *, address: str = "", timeout_s: float
) -> Done:
    """Run commands in one shell in `folder`, in order, up to the first that fails its promise."""
    lines = []
    for number, step in enumerate(steps):
        command = PREFIX.sub("", step.command.removeprefix(INSTALL))
        if address:
            command = command.replace(CLUSTER_ADDRESS, address)
        lines += [command, f'_code=$?; [ "$_code" -eq {step.code} ] || _ended "$_code" {number}']
    guard = f'_ended() {{ echo "$1 $2" > failed; kill $(jobs -p) 2>/dev/null; exit {_FAILED}; }}'
    script = "\n".join([guard, *lines]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        ["bash", "-s"], cwd=folder, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            out, err = shell.communicate(script, timeout=timeout_s)
        finally:
            # A worker that a document started must not outlive its shell, whatever went wrong.
            with suppress(ProcessLookupError):
                killpg(shell.pid, signal.SIGKILL)
    failed = folder / "failed"
    if failed.exists():
        code, number = map(int, failed.read_text().split())
        step = steps[number]
        failure = f"{step.place}: `{step.command}` ended with {code}, not {step.code}.\n"
        return Done(out, failure + out[-2000:] + err[-2000:])
    return Done(out, "" if shell.returncode == 0 else err[-2000:])
