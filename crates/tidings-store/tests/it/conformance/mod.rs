//! What every database has to do, each test on each of them.

mod accepting;
mod fixture;

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
}
