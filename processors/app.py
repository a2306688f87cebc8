"""The Faust worker that hosts the engine; ledger traffic never passes a Faust stream.

Faust is the host: application, life cycle, timers, and one agent for hints whose loss is harmless.
Its web server, which would serve tables to anyone, is never started.
"""

import asyncio
import signal
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, cast

import faust
from faust.types.auth import CredentialsT
from faust.types.enums import ProcessingGuarantee
from mode import Service
from msgspec import Struct

from privacy_ledger.adapters.kafka.compaction import Limits, examine
from privacy_ledger.adapters.kafka.safety import Rule, check
from privacy_ledger.adapters.kafka.settings import ClusterSettings, client_options
from privacy_ledger.app.daily_keys import DailyKeys
from privacy_ledger.bootstrap import (
    Runtime,
    audit_of,
    changelogs_of,
    engine_for,
    erasure_care_of,
    expiry_of,
    forget_stores,
    free_slots,
    host_folder,
    sweep_keys,
)
from privacy_ledger.domain.errors import BuildRefused, LedgerError
from privacy_ledger.domain.topics import CONTROL_HINTS
from privacy_ledger.engine import collector
from privacy_ledger.engine.declaration import PassDeclaration, VersionPass
from privacy_ledger.engine.kafka import KafkaEngine
from privacy_ledger.logging import get_logger

__all__ = ["EngineService", "check_host", "create_app", "look_at_compaction", "run_worker"]

TICK_CHECK_S: Final = 30.0
TEND_S: Final = 300.0
"""How often open erasures are looked for, to be taken up again."""
FINAL_S: Final = 3600.0
"""How often completed erasures are looked at, which may be final."""
COMPACTION_S: Final = 600.0
"""How often the topics are looked at, whether the broker compacts them."""
HOST_STOP_S: Final = 2.0
LINE_UP_CHECK_S: Final = 1.0
log_line = get_logger()

_SAFE: Final = (
    Rule("processing_guarantee", (ProcessingGuarantee.AT_LEAST_ONCE,), "outputs and offsets part ways"),
    Rule("web_enabled", (False,), "a server without a password listens on every address"),
    Rule("stream_wait_empty", (True,), "a stop gives up what an agent has in hand"),
    Rule("producer_acks", (-1,), "an acknowledged record may be on one broker only"),
    Rule("producer_threaded", (False,), "its thread fails when it is stopped"),
    Rule("topic_allow_declare", (False,), "a topic is made with another policy than declared"),
    Rule("table_standby_replicas", (0,), "state lies in tables of Faust"),
)
"""What the host may be set to; decision 0011 says why."""


class _Running(Struct):
    """One engine and the task that runs it."""

    engine: KafkaEngine
    task: asyncio.Task[None]


class EngineService(Service):
    """Runs the engines of the chosen passes, and of their projections' versions, while the worker lives.

    Without a choice it runs every pass. The line-up is looked at again every second: a version
    that was begun is taken up, and one that was dropped is let go.
    """

    def __init__(self, runtime: Runtime, pass_names: Sequence[str]) -> None:
        """Take what to run; nothing is opened yet."""
        super().__init__()
        self._runtime = runtime
        self._chosen = frozenset(pass_names)
        self._running: dict[str, _Running] = {}
        self._watch: asyncio.Task[None] | None = None
        self.is_up = asyncio.Event()
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None

    @property
    def engines(self) -> list[KafkaEngine]:
        """The engines that run now."""
        return [running.engine for running in self._running.values()]

    async def on_start(self) -> None:
        """Start every engine; one that fails takes the worker down."""
        await forget_stores(self._runtime)
        await self._reconcile()
        self._watch = asyncio.create_task(self._look())
        self._watch.add_done_callback(self._ended)
        self.is_up.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LINE_UP_CHECK_S)
            self._runtime.keystore.forget_idle()
            try:
                await self._reconcile()
            except LedgerError as error:
                log_line.warning("line-up not read", reason=str(error))
            except OSError as error:
                log_line.warning("line-up not read", reason=type(error).__name__)

    async def _reconcile(self) -> None:
        """End the engines of passes that are run no more, start new ones, and set their pace."""
        wanted = {
            name: one for name, one in (await self._runtime.line_up.current()).items() if self._is_mine(one)
        }
        for name, running in list(self._running.items()):
            if wanted.get(name) != running.engine.declaration:
                running.engine.stop()
                await asyncio.gather(running.task, return_exceptions=True)
                del self._running[name]
                free_slots(self._runtime, running.engine.declaration)
                await sweep_keys(self._runtime, running.engine.declaration)
        for name, declaration in wanted.items():
            if name not in self._running:
                self._start(name, engine_for(self._runtime, declaration))
            await self._set_pace(self._running[name].engine)

    def _is_mine(self, declaration: PassDeclaration) -> bool:
        names = {declaration.name}
        if isinstance(declaration, VersionPass):
            names.add(declaration.runs_with)
        return not self._chosen or not names.isdisjoint(self._chosen)

    def _start(self, name: str, engine: KafkaEngine) -> None:
        task = asyncio.create_task(engine.run())
        # Its error must not pass unseen.
        is_version = isinstance(engine.declaration, VersionPass)
        task.add_done_callback(self._version_ended if is_version else self._ended)
        self._running[name] = _Running(engine, task)

    async def _set_pace(self, engine: KafkaEngine) -> None:
        """Give the engine the share of its version's rate that its partitions have."""
        rate = await self._runtime.line_up.rate(engine.declaration)
        share = max(1, len(engine.running)) / self._runtime.partitions
        engine.pace.rate = None if rate is None else rate * share

    def guard(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run work of the worker beside its engines; when it fails, the worker goes down as with them."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _version_ended(self, task: asyncio.Task[None]) -> None:
        """Leave a version to workers of another build, where this one may not fold it."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BuildRefused):
            log_line.error("version left alone", reason=str(error))
        else:
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # A foreign message may hold a value: its class says enough.
            reason = str(error) if isinstance(error, LedgerError) else type(error).__name__
            log_line.error("engine failed", reason=reason)
            self.failure = error
            self.failed.set()

    async def on_stop(self) -> None:
        """Finish the cycles in hand and leave the groups."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for engine in self.engines:
            engine.stop()
        await asyncio.gather(*(running.task for running in self._running.values()), return_exceptions=True)


def create_app(runtime: Runtime) -> faust.App:
    """Return the host application; its settings are those measured to be safe.

    Raises:
        UnsafeSettings: one of them is not.
        HomeUnusable: a certificate file cannot be used.
    """
    cluster = runtime.settings.cluster
    address = cluster.bootstrap if cluster is not None else ""
    prefix = runtime.settings.topic_prefix
    app = faust.App(
        f"{prefix}privacy-ledger-host",
        broker=f"kafka://{address}",
        broker_credentials=None if cluster is None else _credentials(cluster),
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=True,
        stream_buffer_maxsize=256,
        broker_max_poll_records=500,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
        broker_rebalance_timeout=10.0,
        broker_commit_interval=1.0,
        producer_acks=-1,
        store="memory://",
        datadir=str(host_folder(runtime)),
        # Faust lets variables such as PROCESSING_GUARANTEE or BROKER_URL override its arguments.
        env={},
    )
    check_host(app)
    hints = app.topic(prefix + CONTROL_HINTS, key_type=bytes, value_type=bytes)

    @app.agent(hints)
    async def wake(stream: faust.StreamT[bytes]) -> None:
        """Take hints. None is needed: the keystore itself tells key caches of revocations.

        The subscription keeps the host alive: a Faust application without a topic ends.
        """
        async for _ in stream:
            continue

    return app


def _credentials(cluster: ClusterSettings) -> CredentialsT | None:
    """Return what the host shows the brokers: the same as every other client."""
    options = client_options(cluster)
    context = cast("ssl.SSLContext | None", options.get("ssl_context"))
    if cluster.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=cluster.username,
            password=cluster.password,
            ssl_context=context,
            mechanism=cluster.sasl_mechanism,
        )
    return None if context is None else faust.SSLCredentials(context)


def check_host(app: faust.App) -> None:
    """Refuse a host that would lose or double records, or that would listen.

    Raises:
        UnsafeSettings: the first setting that is not safe; also where a table is declared.
    """
    check("host", {rule.setting: getattr(app.conf, rule.setting) for rule in _SAFE}, _SAFE)
    check("host", {"tables": len(app.tables)}, (Rule("tables", (0,), "a table loses and doubles events"),))


async def run_worker(
    runtime: Runtime, pass_names: Sequence[str], stop: asyncio.Event, *, say: Callable[[str], None]
) -> None:
    """Host the passes in a Faust worker until `stop` is set; then leave within seconds."""
    service = EngineService(runtime, pass_names)
    worker = faust.Worker(
        create_app(runtime), service, quiet=True, redirect_stdouts=False, loglevel="CRITICAL",
        loop=asyncio.get_running_loop(),
    )  # fmt: skip
    # `start` returns when the worker has stopped; its own signal handlers give way to ours.
    life = asyncio.create_task(worker.start())
    await service.is_up.wait()
    collector.calm()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    names = ", ".join(engine.declaration.name for engine in service.engines)
    say(f"Running {names}. SIGTERM or Ctrl-C stops.")
    ticks, rolled = service.guard(_tick(runtime, service)), asyncio.Event()
    daily = runtime.keystore.daily(lambda: audit_of(runtime), clock=runtime.clock, ids=runtime.ids)
    keys = service.guard(_tend(daily, service, rolled))
    erasures = service.guard(_look_after_erasures(runtime, service, rolled))
    compaction = service.guard(_watch_compaction(runtime, service))
    stopped = asyncio.create_task(stop.wait())
    failed = asyncio.create_task(service.failed.wait())
    await asyncio.wait((life, stopped, failed), return_when=asyncio.FIRST_COMPLETED)
    daily.end()
    for task in (ticks, keys, erasures, compaction, stopped, failed):
        task.cancel()
    await service.stop()
    try:
        # What Faust itself holds is hints only: it gets a moment, and no more.
        await asyncio.wait_for(worker.stop(), HOST_STOP_S)
    except TimeoutError:
        log_line.info("host stopped late", state="cut")
    if service.failure is not None:
        raise service.failure
    if life.done() and not life.cancelled():
        life.result()


async def _tick(runtime: Runtime, service: EngineService) -> None:
    """Let the worker that folds partition 0 of core write the hourly ticks."""
    while True:
        await asyncio.sleep(TICK_CHECK_S)
        if any(engine.is_registrar for engine in service.engines):
            try:
                await runtime.registrar.tick()
            except LedgerError as error:
                log_line.warning("no tick", reason=str(error))


async def _tend(daily: DailyKeys, service: EngineService, rolled: asyncio.Event) -> None:
    """Let that worker also roll the keystore's epoch once a day, and tell of each roll by `rolled`."""
    while True:
        await asyncio.sleep(TICK_CHECK_S)
        if any(engine.is_registrar for engine in service.engines):
            try:
                done = await daily.tend()
            except LedgerError as error:
                log_line.warning("epoch not rolled", reason=str(error))
                continue
            if done is not None and done.stuck:
                log_line.warning("backups that are over cannot be removed", count=len(done.stuck))
            if done is not None and done.has_effect:
                rolled.set()
                log_line.info("epoch rolled", state=str(done.epoch))


async def _look_after_erasures(runtime: Runtime, service: EngineService, rolled: asyncio.Event) -> None:
    """Let that worker also take up open erasures, and say hourly and after each roll which are final.

    By itself, for an erasure waits for passes and stores, and the ticks do not wait for it.
    """
    tended = finalised = time.monotonic()
    while True:
        await asyncio.sleep(TICK_CHECK_S)
        if not any(engine.is_registrar for engine in service.engines):
            continue
        try:
            if time.monotonic() - tended > TEND_S:
                tended = time.monotonic()
                care = erasure_care_of(runtime)
                await care.tend()
                await care.look_for_bytes()
            if rolled.is_set() or time.monotonic() - finalised > FINAL_S:
                finalised = time.monotonic()
                await erasure_care_of(runtime).finalise()
                rolled.clear()
                if destroyed := (await expiry_of(runtime).tend()).keys:
                    log_line.info("keys destroyed by retention", count=destroyed)
        except LedgerError as error:
            log_line.warning("erasures not looked after", reason=str(error))
        finally:
            # The stores of passes are looked through by reading whole partitions: no worker keeps them.
            runtime.latest.forget()


async def _watch_compaction(runtime: Runtime, service: EngineService) -> None:
    """Let that worker also see, and let others see, whether the broker compacts: bytes go by it alone."""
    looked: float | None = None
    while True:
        await asyncio.sleep(TICK_CHECK_S)
        is_due = looked is None or time.monotonic() - looked >= COMPACTION_S
        if is_due and any(engine.is_registrar for engine in service.engines):
            looked = time.monotonic()
            try:
                await look_at_compaction(runtime)
            except LedgerError as error:
                log_line.warning("compaction not looked at", reason=str(error))


async def look_at_compaction(runtime: Runtime, *, limits: Limits | None = None) -> None:
    """Look once at every topic that a pass reads or keeps; whoever looks on sees the figures."""
    if runtime.kafka is None:
        return
    declared = runtime.declared.values()
    found = await examine(
        runtime.kafka, sources={one.source for one in declared},
        changelogs={topic for one in declared for topic in changelogs_of(runtime, one)},
        now=runtime.clock.now(), limits=limits,
    )  # fmt: skip
    for one in found.figures:
        runtime.meters.note(one)
