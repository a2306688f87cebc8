"""The Faust worker that hosts the engine; ledger traffic never passes a Faust stream.

Faust is the host: application, life cycle, timers, and one agent for hints whose loss is harmless.
Its web server, which would serve tables to anyone, is never started.
"""

import asyncio
from collections.abc import Sequence

import faust
from mode import Service

from privacy_ledger.bootstrap import Runtime, engine_for
from privacy_ledger.domain.topics import CONTROL_HINTS

__all__ = ["EngineService", "create_app", "run_worker"]


class EngineService(Service):  # type: ignore[misc] # mode is untyped
    """Runs the engines of the chosen passes as long as the worker lives."""

    def __init__(self, runtime: Runtime, pass_names: Sequence[str]) -> None:
        """Open one engine per pass."""
        super().__init__()
        self.engines = [engine_for(runtime, name) for name in pass_names]
        self._running: list[asyncio.Task[None]] = []

    async def on_start(self) -> None:
        """Start every engine; one that fails takes the worker down."""
        for engine in self.engines:
            task = asyncio.create_task(engine.run())
            task.add_done_callback(self._ended)
            self._running.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            asyncio.get_running_loop().create_task(self.crash(error))

    async def on_stop(self) -> None:
        """Finish the cycles in hand and leave the groups."""
        for engine in self.engines:
            engine.stop()
        await asyncio.gather(*self._running, return_exceptions=True)


def create_app(runtime: Runtime) -> faust.App:
    """Return the host application; its settings are those measured to be safe."""
    cluster = runtime.settings.cluster
    address = cluster.bootstrap if cluster is not None else ""
    prefix = runtime.settings.topic_prefix
    app = faust.App(
        f"{prefix}privacy-ledger-host",
        broker=f"kafka://{address}",
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
    )
    hints = app.topic(prefix + CONTROL_HINTS, key_type=bytes, value_type=bytes)

    @app.agent(hints)  # type: ignore[untyped-decorator] # faust is untyped
    async def wake(stream: faust.StreamT[bytes]) -> None:
        """Take hints; losing one only means that a cache lease runs its full time."""
        async for _ in stream:
            runtime.vault.forget()

    return app
