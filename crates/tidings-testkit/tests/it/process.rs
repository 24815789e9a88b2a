//! The server as a child process, as far as it can be tested without one.

use tidings_testkit::process::{ServerOptions, TidingsServer};

#[tokio::test]
async fn a_server_that_ends_at_once_is_told_from_one_that_is_slow() {
    let error = TidingsServer::start(ServerOptions::new("").binary("/bin/false")).await.unwrap_err().to_string();
    assert!(error.contains("ended with exit status: 1 instead of becoming ready"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let error = TidingsServer::start(ServerOptions::new("").binary("/no/such/tidings")).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/tidings"), "{error:#}");
}
