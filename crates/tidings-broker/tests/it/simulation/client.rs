//! A client: what it has seen, and what it therefore has a right to.
//!
//! The one claim that everything follows from: a cursor says that every event of the client's
//! channels up to it has been delivered, or need not be. It is checked at every frame, for a client
//! may be cut off after any.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidings_core::stream::{Item, Resume, Stream};
use tidings_hub::{Format, Hub};
use tidings_protocol::{
    Channel, CloseReason, Cursor, EventId, GapReason, LoggedEvent, Millis, Partition, PartitionCursor, Position,
    envelope::{Connected, Gap},
    sse::{self, Parsed, Parser},
};

use super::{
    cluster::{Cluster, Replay},
    model::Known,
};

/// Frames that a socket takes before the peer reads some.
const SOCKET_FRAMES: usize = 6;

/// A waker that remembers that it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// What has been written to the client and not been read by it.
#[derive(Default)]
struct Socket {
    frames: VecDeque<(Bytes, Item)>,
    waker: Option<Waker>,
    /// The server gives up waiting for the next items, and asks again.
    interrupt: bool,
}

/// The server's side of a connection.
struct Connection {
    task: Option<Pin<Box<dyn Future<Output = CloseReason>>>>,
    socket: Arc<Mutex<Socket>>,
    flag: Arc<Flag>,
    parser: Parser,
    hub: Arc<Hub>,
}

async fn serve(mut stream: Stream, socket: Arc<Mutex<Socket>>) -> CloseReason {
    let mut items = Vec::new();
    loop {
        poll_fn(|cx| {
            let mut socket = socket.lock();
            if socket.frames.len() < SOCKET_FRAMES {
                return Poll::Ready(());
            }
            socket.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let result = {
            let mut next = pin!(stream.next(&mut items));
            poll_fn(|cx| match std::mem::take(&mut socket.lock().interrupt) {
                true => Poll::Ready(None),
                false => next.as_mut().poll(cx).map(Some),
            })
            .await
        };
        socket.lock().frames.extend(items.drain(..).map(|item| (encode(&item), item)));
        if let Some(Err(reason)) = result {
            return reason;
        }
    }
}

fn encode(item: &Item) -> Bytes {
    let mut bytes = Vec::new();
    match item {
        Item::Connected { cursor } => {
            let connected =
                Connected { connection: String::new(), node: String::new(), user: None, channels: Vec::new() };
            sse::write_connected(&mut bytes, cursor.as_ref(), &connected);
        }
        Item::Replayed { logged, cursor } => return Format::Sse.encode(cursor, logged),
        Item::Gap { channels, reason, cursor } => {
            let channels = channels.iter().map(|channel| channel.as_str().to_owned()).collect();
            sse::write_gap(&mut bytes, cursor, &Gap { channels, reason: reason.to_string() });
        }
        Item::Live(frame) => return frame.bytes(Format::Sse).clone(),
    }
    bytes.into()
}

/// What was seen to happen, so that a run which saw nothing of it is not taken for a proof.
#[derive(Debug, Default)]
pub(crate) struct Sights {
    pub(crate) replayed: u64,
    pub(crate) live: u64,
    pub(crate) conflated_away: u64,
    pub(crate) past: u64,
    pub(crate) in_gaps: u64,
    pub(crate) gaps: HashMap<GapReason, u64>,
    pub(crate) closed: HashMap<CloseReason, u64>,
    pub(crate) cut_in_catch_up: u64,
    pub(crate) resumed_elsewhere: u64,
}

/// One client over all its connections.
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) channels: Vec<Channel>,
    pub(crate) node: usize,
    connection: Option<Connection>,
    /// What it comes back with, as text.
    pub(crate) last_id: String,
    /// Ids that it had before.
    pub(crate) earlier_ids: Vec<String>,
    /// What `connected` must say.
    resume: Resume,
    /// What it has seen, by its own account.
    cursor: Option<Cursor>,
    delivered: HashSet<EventId>,
    /// The last gap that each channel was named in: where it stood, and when it was told.
    gaps: HashMap<Channel, (PartitionCursor, Millis)>,
    /// What it need not get of what is before its first fence.
    replay: Replay,
    is_live: bool,
    /// Whether it is this one that is being looked at, should a check fail.
    is_at_work: bool,
    trail: VecDeque<String>,
}

impl Client {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            number,
            channels: Vec::new(),
            node: 0,
            connection: None,
            last_id: String::new(),
            earlier_ids: Vec::new(),
            resume: Resume::New { replay: 0 },
            cursor: None,
            delivered: HashSet::new(),
            gaps: HashMap::new(),
            replay: Replay::default(),
            is_live: false,
            is_at_work: false,
            trail: VecDeque::new(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) fn on_connect(&mut self, stream: Stream, hub: Arc<Hub>, resume: Resume, is_new_chain: bool) {
        self.note(format!(
            "connect to node {} with {} for {:?}, new chain: {is_new_chain}",
            self.node,
            match &resume {
                Resume::After(cursor) => places(cursor),
                other => format!("{other:?}"),
            },
            self.channels
        ));
        if is_new_chain {
            self.delivered.clear();
            self.gaps.clear();
        }
        self.replay = Replay::default();
        self.cursor = match &resume {
            Resume::After(cursor) => Some(cursor.clone()),
            Resume::New { .. } | Resume::Unusable => None,
        };
        self.is_live = false;
        self.resume = resume;
        let socket = Arc::new(Mutex::new(Socket::default()));
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let task: Pin<Box<dyn Future<Output = CloseReason>>> = Box::pin(serve(stream, socket.clone()));
        self.connection = Some(Connection { task: Some(task), socket, flag, parser: Parser::new(1 << 20), hub });
    }

    /// The connection breaks: what it has not read is lost.
    pub(crate) fn cut(&mut self, sights: &mut Sights) {
        if let Some(connection) = self.connection.take() {
            sights.cut_in_catch_up += u64::from(!self.is_live && self.cursor.is_some());
            self.note(format!("cut; {} frames unread", connection.socket.lock().frames.len()));
        }
    }

    /// Lets the server's side run, if it was woken. What is read for this client's replay is noted.
    pub(crate) fn poll(&mut self, is_spurious: bool, cluster: &Mutex<Cluster>, sights: &mut Sights) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let Some(task) = &mut connection.task else { return false };
        if !connection.flag.0.swap(false, SeqCst) && !is_spurious {
            return false;
        }
        cluster.lock().replay = Replay::default();
        let waker = Waker::from(connection.flag.clone());
        if let Poll::Ready(reason) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            connection.task = None;
            *sights.closed.entry(reason).or_default() += 1;
            self.note(format!("closed: {reason}"));
        }
        let replay = std::mem::take(&mut cluster.lock().replay);
        self.replay.fences.extend(replay.fences);
        self.replay.must_have.extend(replay.must_have);
        true
    }

    /// Makes the server give up waiting and wait anew, as a transport's `select!` does.
    pub(crate) fn interrupt(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.socket.lock().interrupt = true;
            connection.flag.0.store(true, SeqCst);
        }
    }

    /// Reads one frame. `false` if there is none; the end of the stream counts as one.
    pub(crate) fn read(&mut self, cluster: &Mutex<Cluster>, now: Millis, sights: &mut Sights) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let mut socket = connection.socket.lock();
        let Some((bytes, item)) = socket.frames.pop_front() else {
            drop(socket);
            if connection.task.is_none() {
                self.connection = None;
                return true;
            }
            return false;
        };
        if let Some(waker) = socket.waker.take() {
            waker.wake();
        }
        drop(socket);
        let mut parsed = Vec::new();
        connection.parser.push(&bytes, |event| parsed.push(event)).expect("a short frame");
        let [Parsed::Event { event, id, .. }] = &parsed[..] else { panic!("not one event: {parsed:?}") };
        let cursor = match &item {
            Item::Connected { cursor } => cursor.as_ref(),
            Item::Replayed { cursor, .. } | Item::Gap { cursor, .. } => Some(cursor),
            Item::Live(frame) => Some(&frame.cursor),
        };
        assert_eq!(id.is_empty(), cursor.is_none(), "{event} with id {id:?} for {cursor:?}");
        if let Some(cursor) = cursor {
            assert_eq!(id.parse::<Cursor>().as_ref(), Ok(cursor), "the id of a frame is its cursor");
            self.earlier_ids.push(std::mem::replace(&mut self.last_id, id.clone()));
        }
        let hub = connection.hub.clone();
        self.is_at_work = true;
        let trail = format!("{now}: {}", describe(&item));
        self.note(trail);
        let cluster = cluster.lock();
        match item {
            Item::Connected { cursor } => self.on_connected(cursor, now, &cluster),
            Item::Replayed { logged, cursor } => {
                sights.replayed += 1;
                self.on_event(&logged, &cursor, &cluster);
                self.claim(cursor, &hub, now, &cluster, sights);
            }
            Item::Gap { channels, reason, cursor } => {
                *sights.gaps.entry(reason).or_default() += 1;
                self.on_gap(&channels, reason, &cursor, now, &cluster);
                self.claim(cursor, &hub, now, &cluster, sights);
            }
            Item::Live(frame) => {
                sights.live += 1;
                self.is_live = true;
                self.on_event(&frame.logged, &frame.cursor, &cluster);
                self.claim(frame.cursor.clone(), &hub, now, &cluster, sights);
            }
        }
        self.is_at_work = false;
        true
    }

    fn on_connected(&mut self, cursor: Option<Cursor>, now: Millis, cluster: &Cluster) {
        match &self.resume {
            Resume::After(theirs) => assert_eq!(cursor.as_ref(), Some(theirs), "`connected` says what the client said"),
            Resume::Unusable => assert_eq!(cursor, None),
            Resume::New { .. } => {
                let cursor = cursor.expect("a new client gets a cursor");
                for (channel, positions) in &self.replay.must_have {
                    let at = cursor.get(cluster.partition_of(channel)).expect("a place in each partition");
                    let is_ahead = |position: &&Position| **position > at.position;
                    let left_out: Vec<_> = positions.iter().filter(|position| !is_ahead(position)).collect();
                    let is_alive = |position: &&&Position| {
                        let model = cluster.model(cluster.partition_of(channel));
                        model.events(channel, position.previous(), ***position).iter().any(|event| !event.is_past(now))
                    };
                    assert_eq!(
                        left_out.iter().filter(is_alive).count(),
                        0,
                        "{channel} lacks {left_out:?} of its replay"
                    );
                }
                self.cursor = Some(cursor);
            }
        }
    }

    fn on_event(&mut self, logged: &LoggedEvent, cursor: &Cursor, cluster: &Cluster) {
        let id = logged.id();
        assert!(self.channels.contains(&logged.event.channel), "an event of {}", logged.event.channel);
        assert_eq!(cluster.partition_of(&logged.event.channel), id.partition);
        assert_eq!(cursor.get(id.partition), Some(id.at), "the frame of an event says that it was read");
        if let Some(before) = self.cursor.as_ref().and_then(|before| before.get(id.partition)) {
            assert_eq!(before.epoch, id.at.epoch, "an epoch begins with a gap");
            assert!(before.position < id.at.position, "{:?} comes after {:?}", id.at, before);
        }
        assert!(self.delivered.insert(id), "{id:?} comes twice");
    }

    fn on_gap(&mut self, channels: &[Channel], reason: GapReason, cursor: &Cursor, now: Millis, cluster: &Cluster) {
        for channel in channels {
            assert!(self.channels.contains(channel), "a gap in {channel}");
            let partition = cluster.partition_of(channel);
            let model = cluster.model(partition);
            let before = self.cursor.as_ref().and_then(|before| before.get(partition));
            let is_foreign = before.is_none_or(|before| before.epoch != model.epoch || before.position > model.head);
            let namespaces = &cluster.namespaces;
            match reason {
                GapReason::Unusable => assert!(before.is_none(), "{channel} had a place: {before:?}"),
                GapReason::Epoch => assert!(is_foreign, "the epoch of {channel} has not changed: {before:?}"),
                GapReason::Evicted | GapReason::Expired | GapReason::Restart => {
                    let after = before.expect("it had a place").position;
                    let is_durable = namespaces.of(channel).durable;
                    assert!(
                        model.may_have_gap(channel, after, is_durable, namespaces.label(channel), now),
                        "a gap ({reason}) in {channel} after {after:?}, where history must hold all"
                    );
                }
            }
            if reason == GapReason::Epoch {
                let lies_there = |other: &&Channel| cluster.partition_of(other) == partition;
                let all = self.channels.iter().filter(lies_there).count();
                assert_eq!(channels.len(), all, "a new epoch concerns all channels of its partition");
            }
        }
        for channel in channels {
            if let Some(at) = cursor.get(cluster.partition_of(channel)) {
                self.gaps.insert(channel.clone(), (at, now));
            }
        }
        if reason == GapReason::Epoch
            && let Some(before) = &mut self.cursor
        {
            // From here on the client is at the beginning of this epoch.
            for partition in channels.iter().map(|channel| cluster.partition_of(channel)) {
                let epoch = cluster.model(partition).epoch;
                before.set(partition, PartitionCursor { epoch, position: Position::ZERO });
            }
        }
    }

    /// The client says from now on that it has seen everything up to `cursor`.
    pub(crate) fn claim(&mut self, cursor: Cursor, hub: &Hub, now: Millis, cluster: &Cluster, sights: &mut Sights) {
        for channel in &self.channels {
            let partition = cluster.partition_of(channel);
            let Some(to) = cursor.get(partition) else { continue };
            // Without a place before, it has just been told so.
            let Some(from) = self.cursor.as_ref().and_then(|before| before.get(partition)) else { continue };
            assert!(from.epoch == to.epoch, "the epoch of {channel} changes without a gap: {from:?}, {to:?}");
            assert!(from.position <= to.position, "the cursor goes back in {channel}'s partition: {from:?}, {to:?}");
            let model = cluster.model(partition);
            if model.epoch != to.epoch {
                // The log was replaced after this frame was written.
                continue;
            }
            let events = model.events(channel, from.position, to.position);
            for (at, event) in events.iter().enumerate() {
                if self.delivered.contains(&event.id) {
                    continue;
                }
                // A gap speaks of all that history lacked then, wherever the hole ends.
                let is_in_gap = self.gaps.get(channel).is_some_and(|(at, told_at)| {
                    at.epoch == to.epoch && (event.position() <= at.position || event.may_be_gone(*told_at))
                });
                let is_left_out = self.replay.fences.get(&partition).is_some_and(|fence| {
                    event.position() <= *fence
                        && !self.replay.must_have.get(channel).is_some_and(|must| must.contains(&event.position()))
                });
                if is_in_gap {
                    sights.in_gaps += 1;
                } else if event.is_past(now) {
                    sights.past += 1;
                } else if is_replaced(event, &events[at + 1..])
                    || is_replaced(event, model.events(channel, to.position, read_by(hub, partition)))
                {
                    sights.conflated_away += 1;
                } else {
                    assert!(
                        is_left_out,
                        "{:?} of {channel} is claimed and was never delivered: {event:?}",
                        event.id.at
                    );
                }
            }
        }
        if self.is_live || self.cursor.is_none() {
            self.cursor = Some(cursor);
            return;
        }
        // In catch-up a frame may only speak of its own partition.
        let before = self.cursor.replace(cursor);
        let after = self.cursor.as_ref();
        let moved = |(partition, at): &(Partition, PartitionCursor)| {
            before.as_ref().and_then(|before| before.get(*partition)) != Some(*at)
        };
        let moved = after.into_iter().flat_map(|after| after.entries()).filter(moved).count();
        assert!(moved <= 1, "a frame of catch-up speaks of other partitions: {before:?}, {after:?}");
    }

    /// Nothing is under way any more, so it must have everything.
    pub(crate) fn must_have_all(&mut self, cluster: &Mutex<Cluster>, now: Millis, sights: &mut Sights) {
        let Some(connection) = &self.connection else { panic!("client {} is not connected", self.number) };
        let hub = connection.hub.clone();
        let cluster = cluster.lock();
        (self.is_live, self.is_at_work) = (true, true);
        let mut cursor = self.cursor.clone().expect("it has a cursor by now");
        for channel in &self.channels {
            let partition = cluster.partition_of(channel);
            let model = cluster.model(partition);
            let head = PartitionCursor { epoch: model.epoch, position: model.head };
            cursor.set(partition, head);
        }
        let own = self.cursor.clone();
        self.claim(cursor, &hub, now, &cluster, sights);
        self.cursor = own;
        self.is_at_work = false;
    }

    fn note(&mut self, what: String) {
        if self.trail.len() == 60 {
            self.trail.pop_front();
        }
        self.trail.push_back(what);
    }
}

fn read_by(hub: &Hub, partition: Partition) -> Position {
    hub.cursor().get(partition).map_or(Position::ZERO, |at| at.position)
}

fn is_replaced(event: &Known, later: &[Known]) -> bool {
    event.conflate.is_some() && later.iter().any(|later| later.conflate == event.conflate)
}

/// In short: partition.position.
fn places(cursor: &Cursor) -> String {
    let place = |(partition, at): (Partition, PartitionCursor)| format!("{}.{}", partition.index(), at.position.0);
    cursor.entries().map(place).collect::<Vec<_>>().join(" ")
}

fn describe(item: &Item) -> String {
    let event = |logged: &LoggedEvent| format!("{} {}", logged.event.channel, places(&logged.id().into()));
    match item {
        Item::Connected { cursor } => format!("connected at {:?}", cursor.as_ref().map(places)),
        Item::Replayed { logged, cursor } => format!("replayed {} at {}", event(logged), places(cursor)),
        Item::Gap { channels, reason, cursor } => format!("gap {reason} in {channels:?} at {}", places(cursor)),
        Item::Live(frame) => format!("live {} at {}", event(&frame.logged), places(&frame.cursor)),
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_at_work {
            eprintln!("client {}, at {:?}: the last of what it saw", self.number, self.cursor);
            self.trail.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}
