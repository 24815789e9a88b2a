//! A timer for each of many slots, cheap to set and to set again.
//!
//! A hashed wheel (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987) of one level. It is
//! asked for what is due and answers slots, perhaps too early: times beyond its last bucket are put there,
//! and the owner of the slot looks at its own deadline and sets the timer again.

use crate::Tick;

/// How finely times are told apart. Everything that is due within it shares a wake-up: heartbeats of
/// thousands of streams cost one each sixteen milliseconds, and a conflation window ends that much later at most.
const GRANULE_MILLIS: u64 = 16;

/// Sixteen seconds: a heartbeat's usual interval lies within.
const BUCKETS: usize = 1024;

const WORDS: usize = BUCKETS / 64;

const NONE: u32 = u32::MAX;

pub(crate) struct Wheel {
    links: Vec<Link>,
    heads: Box<[u32; BUCKETS]>,
    /// Which buckets have any.
    occupied: [u64; WORDS],
    /// The granule that was last looked at.
    now: u64,
}

#[derive(Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    /// The bucket it is in. Which turn of the wheel is meant need not be said: all that is set lies
    /// within one turn after `now`.
    bucket: u16,
}

/// A slot whose timer is not set.
const UNSET: Link = Link { next: NONE, previous: NONE, bucket: u16::MAX };

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self { links: Vec::new(), heads: Box::new([NONE; BUCKETS]), occupied: [0; WORDS], now: granule(now).max(1) }
    }

    /// Sets the slot's timer. A timer that is due earlier already stays as it is.
    pub(crate) fn set(&mut self, slot: u32, at: Tick) {
        let index = slot as usize;
        if self.links.len() <= index {
            self.links.resize(index + 1, UNSET);
        }
        // Rounded up: nothing is due before its time.
        let due = (granule(at) + 1).clamp(self.now + 1, self.now + BUCKETS as u64 - 1);
        let before = self.links[index].bucket;
        if before != UNSET.bucket && self.ahead(before.into()) <= self.ahead(bucket(due)) {
            return;
        }
        self.clear(slot);
        let bucket = bucket(due);
        let next = std::mem::replace(&mut self.heads[bucket], slot);
        self.links[index] = Link { next, previous: NONE, bucket: bucket as u16 };
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Takes the slot's timer away.
    pub(crate) fn clear(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else { return };
        let Link { next, previous, bucket } = std::mem::replace(link, UNSET);
        if bucket == UNSET.bucket {
            return;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous != NONE {
            self.links[previous as usize].next = next;
            return;
        }
        let bucket = usize::from(bucket);
        self.heads[bucket] = next;
        if next == NONE {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
    }

    /// How many buckets after the next one to be looked at this one lies.
    fn ahead(&self, of: usize) -> usize {
        (of + BUCKETS - bucket(self.now + 1)) % BUCKETS
    }

    /// Takes one slot whose time has come.
    pub(crate) fn pop(&mut self, now: Tick) -> Option<u32> {
        let to = granule(now);
        match self.next_due().filter(|due| *due <= to) {
            None => {
                // Nothing is due before, so no bucket is passed over.
                self.now = self.now.max(to);
                None
            }
            Some(due) => {
                self.now = due - 1;
                let slot = self.heads[bucket(due)];
                self.clear(slot);
                Some(slot)
            }
        }
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.next_due().map(|due| Tick::from_millis(due * GRANULE_MILLIS))
    }

    fn next_due(&self) -> Option<u64> {
        let first = bucket(self.now + 1);
        // All set timers lie within one turn of the wheel after `now`.
        let mut word = first / 64;
        let mut bits = self.occupied[word] & (u64::MAX << (first % 64));
        for _ in 0..=WORDS {
            if bits != 0 {
                let found = word * 64 + bits.trailing_zeros() as usize;
                return Some(self.now + 1 + self.ahead(found) as u64);
            }
            word = (word + 1) % WORDS;
            bits = self.occupied[word];
        }
        None
    }
}

fn granule(at: Tick) -> u64 {
    at.as_millis() as u64 / GRANULE_MILLIS
}

fn bucket(granule: u64) -> usize {
    (granule % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_u32, 0..40_000_u64).prop_map(|(slot, ahead)| Step::Set(slot, ahead)),
            (0..20_u32).prop_map(Step::Clear),
            (0..30_000_u64).prop_map(Step::Pass),
            (0..100_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// A timer comes once, not before its time, and not later than the granularity says, or at the
        /// wheel's end; what was taken away does not come.
        #[test]
        fn timers_come_in_time(steps in prop::collection::vec(step(), 0..200), start in 0..1_000_000_u64) {
            let mut now = start;
            let mut wheel = Wheel::new(Tick::from_millis(now));
            let mut model: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            let turn = GRANULE_MILLIS * (BUCKETS as u64 - 2);
            for step in steps {
                match step {
                    Step::Set(slot, ahead) => {
                        wheel.set(slot, Tick::from_millis(now + ahead));
                        let deadline = (now + ahead, now);
                        let entry = model.entry(slot).or_insert(deadline);
                        if deadline.0.min(now + turn) < entry.0.min(entry.1 + turn) {
                            *entry = deadline;
                        }
                    }
                    Step::Clear(slot) => {
                        wheel.clear(slot);
                        model.remove(&slot);
                    }
                    Step::Pass(millis) => {
                        now += millis;
                        if let Some(next) = wheel.next() {
                            let earliest = model.values().map(|(at, set)| (*at).min(set + turn)).min().unwrap();
                            let next = next.as_millis() as u64;
                            prop_assert!(next + GRANULE_MILLIS > earliest && next <= earliest + 3 * GRANULE_MILLIS);
                        }
                        while let Some(slot) = wheel.pop(Tick::from_millis(now)) {
                            let (at, set) = model.remove(&slot).expect("it was set and has not come yet");
                            prop_assert!(at <= now || now >= set + turn, "{slot} comes at {now}, before {at}");
                        }
                        let late = 2 * GRANULE_MILLIS;
                        let forgotten = model.values().find(|(at, set)| at + late <= now || set + turn + 2 * late <= now);
                        prop_assert_eq!(forgotten, None);
                        prop_assert_eq!(wheel.next().is_none(), model.is_empty());
                    }
                }
            }
        }
    }
}
