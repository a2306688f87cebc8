"""What really went wrong in other systems, as far as engine and Kafka clients go, and the tests of it.

A row names where the failure was told, our rule, and the tests that stand for the rule: node ids,
without the cases of a test that has cases. Keys and erasure have tests of their own.
"""

from typing import Final

from msgspec import Struct

__all__ = ["INDEX", "Lesson"]


class Lesson(Struct, frozen=True, kw_only=True):
    """One failure elsewhere, the rule that it gave us, and the tests of the rule."""

    source: str
    failure: str
    rule: str
    tests: tuple[str, ...]


_CHARACTER: Final = "tests/characterisation/"
_CONTRACT: Final = "tests/contract/test_log_kafka.py::TestKafkaLog::"
_FAULTS: Final = "tests/contract/test_log_kafka_faults.py::"
_HERE: Final = "tests/regression/"
_JOB: Final = "tests/integration/"
_SAFETY: Final = "tests/unit/test_client_safety.py::"

INDEX: Final = (
    Lesson(
        source="robinhood/faust#340",
        failure="exactly_once, a table and kill -9: 299,356 counted of 300,000",
        rule="workers die while data flows, and every projection is exact",
        tests=(
            _JOB + "test_chaos.py::test_twenty_kills_in_three_hundred_thousand_events",
            _JOB + "test_chaos.py::test_no_event_is_lost_or_doubled_though_workers_are_killed",
            _JOB + "test_main_job.py::test_everything_is_exact_though_workers_die_while_data_flows",
            _CHARACTER + "test_faust_tables.py::test_f5_a_table_is_ahead_of_the_offsets_after_a_crash",
        ),
    ),
    Lesson(
        source="faust-streaming/faust#323, #502, #517, #177, #47",
        failure="fenced crashes and duplicates on a rebalance; records outside of the transaction",
        rule="exactly_once of Faust is refused at start-up",
        tests=(
            _SAFETY + "test_an_unsafe_host_is_refused",
            _SAFETY + "test_the_environment_does_not_change_the_host",
            _SAFETY + "test_a_host_with_a_table_is_refused",
            _CHARACTER + "test_faust_tables.py::test_f6_exactly_once_commits_the_offset_without_the_output",
        ),
    ),
    Lesson(
        source="faust-streaming/faust#171, #333, #651, #158, robinhood/faust#175",
        failure="recovery deleted keys that were assigned again, or stood above the high water and stuck",
        rule="a store is a cache that restores to what its changelog says last",
        tests=(
            _HERE + "test_restore.py::test_a_key_is_restored_as_it_was_left",
            _HERE + "test_restore.py::test_a_store_that_goes_on_takes_deletes_and_returns_of_keys",
            _HERE + "test_restore.py::test_what_a_dead_owner_did_not_commit_counts_for_nothing",
            _CONTRACT + "test_an_empty_value_is_not_a_tombstone",
            _JOB + "test_standby.py::test_a_store_that_its_changelog_does_not_reach_is_begun_anew",
        ),
    ),
    Lesson(
        source="aio-libs/aiokafka#844",
        failure="a rebalance inside a transaction: no fencing by group generation, a batch twice",
        rule="a partition's owner is its transactional id, and its position lies in its own changelog",
        tests=(
            _HERE + "test_position.py::test_a_groups_committed_offset_is_never_a_position",
            _JOB + "test_coordinator.py::test_a_paused_coordinator_doubles_nothing",
            _JOB + "test_coordinator.py::test_six_pauses_double_nothing",
            _JOB + "test_zombie.py::test_a_zombie_resumed_while_data_flows_is_fenced_and_goes_on",
            _JOB
            + "test_zombie.py::test_a_worker_that_is_fenced_in_its_transaction_writes_nothing_to_its_store",
            _CONTRACT + "test_a_second_owner_fences_the_first",
            _CONTRACT + "test_opening_a_writer_fences_before_anything_is_written",
            _CONTRACT + "test_a_fenced_writer_stays_fenced_until_it_is_opened_again",
        ),
    ),
    Lesson(
        source="aiokafka's sender (BaseHandler, EndTxnHandler), librdkafka#5423",
        failure="the end of a transaction is asked for again with the same epoch: torn transactions",
        rule="a transactional producer is discarded after an outcome that nobody knows, and after a late one",
        tests=(
            _HERE + "test_transactions.py::test_a_producer_is_discarded_after_a_commit_of_unknown_outcome",
            _HERE + "test_transactions.py::test_a_producer_is_discarded_after_a_record_of_unknown_outcome",
            _HERE + "test_transactions.py::test_a_producer_is_discarded_after_a_cancelled_commit",
            _HERE
            + "test_transactions.py::test_a_producer_is_discarded_after_a_commit_that_was_asked_for_twice",
            _FAULTS + "test_a_dead_broker_is_an_error_in_bounded_time_and_the_log_recovers",
        ),
    ),
    Lesson(
        source="kroxylicious/kroxylicious#757, #1339, #1526, #1767, #2504",
        failure="fails above 1 MB",
        rule="records at the bound come back whole, and above it nothing of a batch is written",
        tests=(
            _HERE + "test_sizes.py::test_a_record_up_to_the_bound_comes_back_whole",
            _HERE + "test_sizes.py::test_a_record_above_the_bound_leaves_nothing_of_its_batch",
            _HERE + "test_sizes.py::test_a_hundred_thousand_headers_are_refused_by_their_size",
            _CONTRACT + "test_several_large_records_come_back_whole",
        ),
    ),
    Lesson(
        source="kroxylicious/kroxylicious#969",
        failure="one record that cannot be decrypted stops the consumer",
        rule="what cannot be read parks its subject, and the partition goes on",
        tests=(
            _HERE + "test_poison.py::test_an_unreadable_record_parks_its_subject_and_nobody_else",
            "tests/unit/test_embedded_engine.py::test_a_step_that_fails_parks_its_subject_only",
        ),
    ),
    Lesson(
        source="AxonIQ/AxonFramework#2396, evolution-gaming/kafka-journal#930, hynek/structlog#715",
        failure="a dead-letter queue logged contents; a decode error held the payload; tracebacks locals",
        rule="a pointer says where and why; no value reaches it, an error or a log line",
        tests=(
            _HERE + "test_poison.py::test_an_unreadable_record_parks_its_subject_and_nobody_else",
            _HERE + "test_poison.py::test_a_logged_error_shows_no_value_of_its_frames",
            _SAFETY + "test_the_error_names_client_setting_value_and_remedy",
        ),
    ),
    Lesson(
        source="aiokafka's defaults, read in producer.py and consumer.py",
        failure="one acknowledgement, no idempotence, automatic commits, aborted records visible",
        rule="fixed settings, and a client with others is not started",
        tests=(
            _SAFETY + "test_an_unsafe_producer_is_refused",
            _SAFETY + "test_an_unsafe_consumer_is_refused",
            _SAFETY + "test_no_client_is_made_past_the_check",
        ),
    ),
    Lesson(
        source="aiokafka's alter_configs",
        failure="what is not sent goes back to its default: a compacted topic becomes one that forgets",
        rule="the full set goes out each time and is read back",
        tests=(
            "tests/contract/test_log_kafka.py::test_one_changed_key_keeps_the_cleanup_policy",
            "tests/contract/test_log_kafka.py::test_a_topic_that_lost_its_policy_is_drift_and_is_repaired",
        ),
    ),
)
