"""What every command shares: settings, output, errors as one plain sentence, exit codes."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from enum import IntEnum
from functools import update_wrapper
from pathlib import Path
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

import click
import msgspec
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from privacy_ledger.adapters import loop
from privacy_ledger.adapters.observe.health import HealthAddress
from privacy_ledger.adapters.observe.switch import traced
from privacy_ledger.bootstrap import Runtime, erasure_care_of, open_runtime, open_worker
from privacy_ledger.domain.errors import BadInput, HomeUnusable, LedgerError, NotCaughtUp, RefusedByPolicy
from privacy_ledger.logging import configure
from privacy_ledger.ports.observe import SILENT, Meters
from privacy_ledger.settings import Settings, from_environment

__all__ = ["Discreet", "Exit", "Shell", "command", "progress_bar", "service"]

P = ParamSpec("P")
R = TypeVar("R")


class Exit(IntEnum):
    """Exit codes; the public contract of the command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PLAN_PENDING = 3
    REFUSED = 4
    PARTLY_DONE = 5


class Shell:
    """One invocation: where it works, and how it speaks."""

    def __init__(
        self, *, home: str | None, kafka: str | None, as_json: bool, no_wait: bool, log_level: str
    ) -> None:
        """Read the settings; nothing is opened yet."""
        try:
            self.settings: Settings = from_environment(home=home, kafka=kafka)
        except ValueError:
            raise click.UsageError(
                "A PRIVACY_LEDGER_ variable of the environment has a value that cannot be used. "
                "Check PRIVACY_LEDGER_KEYSTORE, PRIVACY_LEDGER_PARTITIONS, PRIVACY_LEDGER_SECURITY_PROTOCOL, "
                "PRIVACY_LEDGER_HEALTH, PRIVACY_LEDGER_SESSION_S (6 to 1800) and "
                "PRIVACY_LEDGER_STANDBYS (0 to 63)."
            ) from None
        self._is_home_named = bool(home) or self.settings.is_home_named
        self.as_json = as_json
        self.no_wait = no_wait
        self.has_answered = False
        self.meters: Meters = SILENT
        self.talk = Console(stderr=True, highlight=False, soft_wrap=True)
        self._out = Console(highlight=False, soft_wrap=True)
        configure(level=log_level, as_json=as_json)

    def use_fresh_home(self, name: str) -> None:
        """Work in a new home: the one that was named, else the first free `NAME`, `NAME-2`, ….

        Raises:
            HomeUnusable: the home that was named holds something already.
        """
        if self._is_home_named:
            if _is_taken(self.settings.home):
                raise HomeUnusable(
                    "This command wants a new home, and the folder given is not empty. Choose "
                    "another with --home, or leave it out."
                )
            return
        number = 1
        while _is_taken(home := Path(name if number == 1 else f"{name}-{number}")):
            number += 1
        self.settings = structs.replace(self.settings, home=home)

    @property
    def is_interactive(self) -> bool:
        """Whether a person sits at both ends."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.as_json

    def open(
        self, *, trial: datetime | None = None, prepare: bool = True
    ) -> AbstractAsyncContextManager[Runtime]:
        """Open the home or the cluster."""
        return open_runtime(self.settings, trial=trial, prepare=prepare, meters=self.meters)

    def open_worker(self, passes: Sequence[str]) -> AbstractAsyncContextManager[Runtime]:
        """Open the home or the cluster for a worker of these passes, with its health checks."""
        return open_worker(self.settings, passes, meters=self.meters, on_serving=self.say_where)

    def say_where(self, address: HealthAddress) -> None:
        """Say where health checks are answered, and loudly when other machines can ask."""
        self.talk.print(f"Health checks are answered at http://{address}/.", markup=False)
        if not address.is_loopback:
            self.talk.print(
                "Other machines can reach that address, and nobody is asked who they are.", markup=False
            )

    def announce(self, runtime: Runtime) -> None:
        """Say on standard error when a home runs on trial time."""
        if runtime.home is not None and runtime.home.is_on_trial_time:
            at = runtime.clock.now().isoformat(timespec="seconds")
            self.talk.print(f"Trial clock: this home believes that it is {at}.", markup=False)

    def result(self, document: object, text: str | None = None) -> None:
        """Print the result: one JSON document with `--json`, else its text."""
        self.has_answered = True
        if self.as_json:
            sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
            sys.stdout.flush()
        else:
            self._out.print(text if text is not None else _plain(document), markup=False)

    def say(self, text: str) -> None:
        """Print a line of the story: standard output for people, standard error with `--json`."""
        (self.talk if self.as_json else self._out).print(text, markup=False)

    def agrees(self, question: str, plan: str) -> bool:
        """Ask a person at a terminal; without a terminal the answer is no."""
        if not self.is_interactive:
            return False
        self.talk.print(plan, markup=False)
        return click.confirm(question, err=True)

    async def settle(self, runtime: Runtime, offsets: dict[int, int] | None = None) -> None:
        """Wait until the views have passed what was appended, unless told not to.

        In a home whoever runs the passes also goes on with erasures that nobody works on.
        """
        if self.no_wait:
            return
        await runtime.passes.settle(offsets)
        if runtime.embedded is not None:
            with suppress(LedgerError):  # it stays open, and is taken up again later
                await erasure_care_of(runtime).tend()


class Discreet(click.Group):
    """A group whose usage errors do not repeat what was typed: it may be a person's name."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the chosen command; its usage errors lose the value and keep the place."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            shell = ctx.obj if isinstance(ctx.obj, Shell) else None
            error.message = _without_values(error)
            if isinstance(error, click.NoSuchOption):
                error = click.UsageError(error.message, error.ctx)
            elif isinstance(error, click.BadParameter):
                error.param_hint = error.param.get_error_hint(ctx) if error.param else None
            if shell is not None and shell.as_json and not shell.has_answered:
                shell.result(_complaint(error.format_message(), Exit.USAGE))
            raise error from None


def command(
    function: Callable[Concatenate[Shell, P], Coroutine[object, object, int | None]],
    *,
    runner: Callable[[Coroutine[object, object, int]], int] = asyncio.run,
) -> Callable[P, None]:
    """Return a click callback that runs an async command and turns errors into sentences."""

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        context = click.get_current_context()
        shell = context.find_object(Shell)
        if shell is None:
            raise click.UsageError("The command was started without its group.")
        try:
            with traced(shell.settings.traces, command=_traced_name(context)) as shell.meters:
                sys.exit(_run(shell, lambda: _started(function, shell, *args, **kwargs), runner))
        except HomeUnusable as error:
            sys.exit(_explain(shell, error))

    return update_wrapper(run, function)


def service(
    function: Callable[Concatenate[Shell, P], Coroutine[object, object, int | None]],
) -> Callable[P, None]:
    """Return a click callback as `command` does, for what runs until it is told to stop."""
    return command(function, runner=loop.run)


def _traced_name(context: click.Context) -> str | None:
    """Return a command's path, without arguments; a service lasts too long for a trace of its own."""
    path: list[str] = []
    while context.parent is not None:
        path.insert(0, context.info_name or "")
        context = context.parent
    return None if path in (["worker", "run"], ["api", "run"]) else " ".join(path)


def _started(
    function: Callable[Concatenate[Shell, P], Coroutine[object, object, int | None]],
    shell: Shell,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Coroutine[object, object, int | None]:
    """Start the command, unless an argument holds bytes that are no text."""
    for value in kwargs.values():
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and not _is_text(text) for text in texts):
            raise click.UsageError("An argument is not valid UTF-8. Type it again.")
    return function(shell, *args, **kwargs)


def _is_text(value: str) -> bool:
    """Return whether a string is whole characters: bytes that are none arrive as surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _run(
    shell: Shell,
    start: Callable[[], Awaitable[int | None]],
    runner: Callable[[Coroutine[object, object, int]], int],
) -> int:
    async def work() -> int:
        return int(await start() or Exit.DONE)

    # asyncio's own handler waits for the loop, which a read of standard input may hold for ever.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        return runner(work())
    except LedgerError as error:
        return _explain(shell, error)
    except KeyboardInterrupt:
        return _say(shell, "Stopped. What was acknowledged is safe; run the command again.", Exit.FAILED)
    except BrokenPipeError:
        return Exit.DONE
    except OSError as error:
        return _say(
            shell,
            f"The operating system refused ({error.strerror or type(error).__name__}). "
            "Check disk space and permissions, then run `privacy-ledger doctor`.",
            Exit.FAILED,
        )


def _interrupted(_number: int, _frame: object) -> NoReturn:
    """Stop where the program is: what was acknowledged is durable, and what was not is repeated."""
    raise KeyboardInterrupt


def _explain(shell: Shell, error: LedgerError) -> int:
    """Print one sentence and the next step; return the exit code of this kind of error."""
    code = Exit.FAILED
    if isinstance(error, RefusedByPolicy):
        code = Exit.REFUSED
    elif isinstance(error, BadInput):
        code = Exit.USAGE
    elif isinstance(error, NotCaughtUp):
        code = Exit.PARTLY_DONE
    return _say(shell, str(error), code, reason=getattr(error, "refusal", None))


def _say(shell: Shell, sentence: str, code: Exit, *, reason: str | None = None) -> int:
    """Print why a command ends as it does; return its exit code."""
    if shell.as_json and not shell.has_answered:
        shell.result(_complaint(sentence, code, reason=reason))
    shell.talk.print(sentence, markup=False)
    return code


def _without_values(error: click.UsageError) -> str:
    """Return what click complains of, without the value that it quotes."""
    match error:
        case click.MissingParameter():
            return error.message
        case click.BadParameter(param=click.Parameter(type=click.Choice(choices=choices))):
            return f"it is none of {', '.join(map(str, choices))}."
        case click.BadParameter():
            return "it has a value that cannot be used. See -h."
        case click.NoSuchOption():
            return "There is no such option. See -h."
        case _ if error.message.startswith("No such command"):
            return "There is no such command. See -h."
        case _ if error.message.startswith("Got unexpected extra"):
            return "There are more arguments than the command takes. See -h, and quote spaces."
        case _:
            return error.message


def _complaint(sentence: str, code: Exit, *, reason: str | None = None) -> dict[str, object]:
    return {"error": sentence, "reason": reason, "exit": int(code)}


def _is_taken(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def progress_bar(shell: Shell) -> Progress:
    """Return a progress bar that shows on a terminal only."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=shell.talk, disable=not shell.talk.is_terminal or shell.as_json, transient=True,
    )  # fmt: skip


def _plain(document: object) -> str:
    """Return a document as indented text for people."""
    return msgspec.json.format(msgspec.json.encode(document)).decode()
