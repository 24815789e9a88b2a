//! A hub with its feed, and short ways to streams and events.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tidings_hub::{
    Adoption, ConfirmBy, ConnectionId, ConnectionInfo, Format, Hub, Interest, LiveSettings, QueueLimits, Registration,
    Subscription, Tick, Time, Transport,
};
use tidings_protocol::{
    Channel, CloseReason, Cursor, Data, Epoch, Event, EventId, EventType, LoggedEvent, Millis, Partition,
    PartitionCursor, Position, UserId,
    sse::{Parsed, Parser},
};

/// Ends a test that would hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const ROOMY: QueueLimits = QueueLimits { max_bytes: 64 << 20, max_events: 100_000 };

pub(crate) struct RealTime(Instant);

impl RealTime {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Time for RealTime {
    fn now(&self) -> Millis {
        self.tick().as_millis() as Millis
    }

    fn tick(&self) -> Tick {
        self.0.elapsed()
    }
}

/// Time that passes when a test says so.
#[derive(Default)]
pub(crate) struct ManualTime(Mutex<Tick>);

impl ManualTime {
    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Time for ManualTime {
    fn now(&self) -> Millis {
        self.tick().as_millis() as Millis
    }

    fn tick(&self) -> Tick {
        *self.0.lock()
    }
}

#[derive(Default)]
struct Asked(Mutex<Vec<(Channel, Registration)>>);

impl Interest for Asked {
    fn register(&self, channel: &Channel, registration: Registration) {
        self.0.lock().push((channel.clone(), registration));
    }

    fn unregister(&self, _channel: &Channel, _registration: Registration) {}

    fn probe(&self, _partition: Partition, _registration: Registration) {}
}

/// A hub, and a log that has what was published here.
pub(crate) struct Node {
    pub(crate) hub: Arc<Hub>,
    pub(crate) time: Arc<dyn Time>,
    asked: Arc<Asked>,
    last: Mutex<Position>,
}

fn at(position: Position) -> PartitionCursor {
    PartitionCursor { epoch: Epoch(1), position }
}

fn partition() -> Partition {
    Partition::new(0).expect("there is one")
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("a name")
}

/// A connection of nobody or of a user.
pub(crate) fn info(user: Option<&str>, channels: &[&str]) -> ConnectionInfo {
    ConnectionInfo {
        id: ConnectionId::random(),
        user: user.map(|user| UserId::parse(user).expect("an id")),
        transport: Transport::Sse,
        confirms: ConfirmBy::Tcp,
        remote: None,
        opened_at: 0,
        channels: channels.iter().map(|name| channel(name)).collect(),
    }
}

/// Settings under which nothing is due while a test runs.
pub(crate) fn patient(limits: QueueLimits) -> LiveSettings {
    let hour = Duration::from_secs(3600);
    LiveSettings { heartbeat: hour, write_timeout: hour, retry_millis: (1000, 1000), limits }
}

impl Node {
    pub(crate) fn new(time: Arc<dyn Time>) -> Self {
        let mut cursor = Cursor::default();
        cursor.set(partition(), at(Position::ZERO));
        let asked = Arc::new(Asked::default());
        let hub = Hub::new(cursor, Box::new(asked.clone()));
        Self { hub, time, asked, last: Mutex::new(Position::ZERO) }
    }

    /// A stream that has caught up.
    pub(crate) fn subscribe(&self, channels: &[&str], limits: QueueLimits) -> Subscription {
        self.subscribe_hidden(channels, &[], limits)
    }

    pub(crate) fn subscribe_hidden(&self, channels: &[&str], hidden: &[&str], limits: QueueLimits) -> Subscription {
        self.subscribe_as(info(None, channels), hidden, limits, None)
    }

    /// A stream that has caught up, after what it has seen.
    pub(crate) fn subscribe_as(
        &self,
        info: ConnectionInfo,
        hidden: &[&str],
        limits: QueueLimits,
        seen: Option<&Cursor>,
    ) -> Subscription {
        let hidden: Vec<_> = hidden.iter().map(|name| channel(name)).collect();
        let subscription = self.hub.subscribe(info, &hidden, Format::SseEnvelope, limits, seen);
        self.answer_registrations();
        let fence = pin!(subscription.fence()).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(fence, Poll::Ready(Ok(_))), "{fence:?}");
        subscription.go_live().expect("nothing came meanwhile");
        subscription
    }

    /// A user's stream that has caught up and keeps up with what its user follows. The channels are its own.
    pub(crate) fn subscribe_following(&self, user: &str, channels: &[&str], limits: QueueLimits) -> Subscription {
        let subscription = self.subscribe_as(info(Some(user), channels), &[], limits, None);
        subscription.keep_up(channels.len(), 100, Arc::new(|_| true));
        subscription
    }

    /// The feed has the markers that were asked for.
    pub(crate) fn answer_registrations(&self) {
        let mut batch = self.hub.batch();
        for (channel, registration) in self.asked.0.lock().drain(..) {
            batch.on_marker(&channel, registration, partition(), at(*self.last.lock()));
        }
    }

    pub(crate) fn adoption(&self, socket: tidings_hub::ShardSocket, settings: LiveSettings) -> Adoption {
        Adoption { socket, settings: Arc::new(settings), ends_at: None, silent_since: self.time.tick(), input_bytes: 0 }
    }

    pub(crate) fn publish(&self, name: &str, data: &str) {
        self.append(name, data, None, Duration::ZERO);
    }

    pub(crate) fn publish_conflating(&self, name: &str, data: &str, conflate: Option<&str>, window: Duration) {
        self.append(name, data, conflate, window);
    }

    /// Publishes, and says where.
    pub(crate) fn append(&self, name: &str, data: &str, conflate: Option<&str>, window: Duration) -> EventId {
        let mut last = self.last.lock();
        let previous = *last;
        *last = previous.next();
        let event = Event {
            channel: channel(name),
            event_type: EventType::default(),
            data: Data::trusted(format!("\"{data}\"")),
            sent_at: self.time.now(),
            key: None,
            conflate: conflate.map(Into::into),
            expires_in_secs: None,
            is_ephemeral: false,
        };
        let logged =
            LoggedEvent { partition: partition(), epoch: Epoch(1), position: *last, previous, accepted_at: 0, event };
        let id = logged.id();
        self.hub.batch().on_event(Arc::new(logged), window, self.time.tick());
        id
    }

    pub(crate) fn closed(&self, reason: CloseReason) -> u64 {
        self.hub.counters().closed[Transport::Sse as usize][reason as usize].get()
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.hub.counters().delivered[Transport::Sse as usize].get()
    }

    /// All that were opened have ended, each once, and nothing is left of them.
    pub(crate) fn assert_nothing_left(&self) {
        let opened = self.hub.counters().opened[Transport::Sse as usize].get();
        let closed: u64 = CloseReason::ALL.into_iter().map(|reason| self.closed(reason)).sum();
        assert_eq!((opened, self.hub.connection_count(), self.hub.channel_count()), (closed, 0, 0));
    }
}

/// Waits for something to be so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// What a client has read.
pub(crate) struct Reader {
    parser: Parser,
    /// The data of the events, without quotes, in their order.
    pub(crate) events: Vec<String>,
    pub(crate) heartbeats: usize,
    pub(crate) closing: Option<String>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { parser: Parser::new(1 << 24), events: Vec::new(), heartbeats: 0, closing: None }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let Self { parser, events, heartbeats, closing } = self;
        let pushed = parser.push(bytes, |parsed| {
            assert_eq!(*closing, None, "{parsed:?} comes after `closing`");
            match parsed {
                Parsed::Event { event, data, .. } if event == "closing" => *closing = Some(data),
                Parsed::Event { data, .. } => {
                    let (_, data) = data.split_once(r#""data":""#).expect("an envelope");
                    events.push(data.split_once('"').expect("a string").0.to_owned());
                }
                Parsed::Comment(_) => *heartbeats += 1,
                Parsed::Retry(_) => {}
            }
        });
        pushed.expect("short blocks");
    }

    pub(crate) fn has_closed_as(&self, reason: CloseReason) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.contains(&format!(r#""reason":"{reason}""#)))
    }
}
