//! Tickets: credentials for clients that cannot set headers, made to stand in a URL.
//!
//! A ticket is signed, not encrypted: unpadded base64url of a JSON object and, after it, 32 bytes of
//! HMAC-SHA256 over a fixed word and that object. It holds a random id, what the token behind it
//! grants and until when, when it was issued, and the issuing node's cursor at that moment.
//!
//! Within 30 s of issue it opens one stream. After that, or once spent, it opens a stream only
//! together with a cursor at or after its own, and until the token behind it ends. That is what
//! a browser's `EventSource` does when it reconnects: the same URL, and `Last-Event-ID`.
//!
//! # What that proves, and what it does not
//!
//! The signature proves that a node with this secret issued the ticket for exactly these grants.
//!
//! *Once* holds per node: the memory of spent tickets is not shared. Within its 30 s a ticket that
//! somebody else has read can be spent once on each node.
//!
//! The cursor proves that whoever reconnects has seen some frame that a stream of this log carried
//! since the ticket was issued, or guesses well. It does not prove that the frame was one of the
//! ticket's own stream, as frames are shared by all subscribers, and cursors are not signed. So the
//! text of a ticket together with any recent cursor, even of an anonymous stream, opens the streams
//! of the ticket's user until the token ends. It keeps out those who have the URL alone, from an access log
//! or a `Referer`; it does not keep out those who can also listen to this server. Short-lived
//! tokens bound the damage.

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidings_core::Grants;
use tidings_protocol::{ChannelPattern, Cursor, Millis, UserId};

use super::error::AuthError;
use crate::problem::Code;

/// What is signed before the ticket itself, so that nothing else signed with the secret is a ticket.
const DOMAIN: &[u8] = b"tidings ticket 1\0";

/// How long a ticket opens a stream by itself: time to open the connection, and no more.
const VALID_FOR_MILLIS: Millis = 30_000;

/// How far ahead of this node's clock the issuing node's may be.
const CLOCK_SKEW_MAX_MILLIS: Millis = 5_000;

/// How long a ticket can be used if nothing else ends it: a grant without an end would make the URL
/// of a stream a password for good.
const REOPENS_FOR_MAX_MILLIS: Millis = 24 * 60 * 60 * 1000;

/// Longest ticket that is read, in bytes. A token of 8 KiB cannot make a longer one.
const TICKET_MAX_BYTES: usize = 12 * 1024;

/// Spent tickets that a node remembers. Each is kept for 30 s, so this is reached at 8,700 tickets a
/// second; the memory is about 10 MB then.
const SPENT_MAX_TICKETS: usize = 1 << 18;

const TAG_BYTES: usize = 32;

type TicketId = [u8; 16];

/// A ticket as it is handed out. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedTicket {
    /// The text for `?ticket=`.
    pub ticket: String,
    /// How long it opens a stream, in seconds.
    pub expires_in_secs: u64,
}

impl std::fmt::Debug for IssuedTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedTicket").field("expires_in_secs", &self.expires_in_secs).finish_non_exhaustive()
    }
}

/// Issues tickets and takes them back.
pub(crate) struct Tickets {
    key: hmac::Key,
}

/// The tickets that opened a stream on this node and could open another by their age.
pub(crate) struct SpentTickets {
    /// By the time at which each may be forgotten.
    tickets: Mutex<BTreeSet<(Millis, TicketId)>>,
    capacity: usize,
}

/// What is signed. Times are milliseconds since the epoch.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    id: u128,
    issued_at: Millis,
    /// When the token behind it ends.
    ends_at: Millis,
    cursor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscribe: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    publish: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    admin: bool,
}

impl Tickets {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A ticket for a stream with these grants. `cursor` is the node's at this moment.
    pub(crate) fn issue(&self, grants: &Grants, cursor: &Cursor, now: Millis) -> IssuedTicket {
        let texts = |patterns: &[ChannelPattern]| patterns.iter().map(ToString::to_string).collect();
        let content = Content {
            id: u128::from_ne_bytes(rand::random()),
            issued_at: now,
            ends_at: grants.expires_at.unwrap_or(Millis::MAX).min(now.saturating_add(REOPENS_FOR_MAX_MILLIS)),
            // A node that has read nothing yet gives no cursor to compare with.
            cursor: if cursor.entries().len() == 0 { String::new() } else { cursor.to_string() },
            user: grants.user.as_ref().map(ToString::to_string),
            subscribe: texts(&grants.subscribe),
            publish: texts(&grants.publish),
            admin: grants.admin,
        };
        let mut bytes = Vec::new();
        // Strings, numbers and booleans always serialize, and a Vec takes every write.
        let _infallible = serde_json::to_writer(&mut bytes, &content);
        let tag = self.tag(&bytes);
        bytes.extend_from_slice(tag.as_ref());
        let expires_in_secs = VALID_FOR_MILLIS.min(content.ends_at.saturating_sub(now)) / 1000;
        IssuedTicket { ticket: URL_SAFE_NO_PAD.encode(bytes), expires_in_secs }
    }

    /// What a ticket opens, if it still opens anything; see the module's text.
    pub(crate) fn redeem(
        &self,
        ticket: &str,
        last_event_id: Option<&Cursor>,
        spent: &SpentTickets,
        now: Millis,
    ) -> Result<Grants, AuthError> {
        let content = self.read(ticket)?;
        if content.issued_at > now.saturating_add(CLOCK_SKEW_MAX_MILLIS) {
            return Err(invalid("the ticket was issued in the future; the clocks of the nodes differ"));
        }
        if now >= content.ends_at {
            return Err(AuthError::new(Code::TokenExpired, "the token behind the ticket has expired"));
        }
        let spendable_until = content.issued_at.saturating_add(VALID_FOR_MILLIS);
        let opens = now < spendable_until && spent.spend(content.id.to_be_bytes(), spendable_until, now)?;
        if !opens && !reopens(&content.cursor, last_event_id) {
            return Err(invalid(if now < spendable_until {
                "the ticket is spent, and came without a cursor from after it was issued"
            } else {
                "the ticket is older than 30 s, and came without a cursor from after it was issued"
            }));
        }
        content.into_grants()
    }

    fn read(&self, ticket: &str) -> Result<Content, AuthError> {
        if ticket.len() > TICKET_MAX_BYTES {
            return Err(invalid("the ticket is longer than any that was issued"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(ticket).map_err(|_| invalid("the ticket is not base64url"))?;
        let (content, tag) =
            bytes.split_last_chunk::<TAG_BYTES>().ok_or_else(|| invalid("the ticket is shorter than any"))?;
        let signed = [DOMAIN, content].concat();
        hmac::verify(&self.key, &signed, tag).map_err(|_| invalid("the ticket was not signed with this secret"))?;
        serde_json::from_slice(content).map_err(|_| invalid("the ticket has another version's content"))
    }

    fn tag(&self, content: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, &[DOMAIN, content].concat())
    }
}

impl Content {
    fn into_grants(self) -> Result<Grants, AuthError> {
        let unreadable = || invalid("the ticket has another version's content");
        let patterns = |texts: Vec<String>| -> Result<Vec<_>, AuthError> {
            texts.iter().map(|text| ChannelPattern::parse(text).map_err(|_| unreadable())).collect()
        };
        Ok(Grants {
            user: self.user.map(|user| UserId::parse(&user).map_err(|_| unreadable())).transpose()?,
            subscribe: patterns(self.subscribe)?,
            publish: patterns(self.publish)?,
            admin: self.admin,
            expires_at: Some(self.ends_at),
        })
    }
}

/// Whether the client's cursor is from after the ticket's.
fn reopens(issued_at: &str, last_event_id: Option<&Cursor>) -> bool {
    match (issued_at.parse::<Cursor>(), last_event_id) {
        (Ok(issued_at), Some(cursor)) => cursor.is_at_or_after(&issued_at),
        _ => false,
    }
}

impl SpentTickets {
    pub(crate) fn new() -> Self {
        Self::with_capacity(SPENT_MAX_TICKETS)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self { tickets: Mutex::new(BTreeSet::new()), capacity }
    }

    /// Spends a ticket. `false` if it was spent already. Nothing is forgotten early: a full memory
    /// refuses new tickets, as a forgotten one could be spent again.
    fn spend(&self, id: TicketId, until: Millis, now: Millis) -> Result<bool, AuthError> {
        let mut tickets = self.tickets.lock();
        while tickets.first().is_some_and(|(until, _)| *until <= now) {
            tickets.pop_first();
        }
        if tickets.contains(&(until, id)) {
            return Ok(false);
        }
        if tickets.len() >= self.capacity {
            return Err(AuthError::new(
                Code::TicketsExhausted,
                format!("{} tickets were spent within 30 s, more than are remembered", self.capacity),
            ));
        }
        Ok(tickets.insert((until, id)))
    }
}

fn invalid(cause: &str) -> AuthError {
    AuthError::new(Code::TicketInvalid, cause)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use tidings_protocol::{Epoch, EventId, Partition, PartitionCursor, Position};

    use super::*;

    const NOW: Millis = 1_764_000_000_000;
    const TOKEN_ENDS_AT: Millis = NOW + 3_600_000;

    struct Node {
        tickets: Tickets,
        spent: SpentTickets,
    }

    impl Node {
        fn new() -> Self {
            Self { tickets: Tickets::new(&[7; 32]), spent: SpentTickets::new() }
        }

        fn issue(&self) -> String {
            self.tickets.issue(&grants(), &cursor(1, 100), NOW).ticket
        }

        fn redeem(&self, ticket: &str, cursor: Option<&Cursor>, now: Millis) -> Result<Grants, Code> {
            self.tickets.redeem(ticket, cursor, &self.spent, now).map_err(|error| error.code())
        }
    }

    fn cursor(epoch: u32, position: u64) -> Cursor {
        let at = PartitionCursor { epoch: Epoch(epoch), position: Position(position) };
        EventId { partition: Partition::ZERO, at }.into()
    }

    fn grants() -> Grants {
        Grants {
            user: Some(UserId::parse("42").unwrap()),
            subscribe: vec![ChannelPattern::parse("chat:*").unwrap(), ChannelPattern::parse("news").unwrap()],
            publish: vec![ChannelPattern::parse("chat:lobby").unwrap()],
            admin: false,
            expires_at: Some(TOKEN_ENDS_AT),
        }
    }

    #[test]
    fn a_ticket_carries_the_grants_behind_it_and_fits_in_a_url() {
        let node = Node::new();
        let issued = node.tickets.issue(&grants(), &cursor(1, 100), NOW);
        assert_eq!(issued.expires_in_secs, 30);
        assert!(issued.ticket.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let redeemed = node.redeem(&issued.ticket, None, NOW + 29_999).unwrap();
        assert_eq!(format!("{redeemed:?}"), format!("{:?}", grants()));
        let admin = Grants { admin: true, user: None, ..grants() };
        let ticket = node.tickets.issue(&admin, &Cursor::default(), NOW).ticket;
        assert_eq!(format!("{:?}", node.redeem(&ticket, None, NOW).unwrap()), format!("{admin:?}"));
    }

    #[test]
    fn it_opens_one_stream_within_its_time() {
        let node = Node::new();
        let ticket = node.issue();
        assert!(node.redeem(&ticket, None, NOW).is_ok());
        assert_eq!(node.redeem(&ticket, None, NOW + 1).unwrap_err(), Code::TicketInvalid);
        let late = node.issue();
        assert_eq!(node.redeem(&late, None, NOW + 30_000).unwrap_err(), Code::TicketInvalid);
        // A cursor with the first use does not save the ticket from being spent.
        let ticket = node.issue();
        assert!(node.redeem(&ticket, Some(&cursor(1, 5)), NOW).is_ok());
        assert_eq!(node.redeem(&ticket, None, NOW).unwrap_err(), Code::TicketInvalid);
    }

    #[test]
    fn a_spent_or_old_one_reopens_with_a_cursor_from_after_it_until_the_token_ends() {
        let node = Node::new();
        let spent = node.issue();
        node.redeem(&spent, None, NOW).unwrap();
        let old = node.issue();
        for (ticket, now) in [(&spent, NOW + 1), (&spent, NOW + 40_000), (&old, NOW + 30_000)] {
            for good in [cursor(1, 100), cursor(1, 101)] {
                assert!(node.redeem(ticket, Some(&good), now).is_ok());
                assert!(node.redeem(ticket, Some(&good), now).is_ok(), "again and again");
            }
            for bad in [cursor(1, 99), cursor(2, 500), Cursor::default()] {
                assert_eq!(node.redeem(ticket, Some(&bad), now).unwrap_err(), Code::TicketInvalid);
            }
        }
        let good = cursor(1, 100);
        assert!(node.redeem(&spent, Some(&good), TOKEN_ENDS_AT - 1).is_ok());
        assert_eq!(node.redeem(&spent, Some(&good), TOKEN_ENDS_AT).unwrap_err(), Code::TokenExpired);
        // A node without a cursor issues tickets that no cursor is after.
        let unready = node.tickets.issue(&grants(), &Cursor::default(), NOW).ticket;
        assert_eq!(node.redeem(&unready, Some(&good), NOW + 30_000).unwrap_err(), Code::TicketInvalid);
    }

    #[test]
    fn a_token_that_ends_sooner_ends_the_ticket_and_one_without_end_gets_one() {
        let node = Node::new();
        let short = Grants { expires_at: Some(NOW + 10_000), ..grants() };
        let issued = node.tickets.issue(&short, &cursor(1, 100), NOW);
        assert_eq!(issued.expires_in_secs, 10);
        assert_eq!(node.redeem(&issued.ticket, None, NOW + 10_000).unwrap_err(), Code::TokenExpired);
        let endless = Grants { expires_at: None, ..grants() };
        let ticket = node.tickets.issue(&endless, &cursor(1, 100), NOW).ticket;
        assert_eq!(node.redeem(&ticket, None, NOW).unwrap().expires_at, Some(NOW + REOPENS_FOR_MAX_MILLIS));
    }

    #[test]
    fn a_ticket_with_any_character_changed_is_none() {
        let node = Node::new();
        let ticket = node.issue();
        for at in 0..ticket.len() {
            for flip in [1, 2, 64] {
                let mut bytes = ticket.clone().into_bytes();
                bytes[at] ^= flip;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                let refused = node.redeem(&changed, Some(&cursor(1, 500)), NOW).unwrap_err();
                assert_eq!(refused, Code::TicketInvalid, "{at} {flip}");
            }
        }
        for refused in [&ticket[..ticket.len() - 1], &format!("{ticket}A"), &format!("{ticket}=="), "", "A", "..", "é"]
        {
            assert_eq!(node.redeem(refused, None, NOW).unwrap_err(), Code::TicketInvalid, "{refused}");
        }
        let huge = "A".repeat(TICKET_MAX_BYTES + 1);
        assert_eq!(node.redeem(&huge, None, NOW).unwrap_err(), Code::TicketInvalid);
        assert!(node.redeem(&ticket, None, NOW).is_ok(), "none of it spent the real one");
    }

    #[test]
    fn every_node_with_the_secret_takes_it_and_no_other() {
        let ticket = Node::new().issue();
        let stranger = Tickets::new(&[8; 32]);
        let refused = stranger.redeem(&ticket, Some(&cursor(1, 100)), &SpentTickets::new(), NOW).unwrap_err();
        assert_eq!(refused.code(), Code::TicketInvalid);
        assert!(Node::new().redeem(&ticket, None, NOW).is_ok());
        // The same bytes signed for something else with the same secret.
        let bytes = URL_SAFE_NO_PAD.decode(&ticket).unwrap();
        let content = &bytes[..bytes.len() - TAG_BYTES];
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let other = URL_SAFE_NO_PAD.encode([content, hmac::sign(&key, content).as_ref()].concat());
        assert_eq!(Node::new().redeem(&other, None, NOW).unwrap_err(), Code::TicketInvalid);
    }

    #[test]
    fn a_clock_a_little_behind_is_forgiven() {
        let node = Node::new();
        assert!(node.redeem(&node.issue(), None, NOW - CLOCK_SKEW_MAX_MILLIS).is_ok());
        let future = node.redeem(&node.issue(), None, NOW - CLOCK_SKEW_MAX_MILLIS - 1);
        assert_eq!(future.unwrap_err(), Code::TicketInvalid);
    }

    #[test]
    fn of_many_at_once_one_spends_it() {
        let node = Node::new();
        for _ in 0..50 {
            let ticket = node.issue();
            let (barrier, opened) = (Barrier::new(4), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        barrier.wait();
                        let outcome = node.redeem(&ticket, None, NOW);
                        opened.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(opened.into_inner(), 1);
        }
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_only_what_is_old() {
        let node = Node { spent: SpentTickets::with_capacity(2), ..Node::new() };
        let (first, second, third) = (node.issue(), node.issue(), node.issue());
        node.redeem(&first, None, NOW).unwrap();
        node.redeem(&second, None, NOW).unwrap();
        assert_eq!(node.redeem(&third, None, NOW).unwrap_err(), Code::TicketsExhausted);
        assert_eq!(node.redeem(&first, None, NOW).unwrap_err(), Code::TicketInvalid);
        let later = node.tickets.issue(&grants(), &cursor(1, 100), NOW + 30_000).ticket;
        assert!(node.redeem(&later, None, NOW + 30_000).is_ok());
        assert_eq!(node.spent.tickets.lock().len(), 1);
    }
}
