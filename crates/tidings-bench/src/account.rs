//! The accounts of a channel that many streams listen to.

use std::collections::VecDeque;

use crate::{
    events::Event,
    payload::Payload,
    sequence::{Arrival, Sequence},
    streams::Heard,
    tally::Tally,
};

/// The accounts of all streams.
pub(crate) struct Account {
    sequences: Vec<Sequence>,
    is_over: Vec<bool>,
    live: u64,
    /// Deliveries to those that are live.
    delivered_live: u64,
    /// How many streams have each of the messages from `done` on; those that are over have all.
    ring: VecDeque<u64>,
    ring_max: usize,
    /// All streams have the messages before this one.
    pub(crate) done: u64,
    born: u64,
    /// How many messages there are to be.
    messages: u64,
    pub(crate) tally: Tally,
}

impl Account {
    /// Accounts of so many messages, none of them older than `born`. `window` is how many are counted at a
    /// time, to know when all streams have them.
    pub(crate) fn new(messages: u64, window: usize, born: u64) -> Self {
        Self {
            sequences: Vec::new(),
            is_over: Vec::new(),
            live: 0,
            delivered_live: 0,
            ring: VecDeque::new(),
            ring_max: window,
            done: 0,
            born,
            messages,
            tally: Tally::default(),
        }
    }

    /// Whether there is no stream.
    pub(crate) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Takes what was heard of a stream.
    pub(crate) fn hear(&mut self, index: usize, heard: Heard, now: u64) {
        match heard {
            Heard::Said(Event::Message(Some(Payload { n, t }))) if t >= self.born && n < self.messages => {
                self.arrive(index, n, t, now);
            }
            Heard::Said(Event::Message(_)) => self.tally.foreign += 1,
            Heard::Ended => self.end(index),
            Heard::Opened(_) => {
                if self.sequences.len() <= index {
                    self.sequences.resize_with(index + 1, Sequence::default);
                    self.is_over.resize(index + 1, false);
                }
                self.live += 1;
                self.tally.hear(heard);
            }
            other => self.tally.hear(other),
        }
    }

    fn arrive(&mut self, index: usize, n: u64, t: u64, now: u64) {
        match self.sequences[index].take(n) {
            Arrival::Again => {
                self.tally.duplicated += 1;
                return;
            }
            Arrival::Late => self.tally.reordered += 1,
            Arrival::InOrder => {}
        }
        self.tally.deliveries += 1;
        self.delivered_live += 1;
        self.tally.latency.record(t, now);
        self.tally.ended_at = now;
        self.count(n);
    }

    /// A stream has got a message, or never will.
    fn count(&mut self, n: u64) {
        let Some(at) = n.checked_sub(self.done).and_then(|at| usize::try_from(at).ok()) else { return };
        if at >= self.ring_max {
            return;
        }
        if at >= self.ring.len() {
            let over = self.sequences.len() as u64 - self.live;
            self.ring.resize(at + 1, over);
        }
        self.ring[at] += 1;
        while self.ring.front().is_some_and(|count| *count >= self.sequences.len() as u64) {
            self.ring.pop_front();
            self.done += 1;
        }
    }

    fn end(&mut self, index: usize) {
        self.tally.ended += 1;
        if std::mem::replace(&mut self.is_over[index], true) {
            return;
        }
        let sequence = &self.sequences[index];
        let missing: Vec<u64> = (self.done..self.done + self.ring.len() as u64).filter(|n| !sequence.has(*n)).collect();
        self.delivered_live -= sequence.arrived_of(u64::MAX);
        // Those that are counted here must not be counted among the ones that are over, so it stays live
        // until they are.
        for n in missing {
            self.count(n);
        }
        self.live -= 1;
    }

    /// Whether all streams that are live have all of the first `published` messages.
    pub(crate) fn has_all(&self, published: u64) -> bool {
        self.delivered_live >= published * self.live
    }

    /// Counts what is missing of so many messages.
    pub(crate) fn close(&mut self, published: u64) {
        self.tally.lost = self.sequences.iter().map(|sequence| published - sequence.arrived_of(published)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_ends_keeps_nobody_waiting() {
        let mut account = Account::new(3, 4, 5);
        for index in 0..3 {
            account.hear(index, Heard::Opened(1), 1);
        }
        let message = |n, t| Heard::Said(Event::Message(Some(Payload { n, t })));
        account.hear(0, message(0, 4), 9);
        assert_eq!((account.tally.foreign, account.tally.deliveries), (1, 0), "older than the run");
        account.hear(0, message(3, 6), 9);
        assert_eq!((account.tally.foreign, account.tally.deliveries), (2, 0), "never sent");
        account.hear(0, message(0, 6), 9);
        account.hear(1, message(0, 6), 9);
        account.hear(1, message(1, 6), 9);
        assert_eq!((account.done, account.has_all(2)), (0, false));
        account.hear(2, Heard::Ended, 9);
        assert_eq!((account.done, account.has_all(1), account.has_all(2)), (1, true, false));
        account.hear(0, message(1, 6), 9);
        assert_eq!((account.done, account.has_all(2)), (2, true));
        account.hear(0, message(2, 6), 9);
        account.hear(1, message(2, 6), 9);
        assert_eq!(account.done, 3);
        account.close(3);
        assert_eq!(account.tally.lost, 3, "all of the stream that ended");
    }
}
