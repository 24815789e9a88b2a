//! A client's stream: what it missed, then what happens.
//!
//! The order of things, and why nothing is lost or doubled in it:
//!
//! 1. The stream registers its channels and waits until the feed is known to carry them. Then the hub
//!    chooses the *fence*: the node's place in the log at that moment.
//! 2. History is read from where the client was up to the fence, partition by partition. Each of these
//!    frames is stamped for this client alone: the cursor it came with, moved only over what was sent.
//!    The node's own cursor would claim the other partitions, or later events, as seen.
//! 3. Live events beyond the fence wait in the subscriber's bounded queue. If they were too many, the
//!    queue is dropped and a later fence chosen: history has them.
//! 4. Only then come live frames, stamped with the node's cursor, which is at or past the fence in
//!    every partition.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
};

use tidings_hub::{Adoption, ConnectionInfo, Format, Hub, LaterFence, QueueLimits, SharedFrame, Subscription, Take};
use tidings_protocol::{Channel, CloseReason, Cursor, GapReason, LoggedEvent, Partition, PartitionCursor, Position};

use crate::{
    namespaces::SharedNamespaces,
    ports::{Broker, Clock, HistoryEntry, HistoryFrom, HistoryRequest},
};

/// Entries of history that are read at a time. Small enough that a client which reads slowly holds
/// little, large enough that a page costs far more than asking for it.
const PAGE_ENTRIES: usize = 128;

/// About how many bytes of live frames are handed over at a time: a socket's send buffer takes them.
const TAKE_BYTES: usize = 64 * 1024;

/// Where a client was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// It was nowhere; the numbers say how many of each channel's last events it wants first.
    New {
        /// At most so many; `usize::MAX` is all that history holds.
        replay: usize,
    },
    /// After this.
    After(Cursor),
    /// It says something that no server of this kind said to it.
    Unusable,
}

/// What streams are made of.
#[derive(Clone)]
pub struct Streams {
    /// The node's subscribers.
    pub hub: Arc<Hub>,
    /// The log.
    pub broker: Arc<dyn Broker>,
    /// The rules.
    pub namespaces: SharedNamespaces,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What comes next on a stream.
#[derive(Debug, Clone)]
pub enum Item {
    /// The stream is open. Without a cursor if the client's own was unusable.
    Connected {
        /// Where a client is that receives nothing after this.
        cursor: Option<Cursor>,
    },
    /// An event from history, with the cursor of this client after it.
    Replayed {
        /// The event.
        logged: Arc<LoggedEvent>,
        /// What the client has then seen.
        cursor: Cursor,
    },
    /// Events that history no longer holds.
    Gap {
        /// Of these channels.
        channels: Vec<Channel>,
        /// Why.
        reason: GapReason,
        /// What the client has then seen or been told of. Nothing that history holds is skipped by it.
        cursor: Cursor,
    },
    /// An event as it happens.
    Live(Arc<SharedFrame>),
}

/// One client's stream, whatever carries it.
pub struct Stream {
    streams: Streams,
    subscription: Subscription,
    /// What the client has seen, all frames handed over so far included.
    cursor: Cursor,
    state: State,
    frames: Vec<Arc<SharedFrame>>,
}

enum State {
    Opening(Resume),
    CatchingUp(CatchUp),
    Live,
}

struct CatchUp {
    fence: Cursor,
    /// What is still to be read, one partition after the other.
    readings: VecDeque<HistoryRequest>,
    /// What has been read and not yet handed over.
    entries: VecDeque<(Partition, HistoryEntry)>,
}

impl Streams {
    /// Opens a stream of the channels that `info` names.
    pub fn open(&self, info: ConnectionInfo, format: Format, limits: QueueLimits, resume: Resume) -> Stream {
        let seen = match &resume {
            Resume::After(cursor) => Some(cursor),
            Resume::New { .. } | Resume::Unusable => None,
        };
        Stream {
            subscription: self.hub.subscribe(info, &[], format, limits, seen),
            streams: self.clone(),
            cursor: Cursor::default(),
            state: State::Opening(resume),
            frames: Vec::new(),
        }
    }
}

impl Stream {
    /// The connection it serves.
    pub fn info(&self) -> &ConnectionInfo {
        self.subscription.info()
    }

    /// What the client has seen when it has everything that was handed over.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Whether the client has all that history had for it.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live)
    }

    /// The hold on the hub: to close it, and to say how the connection ended.
    pub fn subscription(&mut self) -> &mut Subscription {
        &mut self.subscription
    }

    /// Gives a live stream with its socket to a shard of the hub, which serves it from now on. All that
    /// was handed over here must be written. Gives both back if it is not live or there is no shard.
    pub fn hand_over(self, adoption: Adoption) -> Result<(), Box<(Self, Adoption)>> {
        let Self { streams, subscription, cursor, state, frames } = self;
        if !matches!(state, State::Live) {
            return Err(Box::new((Self { streams, subscription, cursor, state, frames }, adoption)));
        }
        subscription.hand_over(adoption).map_err(|(subscription, adoption)| {
            Box::new((Self { streams, subscription, cursor, state, frames }, adoption))
        })
    }

    /// Waits for what comes next and appends it to `items`: at least one, or none if what happened is
    /// that the stream has become live. Dropping the future loses nothing. `Err` says why the server
    /// ends the stream; all before it has been handed over.
    pub async fn next(&mut self, items: &mut Vec<Item>) -> Result<(), CloseReason> {
        let (before, was_live) = (items.len(), self.is_live());
        while items.len() == before && was_live == self.is_live() {
            match &self.state {
                State::Opening(resume) => {
                    let resume = resume.clone();
                    self.on_open(resume, items).await?;
                }
                State::CatchingUp(_) => self.on_catch_up(items).await?,
                State::Live => self.on_live(items).await?,
            }
        }
        Ok(())
    }

    async fn on_open(&mut self, resume: Resume, items: &mut Vec<Item>) -> Result<(), CloseReason> {
        let fence = self.subscription.fence().await?;
        let mut catch_up = CatchUp { fence: fence.clone(), readings: VecDeque::new(), entries: VecDeque::new() };
        let mut cursor = fence.clone();
        let mut connected = Some(());
        match resume {
            Resume::Unusable => {
                connected = None;
                // Where the client was is unknown, so all of its channels may lack something, and what
                // history holds may be what it has seen. It is told, and starts from here.
                if let Some((partition, at)) = fence.entries().last() {
                    let channels = self.info().channels.to_vec();
                    let gap = HistoryEntry::Gap { channels, reason: GapReason::Unusable, through: at.position };
                    catch_up.entries.push_back((partition, gap));
                }
            }
            Resume::After(theirs) => {
                for (partition, channels) in self.partitions() {
                    let Some(at) = fence.get(partition) else { continue };
                    match theirs.get(partition) {
                        Some(from) => {
                            catch_up.readings.push_back(request(partition, channels, HistoryFrom::Cursor(from), at));
                        }
                        None => {
                            let channels = channels.to_vec();
                            let gap = HistoryEntry::Gap { channels, reason: GapReason::Unusable, through: at.position };
                            catch_up.entries.push_back((partition, gap));
                        }
                    }
                }
                cursor = theirs;
            }
            Resume::New { replay } => {
                for (partition, channels) in self.partitions() {
                    let Some(at) = fence.get(partition) else { continue };
                    let namespaces = self.streams.namespaces.load();
                    let counts: Vec<_> =
                        channels.iter().map(|c| replay.max(usize::from(namespaces.of(c).retain))).collect();
                    if counts.iter().all(|count| *count == 0) {
                        continue;
                    }
                    // The first page is read now, for `connected` must stand before the first event of it:
                    // a client that is cut off right after `connected` then still gets them all.
                    let mut reading = request(partition, channels, HistoryFrom::Last(counts), at);
                    let page = self.history(reading.clone()).await?;
                    if let Some(first) = page.entries.first() {
                        cursor.set(partition, PartitionCursor { position: first.position().previous(), ..at });
                    }
                    catch_up.entries.extend(page.entries.into_iter().map(|entry| (partition, entry)));
                    if let Some(next) = page.next {
                        reading.from = next;
                        catch_up.readings.push_back(reading);
                    }
                }
            }
        }
        self.cursor = cursor;
        self.state = State::CatchingUp(catch_up);
        items.push(Item::Connected { cursor: connected.map(|()| self.cursor.clone()) });
        Ok(())
    }

    async fn on_catch_up(&mut self, items: &mut Vec<Item>) -> Result<(), CloseReason> {
        let State::CatchingUp(catch_up) = &mut self.state else { return Ok(()) };
        if !catch_up.entries.is_empty() {
            let before = items.len();
            for (partition, entry) in catch_up.entries.drain(..) {
                if let Some(at) = catch_up.fence.get(partition) {
                    self.cursor.set(partition, PartitionCursor { position: entry.position(), ..at });
                }
                items.push(match entry {
                    HistoryEntry::Event(logged) => Item::Replayed { logged, cursor: self.cursor.clone() },
                    HistoryEntry::Gap { channels, reason, .. } => {
                        Item::Gap { channels, reason, cursor: self.cursor.clone() }
                    }
                });
            }
            let events = items[before..].iter().filter(|item| matches!(item, Item::Replayed { .. })).count();
            self.subscription.count_delivered(events);
            return Ok(());
        }
        if let Some(reading) = catch_up.readings.front() {
            let (partition, reading) = (reading.partition, reading.clone());
            let page = self.history(reading).await?;
            let State::CatchingUp(catch_up) = &mut self.state else { return Ok(()) };
            catch_up.entries.extend(page.entries.into_iter().map(|entry| (partition, entry)));
            match (page.next, catch_up.readings.front_mut()) {
                (Some(next), Some(reading)) => reading.from = next,
                _ => drop(catch_up.readings.pop_front()),
            }
            return Ok(());
        }
        match self.subscription.go_live() {
            Ok(()) => self.state = State::Live,
            Err(LaterFence(later)) => {
                let read_to = catch_up.fence.clone();
                let readings = self.partitions().into_iter().filter_map(|(partition, channels)| {
                    let (from, at) = (read_to.get(partition)?, later.get(partition)?);
                    Some(request(partition, channels, HistoryFrom::Cursor(from), at))
                });
                let readings = readings.collect();
                self.state = State::CatchingUp(CatchUp { fence: later, readings, entries: VecDeque::new() });
            }
        }
        Ok(())
    }

    async fn on_live(&mut self, items: &mut Vec<Item>) -> Result<(), CloseReason> {
        let clock = self.streams.clock.clone();
        let mut timer = None;
        let taken = poll_fn(|cx| {
            loop {
                match self.subscription.take(cx, clock.tick(), TAKE_BYTES, &mut self.frames) {
                    Take::Wait(None) => return Poll::Pending,
                    Take::Wait(Some(until)) => {
                        let (at, sleep) = timer.get_or_insert_with(|| (until, clock.sleep_until(until)));
                        if *at != until {
                            (*at, *sleep) = (until, clock.sleep_until(until));
                        }
                        ready!(sleep.as_mut().poll(cx));
                        timer = None;
                    }
                    Take::Frames => return Poll::Ready(Ok(())),
                    Take::Closed(reason) => return Poll::Ready(Err(reason)),
                }
            }
        });
        taken.await?;
        if let Some(last) = self.frames.last() {
            self.cursor.clone_from(&last.cursor);
        }
        items.extend(self.frames.drain(..).map(Item::Live));
        Ok(())
    }

    async fn history(&self, request: HistoryRequest) -> Result<crate::ports::HistoryPage, CloseReason> {
        if let Some(reason) = self.subscription.close_reason() {
            return Err(reason);
        }
        self.streams.broker.history(request).await.map_err(|unavailable| {
            tracing::warn!(connection = %self.info().id, cause = %unavailable.cause, "a stream could not read history");
            CloseReason::Error
        })
    }

    /// The stream's channels, by the partition they lie in.
    fn partitions(&self) -> Vec<(Partition, Arc<[Channel]>)> {
        let mut channels: Vec<_> =
            self.info().channels.iter().map(|c| (self.streams.broker.partition_of(c), c.clone())).collect();
        channels.sort_by_key(|(partition, _)| *partition);
        channels
            .chunk_by(|a, b| a.0 == b.0)
            .map(|chunk| (chunk[0].0, chunk.iter().map(|(_, channel)| channel.clone()).collect()))
            .collect()
    }
}

fn request(
    partition: Partition,
    channels: Arc<[Channel]>,
    from: HistoryFrom,
    through: PartitionCursor,
) -> HistoryRequest {
    let through: Position = through.position;
    HistoryRequest { partition, channels, from, through, limit: PAGE_ENTRIES }
}
