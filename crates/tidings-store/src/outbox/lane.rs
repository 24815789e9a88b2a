//! Events and notifications go to different places, and one may be closed while the other is open.

use std::time::Duration;

use tokio::time::Instant;

use super::row::Target;

/// The first wait of a lane whose sink cannot take rows, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// After so many attempts in vain, which take half a minute, the row behind the first is tried too: if that
/// one can be taken, then it is not the sink that is in trouble.
const ATTEMPTS_BEFORE_DOUBT: u32 = 12;

/// Which rows are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lanes {
    /// All.
    Both,
    /// All but these.
    Without(Target),
}

impl Lanes {
    /// Whether they have rows of this kind.
    pub(super) fn have(self, target: Target) -> bool {
        self != Self::Without(target)
    }

    /// The condition on a row, in SQL.
    pub(super) fn condition(self) -> String {
        match self {
            Self::Both => "1 = 1".to_owned(),
            // Those of an unknown target are refused, so they may come with either.
            Self::Without(target) => format!("target <> '{}'", target.as_str()),
        }
    }
}

/// The way of one kind of rows.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Attempts in vain, one after another.
    attempts: u32,
    /// Closed until then.
    until: Option<Instant>,
    /// Why its last row could not be taken, if it could not.
    trouble: Option<String>,
}

impl Lane {
    /// When it opens, if it is closed.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Whether the first row of it may be to blame.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.attempts >= ATTEMPTS_BEFORE_DOUBT
    }

    /// Why rows are not being taken.
    pub(super) fn trouble(&self) -> Option<&String> {
        self.trouble.as_ref()
    }

    /// Rows could be taken, or refused, or there were none.
    pub(super) fn on_taken(&mut self) {
        *self = Self::default();
    }

    /// A row could not be taken now.
    pub(super) fn on_unavailable(&mut self, cause: String, now: Instant) {
        self.trouble = Some(cause);
        let wait = BACKOFF.0.saturating_mul(1 << self.attempts.min(10)).min(BACKOFF.1);
        self.attempts = self.attempts.saturating_add(1);
        // Nodes that lost the same sink do not come back together.
        self.until = Some(now + wait.mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.5..1.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_waits_for_longer_and_longer_and_then_doubts() {
        let (mut lane, mut now, begin) = (Lane::default(), Instant::now(), Instant::now());
        while !lane.is_in_doubt() {
            lane.on_unavailable("down".to_owned(), now);
            let until = lane.closed_until(now).unwrap();
            assert!(until - now <= BACKOFF.1);
            now = until;
            assert_eq!(lane.closed_until(now), None);
        }
        assert!(now - begin > Duration::from_secs(10), "{:?}", now - begin);
        assert_eq!(lane.trouble().unwrap(), "down");
        lane.on_taken();
        assert!(!lane.is_in_doubt());
    }
}
