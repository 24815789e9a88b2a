//! What happens, one step at a time.

use std::{cell::Cell, collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidings_broker::log::{KeyLimits, LogLimits};
use tidings_core::{
    Namespace, Namespaces, SharedNamespaces,
    feed::Delivery,
    notifications::{Inbox, NotificationId, Telling},
    stream::{Resume, Streams},
};
use tidings_hub::{ConfirmBy, ConnectionId, ConnectionInfo, Hub, QueueLimits, Time as _, Transport, shard::Shard};
use tidings_protocol::{
    Channel, CloseReason, Cursor, Data, Epoch, Event, EventType, GapReason, Partition, PartitionCursor, Position,
    UserId, limits::POSITION_MAX,
};

use super::{
    client::{Client, Opened, Unread},
    clock::SimClock,
    cluster::{Cluster, SimBroker, partition},
    inbox::{Kept, SharedRows, SimStore},
    serve::FORMAT,
    shards::Held,
    sights::{Progress, ShardSights, Sights, counted},
    wire::Peer,
};

pub(crate) const CLIENTS: usize = 8;

/// Users. Each has two clients, and two clients have none.
pub(crate) const USERS: usize = 3;

pub(crate) fn user(number: usize) -> UserId {
    UserId::parse(&format!("u{number}")).expect("an id")
}

/// One way to run it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) partitions: usize,
    pub(crate) nodes: usize,
    pub(crate) seed: u64,
}

pub(crate) struct Node {
    pub(crate) hub: Arc<Hub>,
    delivery: Delivery,
    streams: Streams,
    pub(crate) shards: Vec<Shard>,
    /// What they were given, until it is dropped.
    pub(crate) held: Vec<Held>,
    telling: Arc<Telling>,
    is_telling: bool,
}

pub(crate) struct World {
    setting: Setting,
    pub(crate) rng: StdRng,
    pub(crate) clock: Arc<SimClock>,
    namespaces: SharedNamespaces,
    pub(crate) cluster: Arc<Mutex<Cluster>>,
    pub(crate) rows: SharedRows,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) channels: Vec<Channel>,
    step: Cell<u64>,
    /// Whether connections break at this time, so that there are others in which they last.
    pub(crate) is_stormy: bool,
    pub(crate) sights: Sights,
    pub(crate) shard_sights: Arc<Mutex<ShardSights>>,
}

/// Small sizes, so that everything overflows, is evicted and expires all the time.
fn namespaces() -> Namespaces {
    let millis = Duration::from_millis;
    let base = Namespace { history_size: 12, history_ttl: millis(60_000), ..Namespace::default() };
    let durable = |namespace| Namespace { durable: true, ..namespace };
    let volatile = |namespace| Namespace { durable: false, ..namespace };
    let named = [
        ("default", durable(base.clone())),
        ("tiny", durable(Namespace { history_size: 2, conflate_window: millis(0), ..base.clone() })),
        ("brief", durable(Namespace { history_size: 30, history_ttl: millis(800), retain: true, ..base.clone() })),
        ("volatile", volatile(base.clone())),
        ("fleeting", volatile(Namespace { history_size: 3, history_ttl: millis(900), ..base.clone() })),
        ("nothing", volatile(Namespace { history_size: 0, ..base })),
    ];
    Namespaces::new(named.map(|(label, namespace)| (label.to_owned(), namespace)).into())
}

fn channels() -> Vec<Channel> {
    let names =
        ["a", "tiny:a", "brief:a", "volatile:a", "fleeting:a", "nothing:a", "b", "tiny:b", "brief:b", "volatile:b"];
    let more = (0..8).flat_map(|n| [format!("d{n}"), format!("volatile:d{n}")]);
    names.map(ToOwned::to_owned).into_iter().chain(more).map(|name| Channel::parse(&name).expect("a name")).collect()
}

impl World {
    pub(crate) fn new(setting: Setting) -> Self {
        let mut rng = StdRng::seed_from_u64(setting.seed ^ (setting.partitions * 2 + setting.nodes) as u64);
        let clock = Arc::new(SimClock::default());
        let namespaces = namespaces().shared();
        let limits = LogLimits {
            // Some hundred events of 220 bytes, on however many partitions.
            history_max_bytes: (22_000 / setting.partitions).max(7_000),
            channels_max: (20 / setting.partitions).max(2),
            keys: KeyLimits { window_ms: 1000, keys_max: 1 },
        };
        let cluster = Cluster::new(
            setting.partitions,
            setting.nodes,
            namespaces.load_full(),
            limits,
            clock.clone(),
            rng.random(),
        );
        let mut world = Self {
            setting,
            rng,
            clock,
            namespaces,
            cluster: Arc::new(Mutex::new(cluster)),
            rows: SharedRows::default(),
            nodes: Vec::new(),
            clients: (0..CLIENTS).map(Client::new).collect(),
            channels: channels(),
            step: Cell::new(0),
            is_stormy: true,
            sights: Sights::default(),
            shard_sights: Arc::default(),
        };
        for node in 0..setting.nodes {
            let node = world.begin_node(node);
            world.nodes.push(node);
        }
        world
    }

    pub(crate) fn run(&mut self, steps: u64) {
        for step in 0..steps {
            self.step.set(step);
            self.take_step();
        }
        self.settle();
        self.all_leave();
        (0..self.nodes.len()).for_each(|node| self.add_up(node));
    }

    fn begin_node(&mut self, node: usize) -> Node {
        let incarnation = self.cluster.lock().begin_node(node);
        let broker = || SimBroker { cluster: self.cluster.clone(), node, incarnation };
        let hub = Hub::new(self.cluster.lock().heads(), Box::new(broker()));
        let (namespaces, clock) = (self.namespaces.clone(), self.clock.clone());
        // What it had told and not noted is told again.
        self.rows.lock().forget(node);
        let telling = Arc::<Telling>::default();
        let inbox = Inbox {
            store: Arc::new(SimStore::new(self.rows.clone(), self.rng.random())),
            telling: telling.clone(),
            is_shared: self.setting.nodes > 1,
            everyone: Channel::everyone(),
        };
        Node {
            delivery: Delivery { hub: hub.clone(), namespaces: namespaces.clone(), clock: clock.clone() },
            streams: Streams {
                hub: hub.clone(),
                broker: Arc::new(broker()),
                namespaces,
                clock: clock.clone(),
                inbox: Some(inbox),
            },
            shards: (0..self.rng.random_range(0..=2))
                .map(|_| Shard::simulated(&hub, clock.clone()).expect("it needs nothing"))
                .collect(),
            held: Vec::new(),
            telling,
            is_telling: false,
            hub,
        }
    }

    fn add_up(&mut self, node: usize) {
        let counters = self.nodes[node].hub.counters();
        self.sights.later_fences += counters.later_fences.get();
        self.sights.conflated += counters.conflated.get();
    }

    fn take_step(&mut self) {
        if self.rng.random_ratio(1, 300) {
            self.is_stormy = !self.is_stormy;
        }
        match self.rng.random_range(0..1800) {
            0..110 => self.append(),
            110..340 => self.deliver_some(),
            340..440 => {
                let node = self.rng.random_range(0..self.nodes.len());
                self.cluster.lock().answer(node);
            }
            440..700 => {
                let is_spurious = self.rng.random_ratio(1, 20);
                let client = self.rng.random_range(0..CLIENTS);
                self.poll(client, is_spurious);
            }
            700..890 => self.read_some(),
            890..920 if self.is_stormy => {
                let (client, peer) = (self.rng.random_range(0..CLIENTS), self.choose_cut());
                self.clients[client].cut(peer, &mut self.sights);
            }
            900..940 => {
                if let Some(client) = (0..CLIENTS).find(|client| !self.clients[*client].is_connected()) {
                    self.connect(client, false);
                }
            }
            940..955 => {
                let millis = *[1, 10, 60, 400].choose(&mut self.rng).expect("one of four");
                self.clock.advance(millis);
            }
            955..965 => {
                let client = self.rng.random_range(0..CLIENTS);
                self.clients[client].interrupt();
            }
            965..980 => {
                let (number, count) = (self.rng.random_range(0..self.setting.partitions), self.rng.random_range(1..20));
                self.cluster.lock().flush(number, count);
            }
            980..990 => {
                let number = self.rng.random_range(0..self.setting.partitions);
                self.cluster.lock().sweep(number);
            }
            990..992 => {
                let channel = self.channels.choose(&mut self.rng).expect("some").clone();
                self.cluster.lock().purge(&channel);
            }
            // A burst: what makes queues overflow, and memory.
            992..994 => (0..30).for_each(|_| self.append()),
            994..995 => {
                let node = self.rng.random_range(0..self.nodes.len());
                self.restart_nodes(|other| other == node);
            }
            995..996 => {
                self.cut_all();
                self.cluster.lock().restart();
                self.restart_nodes(|_| true);
            }
            996..997 if self.rng.random_ratio(1, 3) => {
                self.cut_all();
                let number = self.rng.random_range(0..self.setting.partitions);
                self.cluster.lock().begin_epoch(number);
                self.restart_nodes(|_| true);
            }
            997..1000 if self.rng.random_ratio(1, 3) => self.settle(),
            997..1000 if self.rng.random_ratio(1, 20) => self.all_leave(),
            1000..1600 => self.take_shard_step(),
            1600.. => self.take_inbox_step(),
            _ => {}
        }
    }

    fn append(&mut self) {
        // Half of all events on six channels that everybody wants.
        let popular = if self.rng.random() { 6 } else { self.channels.len() };
        let channel = self.channels[..popular].choose(&mut self.rng).expect("some").clone();
        let number: u32 = self.rng.random_range(0..1000);
        let conflate = self.rng.random_ratio(1, 3).then(|| if self.rng.random() { "x" } else { "y" });
        let event = Event {
            channel,
            event_type: EventType::default(),
            data: Data::trusted(number.to_string()),
            sent_at: self.clock.now(),
            key: None,
            conflate: conflate.map(Into::into),
            expires_in_secs: self.rng.random_ratio(1, 4).then(|| self.rng.random_range(1..3)),
            is_ephemeral: false,
        };
        let fails = self.rng.random_ratio(1, 100);
        self.cluster.lock().append(event, fails);
    }

    fn take_inbox_step(&mut self) {
        let node = self.rng.random_range(0..self.nodes.len());
        match self.rng.random_range(0..20) {
            0..5 => {
                let user = self.rng.random_ratio(3, 4).then(|| user(self.rng.random_range(0..USERS)));
                self.rows.lock().add(user, self.rng.random_ratio(1, 10));
            }
            5..11 => drop(self.begin_telling(node)),
            11..14 => self.end_telling(node),
            // It dies with what it has told and not noted. Some have read it.
            14..15 if self.nodes[node].is_telling && self.rng.random_ratio(1, 5) => {
                for number in 0..self.setting.partitions {
                    self.deliver(node, number, usize::MAX);
                }
                for client in 0..CLIENTS {
                    self.poll(client, false);
                    self.read(client, usize::MAX, Peer::HalfClosed);
                }
                self.restart_nodes(|other| other == node);
            }
            15..18 => {
                let peer = self.choose_cut();
                let client = self.clients.iter_mut().find(|client| client.is_among_unread());
                client.into_iter().for_each(|client| client.cut(peer, &mut self.sights));
            }
            _ => {
                let (count, user) = (self.rng.random_range(0..25), user(self.rng.random_range(0..USERS)));
                self.rows.lock().read_all_but(count, &user);
            }
        }
    }

    /// A node's teller appends some of what is untold. `false` if there is nothing.
    fn begin_telling(&mut self, number: usize) -> bool {
        let node = &mut self.nodes[number];
        if std::mem::replace(&mut node.is_telling, true) {
            return false;
        }
        node.telling.begin();
        let (rng, cluster) = (&mut self.rng, &self.cluster);
        let count = rng.random_range(1..6);
        self.rows.lock().tell(number, count, |event| cluster.lock().append(event, rng.random_ratio(1, 50)))
    }

    /// It notes where.
    fn end_telling(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if std::mem::take(&mut node.is_telling) {
            self.rows.lock().note(number);
            node.telling.end();
        }
    }

    fn deliver_some(&mut self) {
        let node = self.rng.random_range(0..self.nodes.len());
        let number = self.rng.random_range(0..self.setting.partitions);
        let count = self.rng.random_range(1..8);
        self.deliver(node, number, count);
    }

    /// Delivers so many items at once, or as many as there are. `false` if there are none.
    fn deliver(&self, node: usize, number: usize, count: usize) -> bool {
        let items: Vec<_> = (0..count).map_while(|_| self.cluster.lock().take_item(node, number)).collect();
        let has_some = !items.is_empty();
        self.nodes[node].delivery.deliver(items);
        has_some
    }

    fn read_some(&mut self) {
        let client = self.rng.random_range(0..CLIENTS);
        // The higher the number, the slower the client.
        for _ in 0..self.rng.random_range(1..=1 + (CLIENTS - client) / 2) {
            let max_bytes = if self.rng.random_ratio(1, 4) { usize::MAX } else { self.rng.random_range(1..500) };
            // Some never close their side.
            let is_polite = self.rng.random_ratio(3, 4);
            let peer = if is_polite { Peer::HalfClosed } else { Peer::Silent { is_known: false } };
            if self.read(client, max_bytes, peer) == Progress::Nothing {
                return;
            }
        }
    }

    fn read(&mut self, client: usize, max_bytes: usize, peer: Peer) -> Progress {
        let now = self.clock.now();
        self.clients[client].read(max_bytes, peer, &self.cluster, &self.rows, now, &mut self.sights)
    }

    pub(crate) fn cut_all(&mut self) {
        for client in 0..CLIENTS {
            let peer = self.choose_cut();
            self.clients[client].cut(peer, &mut self.sights);
        }
    }

    fn restart_nodes(&mut self, is_meant: impl Fn(usize) -> bool) {
        for node in (0..self.nodes.len()).filter(|node| is_meant(*node)) {
            let of_node = self.clients.iter_mut().filter(|client| client.node == node);
            of_node.for_each(|client| client.cut(Peer::HalfClosed, &mut self.sights));
            self.add_up(node);
            self.nodes[node] = self.begin_node(node);
        }
    }

    fn connect(&mut self, client: usize, is_calm: bool) {
        let (resume, is_new_chain) = self.choose_resume(client, is_calm);
        let before = self.clients[client].node;
        let node = self.rng.random_range(0..self.nodes.len());
        self.sights.resumed_elsewhere += u64::from(node != before);
        let number = client;
        let client = &mut self.clients[client];
        client.node = node;
        if client.channels.is_empty() || self.rng.random_ratio(1, 8) {
            let popular = if self.rng.random() { 6 } else { self.channels.len() };
            let count = self.rng.random_range(1..=popular.min(9));
            client.channels = self.channels[..popular].choose_multiple(&mut self.rng, count).cloned().collect();
        }
        let of = (number < 2 * USERS).then(|| user(number % USERS));
        if let Some(personal) = of.as_ref().map(Channel::personal).filter(|own| !client.channels.contains(own)) {
            client.channels.push(personal);
        }
        let info = ConnectionInfo {
            id: ConnectionId::random(),
            user: of.clone(),
            transport: Transport::Sse,
            confirms: ConfirmBy::Client,
            remote: None,
            opened_at: self.clock.now(),
            channels: client.channels.clone().into(),
        };
        let kept = of.as_ref().and_then(|user| self.lost_but(user, &resume));
        let unread = of.clone().map(|user| Unread { must_have: self.unread_of(&user, kept.as_deref()), kept, user });
        let limits = QueueLimits { max_bytes: 1200, max_events: self.rng.random_range(2..12) };
        let wire = self.new_wire(limits);
        let Node { streams, hub, .. } = &self.nodes[node];
        let stream = streams.open(info, FORMAT, limits, resume.clone());
        let hub = hub.clone();
        let opened = Opened { stream, wire, hub };
        self.clients[number].on_connect(opened, resume, is_new_chain, unread, &mut self.sights);
        if self.rng.random() {
            self.offer(number, is_calm);
        }
    }

    /// If a client is to be given what is unread, the partitions of which it has kept its place.
    fn lost_but(&self, user: &UserId, resume: &Resume) -> Option<Vec<Kept>> {
        let cluster = self.cluster.lock();
        match resume {
            Resume::New { unread, .. } => unread.then(Vec::new),
            Resume::Unusable => Some(Vec::new()),
            Resume::After(cursor) => {
                let is_kept = |partition: Partition, at: PartitionCursor| {
                    let model = cluster.model(partition);
                    model.epoch == at.epoch && at.position <= model.head
                };
                let kept = cursor.entries().filter(|(partition, at)| is_kept(*partition, *at));
                let kept: Vec<_> = kept.map(|(partition, at)| (partition, at.epoch)).collect();
                let of = [Channel::personal(user), Channel::everyone()].map(|channel| cluster.partition_of(&channel));
                let has_lost_any = of.iter().any(|of| !kept.iter().any(|(partition, _)| partition == of));
                has_lost_any.then_some(kept)
            }
        }
    }

    fn unread_of(&self, user: &UserId, kept: Option<&[Kept]>) -> BTreeSet<NotificationId> {
        kept.map(|kept| self.rows.lock().unread(user, kept)).unwrap_or_default()
    }

    /// Where a client says that it was, and whether that is something else than where it really was.
    fn choose_resume(&mut self, client: usize, is_calm: bool) -> (Resume, bool) {
        let replay = *[0, 0, 1, 3, usize::MAX].choose(&mut self.rng).expect("one of five");
        let unread = self.rng.random_ratio(1, 2);
        let client = &self.clients[client];
        let parse = |id: &str| id.parse::<Cursor>().map_or(Resume::Unusable, Resume::After);
        let last = match client.last_id.is_empty() {
            true => return (Resume::New { replay, unread }, true),
            false => parse(&client.last_id),
        };
        let number = partition(self.rng.random_range(0..self.setting.partitions));
        let moved = |to: &dyn Fn(Epoch, Position) -> (Epoch, Position)| match &last {
            Resume::After(cursor) => {
                let mut cursor = cursor.clone();
                if let Some(at) = cursor.get(number) {
                    let (epoch, position) = to(at.epoch, at.position);
                    cursor.set(number, PartitionCursor { epoch, position });
                }
                (Resume::After(cursor), true)
            }
            other => (other.clone(), true),
        };
        match self.rng.random_range(0..100) {
            _ if is_calm => (last, false),
            0..3 => (Resume::New { replay, unread }, true),
            3..6 => (Resume::Unusable, true),
            6..8 => moved(&|epoch, position| (Epoch(!epoch.0), position)),
            8..10 => moved(&|epoch, _| (epoch, Position(POSITION_MAX))),
            10..12 => match &last {
                // A cursor that speaks of no partition at all is none.
                Resume::After(cursor) if self.setting.partitions > 1 => {
                    let mut fewer = Cursor::default();
                    cursor.entries().filter(|(at, _)| *at != number).for_each(|(at, to)| fewer.set(at, to));
                    (Resume::After(fewer), true)
                }
                _ => (Resume::Unusable, true),
            },
            // Often: what is unread is little, and cuts among it are what is looked for.
            17..27 => (Resume::New { replay, unread: true }, true),
            12..17 => match client.earlier_ids.choose(&mut self.rng) {
                Some(id) if !id.is_empty() => (parse(id), true),
                _ => (last, false),
            },
            _ => (last, false),
        }
    }

    /// Nothing new happens until all that is under way has arrived. Then nobody may lack anything.
    fn settle(&mut self) {
        let mut is_quiet = false;
        for round in 0.. {
            assert!(round < 10_000, "it never settles");
            match self.settle_round() {
                Progress::Nothing if is_quiet => break,
                Progress::Nothing => {
                    // Windows end by themselves, and then there may be more.
                    self.clock.advance(200);
                    is_quiet = true;
                }
                // Only heartbeats, if nothing else comes of it.
                Progress::Bytes => {}
                Progress::Event => is_quiet = false,
            }
        }
        let now = self.clock.now();
        self.clients
            .iter_mut()
            .for_each(|client| client.must_have_all(&self.cluster, &self.rows, now, &mut self.sights));
    }

    fn settle_round(&mut self) -> Progress {
        let mut progress = Progress::Nothing;
        for client in 0..CLIENTS {
            if !self.clients[client].is_connected() {
                self.connect(client, true);
                progress = Progress::Event;
            }
        }
        for node in 0..self.nodes.len() {
            if self.cluster.lock().answer(node) {
                progress = Progress::Event;
            }
            for number in 0..self.setting.partitions {
                if self.deliver(node, number, usize::MAX) {
                    progress = Progress::Event;
                }
            }
        }
        for node in 0..self.nodes.len() {
            if self.begin_telling(node) {
                progress = Progress::Event;
            }
            self.end_telling(node);
        }
        for client in 0..CLIENTS {
            if self.poll(client, false) {
                progress = Progress::Event;
            }
        }
        progress = progress.max(self.settle_shards());
        for client in 0..CLIENTS {
            loop {
                let read = self.read(client, usize::MAX, Peer::HalfClosed);
                progress = progress.max(read);
                if read == Progress::Nothing {
                    break;
                }
            }
        }
        progress
    }

    /// That the run was worth something: each thing it is about did happen.
    pub(crate) fn assert_saw_enough(&self) {
        let sights = &self.sights;
        let gaps = |reason| counted(&sights.gaps, reason);
        let closed = |reason| counted(&sights.closed, reason);
        let shards = self.shard_sights.lock();
        let shard_closed = |reason| counted(&shards.closed, reason);
        let shard_lost = |reason| counted(&shards.lost, reason);
        for (what, count) in [
            ("replayed events", sights.replayed),
            ("live events", sights.live),
            ("later fences", sights.later_fences),
            ("conflated events", sights.conflated),
            ("events that a newer one replaced", sights.conflated_away),
            ("events past their time", sights.past),
            ("events in gaps", sights.in_gaps),
            ("cuts during catch-up", sights.cut_in_catch_up),
            ("slow consumers", closed(CloseReason::SlowConsumer)),
            ("histories that failed", closed(CloseReason::Error)),
            ("gaps of evicted events", gaps(GapReason::Evicted)),
            ("gaps of expired events", gaps(GapReason::Expired)),
            ("gaps of restarts", gaps(GapReason::Restart)),
            ("gaps of new epochs", gaps(GapReason::Epoch)),
            ("gaps of unusable cursors", gaps(GapReason::Unusable)),
            ("cuts within a frame", sights.cut_inside_frame),
            ("resumes after one", sights.resumed_after_cut_inside_frame),
            ("times that all left", sights.all_left),
            ("notifications that were replayed", sights.notifications_replayed),
            ("live notifications", sights.notifications_live),
            ("unread notifications", sights.notifications_unread),
            ("unread ones that were muted", sights.notifications_silent),
            ("notifications that were told again", sights.notifications_told_again),
            ("cuts among unread ones", sights.cut_among_unread),
            ("unread ones after a loss", sights.unread_after_loss),
            ("streams that a shard took", shards.handed_over),
            ("streams that it took with what waited", shards.handed_over_with_frames),
            ("streams that no shard took", shards.not_taken),
            ("short writes within a frame", shards.short_inside_frame),
            ("short writes within `closing`", shards.short_inside_closing),
            ("heartbeats", shards.heartbeats),
            ("half heartbeats", shards.half_heartbeats),
            ("stalls", shards.stalls),
            ("write timeouts", shards.write_timeouts),
            ("sockets that lingered in vain", shards.lingered_in_vain),
            ("events that a newer one replaced on a shard", shards.conflated),
            ("clients that sent too much", shards.too_much_input),
            ("slow consumers of a shard", shard_closed(CloseReason::SlowConsumer)),
            ("streams that an operator closed on a shard", shard_closed(CloseReason::Kicked)),
            ("streams that a shard drained", shard_closed(CloseReason::Drain)),
            ("streams that grew too old", shard_closed(CloseReason::MaxAge)),
            ("clients that left a shard", shard_lost(CloseReason::ClientClosed)),
            ("clients that reset a shard's socket", shard_lost(CloseReason::ClientReset)),
            ("peers of a shard that were lost", shard_lost(CloseReason::PeerTimeout)),
        ] {
            assert!(count > 0, "no {what} in {:?}", self.setting);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Setting { partitions, nodes, seed } = self.setting;
            eprintln!("simulation with {partitions} partitions and {nodes} nodes failed at step {}", self.step.get());
            eprintln!("to repeat: TIDINGS_SIM_SEED={seed}");
        }
    }
}
