//! What of a channel's numbered messages has come: exact accounts of one stream.

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// For the first time, and after all that came before it or in place of them.
    InOrder,
    /// For the first time, but a later one has come already.
    Late,
    /// Not for the first time.
    Again,
}

/// The messages of one stream, numbered from 0.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    /// One past the highest number that came.
    next: u64,
    /// Ranges below `next` that have not come, in order. There are fewer than messages that came.
    holes: Vec<(u64, u64)>,
}

impl Sequence {
    /// Takes a message.
    pub fn take(&mut self, n: u64) -> Arrival {
        if n >= self.next {
            if n > self.next {
                self.holes.push((self.next, n));
            }
            self.next = n.saturating_add(1);
            return Arrival::InOrder;
        }
        let at = self.holes.partition_point(|(_, end)| *end <= n);
        match self.holes.get(at).copied() {
            Some((from, end)) if from <= n => {
                let left = [(from, n), (n + 1, end)].into_iter().filter(|(from, end)| from < end);
                self.holes.splice(at..=at, left);
                Arrival::Late
            }
            _ => Arrival::Again,
        }
    }

    /// Whether a message has come.
    pub fn has(&self, n: u64) -> bool {
        let at = self.holes.partition_point(|(_, end)| *end <= n);
        n < self.next && self.holes.get(at).is_none_or(|(from, _)| n < *from)
    }

    /// How many of the first `count` have come.
    pub fn arrived_of(&self, count: u64) -> u64 {
        let holes = self.holes.iter().map(|(from, end)| (*end).min(count) - (*from).min(count));
        self.next.min(count) - holes.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lost_doubled_and_late_ones_are_found() {
        let mut sequence = Sequence::default();
        let arrivals: Vec<_> = [0, 1, 4, 2, 2, 1, 5].into_iter().map(|n| sequence.take(n)).collect();
        use Arrival::{Again, InOrder, Late};
        assert_eq!(arrivals, [InOrder, InOrder, InOrder, Late, Again, Again, InOrder]);
        assert_eq!((sequence.arrived_of(6), sequence.arrived_of(9), sequence.arrived_of(3)), (5, 5, 3));
        assert!(!sequence.has(3) && sequence.has(4) && !sequence.has(6));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(numbers in prop::collection::vec(0..40_u64, 0..60), count in 0..50_u64) {
            let mut sequence = Sequence::default();
            let mut seen = BTreeSet::new();
            for n in numbers {
                let is_late = seen.last().is_some_and(|last| n < *last);
                let wanted = match (seen.insert(n), is_late) {
                    (false, _) => Arrival::Again,
                    (true, true) => Arrival::Late,
                    (true, false) => Arrival::InOrder,
                };
                prop_assert_eq!(sequence.take(n), wanted);
            }
            prop_assert_eq!(sequence.arrived_of(count), seen.range(..count).count() as u64);
            for n in 0..45 {
                prop_assert_eq!(sequence.has(n), seen.contains(&n));
            }
        }
    }
}
