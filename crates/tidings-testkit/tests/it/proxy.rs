//! The proxy that loses connections.

use std::{net::SocketAddr, time::Duration};

use tidings_testkit::{
    proxy::{CutPlan, CuttingProxy},
    wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(30);

/// Sends back what it is sent, until the other side is finished.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reads, mut writes) = socket.split();
                tokio::io::copy(&mut reads, &mut writes).await
            });
        }
    });
    addr
}

/// Sends the bytes through the proxy and reads what comes back, however it ends.
async fn through(proxy: &CuttingProxy, bytes: &[u8]) -> Vec<u8> {
    let mut back = Vec::new();
    let exchange = async {
        let mut socket = TcpStream::connect(proxy.addr()).await?;
        let (mut reads, mut writes) = socket.split();
        let send = async {
            writes.write_all(bytes).await?;
            writes.shutdown().await
        };
        let (_, read) = tokio::join!(send, reads.read_to_end(&mut back));
        read
    };
    // A reset is what this is about.
    let _cut_or_not = wait::within("the end of an exchange", LIMIT, exchange).await.unwrap();
    back
}

#[tokio::test]
async fn every_connection_is_cut_and_what_came_before_is_whole() {
    let plan = CutPlan { min_bytes: 1, max_bytes: 10_000 };
    let proxy = CuttingProxy::start(echo().await, plan, 1).await.unwrap();
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let mut lengths = Vec::new();
    for _ in 0..50 {
        let back = through(&proxy, &sent).await;
        assert!(back.len() <= 10_000, "{} bytes", back.len());
        assert!(sent.starts_with(&back));
        lengths.push(back.len());
    }
    assert_eq!((proxy.cuts(), proxy.connections()), (50, 50));
    lengths.sort_unstable();
    assert!(lengths[10] < 100 && lengths[49] > 1000, "cut early and late: {lengths:?}");
}

#[tokio::test]
async fn it_stops_cutting_when_told() {
    let plan = CutPlan { min_bytes: 1, max_bytes: 100 };
    let proxy = CuttingProxy::start(echo().await, plan, 2).await.unwrap();
    proxy.stop_cutting();
    let sent = vec![7; 1_000_000];
    assert!(through(&proxy, &sent).await == sent);
    assert_eq!(proxy.cuts(), 0);
    proxy.start_cutting();
    assert!(through(&proxy, &sent).await.len() <= 100);
    assert_eq!(proxy.cuts(), 1);
}

#[tokio::test]
async fn a_pause_is_silent_and_cut_all_is_not() {
    let plan = CutPlan { min_bytes: 1 << 40, max_bytes: 1 << 40 };
    let proxy = CuttingProxy::start(echo().await, plan, 3).await.unwrap();
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut buffer = [0; 4];
    socket.write_all(b"ping").await.unwrap();
    wait::within("an echo", LIMIT, socket.read_exact(&mut buffer)).await.unwrap().unwrap();

    proxy.pause();
    socket.write_all(b"pong").await.unwrap();
    let silent = wait::within("nothing", Duration::from_millis(100), socket.read(&mut buffer)).await;
    assert!(silent.is_err(), "a paused proxy passed something on");
    proxy.resume();
    wait::within("an echo", LIMIT, socket.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"pong");

    proxy.cut_all();
    let end = wait::within("the cut", LIMIT, socket.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    wait::until("the cut to be counted", LIMIT, async || (proxy.cuts() == 1).then_some(())).await.unwrap();
}

#[tokio::test]
async fn where_the_server_is_down_the_client_learns_it() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let plan = CutPlan { min_bytes: 1 << 40, max_bytes: 1 << 40 };
    let proxy = CuttingProxy::start(gone, plan, 4).await.unwrap();
    assert_eq!(through(&proxy, b"hello").await, b"");
}
