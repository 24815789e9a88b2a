//! A client: what it has seen, and what it therefore has a right to.
//!
//! The one claim that everything follows from: a cursor says that every event of the client's
//! channels up to it has been delivered, or need not be. It is checked at every frame, for a client
//! may be cut off after any.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Waker},
};

use parking_lot::Mutex;
use tidings_core::{
    notifications::NotificationId,
    stream::{Resume, Stream},
};
use tidings_hub::{ConnectionId, Hub};
use tidings_protocol::{
    Channel, CloseReason, Cursor, EventId, GapReason, Millis, Partition, PartitionCursor, Position, UserId,
    envelope::{Closing, Envelope, Gap},
    notification::NotificationEvent,
    sse::{Parsed, Parser},
};

use super::{
    cluster::{Cluster, Replay},
    inbox::{Kept, Row, Rows, Telling},
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
    /// The id of the last frame that had one.
    seen_id: String,
    hub: Arc<Hub>,
    id: ConnectionId,
}

/// What a signed-in client has to do with the inbox of its user.
pub(crate) struct Unread {
    pub(crate) user: UserId,
    /// If the stream is to give what is unread: the partitions of which the client has kept its place.
    pub(crate) kept: Option<Vec<Kept>>,
    /// What was unread when it was opened.
    pub(crate) must_have: BTreeSet<NotificationId>,
}

/// A stream that has been opened, and what carries it.
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    pub(crate) wire: SharedWire,
    pub(crate) hub: Arc<Hub>,
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
    unread: Option<Unread>,
    /// The notifications that it has, and how often each came.
    notifications: HashMap<NotificationId, usize>,
    /// What came in frames without an id: all of it comes again if the connection ends before one with an id.
    provisional: (Vec<EventId>, Vec<NotificationId>),
    /// Whether frames may come without an id, until one has one.
    is_without_id: bool,
    /// Set until the first unread one comes: what was told elsewhere than in these partitions may come again.
    kept: Option<Vec<Kept>>,
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
            unread: None,
            notifications: HashMap::new(),
            provisional: Default::default(),
            is_without_id: false,
            kept: None,
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
        Opened { stream, wire, hub }: Opened,
        resume: Resume,
        is_new_chain: bool,
        unread: Option<Unread>,
        sights: &mut Sights,
    ) {
        self.forget_provisional(sights);
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
            self.notifications.clear();
        }
        if let Some(Unread { kept: Some(_), .. }) = &unread {
            sights.unread_after_loss += u64::from(matches!(resume, Resume::After(_)));
        }
        self.kept = unread.as_ref().and_then(|unread| unread.kept.clone());
        self.is_without_id = self.kept.is_some();
        self.unread = unread;
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
            seen_id: String::new(),
            hub,
            id,
        });
        sights.resumed_after_cut_inside_frame +=
            u64::from(std::mem::take(&mut self.was_cut_inside_frame) && !is_new_chain);
    }

    /// Whether a cut now is one among what is unread.
    pub(crate) fn is_among_unread(&self) -> bool {
        !self.provisional.1.is_empty()
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
        rows: &Mutex<Rows>,
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
        let (cluster, rows) = (cluster.lock(), rows.lock());
        for parsed in parsed {
            if let Parsed::Event { event, data, id } = parsed {
                progress = Progress::Event;
                self.on_frame(&event, &data, id, is_live, &hub, now, &cluster, &rows, sights);
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
        rows: &Rows,
        sights: &mut Sights,
    ) {
        // Frames without an id have that of the frame before them.
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
        let connection = self.connection.as_mut().expect("it is being read");
        let has_new_id = id != connection.seen_id;
        if has_new_id {
            connection.seen_id.clone_from(&id);
        }
        if id != self.last_id && !id.is_empty() {
            self.earlier_ids.push(std::mem::replace(&mut self.last_id, id));
        }
        if event == "connected" {
            if let (Some(cursor), Resume::New { .. }) = (&cursor, &self.resume) {
                self.is_without_id = false;
                self.must_have_unread(cursor, cluster, rows);
            }
            return self.on_connected(cursor, now, cluster);
        }
        // Whether it ends frames without an id, and so speaks of all of them.
        let is_end = has_new_id && std::mem::take(&mut self.is_without_id);
        match event {
            "gap" => {
                let gap: Gap = serde_json::from_str(data).expect("the data of `gap`");
                let reason = GAP_REASONS.into_iter().find(|reason| reason.as_str() == gap.reason);
                let reason = reason.expect("a reason");
                let channels: Vec<_> = gap.channels.iter().map(|c| c.parse().expect("a channel")).collect();
                count(&mut sights.gaps, reason);
                self.on_gap(&channels, reason, cursor.as_ref(), now, cluster);
            }
            "message" => {
                sights.live += u64::from(is_live);
                sights.replayed += u64::from(!is_live);
                self.is_live |= is_live;
                let envelope: Envelope<'_> = serde_json::from_str(data).expect("the whole event");
                self.on_event(&envelope, cursor.as_ref(), cluster);
            }
            "notification" => {
                self.is_live |= is_live;
                let envelope: Envelope<'_> = serde_json::from_str(data).expect("the whole event");
                self.on_notification(&envelope, cursor.as_ref().filter(|_| has_new_id), is_live, rows, sights);
            }
            other => panic!("an event {other}"),
        }
        // A frame without an id claims nothing.
        let Some(cursor) = cursor.filter(|_| has_new_id || !self.is_without_id) else { return };
        if has_new_id {
            self.provisional = Default::default();
        }
        if is_end {
            self.must_have_unread(&cursor, cluster, rows);
            if self.cursor.is_none() {
                self.must_have_replay(now, cluster);
            }
        }
        self.claim(cursor, is_end, hub, now, (cluster, rows), sights);
    }

    /// What came in frames without an id comes again.
    fn forget_provisional(&mut self, sights: &mut Sights) {
        let (events, notifications) = std::mem::take(&mut self.provisional);
        sights.cut_among_unread += u64::from(!notifications.is_empty());
        self.delivered.retain(|id| !events.contains(id));
        for id in notifications {
            if let Some(count) = self.notifications.get_mut(&id) {
                *count -= 1;
            }
        }
    }

    fn has(&self, id: NotificationId) -> bool {
        self.notifications.get(&id).is_some_and(|count| *count > 0)
    }

    fn on_notification(
        &mut self,
        envelope: &Envelope<'_>,
        cursor: Option<&Cursor>,
        is_live: bool,
        rows: &Rows,
        sights: &mut Sights,
    ) {
        let unread = self.unread.as_ref().expect("only users get notifications");
        let event: NotificationEvent<'_> = serde_json::from_str(envelope.data.get()).expect("a notification");
        let id: NotificationId = event.notification.id.parse().expect("an id");
        let row = rows.get(id).expect("it was accepted");
        assert!(row.is_for(&unread.user), "{row:?} is somebody else's");
        let (partition, at) = envelope.id.parse::<Cursor>().expect("an event's id").entries().next().expect("a place");
        let place = EventId { partition, at };
        // What was muted has none.
        let has_place = at.position > Position::ZERO;
        let is_in_its_place = has_place && cursor.is_some_and(|cursor| cursor.get(partition) == Some(at));
        if is_in_its_place {
            sights.notifications_live += u64::from(is_live);
            sights.notifications_replayed += u64::from(!is_live);
            assert!(row.place() == Some(place) || row.forgotten.contains(&place), "{row:?} was not told at {place:?}");
            // Where it has lost its place, and no channel to lack anything of, nothing need be told of that.
            let is_kept = unread.kept.as_ref().is_none_or(|kept| kept.contains(&(partition, at.epoch)));
            if let Some(before) = self.cursor.as_ref().and_then(|before| before.get(partition)).filter(|_| is_kept) {
                assert!(before.epoch != at.epoch || before.position < at.position, "{at:?} comes after {before:?}");
            }
        } else {
            assert!(!is_live && unread.kept.is_some(), "a notification has its place: {row:?}, {cursor:?}");
            sights.notifications_unread += 1;
            sights.notifications_silent += u64::from(row.telling == Telling::Silent);
            if let Some(kept) = self.kept.take() {
                let is_kept = |id: EventId| kept.contains(&(id.partition, id.at.epoch));
                self.notifications.retain(|id, _| rows.get(*id).and_then(Row::place).is_some_and(is_kept));
            }
        }
        let count = self.notifications.entry(id).or_default();
        *count += 1;
        assert!(*count <= 1 + row.forgotten.len(), "{row:?} comes twice");
        sights.notifications_told_again += u64::from(*count > 1);
        self.provisional.1.push(id);
    }

    /// The stream was to give what is unread, and says that it has, up to a place.
    fn must_have_unread(&mut self, cursor: &Cursor, cluster: &Cluster, rows: &Rows) {
        let Some(Unread { user, must_have, kept: Some(_) }) = &self.unread else { return };
        for row in must_have.iter().filter_map(|id| rows.get(*id)).filter(|row| row.is_unread_by(user)) {
            // What was muted may be left out, and what is still to come too.
            let Some(place) = row.place() else { continue };
            let Some(to) = cursor.get(place.partition) else { continue };
            let is_beyond = to.epoch == place.at.epoch && to.position < place.at.position;
            // The log was replaced after this frame was written, or the client's place there is none.
            let model = cluster.model(place.partition);
            let is_old = model.epoch != to.epoch || to.position > model.head;
            assert!(is_beyond || is_old || self.has(row.id), "{row:?} is unread and was not given, at {cursor:?}");
        }
    }

    /// A new client has the last events of its channels.
    fn must_have_replay(&self, now: Millis, cluster: &Cluster) {
        for (channel, positions) in &self.replay.must_have {
            let model = cluster.model(cluster.partition_of(channel));
            for position in positions {
                let events = model.events(channel, position.previous(), *position);
                let is_in_gap = |event: &Known| self.gaps.get(channel).is_some_and(|(_, at)| event.may_be_gone(*at));
                let is_there = |event: &Known| event.is_past(now) || self.delivered.contains(&event.id);
                assert!(
                    events.iter().all(|event| is_there(event) || is_in_gap(event)),
                    "{channel} lacks {position:?} of its replay"
                );
            }
        }
    }

    fn on_connected(&mut self, cursor: Option<Cursor>, now: Millis, cluster: &Cluster) {
        match &self.resume {
            Resume::After(theirs) => assert_eq!(cursor.as_ref(), Some(theirs), "`connected` says what the client said"),
            Resume::Unusable => assert_eq!(cursor, None),
            Resume::New { unread: true, .. } if cursor.is_none() => self.is_without_id = true,
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

    fn on_event(&mut self, envelope: &Envelope<'_>, cursor: Option<&Cursor>, cluster: &Cluster) {
        let channel: Channel = envelope.channel.parse().expect("a channel");
        let (partition, at) = envelope.id.parse::<Cursor>().expect("an event's id").entries().next().expect("a place");
        let id = EventId { partition, at };
        assert!(self.channels.contains(&channel), "an event of {channel}");
        assert_eq!(cluster.partition_of(&channel), id.partition);
        let place = cursor.and_then(|cursor| cursor.get(id.partition));
        assert!(place == Some(id.at) || self.is_without_id, "the frame of an event says that it was read: {place:?}");
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
        self.provisional.0.push(id);
    }

    fn on_gap(
        &mut self,
        channels: &[Channel],
        reason: GapReason,
        cursor: Option<&Cursor>,
        now: Millis,
        cluster: &Cluster,
    ) {
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
                    assert!(before.is_some() || self.is_without_id, "it had a place");
                    let after = before.map(|before| before.position).unwrap_or_default();
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
            let partition = cluster.partition_of(channel);
            let epoch = cluster.model(partition).epoch;
            let place =
                cursor.and_then(|cursor| cursor.get(partition)).filter(|at| at.epoch == epoch || !self.is_without_id);
            let at = place.unwrap_or(PartitionCursor { epoch, position: Position::ZERO });
            self.gaps.insert(channel.clone(), (at, now));
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
    /// `is_end` says that it speaks of frames without an id.
    pub(crate) fn claim(
        &mut self,
        cursor: Cursor,
        is_end: bool,
        hub: &Hub,
        now: Millis,
        (cluster, rows): (&Cluster, &Rows),
        sights: &mut Sights,
    ) {
        self.claim_notifications(&cursor, cluster, rows);
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
        if self.is_live || is_end || self.cursor.is_none() {
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

    /// All notifications that were told up to there are among those that it has.
    fn claim_notifications(&self, cursor: &Cursor, cluster: &Cluster, rows: &Rows) {
        let Some(Unread { user, kept, .. }) = &self.unread else { return };
        for (partition, to) in cursor.entries() {
            let Some(from) = self.cursor.as_ref().and_then(|before| before.get(partition)) else { continue };
            if from.epoch != to.epoch || cluster.model(partition).epoch != to.epoch {
                continue;
            }
            let is_lost = kept.as_ref().is_some_and(|kept| !kept.contains(&(partition, to.epoch)));
            for row in rows.told(user, partition, from, to.position) {
                let is_left_out = row.place().is_some_and(|place| {
                    self.replay.fences.get(&partition).is_some_and(|fence| place.at.position <= *fence)
                });
                // Who has lost its place gets what is unread, not what it has read since.
                let is_read = is_lost && !row.is_unread_by(user);
                assert!(is_left_out || is_read || self.has(row.id), "{row:?} is claimed by {to:?} and did not come");
            }
        }
    }

    /// Nothing is under way any more, so it must have everything.
    pub(crate) fn must_have_all(
        &mut self,
        cluster: &Mutex<Cluster>,
        rows: &Mutex<Rows>,
        now: Millis,
        sights: &mut Sights,
    ) {
        let Some(connection) = &self.connection else { panic!("client {} is not connected", self.number) };
        let hub = connection.hub.clone();
        let (cluster, rows) = (cluster.lock(), rows.lock());
        (self.is_live, self.is_at_work) = (true, true);
        let mut cursor = self.cursor.clone().expect("it has a cursor by now");
        for channel in &self.channels {
            let partition = cluster.partition_of(channel);
            let model = cluster.model(partition);
            let head = PartitionCursor { epoch: model.epoch, position: model.head };
            cursor.set(partition, head);
        }
        let own = self.cursor.clone();
        self.must_have_unread(&cursor, &cluster, &rows);
        self.claim(cursor, false, &hub, now, (&cluster, &rows), sights);
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
