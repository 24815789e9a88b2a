//! The promise of the contract, while the server is killed and every connection is cut.

use tidings_testkit::stress::{StressOptions, run};

/// A run that fails prints its seed; `docs/testing.md` says how to repeat it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_event_is_lost_repeated_or_reordered() {
    let binary = Some(env!("CARGO_BIN_EXE_tidings").into());
    let report = match run(StressOptions { binary, ..StressOptions::short(rand::random()) }).await {
        Ok(report) => report,
        Err(error) => panic!("{error:#}"),
    };
    assert_eq!(report.kills, 3);
    assert!(report.cuts > 100, "the proxy hardly cut anything:\n{report}");
    assert!(report.duplicates > 0, "no answer to a publish was lost:\n{report}");
}
