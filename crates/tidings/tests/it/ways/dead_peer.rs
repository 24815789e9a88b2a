//! Clients that are gone without a word: no FIN, no reset, packets dropped on the way.

use std::{process::Stdio, time::Duration};

use tidings_testkit::{
    endpoint::Way,
    host::Host,
    http::HttpClient,
    process::{ServerOptions, TidingsServer},
    wait,
};

on_every_way!(a_peer_behind_a_dead_network_is_found_by_its_silence);

const LIMIT: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
[auth]
api_keys = ["tk_dead_peer_0123456789abcdef"]
[stream]
heartbeat = "200ms"
tcp_user_timeout = "1s"
[namespaces.default]
subscribe = ["anyone"]
"#;

async fn a_peer_behind_a_dead_network_is_found_by_its_silence(way: Way) {
    let options = ServerOptions::new(CONFIG).binary(env!("CARGO_BIN_EXE_tidings")).on_all_interfaces();
    let options = if way.is_tls() { options.tls() } else { options };
    let (scheme, version) = match way {
        Way::Http1 => ("http", "--http1.1"),
        Way::Http1Tls => ("https", "--http1.1"),
        Way::Http2 => ("http", "--http2-prior-knowledge"),
        Way::Http2Tls => ("https", "--http2"),
    };
    let server = TidingsServer::start(options).await.unwrap();
    let host = Host::new().unwrap();
    let url = format!("{scheme}://{}:{}/v1/subscribe?channel=chat:a", host.near(), server.addr().port());
    let mut client = host.command("curl").args(["-sNk", version, &url]).stdout(Stdio::null()).spawn().unwrap();
    metric_is(&server, way, "tidings_connections{transport=\"sse\"} 1").await;

    host.cut_off().unwrap();
    metric_is(&server, way, "tidings_connections_closed_total{transport=\"sse\",reason=\"peer_timeout\"} 1").await;
    metric_is(&server, way, "tidings_connections{transport=\"sse\"} 0").await;
    assert!(client.try_wait().unwrap().is_none(), "the client still believes that it is connected");
    client.kill().unwrap();
    client.wait().unwrap();
}

async fn metric_is(server: &TidingsServer, way: Way, line: &str) {
    let mut http = HttpClient::new(server.endpoint(way));
    let seen = wait::until(line, LIMIT, async || {
        let metrics = http.get("/metrics").await.ok()?.text();
        metrics.lines().any(|found| found == line).then_some(())
    });
    seen.await.unwrap();
}
