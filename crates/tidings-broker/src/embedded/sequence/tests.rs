//! The sequence without its thread: the test is the writer, and decides when a batch is on disk.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use tidings_core::{
    Namespace, Namespaces,
    ports::{AppendError, Appended, Clock, FeedItem, HistoryEntry, HistoryFrom, HistoryRequest},
};
use tidings_hub::{Tick, Time};
use tidings_protocol::{Channel, Data, Epoch, Event, EventType, Millis, Partition, Position};

use super::{Answer, Figures, Sequence, Submitted, Wait};
use crate::{
    embedded::unavailable,
    log::{Floors, KeyLimits, LogLimits, PartitionLog},
};

struct StandingClock;

impl Time for StandingClock {
    fn now(&self) -> Millis {
        1000
    }

    fn tick(&self) -> Tick {
        Tick::ZERO
    }
}

impl Clock for StandingClock {
    fn sleep_until(&self, _tick: Tick) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

fn sequence(reserved_through: u64) -> Sequence {
    let volatile = Namespace { durable: false, ..Namespace::default() };
    let namespaces = Namespaces::new([("volatile".to_owned(), volatile)].into());
    let limits =
        LogLimits { history_max_bytes: 1 << 20, channels_max: 100, keys: KeyLimits { window_ms: 1000, keys_max: 100 } };
    let floors = Floors::at_start(&[], &namespaces, Position(1));
    let log = PartitionLog::new(Partition::ZERO, Epoch(1), Position(1), floors, limits, 0);
    Sequence::new(log, Position(reserved_through), 1 << 20, namespaces.shared(), Arc::new(StandingClock))
}

fn event(name: &str, key: Option<&str>) -> Event {
    Event {
        channel: Channel::parse(name).unwrap(),
        event_type: EventType::default(),
        data: Data::trusted("1"),
        sent_at: 0,
        key: key.map(Into::into),
        conflate: None,
        expires_in_secs: None,
        is_ephemeral: false,
    }
}

/// Submits one event.
fn submit(sequence: &Sequence, name: &str, key: Option<&str>) -> (Answer, Vec<Wait>) {
    let Submitted { mut answers, batches, reservation } = sequence.submit(&mut VecDeque::from([event(name, key)]));
    assert!(reservation.is_none());
    (answers.remove(0), batches.into_iter().map(|(_, wait)| wait).collect())
}

/// What the feed has, as positions.
fn fed(sequence: &Sequence) -> Vec<u64> {
    let position = |item| match item {
        FeedItem::Event(logged) => logged.position.0,
        other => panic!("{other:?}"),
    };
    sequence.feed().take_all().into_iter().map(position).collect()
}

fn history(sequence: &Sequence, names: &[&str]) -> Vec<(u64, u64)> {
    let page = sequence.history(&HistoryRequest {
        partition: Partition::ZERO,
        channels: names.iter().map(|name| Channel::parse(name).unwrap()).collect(),
        from: HistoryFrom::Next { read_to: Position::ZERO, after: vec![Position::ZERO; names.len()] },
        through: Position(u64::MAX),
        limit: 100,
    });
    let place = |entry| match entry {
        HistoryEntry::Event(logged) => (logged.position.0, logged.previous.0),
        gap => panic!("{gap:?}"),
    };
    page.entries.into_iter().map(place).collect()
}

fn take(sequence: &Sequence) -> super::Batch {
    sequence.take_batch(Duration::ZERO, &mut VecDeque::new()).unwrap()
}

fn written(sequence: &Sequence, batch: super::Batch, is_ok: bool) {
    let reserved = batch.reserve_through;
    drop(batch);
    let outcome = if is_ok { Ok(()) } else { Err(unavailable("the disk is gone")) };
    sequence.on_written(reserved, outcome, Figures::default());
}

#[test]
fn a_volatile_event_is_released_at_once_unless_a_durable_one_waits_before_it() {
    let sequence = sequence(u64::MAX >> 1);
    submit(&sequence, "volatile:a", None);
    assert_eq!(fed(&sequence), [1]);
    let (answer, _) = submit(&sequence, "durable", None);
    assert!(matches!(answer, Answer::Waiting { .. }));
    let (answer, _) = submit(&sequence, "volatile:a", None);
    assert!(matches!(answer, Answer::Ready(Ok(_))), "a volatile event is answered at once all the same");
    let batch = take(&sequence);
    submit(&sequence, "durable", None);
    submit(&sequence, "volatile:a", None);
    assert_eq!((fed(&sequence), history(&sequence, &["durable", "volatile:a"])), (vec![], vec![(1, 0)]));

    written(&sequence, batch, true);
    assert_eq!(fed(&sequence), [2, 3], "the second durable event and what is behind it wait for their batch");
    assert_eq!(history(&sequence, &["durable", "volatile:a"]), [(1, 0), (2, 0), (3, 1)]);
    let batch = take(&sequence);
    assert_eq!(batch.events[0].0.previous, Position(2));
    written(&sequence, batch, true);
    assert_eq!(fed(&sequence), [4, 5]);
    submit(&sequence, "volatile:a", None);
    assert_eq!(fed(&sequence), [6]);
}

#[test]
fn a_failed_batch_is_skipped_and_leaves_no_trace_in_the_chain() {
    let sequence = sequence(u64::MAX >> 1);
    for name in ["durable", "volatile:a", "durable"] {
        submit(&sequence, name, None);
    }
    let batch = take(&sequence);
    written(&sequence, batch, false);
    assert_eq!(fed(&sequence), [2]);
    assert!(sequence.status().trouble.is_some());
    submit(&sequence, "durable", None);
    let batch = take(&sequence);
    assert_eq!((batch.events[0].0.position, batch.events[0].0.previous), (Position(4), Position::ZERO));
    written(&sequence, batch, true);
    assert_eq!((fed(&sequence), history(&sequence, &["durable"])), (vec![4], vec![(4, 0)]));
    assert_eq!(sequence.status().trouble, None);
}

#[test]
fn a_repeat_waits_for_the_first_and_shares_its_fate() {
    let sequence = sequence(u64::MAX >> 1);
    let appended = |answer| match answer {
        Answer::Waiting { appended: Appended { id, is_duplicate }, .. } => (id.at.position.0, is_duplicate),
        Answer::Ready(answer) => panic!("not waiting: {answer:?}"),
    };
    let (first, mut first_waits) = submit(&sequence, "durable", Some("k"));
    let (same_batch, mut same_waits) = submit(&sequence, "durable", Some("k"));
    let batch = take(&sequence);
    let (at_the_disk, mut late_waits) = submit(&sequence, "durable", Some("k"));
    assert_eq!([first, same_batch, at_the_disk].map(appended), [(1, false), (1, true), (1, true)]);
    for waits in [&mut first_waits, &mut same_waits, &mut late_waits] {
        assert!(waits[0].try_recv().is_err(), "nobody is answered before the batch is on disk");
    }
    written(&sequence, batch, false);
    for waits in [&mut first_waits, &mut same_waits, &mut late_waits] {
        assert!(waits[0].try_recv().unwrap().is_err());
    }
    let (retried, _) = submit(&sequence, "durable", Some("k"));
    assert_eq!(appended(retried), (2, false), "what failed was not appended");
    let batch = take(&sequence);
    written(&sequence, batch, true);
    let (repeated, waits) = submit(&sequence, "durable", Some("k"));
    assert!(matches!(repeated, Answer::Ready(Ok(Appended { is_duplicate: true, .. }))) && waits.is_empty());
    let conflict = sequence.submit(&mut VecDeque::from([Event {
        sent_at: 9,
        data: Data::trusted("2"),
        ..event("durable", Some("k"))
    }]));
    assert!(matches!(conflict.answers[0], Answer::Ready(Err(AppendError::KeyConflict))));
}

#[test]
fn no_position_is_used_that_is_not_reserved() {
    let sequence = sequence(2);
    let mut events = VecDeque::from(vec![event("volatile:a", None); 5]);
    let submitted = sequence.submit(&mut events);
    assert_eq!((submitted.answers.len(), events.len()), (2, 3));
    let mut reservation = submitted.reservation.unwrap();
    let batch = take(&sequence);
    assert!(batch.reserve_through > Some(Position(1 << 20)));
    written(&sequence, batch, false);
    assert!(reservation.try_recv().unwrap().is_err());

    let mut reservation = sequence.submit(&mut events).reservation.unwrap();
    let batch = take(&sequence);
    written(&sequence, batch, true);
    assert_eq!(reservation.try_recv(), Ok(Ok(())));
    assert_eq!(sequence.submit(&mut events).answers.len(), 3);
    assert_eq!(fed(&sequence), [1, 2, 3, 4, 5]);
}

#[test]
fn a_stopping_sequence_gives_out_what_it_has_taken_and_then_ends() {
    let sequence = sequence(u64::MAX >> 1);
    let (_, mut waits) = submit(&sequence, "durable", None);
    sequence.stop();
    assert!(matches!(submit(&sequence, "durable", None).0, Answer::Ready(Err(AppendError::Unavailable(_)))));
    let batch = take(&sequence);
    assert_eq!(batch.events.len(), 1);
    written(&sequence, batch, true);
    assert_eq!(waits[0].try_recv(), Ok(Ok(())));
    assert!(sequence.take_batch(Duration::ZERO, &mut VecDeque::new()).is_none());
}

#[test]
fn nobody_waits_for_a_writer_that_is_gone() {
    let sequence = sequence(u64::MAX >> 1);
    let (_, mut waits) = submit(&sequence, "durable", None);
    sequence.on_writer_gone();
    assert!(waits[0].try_recv().is_err_and(|gone| gone == tokio::sync::oneshot::error::TryRecvError::Closed));
    assert!(matches!(submit(&sequence, "volatile:a", None).0, Answer::Ready(Err(_))));
}
