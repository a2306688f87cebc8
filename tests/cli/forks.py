"""The command in a process of its own, without the half second that importing it takes each time.

A server imports the program once and forks for every command: what runs in the child is the same
`main` on the same arguments, environment, folder and streams. The child may carry a fuse: it dies
by SIGKILL at the n-th point where something becomes durable.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

__all__ = ["Forks"]

LIFE_S: Final = 120
FAILED: Final = 70
_LOG_CALLS: Final = ("append", "append_atomically", "open_writer")
_VAULT_CALLS: Final = ("erase_identities", "end", "shred", "sealing_keys", "fresh_keys")

P = ParamSpec("P")
R = TypeVar("R")


class Forks:
    """The server, seen from the test."""

    def __init__(self) -> None:
        """Start it; it is ready with its first answer."""
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(
        self,
        words: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        stdin: bytes = b"",
        fuse: int | None = None,
    ) -> tuple[int, bytes, bytes]:
        """Run the command with these words; return exit code, standard output and error."""
        streams = {name: Path(self._folder.name) / name for name in ("in", "out", "err")}
        streams["in"].write_bytes(stdin)
        request = {
            "words": list(words), "folder": str(folder), "environment": dict(environment), "fuse": fuse,
            "streams": {name: str(path) for name, path in streams.items()},
        }  # fmt: skip
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(json.dumps(request).encode() + b"\n")
        to.flush()
        code = int(back.readline())
        return code, streams["out"].read_bytes(), streams["err"].read_bytes()

    def close(self) -> None:
        """End the server."""
        self._process.communicate(b"")
        self._folder.cleanup()


def _serve() -> None:
    """Answer requests, one at a time, until standard input ends."""
    from privacy_ledger import bootstrap  # noqa: PLC0415 - only the server imports the program
    from privacy_ledger.interfaces.cli import main  # noqa: PLC0415

    bootstrap.declared_passes()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            _be(json.loads(line), main)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _be(request: dict[str, Any], main: Callable[[], object]) -> None:
    """Become the command: never returns."""
    code = FAILED
    try:
        streams = request["streams"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(streams["in"], os.O_RDONLY), 0)
        os.dup2(os.open(streams["out"], flags, 0o600), 1)
        os.dup2(os.open(streams["err"], flags, 0o600), 2)
        # The server's own buffer may hold a request that is not this child's.
        sys.stdin = os.fdopen(0, closefd=False)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        sys.argv = ["privacy-ledger", *request["words"]]
        signal.alarm(LIFE_S)
        if request["fuse"] is not None:
            _lay(request["fuse"])
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# The fuse -------------------------------------------------------------------------------------


class _Fuse:
    """Counts the points where something became durable, and dies at the last of them."""

    def __init__(self, left: int) -> None:
        self._left = left

    def burn(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def after(self, call: Callable[P, R]) -> Callable[P, R]:
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            found = call(*args, **kwargs)
            self.burn()
            return found

        return called

    def after_waiting(self, call: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        async def called(*args: P.args, **kwargs: P.kwargs) -> R:
            found = await call(*args, **kwargs)
            self.burn()
            return found

        return called


def _lay(left: int) -> None:
    """Put the fuse after every write of the log, every change of the keystore and every sync."""
    from privacy_ledger.adapters.keystore.sqlite import SqliteKeyVault  # noqa: PLC0415 - as above
    from privacy_ledger.adapters.local.log import LocalLog  # noqa: PLC0415

    fuse = _Fuse(left)
    for name in _LOG_CALLS:
        setattr(LocalLog, name, fuse.after_waiting(getattr(LocalLog, name)))
    for name in _VAULT_CALLS:
        setattr(SqliteKeyVault, name, fuse.after(getattr(SqliteKeyVault, name)))
    os.fsync = fuse.after(os.fsync)


if __name__ == "__main__":
    _serve()
