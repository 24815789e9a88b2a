//! Servers inside the test's own process, as an application has them.

use std::{net::SocketAddr, path::Path, time::Duration};

use tidings::{Tidings, config::Config};
use tidings_testkit::{client::SseClient, http::HttpClient, wait};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    server: Tidings,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(data_dir: &Path) -> Self {
        let mut config = Config::default();
        config.server.drain_window = Duration::from_millis(100);
        let server = Tidings::builder().config(config).dev(true).data_dir(data_dir).build().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener, shutdown.clone()));
        Self { server, address, shutdown, serving }
    }

    async fn subscribe(&self, query: &str) -> SseClient {
        let path = format!("/v1/subscribe?channel=chat:lobby{query}");
        let mut stream = SseClient::connect(self.address, &path, &[]).await.unwrap();
        stream.connected(PATIENCE).await.unwrap();
        stream
    }

    async fn publish(&self, data: &str) {
        let ids = self.server.publish(&format!(r#"{{"channel":"chat:lobby","data":"{data}"}}"#)).await.unwrap();
        assert_eq!(ids.len(), 1);
    }

    async fn metrics(&self) -> String {
        HttpClient::new(self.address).get("/metrics").await.unwrap().text()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        wait::within("serving to end", PATIENCE, self.serving).await.unwrap().unwrap();
        wait::within("the server to close", PATIENCE, self.server.close()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_in_one_process_know_nothing_of_each_other() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, other) = (Running::start(dirs[0].path()).await, Running::start(dirs[1].path()).await);
    let (mut of_one, mut of_other) = (one.subscribe("").await, other.subscribe("").await);
    one.publish("for one").await;
    other.publish("for the other").await;
    assert_eq!(of_one.next_event(PATIENCE).await.unwrap().data, "for one");
    assert_eq!(of_other.next_event(PATIENCE).await.unwrap().data, "for the other");
    other.publish("more").await;
    assert_eq!(of_other.next_event(PATIENCE).await.unwrap().data, "more");
    for (running, published) in [(&one, 1), (&other, 2)] {
        let line = format!("tidings_events_published_total{{namespace=\"default\"}} {published}\n");
        let metrics = running.metrics().await;
        assert!(metrics.contains(&line), "{metrics}");
    }

    // One ends, with a word to its clients; the other goes on.
    one.stop().await;
    let closing = of_one.next_event(PATIENCE).await.unwrap();
    assert!(closing.event == "closing" && closing.data.contains("drain"), "{closing:?}");
    other.publish("still here").await;
    assert_eq!(of_other.next_event(PATIENCE).await.unwrap().data, "still here");

    // Its data can be used again in the same process, and holds what was published.
    let one = Running::start(dirs[0].path()).await;
    assert_eq!(one.subscribe("&replay=all").await.next_event(PATIENCE).await.unwrap().data, "for one");
    one.stop().await;
    drop(of_other);
    other.stop().await;
}

#[tokio::test]
async fn a_data_directory_has_one_server_and_a_server_has_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path()).await;
    let refused = |built: anyhow::Result<Tidings>| format!("{:#}", built.err().unwrap());
    let second = refused(Tidings::builder().dev(true).data_dir(dir.path()).build().await);
    assert!(second.contains("another server uses the data directory"), "{second}");
    running.stop().await;
    let nobody = refused(Tidings::builder().data_dir(dir.path()).build().await);
    assert!(nobody.contains("no credentials are configured"), "{nobody}");
}
