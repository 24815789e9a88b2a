//! A client: what it has seen, and what it therefore has a right to.
//!
//! The one claim that everything follows from: a cursor says that every event of the client's
//! channels up to it has been delivered, or need not be. It is checked at every frame, for a client
//! may be cut off after any.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Waker},
};

use parking_lot::Mutex;
use tidings_core::stream::{Resume, Stream};
use tidings_hub::{ConnectionId, Hub};
use tidings_protocol::{
    Channel, CloseReason, Cursor, EventId, GapReason, Millis, Partition, PartitionCursor, Position,
    envelope::{Closing, Envelope, Gap},
    sse::{Parsed, Parser},
};

use super::{
    cluster::{Cluster, Replay},
    model::Known,
    serve::{Flag, serve},
    sights::{Progress, Sights, count},
    wire::{Blocks, Peer, SharedWire},
};

const GAP_REASONS: [GapReason; 5] =
    [GapReason::Evicted, GapReason::Expired, GapReason::Restart, GapReason::Epoch, GapReason::Unusable];

/// The server's side of a connection, and how far the client has read.
struct Connection {
    /// Until a shard serves it, or it has ended.
    task: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wire: SharedWire,
    flag: Arc<Flag>,
    parser: Parser,
    blocks: Blocks,
    closing: Option<CloseReason>,
    hub: Arc<Hub>,
    id: ConnectionId,
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
    /// Whether it was cut off within a frame.
    was_cut_inside_frame: bool,
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
            resume: Resume::New { replay: 0, unread: false },
            cursor: None,
            delivered: HashSet::new(),
            gaps: HashMap::new(),
            replay: Replay::default(),
            is_live: false,
            was_cut_inside_frame: false,
            is_at_work: false,
            trail: VecDeque::new(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) fn on_connect(
        &mut self,
        stream: Stream,
        wire: SharedWire,
        hub: Arc<Hub>,
        resume: Resume,
        is_new_chain: bool,
        sights: &mut Sights,
    ) {
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
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let id = stream.info().id;
        let task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(serve(stream, wire.clone()));
        self.connection = Some(Connection {
            task: Some(task),
            wire,
            flag,
            parser: Parser::new(1 << 20),
            blocks: Blocks::default(),
            closing: None,
            hub,
            id,
        });
        sights.resumed_after_cut_inside_frame +=
            u64::from(std::mem::take(&mut self.was_cut_inside_frame) && !is_new_chain);
    }

    pub(crate) fn connection_id(&self) -> Option<ConnectionId> {
        self.connection.as_ref().map(|connection| connection.id)
    }

    pub(crate) fn wire(&self) -> Option<&SharedWire> {
        self.connection.as_ref().map(|connection| &connection.wire)
    }

    /// The connection breaks: what it has not read is lost. How the server learns of it is said by `peer`.
    pub(crate) fn cut(&mut self, peer: Peer, sights: &mut Sights) {
        let Some(connection) = self.connection.take() else { return };
        sights.cut_in_catch_up += u64::from(!self.is_live && self.cursor.is_some());
        self.was_cut_inside_frame = !connection.blocks.is_whole();
        sights.cut_inside_frame += u64::from(self.was_cut_inside_frame);
        self.note(format!("cut ({peer:?}); {} bytes unread", connection.wire.lock().unread_bytes()));
        leave(&connection.wire, peer);
    }

    /// Lets the server's side run, if it was woken. What is read for this client's replay is noted.
    pub(crate) fn poll(&mut self, is_spurious: bool, cluster: &Mutex<Cluster>) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let Some(task) = &mut connection.task else { return false };
        if !connection.flag.0.swap(false, SeqCst) && !is_spurious {
            return false;
        }
        cluster.lock().replay = Replay::default();
        let waker = Waker::from(connection.flag.clone());
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            connection.task = None;
        }
        let replay = std::mem::take(&mut cluster.lock().replay);
        self.replay.fences.extend(replay.fences);
        self.replay.must_have.extend(replay.must_have);
        true
    }

    /// Makes the server give up waiting and wait anew, as a transport's `select!` does.
    pub(crate) fn interrupt(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.wire.lock().interrupt = true;
            connection.flag.0.store(true, SeqCst);
        }
    }

    /// Reads some bytes. `peer` is what the client does should it have come to the stream's end.
    pub(crate) fn read(
        &mut self,
        max_bytes: usize,
        peer: Peer,
        cluster: &Mutex<Cluster>,
        now: Millis,
        sights: &mut Sights,
    ) -> Progress {
        let Some(connection) = &mut self.connection else { return Progress::Nothing };
        let (bytes, is_live) = connection.wire.lock().read(max_bytes);
        if bytes.is_empty() {
            let wire = connection.wire.lock();
            let is_over = if wire.is_on_shard { wire.has_ended() } else { connection.task.is_none() };
            let is_dropped = wire.is_dropped();
            drop(wire);
            if !is_over {
                return Progress::Nothing;
            }
            match connection.closing {
                Some(reason) => count(&mut sights.closed, reason),
                None => assert!(is_dropped, "the stream ends without a word"),
            }
            self.was_cut_inside_frame = !connection.blocks.is_whole();
            self.note("the end".to_owned());
            if let Some(connection) = self.connection.take() {
                leave(&connection.wire, peer);
            }
            return Progress::Event;
        }
        bytes.iter().for_each(|byte| connection.blocks.push(*byte));
        let mut parsed = Vec::new();
        connection.parser.push(&bytes, |event| parsed.push(event)).expect("a short frame");
        let hub = connection.hub.clone();
        self.is_at_work = true;
        let mut progress = Progress::Bytes;
        let cluster = cluster.lock();
        for parsed in parsed {
            if let Parsed::Event { event, data, id } = parsed {
                progress = Progress::Event;
                self.on_frame(&event, &data, id, is_live, &hub, now, &cluster, sights);
            }
        }
        self.is_at_work = false;
        progress
    }

    #[expect(clippy::too_many_arguments, reason = "what a frame is held against")]
    fn on_frame(
        &mut self,
        event: &str,
        data: &str,
        id: String,
        is_live: bool,
        hub: &Hub,
        now: Millis,
        cluster: &Cluster,
        sights: &mut Sights,
    ) {
        let cursor = match id.is_empty() {
            true => None,
            false => Some(id.parse::<Cursor>().expect("an id is a cursor")),
        };
        self.note(format!("{now}: {event} {data} at {:?}, live: {is_live}", cursor.as_ref().map(places)));
        if event == "closing" {
            let closing: Closing = serde_json::from_str(data).expect("the data of `closing`");
            let reason = CloseReason::ALL.into_iter().find(|reason| reason.as_str() == closing.reason);
            let connection = self.connection.as_mut().expect("it is being read");
            assert_eq!(connection.closing, None, "a stream ends once");
            connection.closing = Some(reason.expect("a reason"));
            return;
        }
        if id != self.last_id && !id.is_empty() {
            self.earlier_ids.push(std::mem::replace(&mut self.last_id, id));
        }
        if event == "connected" {
            return self.on_connected(cursor, now, cluster);
        }
        let cursor = cursor.expect("an event has an id");
        match event {
            "gap" => {
                let gap: Gap = serde_json::from_str(data).expect("the data of `gap`");
                let reason = GAP_REASONS.into_iter().find(|reason| reason.as_str() == gap.reason);
                let reason = reason.expect("a reason");
                let channels: Vec<_> = gap.channels.iter().map(|c| c.parse().expect("a channel")).collect();
                count(&mut sights.gaps, reason);
                self.on_gap(&channels, reason, &cursor, now, cluster);
            }
            "message" => {
                sights.live += u64::from(is_live);
                sights.replayed += u64::from(!is_live);
                self.is_live |= is_live;
                let envelope: Envelope<'_> = serde_json::from_str(data).expect("the whole event");
                self.on_event(&envelope, &cursor, cluster);
            }
            other => panic!("an event {other}"),
        }
        self.claim(cursor, hub, now, cluster, sights);
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

    fn on_event(&mut self, envelope: &Envelope<'_>, cursor: &Cursor, cluster: &Cluster) {
        let channel: Channel = envelope.channel.parse().expect("a channel");
        let (partition, at) = envelope.id.parse::<Cursor>().expect("an event's id").entries().next().expect("a place");
        let id = EventId { partition, at };
        assert!(self.channels.contains(&channel), "an event of {channel}");
        assert_eq!(cluster.partition_of(&channel), id.partition);
        assert_eq!(cursor.get(id.partition), Some(id.at), "the frame of an event says that it was read");
        let model = cluster.model(partition);
        if model.epoch == at.epoch {
            let known = model.events(&channel, at.position.previous(), at.position);
            let [known] = known else { panic!("{id:?} of {channel} was not published: {known:?}") };
            assert_eq!(*known.data, *envelope.data.get(), "the data of {id:?}");
        }
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

/// The client's side of a connection ends.
fn leave(wire: &SharedWire, peer: Peer) {
    let offer = {
        let mut wire = wire.lock();
        wire.set_peer(peer);
        wire.offer.take()
    };
    // It holds the wire itself, and takes its lock when it goes.
    drop(offer);
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_at_work {
            eprintln!("client {}, at {:?}: the last of what it saw", self.number, self.cursor);
            self.trail.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}
