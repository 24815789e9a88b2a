//! What counts as having arrived.

use std::{
    io::{self, IoSlice, Read as _},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tidings_hub::{
    ConfirmBy, Confirming, ConnectionInfo, QueueLimits, ShardSocket, Shards, Subscription, Time,
    shard::{Progress, Shard, SimulatedSocket},
};
use tidings_protocol::{Cursor, EventId, UserId};

use super::support::{ManualTime, Node, ROOMY, RealTime, eventually, info, patient};

const CHANNEL: &str = "user:42";

fn user() -> UserId {
    UserId::parse("42").unwrap()
}

/// Looks once. Answers whether another look may help.
fn look(node: &Node, confirming: &mut Confirming) -> bool {
    {
        let mut look = pin!(node.hub.look(confirming));
        eventually("the shards answer", || look.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
    !confirming.is_done()
}

/// Looks until no more looks help.
fn is_confirmed(node: &Node, event: EventId) -> bool {
    let mut confirming = Confirming::new(&[(user(), event)]);
    eventually("it is known", || !look(node, &mut confirming));
    confirming.into_answers()[0]
}

fn hand_over(node: &Node, subscription: Subscription) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = ShardSocket::Tcp(OwnedFd::from(listener.accept().unwrap().0));
    assert!(subscription.hand_over(node.adoption(socket, patient(ROOMY))).is_ok(), "there is a shard");
    client
}

fn append(node: &Node, data: &str) -> EventId {
    node.append(CHANNEL, data, None, Duration::ZERO)
}

fn start() -> (Node, Shards) {
    let time: Arc<dyn Time> = RealTime::new();
    let node = Node::new(time.clone());
    let shards = Shards::start(&node.hub, 2, &time).unwrap();
    (node, shards)
}

fn open(node: &Node, info: ConnectionInfo, seen: Option<&Cursor>) -> TcpStream {
    hand_over(node, node.subscribe_as(info, &[], ROOMY, seen))
}

#[test]
fn what_the_peer_has_acknowledged_has_arrived() {
    let (node, _shards) = start();
    let mut client = open(&node, info(Some("42"), &[CHANNEL]), None);
    let first = append(&node, "first");
    assert!(is_confirmed(&node, first));
    client.read_exact(&mut [0; 10]).unwrap();
    // Each is asked for by itself, whoever else is.
    let second = append(&node, "second");
    let deliveries = [(UserId::parse("7").unwrap(), second), (user(), second), (user(), first)];
    let mut confirming = Confirming::new(&deliveries);
    eventually("all is known", || !look(&node, &mut confirming));
    assert_eq!(confirming.into_answers(), [false, true, true]);
    drop(client);
    eventually("it has left", || node.hub.connection_count() == 0);
    assert!(!is_confirmed(&node, second), "nobody is there who could have it");
}

#[test]
fn behind_a_proxy_the_kernels_word_counts_nothing() {
    let (node, _shards) = start();
    let _client = open(&node, ConnectionInfo { confirms: ConfirmBy::Client, ..info(Some("42"), &[CHANNEL]) }, None);
    let event = append(&node, "first");
    assert!(!is_confirmed(&node, event));
}

#[test]
fn a_stream_that_began_later_has_what_it_resumed_for_and_nothing_else() {
    let (node, _shards) = start();
    let before = node.hub.cursor();
    let event = append(&node, "before all of them");
    let _new = open(&node, info(Some("42"), &[CHANNEL]), None);
    assert!(!is_confirmed(&node, event));
    let later = append(&node, "later");
    assert!(is_confirmed(&node, later));
    let resumed = open(&node, info(Some("42"), &[CHANNEL]), Some(&before));
    assert!(is_confirmed(&node, event));
    drop(resumed);
    eventually("it has left", || node.hub.connection_count() == 1);
    assert!(!is_confirmed(&node, event));
    let unread = node.subscribe_as(info(Some("42"), &[CHANNEL]), &[], ROOMY, None);
    unread.has_earlier();
    let _client = hand_over(&node, unread);
    assert!(is_confirmed(&node, event));
}

/// What a peer has been sent, and how much of it is acknowledged.
#[derive(Default)]
struct Peer {
    takes_bytes: usize,
    sent: u64,
    acknowledged: u64,
    has_ended: bool,
}

#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Peer>>);

impl SimulatedSocket for Socket {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut peer = self.0.lock();
        let taken = slices.iter().map(|slice| slice.len()).sum::<usize>().min(peer.takes_bytes);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        peer.takes_bytes -= taken;
        peer.sent += taken as u64;
        Ok(taken)
    }

    fn receive(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn shut_down(&mut self) {}

    fn is_peer_lost(&self) -> bool {
        false
    }

    fn progress(&self) -> Option<Progress> {
        let peer = self.0.lock();
        let unacknowledged_bytes = peer.sent - peer.acknowledged;
        (!peer.has_ended).then_some(Progress { acknowledged_bytes: Some(peer.acknowledged), unacknowledged_bytes })
    }
}

impl Socket {
    fn acknowledge_all(&self) {
        let mut peer = self.0.lock();
        peer.acknowledged = peer.sent;
    }
}

struct Test {
    node: Node,
    shard: Shard,
    socket: Socket,
}

impl Test {
    fn new(limits: QueueLimits, takes_bytes: usize) -> Self {
        let time = Arc::new(ManualTime::default());
        let node = Node::new(time.clone());
        let shard = Shard::simulated(&node.hub, time).unwrap();
        let socket = Socket(Arc::new(Mutex::new(Peer { takes_bytes, ..Peer::default() })));
        let subscription = node.subscribe_as(info(Some("42"), &[CHANNEL]), &[], limits, None);
        let adoption = node.adoption(ShardSocket::Simulated(Box::new(socket.clone())), patient(limits));
        assert!(subscription.hand_over(adoption).is_ok());
        Self { node, shard, socket }
    }

    /// Looks once. Answers whether another look may help.
    fn look(&mut self, confirming: &mut Confirming) -> bool {
        {
            let mut look = pin!(self.node.hub.look(confirming));
            let mut context = Context::from_waker(Waker::noop());
            while look.as_mut().poll(&mut context) == Poll::Pending {
                assert!(self.shard.turn());
            }
        }
        !confirming.is_done()
    }
}

#[test]
fn a_peer_that_acknowledges_nothing_has_nothing_though_the_kernel_has_taken_all() {
    let mut test = Test::new(ROOMY, usize::MAX);
    let event = append(&test.node, "half-open");
    let mut confirming = Confirming::new(&[(user(), event)]);
    (0..20).for_each(|_| assert!(test.look(&mut confirming)));
    assert_eq!(confirming.into_answers(), [false]);
}

#[test]
fn on_a_busy_stream_what_was_sent_up_to_the_event_counts_and_not_what_comes_after() {
    let mut test = Test::new(ROOMY, usize::MAX);
    test.node.publish(CHANNEL, "before");
    let event = append(&test.node, "this one");
    let mut confirming = Confirming::new(&[(user(), event)]);
    assert!(test.look(&mut confirming));
    let marked = test.socket.0.lock().sent;
    test.node.publish(CHANNEL, "after");
    test.socket.0.lock().acknowledged = marked - 1;
    assert!(test.look(&mut confirming));
    test.socket.0.lock().acknowledged = marked;
    assert!(!test.look(&mut confirming));
    assert!(test.socket.0.lock().sent > marked, "there is always something under way");
    assert_eq!(confirming.into_answers(), [true]);
}

#[test]
fn what_waits_in_the_queue_has_not_arrived() {
    let mut test = Test::new(ROOMY, 10);
    let event = append(&test.node, "written in part");
    let mut confirming = Confirming::new(&[(user(), event)]);
    assert!(test.look(&mut confirming));
    test.socket.acknowledge_all();
    assert!(test.look(&mut confirming));
    assert_eq!(confirming.into_answers(), [false]);
}

/// A queue that has overflowed is empty, and what was in it never was sent.
#[test]
fn what_an_overflow_has_dropped_has_not_arrived() {
    let mut test = Test::new(QueueLimits { max_bytes: 1 << 20, max_events: 2 }, 10);
    test.node.publish(CHANNEL, "written in part");
    assert!(test.shard.turn());
    let event = append(&test.node, "dropped");
    (0..3).for_each(|_| test.node.publish(CHANNEL, "too much"));
    test.socket.acknowledge_all();
    let mut confirming = Confirming::new(&[(user(), event)]);
    assert!(!test.look(&mut confirming));
    assert_eq!(confirming.into_answers(), [false]);
}

#[test]
fn a_connection_that_has_ended_says_nothing() {
    let mut test = Test::new(ROOMY, usize::MAX);
    let event = append(&test.node, "nobody knows");
    assert!(test.shard.turn());
    let mut confirming = Confirming::new(&[(user(), event)]);
    test.socket.0.lock().has_ended = true;
    assert!(!test.look(&mut confirming));
    assert_eq!(confirming.into_answers(), [false]);
}

#[test]
fn a_shard_that_vanishes_answers_nobody_and_keeps_nobody_waiting() {
    let test = Test::new(ROOMY, usize::MAX);
    let event = append(&test.node, "nobody knows");
    let mut confirming = Confirming::new(&[(user(), event)]);
    {
        let mut look = pin!(test.node.hub.look(&mut confirming));
        let mut context = Context::from_waker(Waker::noop());
        assert!(look.as_mut().poll(&mut context).is_pending());
        drop(test.shard);
        assert!(look.as_mut().poll(&mut context).is_ready());
    }
    assert!(confirming.is_done());
    assert_eq!(confirming.into_answers(), [false]);
}
