//! What keeps a provider from being used, for the operator.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tidings_hub::Tick;

/// How long something is called a trouble after it was last met: if nothing is sent that could meet it
/// again, nobody knows whether it lasts.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Most troubles at a time. Each origin of a push service may have one of its own, and whoever puts a
/// device chooses the origin.
const TROUBLES_MAX: usize = 16;

/// The troubles of a provider, by what they are about.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<String, Trouble>>);

#[derive(Debug)]
struct Trouble {
    text: String,
    met_at: Tick,
}

impl Troubles {
    /// It was met. Says so in the log when it is new.
    pub(crate) fn note(&self, about: &str, text: String, now: Tick) {
        let mut troubles = self.0.lock();
        troubles.retain(|_, trouble| now.saturating_sub(trouble.met_at) < FORGOTTEN_AFTER);
        if let Some(trouble) = troubles.get_mut(about) {
            *trouble = Trouble { text, met_at: now };
        } else if troubles.len() < TROUBLES_MAX {
            tracing::warn!(%text, "pushes cannot be sent");
            troubles.insert(about.to_owned(), Trouble { text, met_at: now });
        }
    }

    /// It is over.
    pub(crate) fn clear(&self, about: &str) {
        self.0.lock().remove(about);
    }

    /// Those that last.
    pub(crate) fn list(&self, now: Tick) -> Vec<String> {
        let troubles = self.0.lock();
        let lasting = troubles.values().filter(|trouble| now.saturating_sub(trouble.met_at) < FORGOTTEN_AFTER);
        lasting.map(|trouble| trouble.text.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_lasts_until_it_is_cleared_or_not_met_again() {
        let troubles = Troubles::default();
        troubles.note("a", "a is refused".into(), Duration::ZERO);
        troubles.note("b", "b is refused".into(), Duration::from_secs(60));
        troubles.note("a", "a is refused again".into(), Duration::from_secs(60));
        assert_eq!(troubles.list(Duration::from_secs(61)), ["a is refused again", "b is refused"]);
        troubles.clear("a");
        assert_eq!(troubles.list(Duration::from_secs(61)), ["b is refused"]);
        assert!(troubles.list(Duration::from_secs(60) + FORGOTTEN_AFTER).is_empty());
    }

    #[test]
    fn there_are_not_more_than_so_many_and_old_ones_make_room() {
        let troubles = Troubles::default();
        for number in 0..100 {
            troubles.note(&number.to_string(), number.to_string(), Duration::ZERO);
        }
        assert_eq!(troubles.list(Duration::ZERO).len(), TROUBLES_MAX);
        troubles.note("new", "new".into(), FORGOTTEN_AFTER);
        assert_eq!(troubles.list(FORGOTTEN_AFTER), ["new"]);
    }
}
