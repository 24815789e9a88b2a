//! What a stream reads of its user's inbox.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use smallvec::SmallVec;
use tidings_protocol::{
    Channel, CloseReason, Cursor, EventId, LoggedEvent, Partition, PartitionCursor, Position, UserId,
};

use super::{CatchUp, Item, PAGE_ENTRIES, State, Stream};
use crate::{
    notifications::{Counts, Inbox, InboxEntry, NotificationId, events::missed_event},
    ports::store::{Missed, MissedQuery, MissedSince, StoreError},
};

/// Most unread ones that a stream begins with. Who has more reads the inbox in pages.
const UNREAD_MAX: usize = 10_000;

/// How long a stream waits, all in all, until the inbox knows what was told. Then it ends, and its client
/// comes back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it waits only to tell what nobody was told of, for it was muted, from what will be told.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks, where no wake-up can come: the teller is another process.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is unread, as far as it has been read.
pub(super) struct Unread {
    fence: Cursor,
    /// The places in the log that the client has kept. What was told there it has, or it comes with what it
    /// missed there.
    kept: Cursor,
    /// After which one the next page begins, if there may be more; `Some(None)` for the first.
    next: Option<Option<NotificationId>>,
    /// What is to be handed over. The last stays until it is known whether others follow.
    read: VecDeque<Arc<LoggedEvent>>,
    left: usize,
}

/// What the inbox says of what is unread.
struct UnreadPage {
    missed: Missed,
    /// Those without a place that were muted when they came. Of the others the event is still to come.
    silent: Vec<NotificationId>,
    counts: Option<Counts>,
}

impl Unread {
    /// For a client that has no place in the log.
    pub(super) fn new(fence: &Cursor) -> Self {
        Self {
            fence: fence.clone(),
            kept: Cursor::default(),
            next: Some(None),
            read: VecDeque::new(),
            left: UNREAD_MAX,
        }
    }

    /// For a client that has one, unless it is lost: its epoch is over, or it was never reached.
    pub(super) fn after(theirs: &Cursor, fence: &Cursor) -> Self {
        let mut kept = Cursor::default();
        for (partition, at) in theirs.entries() {
            if fence.get(partition).is_some_and(|fence| fence.epoch == at.epoch && at.position <= fence.position) {
                kept.set(partition, at);
            }
        }
        Self { kept, ..Self::new(fence) }
    }

    /// Whether the client has lost its place in any of the partitions.
    pub(super) fn has_lost_any(&self, partitions: &[Partition]) -> bool {
        partitions.iter().any(|partition| self.kept.get(*partition).is_none())
    }

    /// How many can be handed over.
    fn ready(&self) -> usize {
        self.read.len().saturating_sub(usize::from(self.next.is_some()))
    }

    /// A page has been read.
    fn on_page(&mut self, user: &UserId, page: UnreadPage) {
        let UnreadPage { missed: Missed { mut entries, has_more, .. }, silent, counts } = page;
        let last = entries.last().map(|entry| entry.notification.id);
        entries.retain(|entry| self.is_wanted(entry, &silent));
        entries.truncate(self.left);
        self.left -= entries.len();
        self.next = last.filter(|_| has_more && self.left > 0).map(Some);
        let fence = self.fence.entries().next();
        let Some(nowhere) = fence.map(|(partition, at)| EventId { partition, at }) else { return };
        self.read.extend(events(user, &entries, counts.as_ref(), nowhere));
    }

    /// Whether it is to be handed over now. One that was told beyond the fence, or will be told, comes live.
    fn is_wanted(&self, entry: &InboxEntry, silent: &[NotificationId]) -> bool {
        let Some(EventId { partition, at }) = entry.told_at else { return silent.contains(&entry.notification.id) };
        let is_of = |cursor: &Cursor| cursor.get(partition).filter(|known| known.epoch == at.epoch);
        is_of(&self.fence).is_none_or(|fence| at.position <= fence.position) && is_of(&self.kept).is_none()
    }
}

impl Stream {
    /// The inbox, if there are any and somebody is signed in.
    pub(super) fn inbox_of_user(&self) -> Option<(&Inbox, &UserId)> {
        self.streams.inbox.as_ref().zip(self.info().user.as_ref())
    }

    /// The partitions in which the user's notifications are told.
    pub(super) fn inbox_partitions(&self) -> SmallVec<[Partition; 2]> {
        let Some((inbox, user)) = self.inbox_of_user() else { return SmallVec::new() };
        let of = |channel| self.streams.broker.partition_of(channel);
        let mut partitions = SmallVec::from_buf([of(&Channel::personal(user)), of(&inbox.everyone)]);
        partitions.dedup();
        partitions
    }

    /// Reads a page of what was missed in the partition at hand.
    pub(super) async fn read_missed(&mut self) -> Result<(), CloseReason> {
        let State::CatchingUp(CatchUp { readings, is_settled, .. }) = &self.state else { return Ok(()) };
        let Some(reading) = readings.front() else { return Ok(()) };
        let (partition, through) = (reading.partition, reading.through);
        let Some(after) = reading.inbox_after else { return Ok(()) };
        let after = PartitionCursor { position: after, ..through };
        let since = MissedSince::Told { partition, after, through: through.position };
        // Once that is so it stays so: what is told later is told beyond the fence.
        let is_settled = *is_settled;
        let missed = loop {
            if !is_settled {
                self.settled().await?;
            }
            let missed = self.missed(since.clone()).await?;
            let is_shared = self.inbox_of_user().is_some_and(|(inbox, _)| inbox.is_shared);
            if is_settled || !missed.is_unsettled || !is_shared {
                break missed;
            }
            self.look_again(PATIENCE).await.map_err(|()| self.unsettled())?;
        };
        let counts = self.counts_after(&missed).await?;
        // Nothing is waited for from here on, so that a caller that gives up waiting loses nothing.
        self.unsettled_since = None;
        let Some((_, user)) = self.inbox_of_user() else { return Ok(()) };
        let events = events(user, &missed.entries, counts.as_ref(), EventId { partition, at: through });
        let State::CatchingUp(catch_up) = &mut self.state else { return Ok(()) };
        catch_up.is_settled = true;
        if let Some(reading) = catch_up.readings.front_mut() {
            reading.on_inbox(events, missed.has_more);
        }
        Ok(())
    }

    /// Begins with what is unread, if that is wanted. `None` if there is nothing.
    pub(super) async fn unread_if_any(&mut self, wanted: Option<Unread>) -> Result<Option<Unread>, CloseReason> {
        let Some((mut unread, user)) = wanted.zip(self.inbox_of_user().map(|(_, user)| user.clone())) else {
            return Ok(None);
        };
        while let Some(after) = unread.next.filter(|_| unread.read.is_empty()) {
            unread.on_page(&user, self.read_unread(after).await?);
        }
        Ok(Some(unread).filter(|unread| !unread.read.is_empty()))
    }

    /// Reads a page of what is unread.
    async fn read_unread(&mut self, after: Option<NotificationId>) -> Result<UnreadPage, CloseReason> {
        // One without a place may have been muted when it came, or its event is still to come. The inbox says
        // whether there are such ones, and then what there is: between the two, others may have come. So what
        // has no place, and after a look at which nothing is open any more, was muted.
        let (missed, silent) = loop {
            self.settled().await?;
            let first = self.missed(MissedSince::Unread { after }).await?;
            if first.entries.iter().all(|entry| entry.told_at.is_some()) {
                break (first, Vec::new());
            }
            let second = self.missed(MissedSince::Unread { after }).await?;
            if !second.is_unsettled {
                break (second, placeless(&first.entries));
            }
            let is_shared = self.inbox_of_user().is_some_and(|(inbox, _)| inbox.is_shared);
            let patience = if is_shared { PATIENCE } else { SHORT_PATIENCE };
            match self.look_again(patience).await {
                Ok(()) => {}
                // This process tells, and was telling nothing when it was asked: the event is still to come.
                Err(()) if !is_shared => break (first, Vec::new()),
                Err(()) => return Err(self.unsettled()),
            }
        };
        let counts = self.counts_after(&missed).await?;
        self.unsettled_since = None;
        Ok(UnreadPage { missed, silent, counts })
    }

    /// Hands unread ones over.
    pub(super) async fn on_unread(&mut self, items: &mut Vec<Item>) -> Result<(), CloseReason> {
        let State::CatchingUp(CatchUp { unread: Some(unread), .. }) = &mut self.state else { return Ok(()) };
        if let Some(after) = unread.next.filter(|_| unread.ready() == 0) {
            let page = self.read_unread(after).await?;
            let Some(user) = self.subscription.info().user.as_ref() else { return Ok(()) };
            if let State::CatchingUp(CatchUp { unread: Some(unread), .. }) = &mut self.state {
                unread.on_page(user, page);
            }
            return Ok(());
        }
        let (count, is_last) = (unread.ready(), unread.next.is_none());
        let events: Vec<_> = unread.read.drain(..count).collect();
        let items_before = items.len();
        items.extend(events.into_iter().map(|logged| Item::Replayed { logged, cursor: None }));
        self.subscription.count_delivered(count);
        if is_last && let State::CatchingUp(catch_up) = &mut self.state {
            catch_up.unread = None;
            // All up to here has been handed over.
            self.cursor.clone_from(&catch_up.fence);
            if let Some(Item::Replayed { cursor, .. }) = items[items_before..].last_mut() {
                *cursor = Some(self.cursor.clone());
            }
        }
        Ok(())
    }

    async fn missed(&self, since: MissedSince) -> Result<Missed, CloseReason> {
        let Some((inbox, user)) = self.inbox_of_user() else { return Err(CloseReason::Error) };
        let query = MissedQuery { user: user.clone(), since, limit: PAGE_ENTRIES };
        inbox.store.missed(&query, self.streams.clock.now()).await.map_err(|error| self.failed(&error))
    }

    /// The user's counts as they are now, if this was the last page and there was something.
    async fn counts_after(&self, missed: &Missed) -> Result<Option<Counts>, CloseReason> {
        let Some((inbox, user)) = self.inbox_of_user() else { return Err(CloseReason::Error) };
        if missed.has_more || missed.entries.is_empty() {
            return Ok(None);
        }
        let counts = inbox.store.counts(user, self.streams.clock.now()).await;
        counts.map(Some).map_err(|error| self.failed(&error))
    }

    /// Waits until the inbox knows all that this node has told so far.
    async fn settled(&mut self) -> Result<(), CloseReason> {
        let clock = self.streams.clock.clone();
        let now = clock.tick();
        // Counted from the first time, for the caller may give up waiting and come again.
        let since = *self.unsettled_since.get_or_insert(now);
        let Some((inbox, _)) = self.inbox_of_user() else { return Ok(()) };
        let telling = inbox.telling.clone();
        tokio::select! {
            biased;
            () = telling.settled() => Ok(()),
            () = clock.sleep_until(since + PATIENCE) => Err(self.unsettled()),
        }
    }

    /// Waits a little before the inbox is asked again. `Err` if it has been waited long enough.
    async fn look_again(&mut self, patience: Duration) -> Result<(), ()> {
        let now = self.streams.clock.tick();
        let since = *self.unsettled_since.get_or_insert(now);
        if now.saturating_sub(since) >= patience {
            return Err(());
        }
        self.streams.clock.sleep_until(now + LOOK_EVERY).await;
        Ok(())
    }

    fn unsettled(&self) -> CloseReason {
        tracing::warn!(connection = %self.info().id, "a stream ends, for it is not known in time what it missed");
        CloseReason::Error
    }

    fn failed(&self, error: &StoreError) -> CloseReason {
        tracing::warn!(connection = %self.info().id, %error, "a stream could not read the inbox");
        CloseReason::Error
    }
}

/// Those that have no place in the log.
fn placeless(entries: &[InboxEntry]) -> Vec<NotificationId> {
    entries.iter().filter(|entry| entry.told_at.is_none()).map(|entry| entry.notification.id).collect()
}

/// The events of entries. The last has the counts: in all others they would be old. What was never told has
/// no place of its own, and gets none.
fn events(user: &UserId, entries: &[InboxEntry], counts: Option<&Counts>, fence: EventId) -> Vec<Arc<LoggedEvent>> {
    let nowhere = EventId { at: PartitionCursor { position: Position::ZERO, ..fence.at }, ..fence };
    let last = entries.len().saturating_sub(1);
    let events = entries.iter().enumerate().filter_map(|(at, entry)| {
        // What has no form cannot be told at all; the inbox has it.
        missed_event(user, entry, counts.filter(|_| at == last), nowhere).ok().map(Arc::new)
    });
    events.collect()
}
