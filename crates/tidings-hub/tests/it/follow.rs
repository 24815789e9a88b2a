//! Streams whose channels change while they are open.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, IoSlice},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use proptest::prelude::*;
use tidings_hub::{
    ConnectionFilter, ConnectionId, Format, LaterFence, QueueLimits, ShardSocket, Subscription,
    shard::{Readiness, Shard, SimulatedSocket},
};
use tidings_protocol::{Channel, CloseReason, UserId};

use super::support::{ManualTime, Node, ROOMY, Reader, channel, info, patient};

/// What a client has read, whether it takes anything, and whether it has left.
struct Peer {
    reader: Reader,
    takes: bool,
    has_left: bool,
}

#[derive(Clone)]
struct Socket(Arc<Mutex<Peer>>);

impl Default for Socket {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Peer { reader: Reader::new(), takes: true, has_left: false })))
    }
}

impl SimulatedSocket for Socket {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut peer = self.0.lock();
        if !peer.takes {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        slices.iter().for_each(|slice| peer.reader.push(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn receive(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.lock().has_left {
            true => Ok(0),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn shut_down(&mut self) {}

    fn is_peer_lost(&self) -> bool {
        false
    }
}

impl Socket {
    fn events(&self) -> Vec<String> {
        self.0.lock().reader.events.clone()
    }
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

struct Test {
    node: Node,
    shards: Vec<Shard>,
}

impl Test {
    fn new() -> Self {
        let time = Arc::new(ManualTime::default());
        let node = Node::new(time.clone());
        let shards = (0..2).map(|_| Shard::simulated(&node.hub, time.clone()).unwrap()).collect();
        Self { node, shards }
    }

    fn hand_over(&self, subscription: Subscription) -> Socket {
        let socket = Socket::default();
        let adoption = self.node.adoption(ShardSocket::Simulated(Box::new(socket.clone())), patient(ROOMY));
        assert!(subscription.hand_over(adoption).is_ok());
        socket
    }

    fn open(&self, id: &str, channels: &[&str]) -> Socket {
        self.hand_over(self.node.subscribe_following(id, channels, ROOMY))
    }

    /// The feed has the markers by then.
    fn add(&self, id: &str, name: &str) {
        let _added = self.node.hub.add_channels(&user(id), &[channel(name)]);
        self.node.answer_registrations();
    }

    fn remove(&self, id: &str, name: &str) {
        self.node.hub.remove_channels(&user(id), &[channel(name)]);
    }

    fn turn(&mut self) {
        self.shards.iter_mut().for_each(|shard| assert!(shard.turn()));
    }

    fn channels_of(&self, id: &str) -> Vec<Vec<String>> {
        let filter = ConnectionFilter { user: Some(user(id)), ..ConnectionFilter::default() };
        let names = |channels: &[Channel]| channels.iter().map(ToString::to_string).collect();
        self.node.hub.connections(&filter).iter().map(|info| names(&info.channels)).collect()
    }
}

fn taken(subscription: &Subscription) -> Vec<String> {
    let (mut frames, mut reader) = (Vec::new(), Reader::new());
    let mut context = Context::from_waker(Waker::noop());
    subscription.take(&mut context, tidings_hub::Tick::ZERO, usize::MAX, &mut frames);
    frames.iter().for_each(|frame| reader.push(frame.bytes(Format::SseEnvelope)));
    reader.events
}

#[test]
fn streams_keep_up_with_what_their_user_follows() {
    let mut test = Test::new();
    let following = test.open("42", &["a"]);
    let in_a_task = test.node.subscribe_following("42", &["a"], ROOMY);
    let plain = test.hand_over(test.node.subscribe_as(info(Some("42"), &["a"]), &[], ROOMY, None));
    let of_another = test.open("7", &["a"]);
    test.node.publish("b", "before");
    test.add("42", "b");
    test.node.publish("b", "followed");
    test.node.publish("a", "to all");
    test.turn();
    assert_eq!(following.events(), ["followed", "to all"]);
    assert_eq!(taken(&in_a_task), ["followed", "to all"]);
    assert_eq!(test.channels_of("42").iter().filter(|channels| **channels == ["a", "b"]).count(), 2);
    assert_eq!(test.node.hub.listener_count(&channel("b")), 2);
    test.remove("42", "b");
    test.node.publish("b", "no more");
    test.turn();
    assert_eq!(following.events(), ["followed", "to all"]);
    assert_eq!(taken(&in_a_task), [""; 0]);
    for other in [plain, of_another] {
        assert_eq!(other.events(), ["to all"]);
    }
    assert_eq!((test.node.hub.listener_count(&channel("b")), test.node.hub.channel_count()), (0, 1));
}

#[test]
fn what_a_client_has_named_itself_stays_when_it_is_unfollowed() {
    let mut test = Test::new();
    let client = test.open("42", &["a", "b"]);
    test.add("42", "b");
    test.remove("42", "b");
    test.node.publish("b", "named");
    test.turn();
    assert_eq!(client.events(), ["named"]);
}

#[test]
fn a_stream_gets_what_it_may_and_no_more_than_it_has_room_for() {
    let test = Test::new();
    let subscription = test.node.subscribe_as(info(Some("42"), &["a"]), &[], ROOMY, None);
    subscription.keep_up(1, 3, Arc::new(|channel: &Channel| channel.as_str() != "secret"));
    let all: Vec<_> = ["secret", "b", "b", "c", "d"].map(channel).into();
    let _added = test.node.hub.add_channels(&user("42"), &all);
    assert_eq!(subscription.channels(), ["a", "b", "c"].map(channel));
    test.remove("42", "b");
    let _added = test.node.hub.add_channels(&user("42"), &[channel("d")]);
    assert_eq!(subscription.channels(), ["a", "c", "d"].map(channel));
}

#[test]
fn what_waits_of_a_channel_goes_with_it() {
    let mut test = Test::new();
    let client = test.open("42", &["a"]);
    let in_a_task = test.node.subscribe_following("42", &["a"], ROOMY);
    test.add("42", "b");
    test.turn();
    client.0.lock().takes = false;
    for (name, data) in [("b", "1"), ("a", "2"), ("b", "3")] {
        test.node.publish(name, data);
    }
    test.turn();
    test.remove("42", "b");
    test.turn();
    client.0.lock().takes = true;
    for shard in &mut test.shards {
        (0..shard.slots()).for_each(|slot| shard.on_ready(slot, Readiness { readable: false, writable: true }));
    }
    test.turn();
    assert_eq!(client.events(), ["2"]);
    assert_eq!(taken(&in_a_task), ["2"]);
}

#[test]
fn adding_has_an_end_when_the_feed_carries_the_channel() {
    let test = Test::new();
    let _stream = test.node.subscribe_following("42", &["a"], ROOMY);
    let mut context = Context::from_waker(Waker::noop());
    let mut added = pin!(test.node.hub.add_channels(&user("42"), &[channel("b"), channel("c")]));
    assert_eq!(added.as_mut().poll(&mut context), Poll::Pending);
    test.node.answer_registrations();
    assert_eq!(added.as_mut().poll(&mut context), Poll::Ready(()));
    let mut abandoned = pin!(test.node.hub.add_channels(&user("42"), &[channel("d")]));
    assert_eq!(abandoned.as_mut().poll(&mut context), Poll::Pending);
    test.remove("42", "d");
    assert_eq!(abandoned.as_mut().poll(&mut context), Poll::Ready(()));
    let mut nobodys = pin!(test.node.hub.add_channels(&user("nobody"), &[channel("e")]));
    assert_eq!(nobodys.as_mut().poll(&mut context), Poll::Ready(()));
}

/// A stream that waits for its fence waits for what is added too, and not for what is removed.
#[test]
fn what_changes_before_the_fence_belongs_to_it() {
    let test = Test::new();
    let mut context = Context::from_waker(Waker::noop());
    let open = || {
        let opened = test.node.hub.subscribe(info(Some("42"), &["a"]), &[], Format::SseEnvelope, ROOMY, None);
        opened.keep_up(1, 100, Arc::new(|_| true));
        opened
    };
    let waits = open();
    let _added = test.node.hub.add_channels(&user("42"), &[channel("b"), channel("c")]);
    test.remove("42", "c");
    assert!(pin!(waits.fence()).poll(&mut context).is_pending());
    test.node.answer_registrations();
    let Poll::Ready(Ok(_)) = pin!(waits.fence()).poll(&mut context) else { panic!("all markers have come") };
    assert_eq!(waits.channels(), ["a", "b"].map(channel));
    waits.go_live().unwrap();
    test.node.publish("b", "live");
    assert_eq!(taken(&waits), ["live"]);
}

#[test]
fn what_is_added_during_catch_up_is_part_of_a_later_fence() {
    let test = Test::new();
    let limits = QueueLimits { max_bytes: 1 << 20, max_events: 2 };
    let behind = test.node.hub.subscribe(info(Some("42"), &["a"]), &[], Format::SseEnvelope, limits, None);
    behind.keep_up(1, 100, Arc::new(|_| true));
    test.node.answer_registrations();
    test.add("42", "b");
    (0..3).for_each(|_| test.node.publish("b", "overruns its queue"));
    let Err(LaterFence(later)) = behind.go_live() else { panic!("its queue has overrun") };
    assert_eq!(later, test.node.hub.cursor());
    assert_eq!(behind.channels(), ["a", "b"].map(channel), "whose history is to be read");
    behind.go_live().unwrap();
}

/// Somebody who opens a stream looks up what its user follows, and meanwhile that changes.
#[test]
fn what_changes_while_a_stream_opens_is_noticed() {
    let test = Test::new();
    let who = user("42");
    let as_of = test.node.hub.follow_changes(&who);
    let _added = test.node.hub.add_channels(&who, &[channel("c")]);
    let opened = test.node.subscribe_as(info(Some("42"), &["a", "b"]), &[], ROOMY, None);
    opened.keep_up(1, 100, Arc::new(|_| true));
    assert!(!opened.set_followed(&[channel("b")], as_of), "it is not what is followed now");
    assert_eq!(opened.channels(), ["a", "b"].map(channel));
    assert!(opened.set_followed(&[channel("c")], test.node.hub.follow_changes(&who)));
    assert_eq!(opened.channels(), ["a", "c"].map(channel));
}

#[derive(Debug, Clone)]
enum Step {
    Open { user: usize, named: usize },
    HandOver(prop::sample::Index),
    Close(prop::sample::Index),
    Leave(prop::sample::Index),
    Add { user: usize, name: usize },
    Remove { user: usize, name: usize },
    Turn(usize),
    Publish(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (0..2_usize, 0..4_usize).prop_map(|(user, named)| Step::Open { user, named }),
        3 => index().prop_map(Step::HandOver),
        1 => index().prop_map(Step::Close),
        2 => index().prop_map(Step::Leave),
        4 => (0..2_usize, 0..4_usize).prop_map(|(user, name)| Step::Add { user, name }),
        3 => (0..2_usize, 0..4_usize).prop_map(|(user, name)| Step::Remove { user, name }),
        4 => (0..2_usize).prop_map(Step::Turn),
        4 => (0..4_usize).prop_map(Step::Publish),
    ]
}

const USERS: [&str; 2] = ["42", "7"];

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A stream, what it listens to, and what it must have been sent.
struct Model {
    user: usize,
    named: usize,
    listens: BTreeSet<usize>,
    events: Vec<String>,
    got: Vec<String>,
    subscription: Option<Subscription>,
    socket: Option<Socket>,
}

proptest! {
    /// Whatever comes, goes and changes, in tasks and on shards that are behind: each stream gets the events of its
    /// channels and no others, listeners are counted right, and nothing is left of those that are gone.
    #[test]
    fn streams_get_what_they_listen_to_and_nothing_is_left_of_them(steps in prop::collection::vec(step(), 0..120)) {
        let mut test = Test::new();
        let mut streams: HashMap<ConnectionId, Model> = HashMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let mut ids: Vec<_> = streams.keys().copied().collect();
            ids.sort_unstable();
            let pick = |index: &prop::sample::Index| (!ids.is_empty()).then(|| ids[index.index(ids.len())]);
            match step {
                Step::Open { user, named } => {
                    let subscription = test.node.subscribe_following(USERS[user], &[NAMES[named]], ROOMY);
                    let model = Model {
                        user,
                        named,
                        listens: BTreeSet::from([named]),
                        events: Vec::new(),
                        got: Vec::new(),
                        socket: None,
                        subscription: None,
                    };
                    streams.insert(subscription.info().id, Model { subscription: Some(subscription), ..model });
                }
                Step::HandOver(index) => {
                    if let Some(model) = pick(&index).and_then(|id| streams.get_mut(&id))
                        && let Some(subscription) = model.subscription.take()
                    {
                        model.got.extend(taken(&subscription));
                        model.socket = Some(test.hand_over(subscription));
                    }
                }
                Step::Close(index) => {
                    if let Some(id) = pick(&index) {
                        prop_assert!(test.node.hub.close(&id, CloseReason::Kicked));
                        streams.remove(&id);
                        test.turn();
                    }
                }
                // Its shard has seen that it has left before it sees what the hub has for it.
                Step::Leave(index) => {
                    if let Some(id) = pick(&index)
                        && let Some(socket) = streams.remove(&id).and_then(|model| model.socket)
                    {
                        socket.0.lock().has_left = true;
                        for shard in &mut test.shards {
                            (0..shard.slots()).for_each(|slot| {
                                shard.on_ready(slot, Readiness { readable: true, writable: false });
                            });
                        }
                        if test.node.hub.close(&id, CloseReason::Kicked) {
                            // It had not been taken in yet.
                            test.turn();
                        }
                    }
                }
                Step::Add { user, name } => {
                    test.add(USERS[user], NAMES[name]);
                    streams.values_mut().filter(|model| model.user == user).for_each(|model| {
                        model.listens.insert(name);
                    });
                }
                Step::Remove { user, name } => {
                    test.remove(USERS[user], NAMES[name]);
                    streams.values_mut().filter(|model| model.user == user && model.named != name).for_each(|model| {
                        model.listens.remove(&name);
                    });
                }
                Step::Turn(shard) => prop_assert!(test.shards[shard].turn()),
                Step::Publish(name) => {
                    let data = number.to_string();
                    test.node.publish(NAMES[name], &data);
                    test.turn();
                    streams.values_mut().filter(|model| model.listens.contains(&name)).for_each(|model| {
                        model.events.push(data.clone());
                    });
                }
            }
            for (name, text) in NAMES.iter().enumerate() {
                let listening = streams.values().filter(|model| model.listens.contains(&name)).count();
                prop_assert_eq!(test.node.hub.listener_count(&channel(text)), listening, "{}", text);
            }
            for model in streams.values_mut() {
                if let Some(subscription) = &model.subscription {
                    model.got.extend(taken(subscription));
                }
                let on_shard = model.socket.iter().flat_map(Socket::events);
                prop_assert_eq!(&model.got.iter().cloned().chain(on_shard).collect::<Vec<_>>(), &model.events);
            }
        }
        test.node.hub.close_all(&ConnectionFilter::default(), CloseReason::Kicked);
        streams.clear();
        test.turn();
        test.node.assert_nothing_left();
    }
}
