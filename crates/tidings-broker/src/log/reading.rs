//! Reading history: the gaps of several channels, then their events, merged in the order of
//! positions.
//!
//! Why a cut after any entry loses nothing: an entry's position is the cursor of the frame that
//! carries it, and such a cursor claims every event of the reading's channels up to it. So what is
//! missing is told before anything that is there, and the last gap moves the reader up to the first
//! event, no further. Gaps before the last leave the reader where it was: moved, it would not find
//! the others again.
//!
//! A gap could stand where its hole ends, among the events. Then a cursor on an event inside the
//! hole would rely on the hole being there when it comes back, and a crash may bring back events
//! whose deletion had not reached the disk.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use tidings_core::{
    Namespaces,
    ports::{HistoryEntry, HistoryFrom, HistoryPage, HistoryRequest},
};
use tidings_protocol::{Channel, GapReason, LoggedEvent, Millis, PartitionCursor, Position};

use super::{PartitionLog, record::Record};

/// One channel of a reading.
struct Reading<'a> {
    channel: &'a Channel,
    record: Option<&'a Record>,
    /// Everything up to here has been handed over, or is not wanted.
    after: Position,
    /// What is missing after that, and how far.
    gap: Option<(GapReason, Position)>,
    /// The next event, as an index into the record's.
    index: usize,
}

impl Reading<'_> {
    /// Moves to the next event that can be read, and says where it is.
    fn seek(&mut self, through: Position, now: Millis) -> Option<Position> {
        let events = &self.record?.events;
        while let Some(logged) = events.get(self.index) {
            if logged.position > through {
                return None;
            }
            if !logged.is_past(now) {
                return Some(logged.position);
            }
            self.index += 1;
        }
        None
    }

    fn take(&mut self) -> Option<Arc<LoggedEvent>> {
        let logged = self.record?.events.get(self.index)?.clone();
        self.index += 1;
        self.after = logged.position;
        Some(logged)
    }
}

impl PartitionLog {
    /// Reads history of channels of this partition. Costs the page and a logarithm for each channel,
    /// however long the histories are.
    pub fn history(&mut self, request: &HistoryRequest, namespaces: &Namespaces, now: Millis) -> HistoryPage {
        for channel in &*request.channels {
            if let Some(record) = self.channels.get_mut(channel) {
                record.trim(channel, namespaces.of(channel), now, &mut self.tally);
            }
        }
        let through = request.through.min(self.head);
        let mut readings: Vec<_> = request
            .channels
            .iter()
            .enumerate()
            .map(|(at, channel)| self.reading(at, channel, request, namespaces, now))
            .collect();
        let mut heap: BinaryHeap<_> = readings
            .iter_mut()
            .enumerate()
            .filter_map(|(at, reading)| reading.seek(through, now).map(|position| Reverse((position, at))))
            .collect();
        let limit = request.limit.max(1);
        let mut entries = Vec::new();
        let mut read_to = match &request.from {
            HistoryFrom::Cursor(from) => from.position,
            HistoryFrom::Next { read_to, .. } => *read_to,
            HistoryFrom::Last(_) => Position::ZERO,
        };
        let mut gaps = gaps_by_reason(&readings);
        while entries.len() < limit
            && let Some((reason, missing)) = gaps.pop_first()
        {
            if gaps.is_empty() {
                read_to = heap.peek().map_or(through, |Reverse((first, _))| first.previous());
            }
            entries.push(tell(&mut readings, &missing, reason, read_to));
        }
        while gaps.is_empty()
            && entries.len() < limit
            && let Some(Reverse((position, at))) = heap.pop()
        {
            entries.extend(readings[at].take().map(HistoryEntry::Event));
            read_to = position;
            if let Some(next) = readings[at].seek(through, now) {
                heap.push(Reverse((next, at)));
            }
        }
        let next = (!heap.is_empty() || !gaps.is_empty()).then(|| {
            let mut is_done = vec![true; readings.len()];
            heap.iter().for_each(|Reverse((_, waiting))| is_done[*waiting] = false);
            for (reading, _) in readings.iter_mut().zip(is_done).filter(|(_, is_done)| *is_done) {
                // What this channel loses from here on lies beyond what is being read.
                if reading.gap.is_none() {
                    reading.after = reading.after.max(through);
                }
            }
            HistoryFrom::Next { read_to, after: readings.iter().map(|reading| reading.after).collect() }
        });
        HistoryPage { entries, next }
    }

    fn reading<'a>(
        &'a self,
        at: usize,
        channel: &'a Channel,
        request: &HistoryRequest,
        namespaces: &Namespaces,
        now: Millis,
    ) -> Reading<'a> {
        let record = self.channels.get(channel);
        let gone = record.map_or_else(|| self.floors.of(channel, namespaces), |record| record.gone);
        let missing_through = gone.through.min(request.through);
        let missing_after = |after: Position| (after < missing_through).then_some((gone.reason, missing_through));
        let (after, gap) = match &request.from {
            HistoryFrom::Cursor(from) if self.is_foreign(*from) => {
                (Position::ZERO, Some((GapReason::Epoch, missing_through)))
            }
            HistoryFrom::Cursor(from) => (from.position, missing_after(from.position)),
            HistoryFrom::Next { after, .. } => {
                let after = after.get(at).copied().unwrap_or_default();
                (after, missing_after(after))
            }
            HistoryFrom::Last(counts) => {
                let count = counts.get(at).copied().unwrap_or_default();
                (before_last(record, count, request.through, now), None)
            }
        };
        let index = record.map_or(0, |record| record.events.partition_point(|logged| logged.position <= after));
        Reading { channel, record, after, gap, index }
    }

    /// A cursor of another epoch, or one of this epoch that reads what has not been written.
    fn is_foreign(&self, from: PartitionCursor) -> bool {
        from.epoch != self.epoch || from.position > self.head
    }
}

/// The place before a channel's last so many readable events.
fn before_last(record: Option<&Record>, count: usize, through: Position, now: Millis) -> Position {
    let Some(record) = record else { return through };
    let end = record.events.partition_point(|logged| logged.position <= through);
    let readable = record.events.range(..end).rev().filter(|logged| !logged.is_past(now));
    readable.take(count).last().map_or(through, |first| first.position.previous())
}

/// The channels that lack something, for each reason.
fn gaps_by_reason(readings: &[Reading<'_>]) -> BTreeMap<GapReason, Vec<usize>> {
    let mut gaps = BTreeMap::<_, Vec<_>>::new();
    for (at, reading) in readings.iter().enumerate() {
        if let Some((reason, _)) = reading.gap {
            gaps.entry(reason).or_default().push(at);
        }
    }
    gaps
}

fn tell(readings: &mut [Reading<'_>], missing: &[usize], reason: GapReason, through: Position) -> HistoryEntry {
    let mut channels = Vec::with_capacity(missing.len());
    for at in missing {
        let reading = &mut readings[*at];
        if let Some((_, missing_through)) = reading.gap.take() {
            reading.after = reading.after.max(missing_through);
        }
        channels.push(reading.channel.clone());
    }
    HistoryEntry::Gap { channels, reason, through }
}
