//! The example as somebody runs it.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::Method;
use tidings_testkit::{client::SseClient, http::HttpClient, wait};

/// How long a test waits for what must come. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The example, killed on drop.
struct Shop(Child);

impl Drop for Shop {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test]
async fn a_like_reaches_who_looks_and_an_interrupt_drains() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-embed"));
    command.current_dir(dir.path()).env("EMBED_LISTEN", "127.0.0.1:0").stdout(Stdio::piped());
    let mut shop = Shop(command.spawn().unwrap());
    let mut url = String::new();
    BufReader::new(shop.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let address = url.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix("/shop"));
    let address: SocketAddr = address.unwrap_or_else(|| panic!("no address in {url:?}")).parse().unwrap();

    let mut client = HttpClient::new(address);
    assert!(client.get("/shop").await.unwrap().text().contains("/v1/subscribe?channel=shop:likes"));
    let mut stream = SseClient::connect(address, "/v1/subscribe?channel=shop:likes&replay=1", &[]).await.unwrap();
    stream.connected(PATIENCE).await.unwrap();
    for likes in ["1", "2"] {
        let answer = client.send(Method::POST, "/shop/like", &[], "").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, likes));
        assert_eq!(stream.next_event(PATIENCE).await.unwrap().data, likes);
    }
    let metrics = client.get("/metrics").await.unwrap().text();
    assert!(metrics.contains("tidings_events_published_total{namespace=\"default\"} 2\n"), "{metrics}");

    let pid = shop.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let closing = stream.next_event(PATIENCE).await.unwrap();
    assert_eq!(closing.event, "closing");
    assert!(closing.data.contains("\"reason\":\"drain\""), "{}", closing.data);
    assert!(stream.until_end(PATIENCE).await.unwrap().is_empty());
    let status = wait::until("its end", PATIENCE, async || shop.0.try_wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
}
