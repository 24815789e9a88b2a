//! The log that all nodes share: real partitions, a disk that lags, feeds that lag more.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::Poll,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tidings_broker::log::{Admission, Change, Floors, LogLimits, PartitionLog, StoredChannel, StoredLabel};
use tidings_core::{
    Namespaces,
    ports::{
        AppendError, Appended, Broker, BrokerStatus, ChannelState, FeedItem, HistoryFrom, HistoryPage, HistoryRequest,
        Unavailable,
    },
};
use tidings_hub::{Interest, Registration, Time as _};
use tidings_protocol::{Channel, Cursor, Epoch, Event, EventId, LoggedEvent, Partition, Position};

use super::{clock::SimClock, model::Model};

/// Positions that are reserved at a time: few, so that restarts come at any place in a block.
const RESERVED_AT_ONCE: u64 = 64;

/// What a restart finds of one partition.
#[derive(Default)]
struct Disk {
    events: BTreeMap<Position, LoggedEvent>,
    channels: HashMap<Channel, StoredChannel>,
    labels: Vec<StoredLabel>,
    /// What was decided and is not written yet. A crash loses it.
    changes: VecDeque<Change>,
}

impl Disk {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Dropped(position) => drop(self.events.remove(&position)),
            Change::Emptied(stored) => drop(self.channels.insert(stored.channel.clone(), stored)),
            Change::Volatile(label) => panic!("the rules of {label} stay as they are"),
            Change::Forgotten { channel, label, floor } => {
                self.channels.remove(&channel);
                match self.labels.iter_mut().find(|stored| stored.label == label) {
                    Some(stored) => stored.floor = floor,
                    None => self.labels.push(StoredLabel { label, is_durable: true, floor }),
                }
            }
        }
    }
}

struct Log {
    log: PartitionLog,
    disk: Disk,
    reserved_through: Position,
    model: Model,
}

/// What a node asked the broker for, in order, and the broker has not done yet.
enum Ask {
    Register(Channel, Registration),
    Unregister(Channel),
    Probe(Partition, Registration),
}

#[derive(Default)]
struct NodeFeed {
    incarnation: u64,
    /// Whether it gets every event, as the embedded broker's does, or those of its channels only.
    has_all: bool,
    interest: HashSet<Channel>,
    asks: VecDeque<Ask>,
    items: Vec<VecDeque<FeedItem>>,
}

/// What a client that begins without a cursor has a right to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replay {
    pub(crate) fences: HashMap<Partition, Position>,
    pub(crate) must_have: HashMap<Channel, Vec<Position>>,
}

pub(crate) struct Cluster {
    logs: Vec<Log>,
    feeds: Vec<NodeFeed>,
    pub(crate) namespaces: Arc<Namespaces>,
    clock: Arc<SimClock>,
    limits: LogLimits,
    rng: StdRng,
    /// The replays that were read since somebody looked.
    pub(crate) replay: Replay,
}

impl Cluster {
    pub(crate) fn new(
        partitions: usize,
        nodes: usize,
        namespaces: Arc<Namespaces>,
        limits: LogLimits,
        clock: Arc<SimClock>,
        seed: u64,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let logs = (0..partitions).map(|number| Log::new(number, Epoch(rng.random()), &namespaces, limits)).collect();
        let feeds = (0..nodes)
            .map(|_| NodeFeed { has_all: nodes == 1, items: vec![VecDeque::new(); partitions], ..NodeFeed::default() })
            .collect();
        Self { logs, feeds, namespaces, clock, limits, rng, replay: Replay::default() }
    }

    pub(crate) fn partition_of(&self, channel: &Channel) -> Partition {
        let hash = channel.as_str().bytes().fold(7_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte));
        partition(hash % self.logs.len())
    }

    pub(crate) fn model(&self, partition: Partition) -> &Model {
        &self.logs[partition.index()].model
    }

    pub(crate) fn heads(&self) -> Cursor {
        let mut cursor = Cursor::default();
        for (number, log) in self.logs.iter().enumerate() {
            cursor.set(partition(number), log.log.head());
        }
        cursor
    }

    /// Answers where it is, unless it fails.
    pub(crate) fn append(&mut self, event: Event, fails: bool) -> Option<EventId> {
        let now = self.clock.now();
        let namespaces = self.namespaces.clone();
        let number = self.partition_of(&event.channel).index();
        let log = &mut self.logs[number];
        let Admission::New { position, key } = log.log.admit(&event, now) else { panic!("an event without a key") };
        while position > log.reserved_through {
            log.reserved_through.0 += RESERVED_AT_ONCE;
        }
        if fails {
            log.log.withdraw(position, key);
            log.log.pass_over(position);
            log.model.head = position;
            return None;
        }
        let is_durable = namespaces.of(&event.channel).durable && !event.is_ephemeral;
        let placed = Arc::new(log.log.place(event, position, now));
        let logged = log.log.release(placed, is_durable, &namespaces, now);
        if is_durable {
            log.disk.events.insert(position, (*logged).clone());
        }
        log.model.on_release(&logged, &namespaces, now);
        log.disk.changes.extend(log.log.take_changes());
        for feed in &mut self.feeds {
            if feed.has_all || feed.interest.contains(&logged.event.channel) {
                feed.items[number].push_back(FeedItem::Event(logged.clone()));
            }
        }
        Some(logged.id())
    }

    pub(crate) fn purge(&mut self, channel: &Channel) {
        let now = self.clock.now();
        let number = self.partition_of(channel).index();
        let log = &mut self.logs[number];
        log.log.purge(channel, now);
        log.model.on_purge(channel, now);
        log.disk.changes.extend(log.log.take_changes());
        // As the embedded broker does, it is answered when it is on disk.
        log.flush(usize::MAX);
    }

    pub(crate) fn sweep(&mut self, number: usize) {
        let log = &mut self.logs[number];
        log.log.sweep(&self.namespaces, self.clock.now(), 4);
        log.disk.changes.extend(log.log.take_changes());
    }

    pub(crate) fn flush(&mut self, number: usize, count: usize) {
        self.logs[number].flush(count);
    }

    /// The processes that hold the log are killed and started again.
    pub(crate) fn restart(&mut self) {
        for (number, log) in self.logs.iter_mut().enumerate() {
            log.restart(number, &self.namespaces, self.limits, &self.clock);
        }
    }

    /// A partition's log is lost and begins anew.
    pub(crate) fn begin_epoch(&mut self, number: usize) {
        let epoch = Epoch(self.rng.random());
        self.logs[number] = Log::new(number, epoch, &self.namespaces, self.limits);
    }

    /// A node begins, or begins again. Its feed starts at the head.
    pub(crate) fn begin_node(&mut self, node: usize) -> u64 {
        let feed = &mut self.feeds[node];
        feed.incarnation += 1;
        feed.interest.clear();
        feed.asks.clear();
        feed.items.iter_mut().for_each(VecDeque::clear);
        feed.incarnation
    }

    /// Does the oldest thing that a node asked for.
    pub(crate) fn answer(&mut self, node: usize) -> bool {
        let Some(ask) = self.feeds[node].asks.pop_front() else { return false };
        match ask {
            Ask::Register(channel, registration) => {
                let partition = self.partition_of(&channel);
                let head = self.logs[partition.index()].log.head();
                let feed = &mut self.feeds[node];
                feed.interest.insert(channel.clone());
                feed.items[partition.index()].push_back(FeedItem::Marker { channel, registration, partition, head });
            }
            Ask::Unregister(channel) => drop(self.feeds[node].interest.remove(&channel)),
            Ask::Probe(partition, registration) => {
                let head = self.logs[partition.index()].log.head();
                self.feeds[node].items[partition.index()].push_back(FeedItem::Head { registration, partition, head });
            }
        }
        true
    }

    pub(crate) fn take_item(&mut self, node: usize, number: usize) -> Option<FeedItem> {
        self.feeds[node].items[number].pop_front()
    }

    fn history(&mut self, request: &HistoryRequest) -> HistoryPage {
        let now = self.clock.now();
        let log = &mut self.logs[request.partition.index()];
        if let HistoryFrom::Last(counts) = &request.from {
            self.replay.fences.insert(request.partition, request.through);
            for (channel, count) in request.channels.iter().zip(counts) {
                let must_have = log.model.must_replay(channel, *count, request.through, now);
                self.replay.must_have.insert(channel.clone(), must_have);
            }
        }
        // Small pages, so that streams are cut between them.
        let request = HistoryRequest { limit: request.limit.min(self.rng.random_range(1..6)), ..request.clone() };
        let page = log.log.history(&request, &self.namespaces, now);
        assert!(page.entries.len() <= request.limit);
        log.disk.changes.extend(log.log.take_changes());
        page
    }
}

impl Log {
    fn new(number: usize, epoch: Epoch, namespaces: &Namespaces, limits: LogLimits) -> Self {
        let start = Position(1);
        let floors = Floors::at_start(&[], namespaces, start);
        let disk = Disk { labels: floors.to_stored(namespaces), ..Disk::default() };
        let log = PartitionLog::new(partition(number), epoch, start, floors, limits, 1);
        Self { log, disk, reserved_through: Position::ZERO, model: Model::new(epoch, start, limits) }
    }

    fn flush(&mut self, count: usize) {
        let count = count.min(self.disk.changes.len());
        for change in self.disk.changes.drain(..count).collect::<Vec<_>>() {
            self.disk.apply(change);
        }
    }

    fn restart(&mut self, number: usize, namespaces: &Namespaces, limits: LogLimits, clock: &SimClock) {
        let now = clock.now();
        let start = self.reserved_through.next();
        self.disk.changes.clear();
        let floors = Floors::at_start(&self.disk.labels, namespaces, start);
        self.disk.labels = floors.to_stored(namespaces);
        let mut log = PartitionLog::new(partition(number), self.log.head().epoch, start, floors, limits, 1);
        let mut channels: Vec<_> = self.disk.channels.values().cloned().collect();
        channels.sort_by_key(|stored| stored.last_position);
        channels.into_iter().for_each(|stored| log.restore_channel(stored, namespaces));
        for logged in self.disk.events.values() {
            log.restore_event(logged.clone(), namespaces, now);
        }
        self.log = log;
        self.disk.changes.extend(self.log.take_changes());
        self.reserved_through = Position(start.0 + RESERVED_AT_ONCE);
        self.model.on_restart(start, now);
    }
}

pub(crate) fn partition(number: usize) -> Partition {
    Partition::new(number).expect("at most sixteen")
}

/// One node's way to the log.
pub(crate) struct SimBroker {
    pub(crate) cluster: Arc<Mutex<Cluster>>,
    pub(crate) node: usize,
    pub(crate) incarnation: u64,
}

impl SimBroker {
    fn ask(&self, ask: Ask) {
        let feed = &mut self.cluster.lock().feeds[self.node];
        if feed.incarnation == self.incarnation {
            feed.asks.push_back(ask);
        }
    }
}

impl Interest for SimBroker {
    fn register(&self, channel: &Channel, registration: Registration) {
        self.ask(Ask::Register(channel.clone(), registration));
    }

    fn unregister(&self, channel: &Channel, _registration: Registration) {
        self.ask(Ask::Unregister(channel.clone()));
    }

    fn probe(&self, partition: Partition, registration: Registration) {
        self.ask(Ask::Probe(partition, registration));
    }
}

/// Is pending once.
pub(crate) async fn turn() {
    let mut is_first = true;
    poll_fn(|cx| match std::mem::take(&mut is_first) {
        true => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

#[async_trait]
impl Broker for SimBroker {
    async fn append(&self, _events: Vec<Event>) -> Vec<Result<Appended, AppendError>> {
        unreachable!("the world appends")
    }

    async fn history(&self, request: HistoryRequest) -> Result<HistoryPage, Unavailable> {
        let (before, after, fails) = {
            let rng = &mut self.cluster.lock().rng;
            (rng.random_range(0..4), rng.random_range(0..3), rng.random_ratio(1, 200))
        };
        for _ in 0..before {
            turn().await;
        }
        if fails {
            return Err(Unavailable { cause: "the simulation says so".to_owned() });
        }
        let page = self.cluster.lock().history(&request);
        for _ in 0..after {
            turn().await;
        }
        Ok(page)
    }

    async fn channel(&self, _channel: &Channel) -> Result<ChannelState, Unavailable> {
        Ok(ChannelState::default())
    }

    async fn purge(&self, _channel: &Channel) -> Result<usize, Unavailable> {
        unreachable!("the world purges")
    }

    fn partition_of(&self, channel: &Channel) -> Partition {
        self.cluster.lock().partition_of(channel)
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::default()
    }
}
