//! Shards with their threads, on TCP connections of the loopback.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::net::sockopt;
use tidings_hub::{LiveSettings, QueueLimits, ShardSocket, Shards, Time};
use tidings_protocol::CloseReason;

use super::support::{Node, PATIENCE, ROOMY, Reader, RealTime, eventually, patient};

/// Little, so that a peer which does not read is noticed soon.
const SEND_BUFFER_BYTES: usize = 8 * 1024;

fn start(shards: usize) -> (Node, Shards) {
    let time: Arc<dyn Time> = RealTime::new();
    let node = Node::new(time.clone());
    let shards = Shards::start(&node.hub, shards, &time).unwrap();
    (node, shards)
}

/// The two ends of a connection: the client's, and the server's.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A stream that a shard serves.
fn open(node: &Node, channels: &[&str], settings: LiveSettings) -> TcpStream {
    let (client, server) = connection();
    sockopt::set_socket_send_buffer_size(&server, SEND_BUFFER_BYTES).unwrap();
    hand_over(node, node.subscribe(channels, settings.limits), server, settings);
    client
}

fn hand_over(node: &Node, subscription: tidings_hub::Subscription, server: TcpStream, settings: LiveSettings) {
    let adoption = node.adoption(ShardSocket::Tcp(OwnedFd::from(server)), settings);
    assert!(subscription.hand_over(adoption).is_ok(), "there is a shard");
}

/// Reads until it is enough, or to the end. Answers whether it came to the end.
fn read_until(client: &mut TcpStream, reader: &mut Reader, is_enough: impl Fn(&Reader) -> bool) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    while !is_enough(reader) {
        match client.read(&mut buffer).unwrap() {
            0 => return true,
            bytes => reader.push(&buffer[..bytes]),
        }
    }
    false
}

/// Reads until the connection ends, and says how.
fn end_of(client: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn many_streams_on_two_shards_get_all_in_order() {
    let (node, shards) = start(2);
    let mut clients: Vec<_> = (0..20).map(|_| open(&node, &["a", "b"], patient(ROOMY))).collect();
    assert_eq!(node.hub.sockets_by_shard(), [10, 10], "each goes where there are fewest");
    for number in 0..500 {
        node.publish(if number % 3 == 0 { "a" } else { "b" }, &number.to_string());
    }
    for client in &mut clients {
        let mut reader = Reader::new();
        read_until(client, &mut reader, |reader| reader.events.len() == 500);
        assert_eq!(reader.events, numbers(0..500));
    }
    eventually("all are counted", || node.delivered() == 20 * 500);
    drop(clients);
    eventually("all have left", || node.hub.shard_sockets() == 0);
    assert_eq!(node.closed(CloseReason::ClientClosed), 20);
    node.assert_nothing_left();
    shards.stop();
}

#[test]
fn what_waits_goes_with_the_stream_and_before_all_that_comes() {
    let (node, _shards) = start(1);
    let subscription = node.subscribe(&["a"], ROOMY);
    (0..100).for_each(|number| node.publish("a", &number.to_string()));
    assert_eq!(subscription.waiting().0, 100);
    let (mut client, server) = connection();
    hand_over(&node, subscription, server, patient(ROOMY));
    (100..200).for_each(|number| node.publish("a", &number.to_string()));
    let mut reader = Reader::new();
    read_until(&mut client, &mut reader, |reader| reader.events.len() == 200);
    assert_eq!(reader.events, numbers(0..200));
}

/// Publishes large events until something is so.
fn publish_until(node: &Node, conflate: Option<&str>, what: &str, is_so: impl Fn() -> bool) -> usize {
    let mut count = 0;
    eventually(what, || {
        node.publish_conflating("a", &format!("{count}{}", "x".repeat(20_000)), conflate, Duration::ZERO);
        count += 1;
        is_so()
    });
    count
}

#[test]
fn who_reads_too_slowly_is_told_and_closed() {
    let (node, _shards) = start(1);
    let limits = QueueLimits { max_bytes: 1 << 20, max_events: 8 };
    let mut client = open(&node, &["a"], patient(limits));
    let overflowed = || node.hub.counters().overflowed.get() > 0;
    let published = publish_until(&node, None, "the queue overflows", overflowed);
    let mut reader = Reader::new();
    assert!(read_until(&mut client, &mut reader, |_| false), "it comes to the end");
    assert!(reader.has_closed_as(CloseReason::SlowConsumer), "{:?}", reader.closing);
    let got: Vec<usize> = reader.events.iter().map(|data| data.trim_end_matches('x').parse().unwrap()).collect();
    assert_eq!(got, (0..got.len()).collect::<Vec<_>>(), "the first of them, without a hole");
    assert!(got.len() < published);
    eventually("its end is counted", || node.closed(CloseReason::SlowConsumer) == 1);
    drop(client);
    eventually("the socket is gone", || node.hub.shard_sockets() == 0);
    node.assert_nothing_left();
}

#[test]
fn who_reads_slowly_gets_the_newest_of_what_conflates() {
    let (node, _shards) = start(1);
    let limits = QueueLimits { max_bytes: 1 << 20, max_events: 8 };
    let mut client = open(&node, &["a"], patient(limits));
    let conflated = || node.hub.counters().conflated.get() > 20;
    let published = publish_until(&node, Some("price"), "events are replaced", conflated);
    node.publish("a", "last");
    let mut reader = Reader::new();
    read_until(&mut client, &mut reader, |reader| reader.events.last().is_some_and(|data| data == "last"));
    reader.events.pop();
    let got: Vec<usize> = reader.events.iter().map(|data| data.trim_end_matches('x').parse().unwrap()).collect();
    assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
    assert_eq!(got.last(), Some(&(published - 1)));
    assert_eq!(got.len() as u64 + node.hub.counters().conflated.get(), published as u64);
    assert_eq!(node.hub.connection_count(), 1);
}

#[test]
fn every_way_to_leave_is_told_from_the_others() {
    let (node, _shards) = start(1);
    let mut half = open(&node, &["a"], patient(ROOMY));
    half.shutdown(Shutdown::Write).unwrap();
    eventually("it has left", || node.closed(CloseReason::ClientClosed) == 1);
    end_of(&mut half).unwrap();

    let reset = open(&node, &["a"], patient(ROOMY));
    sockopt::set_socket_linger(&reset, Some(Duration::ZERO)).unwrap();
    drop(reset);
    eventually("it was reset", || node.closed(CloseReason::ClientReset) == 1);

    let mut chatty = open(&node, &["a"], patient(ROOMY));
    chatty.write_all(&vec![b'x'; 64 * 1024]).unwrap();
    node.publish("a", "still there");
    let mut reader = Reader::new();
    read_until(&mut chatty, &mut reader, |reader| reader.events.len() == 1);
    chatty.write_all(b"x").unwrap();
    eventually("it has sent too much", || node.closed(CloseReason::Error) == 1);

    eventually("all are gone", || node.hub.shard_sockets() == 0);
    node.assert_nothing_left();
}

/// What the client had sent before the shard took its stream was forgotten.
#[test]
fn what_a_client_has_sent_before_counts_too() {
    let (node, _shards) = start(1);
    let (mut client, server) = connection();
    let mut adoption = node.adoption(ShardSocket::Tcp(OwnedFd::from(server)), patient(ROOMY));
    adoption.input_bytes = tidings_hub::shard::INPUT_MAX_BYTES;
    assert!(node.subscribe(&["a"], ROOMY).hand_over(adoption).is_ok());
    client.write_all(b"x").unwrap();
    eventually("it has sent too much", || node.closed(CloseReason::Error) == 1);
}

#[test]
fn a_silent_stream_has_heartbeats() {
    let (node, _shards) = start(1);
    let settings = LiveSettings { heartbeat: Duration::from_millis(30), ..patient(ROOMY) };
    let mut client = open(&node, &["a"], settings);
    let mut reader = Reader::new();
    read_until(&mut client, &mut reader, |reader| reader.heartbeats == 3);
    node.publish("a", "between");
    read_until(&mut client, &mut reader, |reader| reader.heartbeats == 6);
    assert_eq!(reader.events, ["between"]);
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let (node, _shards) = start(1);
    let settings = LiveSettings { write_timeout: Duration::from_millis(200), ..patient(ROOMY) };
    let mut client = open(&node, &["a"], settings);
    // Twenty megabytes: more than the kernel takes, and less than the queue.
    (0..1000).for_each(|_| node.publish("a", &"x".repeat(20_000)));
    eventually("it is given up", || node.closed(CloseReason::PeerTimeout) == 1);
    eventually("its socket is gone at once", || node.hub.shard_sockets() == 0);
    node.assert_nothing_left();
    assert_eq!(end_of(&mut client).unwrap_err().kind(), io::ErrorKind::ConnectionReset, "the kernel keeps nothing");
}

#[test]
fn a_stream_that_the_server_ends_is_read_to_its_last_byte_though_the_client_has_spoken() {
    let (node, _shards) = start(1);
    let mut client = open(&node, &["a"], patient(ROOMY));
    // Were the socket closed with that unread, the client would be reset.
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let count = 200;
    (0..count).for_each(|number| node.publish("a", &number.to_string()));
    assert_eq!(node.hub.close_all(&tidings_hub::ConnectionFilter::default(), CloseReason::Kicked), 1);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut reader = Reader::new();
    assert!(read_until(&mut client, &mut reader, |_| false));
    assert_eq!(reader.events, numbers(0..count));
    assert!(reader.has_closed_as(CloseReason::Kicked));
    eventually("its end is counted", || node.closed(CloseReason::Kicked) == 1);
    drop(client);
    eventually("it lingers no longer than its peer", || node.hub.shard_sockets() == 0);
    node.assert_nothing_left();
}

#[test]
fn a_peer_that_never_stops_sending_does_not_keep_its_socket() {
    let (node, _shards) = start(1);
    let client = open(&node, &["a"], patient(ROOMY));
    assert_eq!(node.hub.close_all(&tidings_hub::ConnectionFilter::default(), CloseReason::Kicked), 1);
    let writer = std::thread::spawn(move || {
        let mut client = client;
        let block = vec![b'x'; 64 * 1024];
        while client.write_all(&block).is_ok() {}
    });
    eventually("the socket is gone", || node.hub.shard_sockets() == 0);
    assert_eq!(node.closed(CloseReason::Kicked), 1);
    writer.join().unwrap();
}

#[test]
fn stopped_shards_end_what_they_hold_and_take_no_more() {
    let (node, shards) = start(2);
    let mut clients: Vec<_> = (0..6).map(|_| open(&node, &["a"], patient(ROOMY))).collect();
    shards.stop();
    assert_eq!(node.closed(CloseReason::Drain), 6);
    assert_eq!(node.hub.shard_sockets(), 0);
    node.assert_nothing_left();
    clients.iter_mut().for_each(|client| end_of(client).unwrap());
    assert!(!node.hub.has_shards());
    let (_client, server) = connection();
    let adoption = node.adoption(ShardSocket::Tcp(OwnedFd::from(server)), patient(ROOMY));
    let Err((subscription, _adoption)) = node.subscribe(&["a"], ROOMY).hand_over(adoption) else {
        panic!("nobody would serve it");
    };
    node.publish("a", "to its task");
    assert_eq!(subscription.waiting().0, 1);
}
