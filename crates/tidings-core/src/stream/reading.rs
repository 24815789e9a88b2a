//! What a stream still has to read of one partition, and in which order it is handed over: history and
//! what the inbox has of the same stretch, merged by their places.

use std::{collections::VecDeque, sync::Arc};

use tidings_protocol::{Channel, GapReason, LoggedEvent, Partition, PartitionCursor, Position};

use crate::ports::{HistoryEntry, HistoryFrom, HistoryPage, HistoryRequest};

/// Entries that are read at a time. Small enough that a client which reads slowly holds little, large
/// enough that a page costs far more than asking for it.
pub(super) const PAGE_ENTRIES: usize = 128;

/// One partition, up to the fence.
pub(super) struct Reading {
    pub(super) partition: Partition,
    /// The fence there.
    pub(super) through: PartitionCursor,
    /// The next page of history, if there may be more.
    pub(super) history: Option<HistoryRequest>,
    pub(super) entries: VecDeque<HistoryEntry>,
    /// After which place the next page of the inbox begins, if there may be more.
    pub(super) inbox_after: Option<Position>,
    /// What the inbox has, each in its place in this partition.
    pub(super) missed: VecDeque<Arc<LoggedEvent>>,
    /// What has been handed over. Not where the client said it was: that may be nowhere.
    reached: Position,
}

/// What is next of a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To be handed over; the client is then here.
    Event(Arc<LoggedEvent>, Position),
    /// To be told; the client is then here.
    Gap(Vec<Channel>, GapReason, Position),
    /// Another page of history must be read first.
    NeedsHistory,
    /// Another page of the inbox must be read first.
    NeedsInbox,
    /// That was all.
    Done,
}

impl Reading {
    /// Nothing, so far.
    pub(super) fn new(partition: Partition, through: PartitionCursor) -> Self {
        Self {
            partition,
            through,
            history: None,
            entries: VecDeque::new(),
            inbox_after: None,
            missed: VecDeque::new(),
            reached: Position::ZERO,
        }
    }

    /// The channels' history from there.
    pub(super) fn with_history(mut self, channels: Arc<[Channel]>, from: HistoryFrom) -> Self {
        let (partition, through) = (self.partition, self.through.position);
        self.history = Some(HistoryRequest { partition, channels, from, through, limit: PAGE_ENTRIES });
        self
    }

    /// What the inbox has that was told after that place, if any can have been.
    pub(super) fn with_inbox(mut self, after: PartitionCursor) -> Self {
        let can_have_some = after.epoch == self.through.epoch && after.position < self.through.position;
        self.inbox_after = can_have_some.then_some(after.position);
        self
    }

    /// The news that the channels may lack something.
    pub(super) fn with_gap(mut self, channels: Vec<Channel>, reason: GapReason) -> Self {
        self.entries.push_back(HistoryEntry::Gap { channels, reason, through: self.through.position });
        self
    }

    /// A page of history has been read.
    pub(super) fn on_history(&mut self, page: HistoryPage) {
        self.entries.extend(page.entries);
        self.history = match (page.next, self.history.take()) {
            (Some(from), Some(request)) => Some(HistoryRequest { from, ..request }),
            _ => None,
        };
    }

    /// A page of the inbox has been read.
    pub(super) fn on_inbox(&mut self, missed: Vec<Arc<LoggedEvent>>, has_more: bool) {
        self.inbox_after = missed.last().map(|last| last.position).filter(|_| has_more);
        self.missed.extend(missed);
    }

    /// What is next.
    pub(super) fn step(&mut self) -> Step {
        if self.entries.is_empty() && self.history.is_some() {
            return Step::NeedsHistory;
        }
        if self.missed.is_empty() && self.inbox_after.is_some() {
            return Step::NeedsInbox;
        }
        let next_missed = self.missed.front().map(|missed| missed.position);
        // Gaps come first, whatever lies before them: no event's place may claim a loss that was not told.
        // But a gap's place claims nothing that the inbox still has.
        if let Some(HistoryEntry::Gap { through, .. }) = self.entries.front() {
            let at = next_missed.map_or(*through, |next| next.previous().min(*through)).max(self.reached);
            if let Some(HistoryEntry::Gap { channels, reason, .. }) = self.entries.pop_front() {
                self.reached = at;
                return Step::Gap(channels, reason, at);
            }
        }
        let next_entry = self.entries.front().map(HistoryEntry::position);
        let is_missed_next = match (next_entry, next_missed) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(entry), Some(missed)) => missed < entry,
        };
        let event = match is_missed_next {
            true => self.missed.pop_front(),
            false => match self.entries.pop_front() {
                Some(HistoryEntry::Event(logged)) => Some(logged),
                Some(HistoryEntry::Gap { .. }) | None => None,
            },
        };
        event.map_or(Step::Done, |logged| {
            self.reached = logged.position;
            Step::Event(logged, self.reached)
        })
    }
}

#[cfg(test)]
mod tests {
    use tidings_protocol::{Data, Epoch, Event, EventType};

    use super::*;

    fn logged(channel: &str, position: u64) -> Arc<LoggedEvent> {
        Arc::new(LoggedEvent {
            partition: Partition::ZERO,
            epoch: Epoch(1),
            position: Position(position),
            previous: Position::ZERO,
            accepted_at: 0,
            event: Event {
                channel: Channel::parse(channel).unwrap(),
                event_type: EventType::default(),
                data: Data::trusted("1"),
                sent_at: 0,
                key: None,
                conflate: None,
                expires_in_secs: None,
                is_ephemeral: false,
            },
        })
    }

    fn at(position: u64) -> PartitionCursor {
        PartitionCursor { epoch: Epoch(1), position: Position(position) }
    }

    /// Takes all steps with pages of one entry.
    fn all(mut reading: Reading, history: Vec<HistoryEntry>, inbox: Vec<Arc<LoggedEvent>>) -> Vec<String> {
        let (mut history, mut inbox) = (VecDeque::from(history), VecDeque::from(inbox));
        let (mut position, mut told) = (Position(0), Vec::new());
        loop {
            match reading.step() {
                Step::NeedsHistory => {
                    let entries: Vec<_> = history.pop_front().into_iter().collect();
                    let after = entries.iter().map(HistoryEntry::position).collect();
                    let next = HistoryFrom::Next { read_to: Position(0), after };
                    reading.on_history(HistoryPage { entries, next: (!history.is_empty()).then_some(next) });
                }
                Step::NeedsInbox => {
                    let missed = inbox.pop_front().into_iter().collect();
                    reading.on_inbox(missed, !inbox.is_empty());
                }
                Step::Event(logged, at) => {
                    assert!(at > position, "{at:?} after {position:?}");
                    position = at;
                    told.push(format!("{}@{}", logged.event.channel, at.0));
                }
                Step::Gap(_, _, at) => {
                    assert!(at >= position);
                    position = at;
                    told.push(format!("gap@{}", at.0));
                }
                Step::Done => return told,
            }
        }
    }

    fn reading() -> Reading {
        Reading::new(Partition::ZERO, at(100)).with_history([].into(), HistoryFrom::Cursor(at(0))).with_inbox(at(0))
    }

    #[test]
    fn history_and_inbox_are_merged_by_their_places() {
        let event = |position| HistoryEntry::Event(logged("h", position));
        let merged =
            all(reading(), vec![event(2), event(5), event(9)], vec![logged("i", 1), logged("i", 6), logged("i", 7)]);
        assert_eq!(merged, ["i@1", "h@2", "h@5", "i@6", "i@7", "h@9"]);
        assert_eq!(all(reading(), vec![], vec![logged("i", 3)]), ["i@3"]);
        assert_eq!(all(reading(), vec![event(3)], vec![]), ["h@3"]);
    }

    #[test]
    fn a_gap_is_told_first_and_claims_nothing_that_the_inbox_has() {
        let gap =
            |through| HistoryEntry::Gap { channels: vec![], reason: GapReason::Evicted, through: Position(through) };
        let event = |position| HistoryEntry::Event(logged("h", position));
        let merged = all(reading(), vec![gap(49), event(50)], vec![logged("i", 20), logged("i", 60)]);
        assert_eq!(merged, ["gap@19", "i@20", "h@50", "i@60"]);
        assert_eq!(all(reading(), vec![gap(49), event(50)], vec![logged("i", 60)]), ["gap@49", "h@50", "i@60"]);
        // One that a later page begins with, though the client is further already.
        let merged = all(reading(), vec![event(10), gap(49), event(50)], vec![logged("i", 11)]);
        assert_eq!(merged, ["h@10", "gap@10", "i@11", "h@50"]);
    }

    #[test]
    fn an_inbox_is_not_asked_for_what_cannot_be() {
        let through = at(7);
        assert_eq!(Reading::new(Partition::ZERO, through).with_inbox(at(7)).inbox_after, None);
        assert_eq!(Reading::new(Partition::ZERO, through).with_inbox(at(6)).inbox_after, Some(Position(6)));
        let other = PartitionCursor { epoch: Epoch(2), position: Position(1) };
        assert_eq!(Reading::new(Partition::ZERO, through).with_inbox(other).inbox_after, None);
    }
}
