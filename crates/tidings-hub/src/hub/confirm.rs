//! Looking whether what users were sent has arrived.

use std::collections::BTreeMap;

use tidings_protocol::{Channel, EventId};

use super::{Hub, State};
use crate::{
    confirm::{Asking, Confirming, Look, Sight},
    registry::{Place, Since},
    session::Session,
    shard::Message,
};

impl Hub {
    /// Looks once at all that may still be confirmed. What cannot be, because the user has no connection on which
    /// TCP's word counts, is not looked at again.
    pub async fn look(&self, confirming: &mut Confirming) {
        let (asking, waits) = self.ask(confirming);
        let answers = asking.answers().await;
        let mut may_come = waits;
        for Look { open, connection, mark, sight, .. } in answers {
            let asked = &mut confirming.open[open];
            match sight {
                Sight::Gone => continue,
                Sight::Arrived => confirming.is_confirmed[asked.index] = true,
                Sight::Unacknowledged(Some(new)) if mark.is_none() => asked.marks.push((connection, new)),
                Sight::Unwritten | Sight::Unacknowledged(_) => {}
            }
            may_come[open] = true;
        }
        let mut may_come = may_come.into_iter();
        let is_confirmed = &confirming.is_confirmed;
        confirming.open.retain(|open| may_come.next().unwrap_or(false) && !is_confirmed[open.index]);
    }

    /// Asks the shards. Answers too which of the open ones may come to be confirmed without their word: the node has
    /// not read the event, or a task has the stream.
    fn ask(&self, confirming: &Confirming) -> (Asking, Vec<bool>) {
        let (asking, mut by_shard) = (Asking::default(), BTreeMap::<u16, Vec<Look>>::new());
        let state = self.state.lock();
        let waits = confirming.open.iter().enumerate().map(|(open, asked)| {
            let has_passed = state.has_passed(asked.event);
            let mut waits = false;
            for (info, place) in state.registry.confirmable(&asked.user, asked.event) {
                let (connection, event) = (info.id, asked.event);
                match place {
                    Place::Shard { shard, slot, .. } if has_passed => {
                        let mark = asked.marks.iter().find(|(id, _)| *id == connection).map(|(_, mark)| *mark);
                        let look = Look { open, connection, event, slot: *slot, mark, sight: Sight::Gone };
                        by_shard.entry(*shard).or_default().push(look);
                    }
                    // It goes to a shard when it is live.
                    Place::Session(_) | Place::Shard { .. } => waits = true,
                }
            }
            waits
        });
        let waits = waits.collect();
        // Under the lock: a slot must not be given to another connection before the shard has been asked.
        for (shard, looks) in by_shard {
            state.shards[usize::from(shard)].inbox.push(Message::Look(asking.looks(looks)));
        }
        (asking, waits)
    }
}

impl State {
    /// Whether the feed has brought the event, if this node was to get it.
    fn has_passed(&self, event: EventId) -> bool {
        let read = self.cursor.get(event.partition);
        read.is_some_and(|read| read.epoch == event.at.epoch && read.position >= event.at.position)
    }

    /// The fence of a stream that began without a cursor has been chosen: what its user was told before it was
    /// not sent to it.
    pub(super) fn note_beginning(&mut self, session: &Session) {
        let Some(user) = session.info.user.as_ref().filter(|_| session.is_new) else { return };
        let Some((_, personal)) = self.channels.get(&Channel::personal(user)) else { return };
        let Some(partition) = personal.partition else { return };
        if let Some(fence) = self.cursor.get(partition) {
            *session.since.lock() = Since::after(partition, fence.position);
        }
    }
}
