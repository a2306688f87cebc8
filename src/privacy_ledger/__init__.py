"""An event-sourced privacy ledger with stream processors on Apache Kafka."""
