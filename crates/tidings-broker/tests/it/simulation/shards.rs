//! What shards do, and what must hold whenever they have done something.

use std::sync::Arc;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidings_hub::{
    ConnectionFilter, Hub, QueueLimits, Tick, Time as _, Transport,
    shard::{LiveSettings, Readiness, Shard},
};
use tidings_protocol::{Channel, CloseReason};

use super::{
    sights::{Progress, count},
    wire::{Peer, SharedWire, Wire},
    world::{CLIENTS, USERS, World, user},
};

/// A wire that a shard was given.
pub(crate) struct Held {
    wire: SharedWire,
    limits: QueueLimits,
    /// Its shard and its slot there, once they are known.
    place: Option<(usize, u32)>,
    /// Whether the end of its stream has been held against the counts.
    is_counted: bool,
}

/// How often streams of server-sent events have ended, by reason.
fn closed(hub: &Hub) -> [u64; CloseReason::ALL.len()] {
    std::array::from_fn(|reason| hub.counters().closed[Transport::Sse as usize][reason].get())
}

impl World {
    pub(crate) fn new_wire(&mut self, limits: QueueLimits) -> SharedWire {
        let settings = LiveSettings {
            heartbeat: Tick::from_millis(500),
            write_timeout: Tick::from_millis(1000),
            retry_millis: (1500, 1500),
            limits,
        };
        let rng = StdRng::seed_from_u64(self.rng.random());
        let capacity = self.rng.random_range(200..1500);
        let wire = Wire::new(self.clock.clone(), Arc::new(settings), self.shard_sights.clone(), rng, capacity);
        Arc::new(parking_lot::Mutex::new(wire))
    }

    /// A client's stream may go to a shard from now on.
    pub(crate) fn offer(&mut self, client: usize, is_calm: bool) {
        let Some(wire) = self.clients[client].wire().cloned() else { return };
        if wire.lock().is_on_shard || wire.lock().offer.is_some() {
            return;
        }
        let ends = !is_calm && self.rng.random_ratio(1, 3);
        let ends_at = ends.then(|| self.clock.tick() + Tick::from_millis(self.rng.random_range(0..4000)));
        Wire::offer(&wire, ends_at);
        self.clients[client].interrupt();
    }

    /// Lets a client's task run, and sees whether a shard has its stream then.
    pub(crate) fn poll(&mut self, client: usize, is_spurious: bool) -> bool {
        let has_run = self.clients[client].poll(is_spurious, &self.cluster);
        let held = &mut self.nodes[self.clients[client].node].held;
        if let Some(shared) = self.clients[client].wire() {
            let mut wire = shared.lock();
            if wire.is_on_shard && !std::mem::replace(&mut wire.is_known, true) {
                held.push(Held { wire: shared.clone(), limits: wire.limits(), place: None, is_counted: false });
            }
        }
        has_run
    }

    /// Has a shard do something, and holds what it counts against what its sockets saw.
    fn drive(&mut self, node: usize, shard: usize, act: impl FnOnce(&mut Shard)) {
        let node = &mut self.nodes[node];
        let (closed_before, conflated_before) = (closed(&node.hub), node.hub.counters().conflated.get());
        act(&mut node.shards[shard]);
        let counts: Vec<_> = closed(&node.hub).iter().zip(closed_before).map(|(now, before)| now - before).collect();
        let mut ends = Vec::new();
        for held in node.held.iter_mut().filter(|held| !held.is_counted) {
            let wire = held.wire.lock();
            if wire.has_ended() {
                held.is_counted = true;
                ends.push((wire.reasons(), wire.is_dropped()));
            }
        }
        assert_eq!(counts.iter().sum::<u64>(), ends.len() as u64, "{counts:?} were counted where {ends:?} ended");
        let mut sights = self.shard_sights.lock();
        for (reason, counted) in CloseReason::ALL.into_iter().zip(counts) {
            let of_reason = ends.iter().filter(|(reasons, _)| reasons.contains(&reason)).count() as u64;
            assert!(counted <= of_reason, "{reason} was counted {counted} times where {ends:?} ended");
            if counted > 0 && ends.iter().any(|(reasons, is_lost)| *is_lost && reasons.contains(&reason)) {
                count(&mut sights.lost, reason);
            }
        }
        sights.conflated += node.hub.counters().conflated.get() - conflated_before;
        drop(sights);
        node.held.retain(|held| !(held.is_counted && held.wire.lock().is_dropped()));
        assert_eq!(node.hub.shard_sockets(), node.held.len(), "each socket has its slot until it is dropped");
        assert_counts_agree(&node.hub);
    }

    pub(crate) fn turn(&mut self, number: usize, shard: usize) {
        self.drive(number, shard, |shard| assert!(shard.turn(), "a shard ends when it is told to"));
        let Self { nodes, shard_sights, .. } = self;
        let node = &nodes[number];
        for held in &node.held {
            let Some((_, slot)) = held.place.filter(|(at, _)| *at == shard) else { continue };
            held.wire.lock().assert_in_time();
            let (frames, bytes) = node.shards[shard].waiting(slot);
            let fits = frames <= 1 || (frames <= held.limits.max_events && bytes <= held.limits.max_bytes);
            assert!(fits, "{frames} frames of {bytes} bytes wait, and {:?}", held.limits);
            let mut sights = shard_sights.lock();
            sights.most_waiting = sights.most_waiting.max(frames);
        }
        self.find_places(number, shard);
    }

    /// Finds in which slots new sockets are: their shard receives from them when it is told to.
    fn find_places(&mut self, node: usize, shard: usize) {
        if self.nodes[node].held.iter().all(|held| held.place.is_some()) {
            return;
        }
        for slot in 0..self.nodes[node].shards[shard].slots() {
            if self.nodes[node].held.iter().any(|held| held.place == Some((shard, slot))) {
                continue;
            }
            let is_new = |held: &&mut Held| held.place.is_none();
            self.nodes[node].held.iter_mut().filter(is_new).for_each(|held| held.wire.lock().was_probed = false);
            self.drive(node, shard, |shard| shard.on_ready(slot, Readiness { readable: true, writable: false }));
            let held = &mut self.nodes[node].held;
            if let Some(held) = held.iter_mut().filter(is_new).find(|held| held.wire.lock().was_probed) {
                held.place = Some((shard, slot));
                held.wire.lock().adopted_at = self.clock.tick();
            }
        }
    }

    /// Tells a shard what there is to tell of one of its sockets. `false` if there is nothing.
    fn tell(&mut self, node: usize, at: usize) -> bool {
        let Some(held) = self.nodes[node].held.get(at) else { return false };
        let Some((shard, slot)) = held.place else { return false };
        let readiness = held.wire.lock().take_readiness();
        if readiness == Readiness::default() {
            return false;
        }
        self.drive(node, shard, |shard| shard.on_ready(slot, readiness));
        true
    }

    fn spurious(&mut self, node: usize, shard: usize) {
        let slot = self.rng.random_range(0..=self.nodes[node].shards[shard].slots());
        let readiness = Readiness { readable: self.rng.random(), writable: self.rng.random() };
        let held = self.nodes[node].held.iter().find(|held| held.place == Some((shard, slot)));
        if let Some(held) = held {
            held.wire.lock().on_spurious(readiness);
        }
        self.drive(node, shard, |shard| shard.on_ready(slot, readiness));
    }

    /// One step of what only shards know.
    pub(crate) fn take_shard_step(&mut self) {
        let node = self.rng.random_range(0..self.nodes.len());
        let (shards, held) = (self.nodes[node].shards.len(), self.nodes[node].held.len());
        let client = self.rng.random_range(0..CLIENTS);
        match self.rng.random_range(0..100) {
            0..45 if shards > 0 => {
                let shard = self.rng.random_range(0..shards);
                self.turn(node, shard);
            }
            45..80 if held > 0 => {
                let at = self.rng.random_range(0..held);
                self.tell(node, at);
            }
            80..84 if shards > 0 => {
                let shard = self.rng.random_range(0..shards);
                self.spurious(node, shard);
            }
            84..96 => self.offer(client, false),
            96..98 if held > 0 && self.is_stormy => {
                let held = self.nodes[node].held.choose(&mut self.rng).expect("some");
                let bytes = *[1, 5000, 40_000, 70_000].choose(&mut self.rng).expect("one of four");
                held.wire.lock().send_to_server(bytes);
            }
            98 if self.is_stormy && self.rng.random_ratio(1, 3) => self.close(client),
            99 if self.is_stormy && self.rng.random_ratio(1, 5) => self.close_all(node),
            _ => {}
        }
    }

    /// An operator closes a connection.
    fn close(&mut self, client: usize) {
        let Some(id) = self.clients[client].connection_id() else { return };
        let hub = self.nodes[self.clients[client].node].hub.clone();
        let is_there = hub.connections(&ConnectionFilter::default()).iter().any(|info| info.id == id);
        if let Some(wire) = self.clients[client].wire() {
            wire.lock().asked.push(CloseReason::Kicked);
        }
        assert_eq!(hub.close(&id, CloseReason::Kicked), is_there);
    }

    fn close_all(&mut self, node: usize) {
        let on_shards = self.nodes[node].held.iter().map(|held| held.wire.clone());
        let others = self.clients.iter().filter(|client| client.node == node).filter_map(|client| client.wire());
        for wire in others.cloned().chain(on_shards) {
            wire.lock().asked.push(CloseReason::Drain);
        }
        let hub = &self.nodes[node].hub;
        let count = hub.connection_count();
        assert_eq!(hub.close_all(&ConnectionFilter::default(), CloseReason::Drain), count);
    }

    /// How a client's side ends that breaks off.
    pub(crate) fn choose_cut(&mut self) -> Peer {
        use std::io::ErrorKind;
        match self.rng.random_range(0..10) {
            0..3 => Peer::HalfClosed,
            3..5 => Peer::Fails(ErrorKind::ConnectionReset),
            5 => Peer::Fails(ErrorKind::BrokenPipe),
            6 => Peer::Fails(ErrorKind::TimedOut),
            _ => Peer::Silent { is_known: self.rng.random() },
        }
    }

    /// All shards do all that they can without time passing.
    pub(crate) fn settle_shards(&mut self) -> Progress {
        let mut progress = Progress::Nothing;
        for node in 0..self.nodes.len() {
            for shard in 0..self.nodes[node].shards.len() {
                self.turn(node, shard);
            }
            for at in (0..self.nodes[node].held.len()).rev() {
                if self.tell(node, at) {
                    progress = Progress::Bytes;
                }
            }
            self.assert_lists_agree(node);
        }
        progress
    }

    fn assert_lists_agree(&self, node: usize) {
        let hub = &self.nodes[node].hub;
        let mut channels = 0;
        let personal: Vec<_> = (0..USERS).map(|number| Channel::personal(&user(number))).collect();
        for channel in self.channels.iter().chain(&personal) {
            let filter = ConnectionFilter { channel: Some(channel.clone()), ..ConnectionFilter::default() };
            let listeners = hub.connections(&filter).len();
            assert_eq!(hub.listener_count(channel), listeners, "{channel}");
            channels += usize::from(listeners > 0);
        }
        // Who is signed in listens to what is for everyone, and is not listed with it.
        let everyone = Channel::everyone();
        let mut signed_in = hub.connections(&ConnectionFilter::default());
        signed_in.retain(|info| info.user.is_some());
        assert!(signed_in.iter().all(|info| !info.channels.contains(&everyone)));
        assert_eq!(hub.listener_count(&everyone), signed_in.len());
        assert_eq!(hub.channel_count(), channels + usize::from(!signed_in.is_empty()));
        assert_counts_agree(hub);
    }

    /// Everybody leaves. Nothing may be left of them.
    pub(crate) fn all_leave(&mut self) {
        self.cut_all();
        for round in 0.. {
            assert!(round < 40, "some never leave: {:?}", self.nodes.iter().map(|n| n.held.len()).collect::<Vec<_>>());
            self.settle_shards();
            if self.nodes.iter().all(|node| node.hub.shard_sockets() == 0) {
                break;
            }
            self.clock.advance(300);
        }
        for node in &self.nodes {
            assert_eq!((node.hub.connection_count(), node.hub.channel_count()), (0, 0));
            assert_counts_agree(&node.hub);
        }
        self.sights.all_left += 1;
    }
}

/// Every stream is open or was counted when it ended.
fn assert_counts_agree(hub: &Hub) {
    let opened = hub.counters().opened[Transport::Sse as usize].get();
    let open = hub.connection_count() as u64;
    assert_eq!(opened, closed(hub).iter().sum::<u64>() + open, "opened, closed and {open} open: {:?}", closed(hub));
}
