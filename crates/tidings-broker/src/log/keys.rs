//! Used idempotency keys: which event each was used for, for a while.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use tidings_protocol::{Event, Millis, Position};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// How long and how many keys are remembered.
#[derive(Debug, Clone, Copy)]
pub struct KeyLimits {
    /// For how long after its acceptance an event is not accepted again.
    pub window_ms: Millis,
    /// At most so many; the oldest are forgotten early. An entry takes about 100 bytes.
    pub keys_max: usize,
}

/// What is remembered of a key: digests of 128 bits, so that its size does not depend on what
/// publishers choose. They are seeded, so that nobody can prepare two that are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRecord {
    /// Of the channel and the key.
    pub id: u128,
    /// Of what must be equal in a repeated publish: type, data, `conflate` and `expires_in` as they
    /// were given. Not `sent_at`, which is the time of each attempt where the publisher gives none.
    pub body: u128,
}

/// What is known of a key.
pub(super) enum Verdict {
    Unknown,
    /// It was used for the same event, which is here.
    Same(Position),
    /// It was used for another one.
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    body: u128,
    position: Position,
    accepted_at: Millis,
}

/// The ids are digests already.
#[derive(Debug, Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    fn write_u128(&mut self, id: u128) {
        self.0 = id as u64;
    }
}

#[derive(Debug)]
pub(super) struct Keys {
    limits: KeyLimits,
    seed: u64,
    used: HashMap<u128, Used, BuildHasherDefault<FirstBytes>>,
    /// In the order of acceptance, among others that were withdrawn or used anew and are skipped.
    order: VecDeque<(Position, u128)>,
    forgotten: u64,
    scratch: Vec<u8>,
}

/// How many due keys one new key takes with it, so that neither a burst of expiries stalls an append
/// nor the dead outnumber the living.
const DUE_PER_INSERT: usize = 4;

impl Keys {
    pub(super) fn new(limits: KeyLimits, seed: u64) -> Self {
        Self { limits, seed, used: HashMap::default(), order: VecDeque::new(), forgotten: 0, scratch: Vec::new() }
    }

    /// The digests of an event's key and body, if it has a key.
    pub(super) fn describe(&mut self, event: &Event) -> Option<KeyRecord> {
        let key = event.key.as_deref()?;
        let scratch = &mut self.scratch;
        // Lengths before texts, so that no two lists of texts read the same.
        let push = |scratch: &mut Vec<u8>, text: Option<&str>| {
            scratch.extend_from_slice(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            scratch.extend_from_slice(text.unwrap_or_default().as_bytes());
        };
        scratch.clear();
        push(scratch, Some(event.channel.as_str()));
        push(scratch, Some(key));
        let id = xxh3_128_with_seed(scratch, self.seed);
        scratch.clear();
        push(scratch, Some(event.event_type.as_str()));
        push(scratch, event.conflate.as_deref());
        scratch.extend_from_slice(&event.expires_in_secs.unwrap_or(u64::MAX).to_le_bytes());
        push(scratch, Some(event.data.as_json()));
        let body = xxh3_128_with_seed(scratch, self.seed);
        Some(KeyRecord { id, body })
    }

    pub(super) fn look_up(&self, key: KeyRecord, now: Millis) -> Verdict {
        match self.used.get(&key.id) {
            Some(used) if !self.is_over(used.accepted_at, now) => match used.body == key.body {
                true => Verdict::Same(used.position),
                false => Verdict::Other,
            },
            _ => Verdict::Unknown,
        }
    }

    pub(super) fn insert(&mut self, key: KeyRecord, position: Position, accepted_at: Millis) {
        self.used.insert(key.id, Used { body: key.body, position, accepted_at });
        self.order.push_back((position, key.id));
        self.sweep(accepted_at, DUE_PER_INSERT);
        while self.used.len() > self.limits.keys_max {
            let Some((position, id)) = self.order.pop_front() else { return };
            if self.is_current(position, id) {
                self.used.remove(&id);
                self.forgotten += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, key: KeyRecord, position: Position) {
        if self.is_current(position, key.id) {
            self.used.remove(&key.id);
        }
    }

    /// Forgets at most `budget` keys whose window has ended. `true` if there are more.
    pub(super) fn sweep(&mut self, now: Millis, budget: usize) -> bool {
        for _ in 0..budget {
            let Some((position, id)) = self.order.front().copied() else { return false };
            match self.used.get(&id) {
                Some(used) if used.position == position => {
                    if !self.is_over(used.accepted_at, now) {
                        return false;
                    }
                    self.used.remove(&id);
                }
                _ => {}
            }
            self.order.pop_front();
        }
        !self.order.is_empty()
    }

    /// The position of the oldest key.
    pub(super) fn oldest(&self) -> Option<Position> {
        self.order.front().map(|(position, _)| *position)
    }

    pub(super) fn len(&self) -> usize {
        self.used.len()
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn is_current(&self, position: Position, id: u128) -> bool {
        self.used.get(&id).is_some_and(|used| used.position == position)
    }

    fn is_over(&self, accepted_at: Millis, now: Millis) -> bool {
        accepted_at.saturating_add(self.limits.window_ms) <= now
    }
}
