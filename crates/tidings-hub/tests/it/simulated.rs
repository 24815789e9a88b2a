//! A shard by hand: what is due when, and what waits.

use std::{
    io::{self, IoSlice},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tidings_hub::{
    LiveSettings, QueueLimits, ShardSocket, Time,
    shard::{Readiness, Shard, SimulatedSocket},
};
use tidings_protocol::CloseReason;

use super::support::{ManualTime, Node, ROOMY, Reader, patient};

const WINDOW: Duration = Duration::from_millis(100);

/// More than a shard's timers tell apart.
const MOMENT: Duration = Duration::from_millis(20);

/// What the peer has been sent, and how much more it takes.
struct Peer {
    reader: Reader,
    takes_bytes: usize,
    is_lost: bool,
    is_shut_down: bool,
}

#[derive(Clone)]
struct Socket(Arc<Mutex<Peer>>);

impl SimulatedSocket for Socket {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut peer = self.0.lock();
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let taken = bytes.len().min(peer.takes_bytes);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        peer.takes_bytes -= taken;
        peer.reader.push(&bytes[..taken]);
        Ok(taken)
    }

    fn receive(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn shut_down(&mut self) {
        self.0.lock().is_shut_down = true;
    }

    fn is_peer_lost(&self) -> bool {
        self.0.lock().is_lost
    }
}

impl Socket {
    fn events(&self) -> Vec<String> {
        self.0.lock().reader.events.clone()
    }
}

struct Test {
    node: Node,
    time: Arc<ManualTime>,
    shard: Shard,
}

impl Test {
    fn new() -> Self {
        let time = Arc::new(ManualTime::default());
        let node = Node::new(time.clone());
        let shard = Shard::simulated(&node.hub, time.clone()).unwrap();
        Self { node, time, shard }
    }

    fn open(&self, settings: LiveSettings) -> Socket {
        self.open_hidden(&[], settings)
    }

    fn open_hidden(&self, hidden: &[&str], settings: LiveSettings) -> Socket {
        let peer = Peer { reader: Reader::new(), takes_bytes: usize::MAX, is_lost: false, is_shut_down: false };
        let socket = Socket(Arc::new(Mutex::new(peer)));
        let subscription = self.node.subscribe_hidden(&["a"], hidden, settings.limits);
        let adoption = self.node.adoption(ShardSocket::Simulated(Box::new(socket.clone())), settings);
        assert!(subscription.hand_over(adoption).is_ok());
        socket
    }

    fn publish_price(&self, data: &str) {
        self.node.publish_conflating("a", data, Some("price"), WINDOW);
    }

    fn turn(&mut self) {
        assert!(self.shard.turn());
    }

    fn pass(&mut self, time: Duration) {
        self.time.advance(time);
        self.turn();
    }
}

#[test]
fn what_conflates_waits_for_its_windows_end_and_no_longer() {
    let mut test = Test::new();
    let socket = test.open(patient(ROOMY));
    test.publish_price("1");
    test.turn();
    test.pass(WINDOW / 2);
    test.publish_price("2");
    test.turn();
    assert_eq!(socket.events(), [""; 0]);
    // The first has set the time.
    test.pass(WINDOW / 2 + MOMENT);
    assert_eq!(socket.events(), ["2"]);
}

#[test]
fn a_hidden_channel_is_heard_and_not_named() {
    let mut test = Test::new();
    let sockets = [test.open_hidden(&["h"], patient(ROOMY)), test.open_hidden(&["h"], patient(ROOMY))];
    test.node.publish("h", "hidden");
    test.node.publish("a", "named");
    test.turn();
    for socket in &sockets {
        assert_eq!(socket.events(), ["hidden", "named"]);
    }
    let mut named = test.node.hub.connections(&tidings_hub::ConnectionFilter::default()).into_iter();
    assert!(named.all(|info| info.channels.len() == 1 && info.channels[0].as_str() == "a"));
    // One ends by itself, the other with its shard.
    let first = test.node.hub.connections(&tidings_hub::ConnectionFilter::default())[0].id;
    test.node.hub.close(&first, CloseReason::Kicked);
    test.turn();
    assert_eq!(test.node.hub.channel_count(), 2);
    let Test { node, shard, .. } = test;
    drop(shard);
    node.assert_nothing_left();
}

#[test]
fn an_ordinary_event_takes_along_what_waits_for_its_window() {
    let mut test = Test::new();
    let socket = test.open(patient(ROOMY));
    test.publish_price("1");
    test.turn();
    test.node.publish("a", "now");
    test.turn();
    assert_eq!(socket.events(), ["1", "now"]);
}

/// A timer that was set into the past came up again and again, before those of others.
#[test]
fn windows_that_end_together_are_written_in_one_turn() {
    let mut test = Test::new();
    let sockets: Vec<_> = (0..50).map(|_| test.open(patient(ROOMY))).collect();
    test.publish_price("1");
    test.turn();
    test.pass(WINDOW + MOMENT);
    for socket in sockets {
        assert_eq!(socket.events(), ["1"]);
    }
}

/// What had come to a shard in one go overflowed queues whose sockets were open.
#[test]
fn a_burst_closes_nobody_who_takes_what_there_is() {
    let mut test = Test::new();
    let limits = QueueLimits { max_bytes: 1 << 20, max_events: 8 };
    let (fast, slow) = (test.open(patient(limits)), test.open(patient(limits)));
    test.turn();
    slow.0.lock().takes_bytes = 0;
    (0..100).for_each(|number| test.node.publish("a", &number.to_string()));
    (0..100).for_each(|number| test.node.publish_conflating("a", "", Some(&number.to_string()), WINDOW));
    test.node.publish("a", "last");
    test.turn();
    assert_eq!(fast.events().len(), 201);
    assert_eq!(test.node.delivered(), 201);
    assert_eq!(test.node.hub.connection_count(), 2, "one is still to be told that it is too slow");
    assert_eq!(test.node.hub.counters().overflowed.get(), 9);
    slow.0.lock().takes_bytes = usize::MAX;
    for slot in 0..test.shard.slots() {
        test.shard.on_ready(slot, Readiness { readable: false, writable: true });
    }
    test.turn();
    assert!(slow.0.lock().reader.has_closed_as(CloseReason::SlowConsumer));
    assert_eq!(test.node.hub.connection_count(), 1);
}

#[test]
fn a_peer_that_is_lost_is_not_called_slow() {
    let mut test = Test::new();
    let limits = QueueLimits { max_bytes: 1 << 20, max_events: 2 };
    let socket = test.open(LiveSettings { write_timeout: Duration::from_secs(1), ..patient(limits) });
    test.turn();
    (socket.0.lock().takes_bytes, socket.0.lock().is_lost) = (10, true);
    (0..5).for_each(|number| test.node.publish("a", &number.to_string()));
    test.turn();
    test.pass(Duration::from_secs(1) + MOMENT);
    assert_eq!(test.node.closed(CloseReason::PeerTimeout), 1);
    test.node.assert_nothing_left();
}

#[test]
fn the_feed_waits_while_a_shard_has_too_much_to_do() {
    let mut test = Test::new();
    let socket = test.open(patient(ROOMY));
    let mut context = Context::from_waker(Waker::noop());
    let hub = test.node.hub.clone();
    let is_pending = |context: &mut Context<'_>| pin!(hub.room()).poll(context).is_pending();
    assert!(!is_pending(&mut context));
    let mut published = 0;
    while !is_pending(&mut context) {
        assert!(published < 100_000, "an inbox is bounded");
        test.node.publish("a", &published.to_string());
        published += 1;
    }
    let mut room = pin!(hub.room());
    test.node.publish("a", "one more");
    assert_eq!(room.as_mut().poll(&mut context), Poll::Pending);
    test.turn();
    assert_eq!(room.as_mut().poll(&mut context), Poll::Ready(()));
    assert_eq!(socket.events().len(), published + 1);
}

#[test]
fn a_stream_ends_at_its_time_and_its_socket_soon_after() {
    let mut test = Test::new();
    let subscription = test.node.subscribe(&["a"], ROOMY);
    let peer = Peer { reader: Reader::new(), takes_bytes: usize::MAX, is_lost: false, is_shut_down: false };
    let socket = Socket(Arc::new(Mutex::new(peer)));
    let mut adoption = test.node.adoption(ShardSocket::Simulated(Box::new(socket.clone())), patient(ROOMY));
    adoption.ends_at = Some((test.time.tick() + Duration::from_secs(2), CloseReason::MaxAge));
    assert!(subscription.hand_over(adoption).is_ok());
    test.pass(Duration::from_millis(1900));
    assert_eq!(socket.0.lock().reader.closing, None);
    test.pass(Duration::from_millis(100) + MOMENT);
    assert!(socket.0.lock().reader.has_closed_as(CloseReason::MaxAge));
    assert!(socket.0.lock().is_shut_down);
    assert_eq!((test.node.closed(CloseReason::MaxAge), test.node.hub.shard_sockets()), (1, 1));
    test.pass(Duration::from_secs(5) + MOMENT);
    assert_eq!(test.node.hub.shard_sockets(), 0);
    test.node.assert_nothing_left();
}

/// A socket that says without truth that it takes bytes has taken none all the time.
#[test]
fn a_peer_that_takes_nothing_is_given_up_though_it_says_that_it_would() {
    let mut test = Test::new();
    let socket = test.open(LiveSettings { write_timeout: Duration::from_secs(1), ..patient(ROOMY) });
    test.turn();
    socket.0.lock().takes_bytes = 10;
    test.node.publish("a", "never");
    test.turn();
    for _ in 0..11 {
        assert_eq!(test.node.hub.connection_count(), 1);
        test.pass(Duration::from_millis(90));
        test.shard.on_ready(0, Readiness { readable: true, writable: true });
        test.turn();
    }
    test.pass(MOMENT);
    assert_eq!(test.node.closed(CloseReason::PeerTimeout), 1);
    test.node.assert_nothing_left();
}

/// A shard whose thread panics is dropped as it is: nobody must wait for it.
#[test]
fn what_a_vanished_shard_held_is_forgotten() {
    let mut test = Test::new();
    let _served = test.open(patient(ROOMY));
    test.turn();
    let _not_taken_yet = test.open(patient(ROOMY));
    test.node.publish("a", "for both");
    let Test { node, shard, .. } = test;
    drop(shard);
    assert_eq!((node.closed(CloseReason::Error), node.hub.shard_sockets()), (2, 0));
    node.assert_nothing_left();
    assert!(!node.hub.has_shards());
    (0..10_000).for_each(|_| node.publish("a", "for nobody"));
    let mut context = Context::from_waker(Waker::noop());
    assert!(pin!(node.hub.room()).poll(&mut context).is_ready());
}
