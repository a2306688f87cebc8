"""Kafka as the event log: one place for client settings, the log, and the topics."""

from privacy_ledger.adapters.kafka.log import KafkaLog
from privacy_ledger.adapters.kafka.settings import ClusterSettings

__all__ = ["ClusterSettings", "KafkaLog"]
