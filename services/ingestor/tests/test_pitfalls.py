"""What went wrong in other clients of this venue, and the test that shows that it does not here.

Numbers are those of the project's list of known pitfalls. A test stands for one when it would fail
if the mistake were made here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NORMALIZER = TESTS.parents[1] / "normalizer" / "tests"
COMMON = TESTS.parents[1] / "common" / "tests"

PITFALLS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "`sequence` taken for contiguous outside the full channel",
        (
            "test_a_ticker_is_never_checked_for_steps_of_one",
            "test_pitfall_1_a_recorded_full_feed_is_contiguous_across_its_mixed_types",
            "test_every_lost_trade_is_found_and_nothing_else",
        ),
    ),
    2: (
        "a ticker that skips trades taken for a loss",
        ("test_a_skipped_trade_id_is_a_cascade_and_no_loss",),
    ),
    3: (
        "gaps of the full channel ignored",
        (
            "test_pitfall_3_a_lost_message_is_found_and_the_book_rebuilt_from_level_3",
            "test_lost_messages_of_orders_are_found_by_number_and_the_book_is_the_models",
        ),
    ),
    4: (
        "every product reset when one has a gap",
        ("test_a_gap_of_one_product_is_not_noticed_by_the_other",),
    ),
    5: (
        "429 from many snapshots at start",
        (
            "test_the_limit_of_the_venue_is_kept_so_that_it_never_refuses",
            "test_too_many_requests_and_server_errors_are_tried_again",
        ),
    ),
    6: (
        "a REST snapshot ahead of the socket",
        (
            "test_pitfall_6_an_image_ahead_of_the_socket_makes_what_follows_up_to_it_old_news",
            "test_a_fetched_book_is_followed_by_the_updates_that_waited_and_are_newer",
        ),
    ),
    7: (
        "messages about orders that never rested applied",
        ("test_pitfall_7_messages_about_orders_that_never_rested_change_nothing",),
    ),
    8: (
        "a socket that is silent and never closes",
        ("test_the_feed_flows_again_after_every_kind_of_loss",),
    ),
    9: (
        "an idle socket closed by the venue",
        ("test_heartbeats_are_always_subscribed",),
    ),
    10: (
        "a reconnect without subscribing again, a stale book",
        (
            "test_every_reconnect_begins_with_a_new_base",
            "test_a_reconnect_needs_a_new_image_and_one_is_not_taken_while_the_connection_is_down",
        ),
    ),
    11: (
        "`last_match` stored as a new trade",
        ("test_the_last_trade_before_a_subscription_is_never_written_as_a_trade",),
    ),
    12: (
        "level2 and full without a key",
        (
            "test_a_channel_that_needs_a_signature_is_served_with_the_key",
            "test_pitfall_12_a_channel_that_needs_a_key_is_refused_without_one",
        ),
    ),
    13: (
        "a time of year 0001, a size of 0.-10000",
        (
            "test_what_is_no_usable_time_is_none",
            "test_a_message_without_a_sensible_time_keeps_the_order",
            "test_pitfall_13_a_row_that_makes_no_sense_does_not_cost_the_book_of_orders",
            "test_pitfall_13_a_size_that_makes_no_sense_ends_the_replica_until_the_next_base",
        ),
    ),
    14: (
        "times of another precision",
        (
            "test_any_precision_from_0_to_9_digits_is_read_to_the_microsecond",
            "test_times_of_rest_answers_have_zero_to_nine_fraction_digits",
        ),
    ),
    15: (
        "a snapshot above a mebibyte closes the connection",
        ("test_pitfall_15_a_snapshot_of_more_than_a_mebibyte_is_received",),
    ),
    16: (
        "one bad product refuses the whole subscription",
        (
            "test_without_validation_one_bad_product_still_costs_the_others_nothing",
            "test_errors_come_as_messages",
        ),
    ),
    17: (
        "delisted products are listed and refuse other calls",
        (
            "test_a_product_the_venue_does_not_serve_is_left_out",
            "test_a_recorded_delisted_product_is_refused_by_every_other_call",
        ),
    ),
    18: (
        "the maker's side taken for the taker's",
        ("test_a_match_names_the_maker_and_a_trade_names_the_taker",),
    ),
    19: (
        "a deprecated host that closes with 1000",
        ("test_the_feed_flows_again_after_every_kind_of_loss",),
    ),
    20: (
        "product ids at the top level refused",
        ("test_product_ids_stand_inside_each_channel",),
    ),
    21: (
        "a last trade id of 0 believed",
        ("test_a_heartbeat_without_a_last_trade_means_nothing",),
    ),
    22: (
        "updates of an old connection before the new snapshot",
        ("test_updates_before_the_snapshot_are_dropped",),
    ),
    23: (
        "hours without matches that nobody notices",
        (
            "test_a_lost_tail_is_found_by_heartbeats_alone",
            "test_a_lost_last_trade_is_found_by_the_second_heartbeat",
        ),
    ),
    24: (
        "all feeds stall after a reset; too many subscribes a second",
        (
            "test_the_feed_flows_again_after_every_kind_of_loss",
            "test_reserved_tokens_are_used_in_turn_and_never_more_than_burst_plus_rate",
        ),
    ),
    25: (
        "a cached answer healed from",
        (
            "test_a_stale_answer_is_asked_for_again",
            "test_pitfall_25_an_image_of_a_cache_older_than_what_was_passed_on_is_refused",
            "test_a_lively_market_and_a_caches_answers_are_never_an_alarm",
        ),
    ),
    26: (
        "an alarm over a book that an auction crossed",
        (
            "test_pitfall_26_a_crossed_book_in_an_auction_is_no_alarm",
            "test_pitfall_26_a_crossed_book_is_an_alarm_outside_an_auction_only",
        ),
    ),
    28: (
        'the same price written in two ways ("9289.70", "9289.7")',
        (
            "test_the_same_book_is_not_contradicted_however_its_numbers_are_written",
            "test_a_level_is_the_sum_of_its_orders_and_goes_with_the_last_one",
        ),
    ),
}

NOT_OURS = {27: "batches of the Advanced Trade API, another protocol"}


def _tests() -> set[str]:
    found: set[str] = set()
    for folder in (TESTS, NORMALIZER, COMMON):
        for path in folder.glob("test_*.py"):
            tree = ast.parse(path.read_text())
            found |= {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


EXISTING = _tests()


@pytest.mark.parametrize("number", sorted(PITFALLS))
def test_every_pitfall_has_a_test_that_exists(number: int) -> None:
    _, names = PITFALLS[number]
    assert names
    assert [name for name in names if name not in EXISTING] == []


def test_none_of_the_28_is_left_out() -> None:
    assert sorted(PITFALLS | NOT_OURS) == list(range(1, 29))
