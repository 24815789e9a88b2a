//! What every database has to do, each test on each of them.

mod accepting;
mod escalating;
mod fixture;
mod keeping;
mod model;
mod opening;
mod racing;

use fixture::{Fixture, On};

/// Runs each test on each database.
macro_rules! on_every_database {
    ($($subject:ident: $($test:ident),+ $(,)?;)+) => {
        on_every_database!(@on sqlite Sqlite; $($subject: $($test),+;)+);
        on_every_database!(@on postgres Postgres; $($subject: $($test),+;)+);
        on_every_database!(@on mariadb MariaDb; $($subject: $($test),+;)+);
    };
    (@on $name:ident $on:ident; $($subject:ident: $($test:ident),+;)+) => {
        mod $name {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    $subject::$test(Fixture::new(On::$on).await).await;
                }
            )+)+
        }
    };
}

on_every_database! {
    accepting:
        a_named_user_has_it_at_once,
        a_key_makes_a_request_harmless,
        an_unread_one_is_replaced_by_the_next_of_its_collapse,
        followers_get_it_in_batches_and_each_once,
        everyone_has_it_when_they_look;
    escalating:
        what_was_told_is_due_until_it_is_settled,
        a_cursor_acknowledges_what_lies_before_it,
        what_is_for_everyone_is_pushed_to_who_has_a_device,
        a_push_is_leased_and_tried_again,
        a_push_that_is_given_up_can_be_tried_again,
        reading_calls_pushes_off,
        a_device_that_is_gone_is_forgotten_if_it_is_still_the_same,
        what_has_expired_is_not_pushed;
    keeping:
        follows_are_exact_and_limited,
        a_push_target_has_one_owner,
        what_is_muted_is_in_the_inbox_and_not_told,
        what_expires_is_gone_at_that_moment,
        who_is_erased_leaves_nothing_but_numbers,
        it_says_how_it_fares;
    opening:
        opening_again_changes_nothing,
        several_nodes_may_start_at_once,
        tables_of_a_later_version_are_refused;
    racing:
        one_of_many_requests_with_a_key_is_taken,
        counts_are_exact_whoever_comes_at_once,
        what_is_for_everyone_comes_once_whoever_looks_at_once,
        writing_out_survives_being_cut_off,
        each_push_is_taken_by_one_worker;
    model:
        a_thousand_random_operations_agree_with_a_model,
        so_they_do_when_what_is_for_everyone_replaces_something;
}
