"""What really went wrong in other systems, as far as engine, Kafka clients, keys and erasure go.

A row names where the failure was told, our rule, and the tests that stand for the rule: node ids,
without the cases of a test that has cases.
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
_UNIT: Final = "tests/unit/"
_SQLITE: Final = "tests/contract/test_keystore_sqlite.py::"
_COPIES: Final = "tests/contract/test_keystore_copies.py::"
_POSTGRES: Final = "tests/contract/test_keystore_postgres.py::"


def _on_both(kind: str, *names: str) -> tuple[str, ...]:
    """Return tests of a contract that both keystores keep."""
    return tuple(
        f"{file}Test{store}{kind}::{name}"
        for name in names
        for file, store in ((_SQLITE, "Sqlite"), (_POSTGRES, "Postgres"))
    )


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
        failure="fails above 1 MB, at the limit of a key and at a new key-encryption key; then plain text",
        rule="records at the bound come back whole, keys roll, and where keys fail nothing is written",
        tests=(
            _HERE + "test_erasure.py::test_where_keys_fail_nothing_is_written_in_clear",
            _SQLITE + "test_uses_are_counted_and_a_full_generation_rolls",
            _POSTGRES + "test_uses_are_counted_and_a_full_generation_rolls",
            *_on_both("KeyVault", "test_a_current_key_rolls_after_thirty_days"),
            *_on_both("Keeper", "test_what_is_new_is_wrapped_under_the_newest_epoch"),
            _HERE + "test_sizes.py::test_a_record_up_to_the_bound_comes_back_whole",
            _HERE + "test_sizes.py::test_a_record_above_the_bound_leaves_nothing_of_its_batch",
            _HERE + "test_sizes.py::test_a_hundred_thousand_headers_are_refused_by_their_size",
            _CONTRACT + "test_several_large_records_come_back_whole",
        ),
    ),
    Lesson(
        source="kroxylicious/kroxylicious#969, its advice on a lost key-encryption key",
        failure="one record that cannot be decrypted stops the consumer, and offsets are searched by hand",
        rule="what cannot be read parks its subject, and the partition goes on; a lost epoch is named",
        tests=(
            _UNIT + "test_keystore_failures.py::test_a_key_that_nobody_held_parks_its_person_and_is_told",
            _UNIT
            + "test_keystore_failures.py"
            + "::test_a_missing_key_encryption_key_stops_the_worker_and_is_named_by_its_epoch",
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
    Lesson(
        source="chattocorp/chatto#1379, #1973",
        failure="keys went before the fact was written; after a crash nothing could be read, or said why",
        rule="the request is durable first, and an erasure converges wherever its process ends",
        tests=(
            "tests/cli/test_erasure.py::test_an_erasure_goes_on_wherever_it_was_killed",
            "tests/crash/test_home.py::test_a_home_converges_wherever_its_process_ends",
            _UNIT
            + "test_erasure_waits.py::test_no_reading_of_the_whole_ledger_lies_between_request_and_shred",
            _UNIT
            + "test_erasure_waits.py"
            + "::test_keys_whose_shred_was_not_noted_are_told_though_their_records_went_since",
        ),
    ),
    Lesson(
        source="sliceworkz/eventstore#157",
        failure="an unknown key was read as an erasure: a wrong keystore looks like erasing everybody",
        rule="a destroyed key stays known; an unknown one parks its person, and many stop the partition",
        tests=(
            *_on_both("KeyVault", "test_a_shredded_kid_stays_known", "test_an_unknown_kid_is_absent"),
            _UNIT + "test_keystore_failures.py::test_a_key_that_nobody_held_parks_its_person_and_is_told",
            _UNIT
            + "test_keystore_failures.py::test_more_unknown_keys_in_a_row_than_a_few_stop_the_partition",
            _UNIT + "test_keystore_failures.py::test_a_readable_record_between_unknown_keys_ends_the_row",
            _JOB + "test_keystore_away.py::test_a_keystore_that_is_down_keeps_every_offset_until_it_is_back",
        ),
    ),
    Lesson(
        source="RailsEventStore/rails_event_store#758",
        failure="a deleted key was made again under its old name, and old events decrypted to garbage",
        rule="a key is named by its bytes, and generations only grow",
        tests=_on_both(
            "KeyVault",
            "test_a_kid_is_derived_from_its_key",
            "test_generations_only_grow",
            "test_a_shredded_generation_never_comes_back",
            "test_an_ended_reference_gets_no_key_ever",
        ),
    ),
    Lesson(
        source="Cratis/Chronicle#3713",
        failure="erased keys were provisioned again, or healed back from another store",
        rule="neither copy, restore nor re-wrap brings a destroyed key back, and the journal goes first",
        tests=(
            *_on_both(
                "Keeper",
                "test_a_restored_backup_forgets_again_what_was_destroyed",
                "test_a_rewrap_a_shred_and_an_insert_meet_in_every_order",
                "test_a_key_that_the_erasure_could_not_find_is_destroyed_by_the_restore",
            ),
            *_on_both("Sharing", "test_no_key_is_released_while_the_journal_cannot_be_applied"),
            _UNIT
            + "test_keystore_failures.py"
            + "::test_yesterdays_keystore_under_a_worker_releases_nothing_before_the_journal_is_applied",
            _COPIES + "test_a_file_that_is_exchanged_under_an_open_vault_releases_no_key",
        ),
    ),
    Lesson(
        source="sliceworkz/eventstore#127",
        failure="an update to null missed logs, replicas and backups; an event could serve one person only",
        rule="an epoch's end reaches every copy of its keys, and an event about two people is two records",
        tests=(
            _SQLITE + "test_nothing_of_a_shredded_key_is_left",
            *_on_both(
                "Keeper",
                "test_a_final_roll_takes_the_copies_of_the_destroyed_with_it",
                "test_no_copy_opens_after_a_final_roll_also_of_a_key_that_nobody_knows_any_more",
            ),
            _UNIT
            + "test_surviving_keys.py"
            + "::test_of_two_people_of_one_event_one_is_erased_and_the_other_unharmed",
            "tests/cli/test_erasure.py::test_sealed_bytes_and_keys_of_an_erased_person_are_in_no_file",
        ),
    ),
    Lesson(
        source="everest-engineering/axon-crypto-shredding-extension#11",
        failure="handlers could not tell an erased field from null, and broke",
        rule="a record whose key was destroyed has a type of its own, which every step takes",
        tests=(
            _HERE
            + "test_erasure.py::test_records_whose_keys_are_gone_are_erased_to_every_step_and_stop_none",
        ),
    ),
    Lesson(
        source="JasperFx/marten#5234",
        failure="masking overwrote events of others, and nothing threw; projections kept what was masked",
        rule="erasing one of ten thousand changes no byte of anybody else, and projections go, too",
        tests=(
            _UNIT + "test_erasure_of_one.py::test_erasing_one_of_many_leaves_everybody_else_as_they_were",
            _UNIT
            + "test_surviving_keys.py"
            + "::test_a_view_from_before_a_withdrawal_opens_under_no_key_afterwards",
        ),
    ),
    Lesson(
        source="PostHog/posthog#30976, #20221",
        failure="a deletion up to a time left what claimed to be later, and might not cover all systems",
        rule="an erasure cuts off by key and place, and answers for every topic and file that there is",
        tests=(
            _HERE + "test_erasure.py::test_an_erasure_takes_what_says_that_it_comes_from_the_future",
            _UNIT + "test_stores.py::test_every_topic_has_one_store_or_holds_nobody",
            _UNIT + "test_stores.py::test_every_file_on_the_disk_has_one_store_or_holds_nobody",
        ),
    ),
    Lesson(
        source="apache/kafka#23305, linkedin/kafka#535",
        failure="one error of the cleaner, and a partition grows until its broker is started again",
        rule="late and idle partitions are told, and what is unreadable does not rest on the cleaner",
        tests=(
            _JOB + "test_compaction.py::test_a_replaced_record_that_stays_for_long_is_late",
            _JOB + "test_compaction.py::test_a_partition_without_a_recent_record_is_idle",
            _UNIT + "test_erasure_waits.py::test_keys_go_though_passes_stand_still_where_others_lie",
        ),
    ),
    Lesson(
        source="ethyca/fides, its changelog (#7684, #7525, #5800, #5834, #4837, #1517)",
        failure="watchdogs cancelled live requests, tasks hung, and their state was lost with a cache",
        rule="an erasure's state is events in the ledger: whoever comes next goes on, at most each hour",
        tests=(
            _UNIT + "test_erasure_care.py::test_an_open_erasure_goes_on_by_itself_after_its_pause",
            _UNIT + "test_erasure_care.py::test_a_worker_of_a_home_goes_on_with_what_others_left",
            _UNIT + "test_erasure_care.py::test_the_pause_doubles_up_to_an_hour",
            "tests/cli/test_erasure.py::test_the_next_command_of_a_home_goes_on_with_an_erasure_that_was_killed",
        ),
    ),
    Lesson(
        source="attevon-llc/OpenTranscribe#442, chattocorp/chatto#219, prompt-edu/prompt#2024",
        failure="a restore brought the erased back; a second try found no identifiers any more",
        rule="no restored system and no old file brings anybody back, and a saga keeps whom it is about",
        tests=(
            _UNIT + "test_restore.py::test_a_restored_keystore_and_log_read_nobody_who_was_erased",
            _UNIT + "test_restore.py::test_a_restored_log_learns_again_who_was_erased",
            _UNIT + "test_resurrection.py::test_an_old_file_that_is_run_again_brings_nobody_back",
            _UNIT + "test_resurrection.py::test_a_registration_that_looks_fresh_brings_nobody_back",
            _UNIT + "test_empty_disk.py::test_a_rebuild_from_an_empty_disk_brings_nobody_back",
            _JOB + "test_empty_disk.py::test_a_worker_that_begins_with_an_empty_disk_brings_nobody_back",
            _UNIT + "test_erasure.py::test_asking_twice_gives_the_same_receipt",
            _UNIT + "test_erasure.py::test_every_reference_of_a_person_is_erased",
        ),
    ),
    Lesson(
        source="newtheatre/stage-door#140",
        failure="somebody was told that it was done while a store had refused",
        rule="completed is said by every store, or not at all",
        tests=(
            _UNIT + "test_stores.py::test_no_erasure_is_complete_while_a_store_is_not_done",
            _UNIT + "test_stores.py::test_a_store_has_one_of_five_outcomes",
            "tests/cli/test_erasure.py::test_an_erasure_that_cannot_look_into_a_store_is_not_complete",
        ),
    ),
    Lesson(
        source="codenotary/immudb#1890, ietf-wg-scitt/draft-ietf-scitt-architecture#144",
        failure="what was deleted could be read in the history; an entry of a log cannot be removed",
        rule="the log holds hashes of salted receipts, and the salt goes to the person",
        tests=(
            _UNIT + "test_erasure.py::test_an_erasure_ends_with_a_receipt_and_its_leaf",
            _UNIT
            + "test_erasure_care.py::test_what_the_ledger_keeps_of_a_receipt_is_its_text_without_the_salt",
            _UNIT + "test_audit.py::test_a_real_receipt_is_verified_by_the_single_file",
        ),
    ),
    Lesson(
        source="tinyhumansai/tinycortex#154, pii-shield/pii-shield#209",
        failure="a check digit alone took times in milliseconds for card numbers, and records were lost",
        rule="a card number has an issuer, a length and a grouping, too, and its field's name counts",
        tests=(
            _UNIT + "test_screen.py::test_epoch_times_are_no_card_numbers",
            _UNIT + "test_screen.py::test_usual_events_are_not_refused",
            _UNIT + "test_screen.py::test_tracking_logs_are_not_refused",
        ),
    ),
)
