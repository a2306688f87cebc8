"""A restore that cannot go on says so, to whoever asks and in the log, and goes on when it can."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.testing.broker import BrokerProcess
from tests.integration.cluster import until
from tests.integration.light import LightCluster, LightWiring, engine_of, open_log

KEYS = 20_000
STALL_S = 3.0


@pytest.mark.timeout(240)
async def test_a_restore_reports_alarms_when_it_stands_still_and_goes_on(
    broker_process: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker stops in the middle: not ready, an alarm by name, and afterwards everything is there."""
    monkeypatch.setattr("privacy_ledger.engine.progress.STALL_S", STALL_S)
    monkeypatch.setattr("privacy_ledger.engine.handover.RESTORE_READ", 100)
    light = LightCluster(broker_process.bootstrap, tmp_path, partitions=1)
    await light.create()
    await light.send(light.refs(KEYS))
    worker = light.worker()
    assert (await light.settle()).is_exact
    worker.terminate()

    task = light.task(folder="fresh")
    log = await open_log(task, KafkaLog)
    engine = engine_of(LightWiring(task, log), log)
    with capture_logs() as lines:
        running = asyncio.create_task(engine.run())
        try:
            await until(lambda: any(one.records for one in engine.restoring.values()), look_s=0.001)
            broker_process.pause()
            begun = engine.restoring[0]
            assert 0 < begun.records < KEYS
            assert begun.left > 0
            assert begun.eta_s is not None
            assert not engine.is_ready
            await until(lambda: any(line["event"] == "restore stalled" for line in lines))
            assert all(one.is_stalled and one.reason for one in engine.restoring.values())
            assert not engine.is_ready
            broker_process.resume()
            await until(lambda: engine.is_ready, timeout_s=120)
            assert engine.restoring == {}
            await light.send(light.refs(100))
            assert (await light.settle()).is_exact
        finally:
            broker_process.resume()
            engine.stop()
            await asyncio.gather(running, return_exceptions=True)
            await log.close()
            await light.close()
    alarms = [line for line in lines if line["event"] == "restore stalled"]
    assert {(alarm["log_level"], alarm["pass_name"], alarm["partition"]) for alarm in alarms} == {
        ("error", "bench", 0)
    }
