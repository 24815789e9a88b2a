//! The log against a naive one that keeps every event for ever and looks through all of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*};
use tidings_core::{
    Namespace, Namespaces,
    ports::{HistoryEntry, HistoryFrom, HistoryPage, HistoryRequest},
};
use tidings_protocol::{
    Channel, Data, Epoch, Event, EventType, GapReason, LoggedEvent, Millis, Partition, PartitionCursor, Position,
};

use super::{Admission, Floors, Gone, KeyLimits, LogLimits, PartitionLog};

const EPOCH: Epoch = Epoch(7);
const START: Position = Position(100);
const NAMES: [&str; 8] = ["a", "b", "brief:a", "brief:b", "volatile:a", "volatile:b", "none:a", "c"];

fn namespaces() -> Namespaces {
    let base = Namespace { history_size: 4, history_ttl: Duration::from_secs(100), ..Namespace::default() };
    let named = [
        ("default", base.clone()),
        ("brief", Namespace { history_ttl: Duration::from_millis(1500), ..base.clone() }),
        ("volatile", Namespace { durable: false, ..base.clone() }),
        ("none", Namespace { history_size: 0, ..base }),
    ];
    Namespaces::new(named.map(|(label, namespace)| (label.to_owned(), namespace)).into())
}

fn limits() -> LogLimits {
    let keys = KeyLimits { window_ms: 1000, keys_max: 3 };
    LogLimits { history_max_bytes: 12 * event(0, 0, None).cost_bytes(), channels_max: 6, keys }
}

fn channel(at: usize) -> Channel {
    Channel::parse(NAMES[at % NAMES.len()]).unwrap()
}

fn event(at: usize, number: usize, expires_in_secs: Option<u64>) -> Event {
    Event {
        channel: channel(at),
        event_type: EventType::default(),
        data: Data::trusted((number % 10).to_string()),
        sent_at: 0,
        key: None,
        conflate: None,
        expires_in_secs,
        is_ephemeral: false,
    }
}

struct NaiveChannel {
    events: Vec<(LoggedEvent, bool)>,
    gone: Gone,
}

/// Everything that was ever released, and whether it is still held.
struct Naive {
    namespaces: Namespaces,
    channels: HashMap<Channel, NaiveChannel>,
    /// Least recently used first.
    used: Vec<Channel>,
    floors: HashMap<String, Gone>,
    head: Position,
}

impl Naive {
    fn gone(&self, channel: &Channel) -> Gone {
        let floor = || self.floors.get(self.namespaces.label(channel)).copied().unwrap_or(Gone::NOTHING);
        self.channels.get(channel).map_or_else(floor, |known| known.gone)
    }

    fn drop_oldest(known: &mut NaiveChannel, reason: GapReason, now: Millis) {
        if let Some((logged, is_held)) = known.events.iter_mut().find(|(_, is_held)| *is_held) {
            *is_held = false;
            if !logged.is_past(now) {
                known.gone = Gone { through: logged.position, reason };
            }
        }
    }

    fn trim(&mut self, channel: &Channel, now: Millis) {
        let namespace = self.namespaces.of(channel);
        let ttl = namespace.history_ttl.as_millis() as Millis;
        let Some(known) = self.channels.get_mut(channel) else { return };
        while known.events.iter().find(|(_, is_held)| *is_held).is_some_and(|(e, _)| e.accepted_at + ttl <= now) {
            Self::drop_oldest(known, GapReason::Expired, now);
        }
        while known.events.iter().filter(|(_, is_held)| *is_held).count() > namespace.history_size {
            Self::drop_oldest(known, GapReason::Evicted, now);
        }
    }

    fn release(&mut self, logged: LoggedEvent, limits: LogLimits, now: Millis) {
        let channel = logged.event.channel.clone();
        let gone = self.gone(&channel);
        self.head = logged.position;
        let known = self.channels.entry(channel.clone()).or_insert(NaiveChannel { events: Vec::new(), gone });
        known.events.push((logged, true));
        self.used.retain(|other| *other != channel);
        self.used.push(channel.clone());
        self.trim(&channel, now);
        while self.used.len() > limits.channels_max {
            let channel = self.used.remove(0);
            let mut known = self.channels.remove(&channel).unwrap();
            while known.events.iter().any(|(_, is_held)| *is_held) {
                Self::drop_oldest(&mut known, GapReason::Evicted, now);
            }
            let floor = self.floors.entry(self.namespaces.label(&channel).to_owned()).or_insert(Gone::NOTHING);
            if known.gone.through > floor.through {
                *floor = known.gone;
            }
        }
        while self.held().map(|logged| logged.event.cost_bytes()).sum::<usize>() > limits.history_max_bytes {
            let oldest = self.held().min_by_key(|logged| logged.position).unwrap().event.channel.clone();
            Self::drop_oldest(self.channels.get_mut(&oldest).unwrap(), GapReason::Evicted, now);
        }
    }

    fn held(&self) -> impl Iterator<Item = &LoggedEvent> {
        self.channels.values().flat_map(|known| &known.events).filter(|(_, is_held)| *is_held).map(|(logged, _)| logged)
    }

    /// The whole reading in one page.
    fn history(&mut self, request: &HistoryRequest, now: Millis) -> Vec<HistoryEntry> {
        request.channels.iter().for_each(|channel| self.trim(channel, now));
        let through = request.through.min(self.head);
        let readable = |logged: &&LoggedEvent| logged.position <= through && !logged.is_past(now);
        let mut gaps: Vec<(GapReason, Vec<Channel>)> = Vec::new();
        let mut events: Vec<&LoggedEvent> = Vec::new();
        for (at, channel) in request.channels.iter().enumerate() {
            let mut own: Vec<_> = self.held().filter(|l| l.event.channel == *channel).filter(readable).collect();
            own.sort_by_key(|logged| logged.position);
            match &request.from {
                HistoryFrom::Cursor(from) => {
                    let is_foreign = from.epoch != EPOCH || from.position > self.head;
                    let gone = self.gone(channel);
                    if is_foreign || from.position < gone.through.min(request.through) {
                        let reason = if is_foreign { GapReason::Epoch } else { gone.reason };
                        match gaps.iter_mut().find(|(known, _)| *known == reason) {
                            Some((_, channels)) => channels.push(channel.clone()),
                            None => gaps.push((reason, vec![channel.clone()])),
                        }
                    }
                    own.retain(|logged| is_foreign || logged.position > from.position);
                }
                HistoryFrom::Last(counts) => drop(own.drain(..own.len().saturating_sub(counts[at]))),
                HistoryFrom::Next { .. } => unreachable!("a naive reading has one page"),
            }
            events.extend(own);
        }
        events.sort_by_key(|logged| logged.position);
        gaps.sort_by_key(|(reason, _)| *reason);
        let place = match &request.from {
            HistoryFrom::Cursor(from) => from.position,
            _ => Position::ZERO,
        };
        let count = gaps.len();
        let past_the_gaps = events.first().map_or(through, |first| first.position.previous());
        let gap = |(at, (reason, channels)): (usize, (GapReason, Vec<Channel>))| HistoryEntry::Gap {
            channels,
            reason,
            through: if at + 1 == count { past_the_gaps } else { place },
        };
        let gaps = gaps.into_iter().enumerate().map(gap);
        gaps.chain(events.into_iter().map(|logged| HistoryEntry::Event(Arc::new(logged.clone())))).collect()
    }
}

/// What is done to both.
#[derive(Debug, Clone)]
enum Step {
    Append { channel: usize, expires_in_secs: Option<u64> },
    Fail { channel: usize },
    Pass { millis: Millis },
    Sweep { budget: usize },
    Purge { channel: usize },
    Read { channels: Vec<usize>, back: u64, is_foreign: bool, short: u64, limit: usize },
    Replay { channels: Vec<usize>, counts: Vec<usize>, short: u64, limit: usize },
}

fn steps() -> impl Strategy<Value = Step> {
    let channels = || proptest::sample::subsequence((0..NAMES.len()).collect::<Vec<_>>(), 1..=NAMES.len());
    let channel = 0..NAMES.len();
    prop_oneof![
        8 => (channel.clone(), prop_oneof![3 => Just(None), 1 => (1..3_u64).prop_map(Some)])
            .prop_map(|(channel, expires_in_secs)| Step::Append { channel, expires_in_secs }),
        1 => channel.clone().prop_map(|channel| Step::Fail { channel }),
        2 => (0..900_u64).prop_map(|millis| Step::Pass { millis }),
        1 => (0..5_usize).prop_map(|budget| Step::Sweep { budget }),
        1 => channel.prop_map(|channel| Step::Purge { channel }),
        4 => (channels(), 0..30_u64, prop::bool::weighted(0.1), 0..4_u64, 1..5_usize).prop_map(
            |(channels, back, is_foreign, short, limit)| Step::Read { channels, back, is_foreign, short, limit }
        ),
        1 => (channels(), vec(0..6_usize, NAMES.len()), 0..4_u64, 1..5_usize)
            .prop_map(|(channels, counts, short, limit)| Step::Replay { channels, counts, short, limit }),
    ]
}

/// All pages of a reading, in one.
fn read_all(
    log: &mut PartitionLog,
    mut request: HistoryRequest,
    namespaces: &Namespaces,
    now: Millis,
) -> Vec<HistoryEntry> {
    let mut entries = Vec::new();
    for page in 0.. {
        assert!(page < 1000, "it never ends");
        let HistoryPage { entries: page, next } = log.history(&request, namespaces, now);
        assert!(page.len() <= request.limit, "a page keeps its limit");
        assert!(!page.is_empty() || next.is_none(), "a page that is not the last has something");
        entries.extend(page);
        match next {
            Some(next) => request.from = next,
            None => break,
        }
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_holds_and_tells_what_a_naive_log_does(steps in vec(steps(), 1..250)) {
        let (namespaces, limits) = (namespaces(), limits());
        let floors = Floors::at_start(&[], &namespaces, START);
        let mut log = PartitionLog::new(Partition::ZERO, EPOCH, START, floors, limits, 0);
        let restart = Gone { through: START.previous(), reason: GapReason::Restart };
        let mut naive = Naive {
            namespaces: namespaces.clone(),
            channels: HashMap::new(),
            used: Vec::new(),
            floors: [("volatile".to_owned(), restart)].into(),
            head: START.previous(),
        };
        let mut now = 10_000;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append { channel, expires_in_secs } => {
                    let event = event(channel, number, expires_in_secs);
                    let Admission::New { position, .. } = log.admit(&event, now) else { panic!("no key") };
                    let gone = naive.gone(&event.channel).through;
                    let last = naive.channels.get(&event.channel).and_then(|known| known.events.last());
                    let previous = last.map_or(gone, |(last, _)| last.position);
                    let placed = Arc::new(log.place(event, position, now));
                    let logged = log.release(placed, true, &namespaces, now);
                    prop_assert_eq!(logged.previous, previous);
                    naive.release((*logged).clone(), limits, now);
                }
                Step::Fail { channel } => {
                    let Admission::New { position, key } = log.admit(&event(channel, 0, None), now) else { panic!("no key") };
                    log.withdraw(position, key);
                    log.pass_over(position);
                    naive.head = position;
                }
                Step::Pass { millis } => now += millis,
                Step::Sweep { budget } => {
                    // The same drops as reading every channel makes, in some order, sooner or later.
                    while log.sweep(&namespaces, now, budget.max(1)) {}
                    (0..NAMES.len()).for_each(|at| naive.trim(&channel(at), now));
                }
                Step::Purge { channel: at } => {
                    let held = naive.held().filter(|logged| logged.event.channel == channel(at)).count();
                    prop_assert_eq!(log.purge(&channel(at), now), held);
                    if let Some(known) = naive.channels.get_mut(&channel(at)) {
                        (0..held).for_each(|_| Naive::drop_oldest(known, GapReason::Evicted, now));
                    }
                }
                Step::Read { channels, back, is_foreign, short, limit } => {
                    let position = Position(naive.head.0.saturating_sub(back));
                    let epoch = if is_foreign && back % 2 == 0 { Epoch(0) } else { EPOCH };
                    let position = if is_foreign && back % 2 == 1 { Position(naive.head.0 + back) } else { position };
                    let request = HistoryRequest {
                        partition: Partition::ZERO,
                        channels: channels.into_iter().map(channel).collect(),
                        from: HistoryFrom::Cursor(PartitionCursor { epoch, position }),
                        through: Position(naive.head.0 - short),
                        limit,
                    };
                    let expected = naive.history(&request, now);
                    prop_assert_eq!(read_all(&mut log, request, &namespaces, now), expected);
                }
                Step::Replay { channels, counts, short, limit } => {
                    let request = HistoryRequest {
                        partition: Partition::ZERO,
                        channels: channels.into_iter().map(channel).collect(),
                        from: HistoryFrom::Last(counts),
                        through: Position(naive.head.0 - short),
                        limit,
                    };
                    let expected = naive.history(&request, now);
                    prop_assert_eq!(read_all(&mut log, request, &namespaces, now), expected);
                }
            }
            let stats = log.stats();
            prop_assert_eq!(stats.history_events, naive.held().count());
            prop_assert_eq!(stats.history_bytes, naive.held().map(|logged| logged.event.cost_bytes()).sum::<usize>());
            prop_assert_eq!(stats.channels, naive.channels.len());
        }
    }

    #[test]
    fn a_key_is_used_for_its_window_or_until_there_are_too_many(
        publishes in vec((0..6_u8, 0..3_u8, 0..400_u64, prop::bool::weighted(0.2)), 1..200)
    ) {
        let namespaces = namespaces();
        let floors = Floors::at_start(&[], &namespaces, START);
        let mut log = PartitionLog::new(Partition::ZERO, EPOCH, START, floors, limits(), 0);
        let mut used: Vec<(u8, u8, Position, Millis)> = Vec::new();
        let (mut now, mut forgotten) = (0, 0);
        for (key, body, millis, fails) in publishes {
            now += millis;
            used.retain(|(_, _, _, at)| at + 1000 > now);
            let event = Event { key: Some(format!("k{key}").into()), ..event(0, usize::from(body), None) };
            let known = used.iter().find(|(known, ..)| *known == key);
            match (log.admit(&event, now), known) {
                (Admission::New { position, key: record }, None) => {
                    used.push((key, body, position, now));
                    if used.len() > 3 {
                        used.remove(0);
                        forgotten += 1;
                    }
                    if fails {
                        log.withdraw(position, record);
                        used.retain(|(_, _, at, _)| *at != position);
                    }
                }
                (Admission::Duplicate(position), Some((_, same, at, _))) => {
                    prop_assert_eq!((position, body), (*at, *same));
                }
                (Admission::Conflict, Some((_, other, ..))) => prop_assert_ne!(body, *other),
                (admission, known) => prop_assert!(false, "{:?} with {:?}", admission, known),
            }
            log.sweep(&namespaces, now, 100);
            prop_assert_eq!(log.stats().keys, used.len());
            prop_assert_eq!(log.stats().keys_forgotten, forgotten);
        }
    }
}

#[test]
fn what_is_queued_beside_the_records_stays_in_proportion() {
    let (namespaces, limits) = (namespaces(), LogLimits { history_max_bytes: 1 << 30, ..limits() });
    let floors = Floors::at_start(&[], &namespaces, START);
    let mut log = PartitionLog::new(Partition::ZERO, EPOCH, START, floors, limits, 0);
    for number in 0..200_000 {
        let event = Event { channel: Channel::parse(&format!("c{}", number % 50)).unwrap(), ..event(0, number, None) };
        let Admission::New { position, .. } = log.admit(&event, 1000) else { panic!("no key") };
        let placed = Arc::new(log.place(event, position, 1000));
        log.release(placed, false, &namespaces, 1000);
    }
    assert!(log.order.len() <= 2 * log.tally.events + 1025, "{}", log.order.len());
    assert!(log.expiries.len() <= 2 * log.channels.len() + 1025, "{}", log.expiries.len());
    assert_eq!(log.take_changes(), [], "nothing is on disk, so nothing is to be deleted");
}

/// Notifications pass through the log like this: the inbox has them, so no reader misses them here.
#[test]
fn an_ephemeral_event_has_a_place_and_no_history() {
    let namespaces = Namespaces::new(HashMap::new());
    let mut log = PartitionLog::new(Partition::ZERO, EPOCH, START, Floors::default(), limits(), 0);
    let mut append = |is_ephemeral| {
        let event = Event { is_ephemeral, ..event(0, 0, None) };
        let Admission::New { position, .. } = log.admit(&event, 0) else { panic!("it has no key") };
        let logged = Arc::new(log.place(event, position, 0));
        log.release(logged, false, &namespaces, 0)
    };
    let (first, passing, last) = (append(false), append(true), append(false));
    assert_eq!((passing.position, log.head().position), (START.next(), last.position));
    assert_eq!((passing.previous, last.previous), (first.position, first.position));
    let request = HistoryRequest {
        partition: Partition::ZERO,
        channels: [first.event.channel.clone()].into(),
        from: HistoryFrom::Cursor(PartitionCursor { epoch: EPOCH, position: first.position }),
        through: last.position,
        limit: 10,
    };
    let page = log.history(&request, &namespaces, 0);
    assert_eq!(page.entries, [HistoryEntry::Event(last)]);
}
