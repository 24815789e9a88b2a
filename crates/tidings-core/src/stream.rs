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
//!
//! A signed-in user's notifications are not in history but in the inbox, which knows of each at which place
//! of the log it was told. So they are read from there in the same way and merged with history by their
//! places (`reading`). What was told beyond the fence comes live and is not read; what was told before it
//! and is not yet noted is waited for (`inbox`, [`Telling`](crate::notifications::Telling)); what is told
//! later has a place beyond the fence.
//!
//! A new client may ask for all that is unread, and one whose place in the log is lost gets that, as the log
//! cannot say what it missed. What was told before the fence has then been handed over whatever its place, so
//! no place before the fence says what such a client has. Therefore, if anything is unread, no frame has an
//! `id:` until the last of these, which come after history and carry the fence: a client that is cut off before
//! that comes back as it came, and gets all of it again.

use std::{
    collections::VecDeque,
    future::poll_fn,
    slice,
    sync::Arc,
    task::{Poll, ready},
};

use tidings_hub::{
    Adoption, ConnectionInfo, Format, Hub, LaterFence, QueueLimits, SharedFrame, Subscription, Take, Tick,
};
use tidings_protocol::{Channel, CloseReason, Cursor, GapReason, LoggedEvent, Partition, PartitionCursor};

use self::{
    inbox::Unread,
    reading::{PAGE_ENTRIES, Reading, Step},
};
use crate::{
    namespaces::SharedNamespaces,
    notifications::Inbox,
    ports::{Broker, Clock, HistoryFrom, HistoryPage, HistoryRequest},
};

mod inbox;
mod reading;

/// About how many bytes of live frames are handed over at a time: a socket's send buffer takes them.
const TAKE_BYTES: usize = 64 * 1024;

/// Where a client was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// It was nowhere; the numbers say how many of each channel's last events it wants first.
    New {
        /// At most so many; `usize::MAX` is all that history holds.
        replay: usize,
        /// Whether it wants what is unread in its user's inbox before that.
        unread: bool,
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
    /// The inboxes of users, if there are any.
    pub inbox: Option<Inbox>,
}

/// What comes next on a stream.
#[derive(Debug, Clone)]
pub enum Item {
    /// The stream is open. Without a cursor if the client's own was unusable.
    Connected {
        /// Where a client is that receives nothing after this.
        cursor: Option<Cursor>,
    },
    /// An event from history or from the inbox, with the cursor of this client after it.
    Replayed {
        /// The event.
        logged: Arc<LoggedEvent>,
        /// What the client has then seen; `None` if that is as before.
        cursor: Option<Cursor>,
    },
    /// Events that history no longer holds.
    Gap {
        /// Of these channels.
        channels: Vec<Channel>,
        /// Why.
        reason: GapReason,
        /// What the client has then seen or been told of; `None` if that is as before. Nothing that history
        /// holds is skipped by it.
        cursor: Option<Cursor>,
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
    /// Since when it waits until the inbox knows what was told.
    unsettled_since: Option<Tick>,
}

enum State {
    Opening(Resume),
    CatchingUp(CatchUp),
    Live,
}

struct CatchUp {
    fence: Cursor,
    /// What is still to be read, one partition after the other.
    readings: VecDeque<Reading>,
    /// What is unread, if anything is and that is wanted. It comes last.
    unread: Option<Unread>,
    /// Whether the inbox is known to know all that was told up to the fence.
    is_settled: bool,
}

impl Streams {
    /// Opens a stream of the channels that `info` names.
    pub fn open(&self, info: ConnectionInfo, format: Format, limits: QueueLimits, resume: Resume) -> Stream {
        let seen = match &resume {
            Resume::After(cursor) => Some(cursor),
            Resume::New { .. } | Resume::Unusable => None,
        };
        let inbox = self.inbox.as_ref().filter(|_| info.user.is_some());
        let hidden = inbox.map_or(&[][..], |inbox| slice::from_ref(&inbox.everyone));
        Stream {
            subscription: self.hub.subscribe(info, hidden, format, limits, seen),
            streams: self.clone(),
            cursor: Cursor::default(),
            state: State::Opening(resume),
            frames: Vec::new(),
            unsettled_since: None,
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

    /// Whether what it hands over ends with what is unread. That comes as a whole: the cursor says nothing of
    /// it until all has been handed over.
    pub fn is_replaying_unread(&self) -> bool {
        matches!(&self.state, State::CatchingUp(CatchUp { unread: Some(_), .. }))
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.streams.hub
    }

    /// The hold on the hub: to close it, and to say how the connection ended.
    pub fn subscription(&mut self) -> &mut Subscription {
        &mut self.subscription
    }

    /// Gives a live stream with its socket to a shard of the hub, which serves it from now on. All that
    /// was handed over here must be written. Gives both back if it is not live or there is no shard.
    pub fn hand_over(self, adoption: Adoption) -> Result<(), Box<(Self, Adoption)>> {
        if !self.is_live() {
            return Err(Box::new((self, adoption)));
        }
        let Self { streams, subscription, cursor, state, frames, unsettled_since } = self;
        subscription.hand_over(adoption).map_err(|(subscription, adoption)| {
            Box::new((Self { streams, subscription, cursor, state, frames, unsettled_since }, adoption))
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
        let mut cursor = fence.clone();
        let (mut readings, mut is_known) = (VecDeque::new(), true);
        let unread;
        match resume {
            Resume::Unusable => {
                is_known = false;
                unread = Some(Unread::new(&fence));
                // Where the client was is unknown, so all of its channels may lack something, and what
                // history holds may be what it has seen. It is told, and starts from here.
                if let Some((partition, at)) = fence.entries().last() {
                    let channels = self.subscription.channels();
                    readings.push_back(Reading::new(partition, at).with_gap(channels, GapReason::Unusable));
                }
            }
            Resume::After(theirs) => {
                readings = self.readings_after(&theirs, &fence, |partition, at, channels| {
                    Reading::new(partition, at).with_gap(channels.to_vec(), GapReason::Unusable)
                });
                let after_loss = Unread::after(&theirs, &fence);
                unread = Some(after_loss).filter(|unread| unread.has_lost_any(&self.inbox_partitions()));
                cursor = theirs;
            }
            Resume::New { replay, unread: wants_unread } => {
                for (partition, channels) in self.partitions() {
                    let Some(at) = fence.get(partition) else { continue };
                    let namespaces = self.streams.namespaces.load_full();
                    let counts: Vec<_> =
                        channels.iter().map(|c| replay.max(usize::from(namespaces.of(c).retain))).collect();
                    if counts.iter().all(|count| *count == 0) {
                        continue;
                    }
                    // The first page is read now, for `connected` must stand before the first event of it:
                    // a client that is cut off right after `connected` then still gets them all.
                    let mut reading = Reading::new(partition, at).with_history(channels, HistoryFrom::Last(counts));
                    if let Some(request) = reading.history.clone() {
                        reading.on_history(self.history(request).await?);
                    }
                    if let Some(first) = reading.entries.front() {
                        cursor.set(partition, PartitionCursor { position: first.position().previous(), ..at });
                    }
                    readings.push_back(reading);
                }
                unread = wants_unread.then(|| Unread::new(&fence));
            }
        }
        if unread.is_some() {
            // What was told before the fence is sent, unless it is read, and can so be confirmed.
            self.subscription.has_earlier();
        }
        // Whether there is any decides on the `id:` of all frames, that of a new client's `connected` too.
        let unread = self.unread_if_any(unread).await?;
        is_known &= unread.is_none() || matches!(self.state, State::Opening(Resume::After(_)));
        self.cursor = cursor;
        self.state = State::CatchingUp(CatchUp { fence, readings, unread, is_settled: false });
        items.push(Item::Connected { cursor: is_known.then(|| self.cursor.clone()) });
        Ok(())
    }

    /// What is to be read from where a client was up to a fence. `lost` says what comes instead of a
    /// partition that the client does not speak of.
    fn readings_after(
        &self,
        from: &Cursor,
        fence: &Cursor,
        lost: impl Fn(Partition, PartitionCursor, &[Channel]) -> Reading,
    ) -> VecDeque<Reading> {
        let mut readings = VecDeque::new();
        let of_inbox = self.inbox_partitions();
        let mut partitions = self.partitions();
        for partition in &of_inbox {
            if !partitions.iter().any(|(other, _)| other == partition) {
                partitions.push((*partition, Arc::new([])));
            }
        }
        for (partition, channels) in partitions {
            let Some(at) = fence.get(partition) else { continue };
            let Some(from) = from.get(partition) else {
                if !channels.is_empty() {
                    readings.push_back(lost(partition, at, &channels));
                }
                continue;
            };
            let mut reading = Reading::new(partition, at);
            if !channels.is_empty() {
                reading = reading.with_history(channels, HistoryFrom::Cursor(from));
            }
            if of_inbox.contains(&partition) {
                reading = reading.with_inbox(from);
            }
            readings.push_back(reading);
        }
        readings
    }

    async fn on_catch_up(&mut self, items: &mut Vec<Item>) -> Result<(), CloseReason> {
        let State::CatchingUp(catch_up) = &mut self.state else { return Ok(()) };
        let (before, is_stamped) = (items.len(), catch_up.unread.is_none());
        while let Some(reading) = catch_up.readings.front_mut() {
            let partition = reading.partition;
            let step = reading.step();
            let is_event_handed_over = items.len() > before;
            match step {
                Step::Event(logged, position) => {
                    self.cursor.set(partition, PartitionCursor { position, ..reading.through });
                    // It may have left the channel meanwhile.
                    if !self.subscription.listens_to(&logged.event.channel) {
                        continue;
                    }
                    items.push(Item::Replayed { logged, cursor: is_stamped.then(|| self.cursor.clone()) });
                }
                Step::Gap(channels, reason, position) => {
                    self.cursor.set(partition, PartitionCursor { position, ..reading.through });
                    items.push(Item::Gap { channels, reason, cursor: is_stamped.then(|| self.cursor.clone()) });
                }
                Step::Done => drop(catch_up.readings.pop_front()),
                // What there is goes out first.
                Step::NeedsHistory | Step::NeedsInbox if is_event_handed_over => break,
                Step::NeedsHistory => {
                    let Some(request) = reading.history.clone() else { continue };
                    let page = self.history(request).await?;
                    let State::CatchingUp(catch_up) = &mut self.state else { return Ok(()) };
                    if let Some(reading) = catch_up.readings.front_mut() {
                        reading.on_history(page);
                    }
                    return Ok(());
                }
                Step::NeedsInbox => return self.read_missed().await,
            }
        }
        if items.len() > before {
            let events = items[before..].iter().filter(|item| matches!(item, Item::Replayed { .. })).count();
            self.subscription.count_delivered(events);
            return Ok(());
        }
        if self.is_replaying_unread() {
            return self.on_unread(items).await;
        }
        match self.subscription.go_live() {
            Ok(()) => self.state = State::Live,
            Err(LaterFence(later)) => {
                let State::CatchingUp(CatchUp { fence: read_to, .. }) = &self.state else { return Ok(()) };
                let readings = self.readings_after(read_to, &later, |partition, at, _| Reading::new(partition, at));
                let catch_up = CatchUp { fence: later, readings, unread: None, is_settled: false };
                self.state = State::CatchingUp(catch_up);
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

    async fn history(&self, request: HistoryRequest) -> Result<HistoryPage, CloseReason> {
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
        let channels = self.subscription.channels().into_iter();
        let mut channels: Vec<_> = channels.map(|c| (self.streams.broker.partition_of(&c), c)).collect();
        channels.sort_by_key(|(partition, _)| *partition);
        channels
            .chunk_by(|a, b| a.0 == b.0)
            .map(|chunk| (chunk[0].0, chunk.iter().map(|(_, channel)| channel.clone()).collect()))
            .collect()
    }
}
