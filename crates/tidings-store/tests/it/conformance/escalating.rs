//! Telling streams, what they missed, and pushing to devices what did not arrive.

use tidings_core::{
    notifications::{Kind, KindPreference, NotificationId, Preferences, PushMode},
    ports::{Store as _, store::*},
};
use tidings_protocol::{Epoch, Partition, PartitionCursor, Position};

use super::fixture::{Fixture, LONG, NOW, New, place, user};

/// How long a worker keeps a push.
const LEASE_MS: u64 = 30_000;

fn device(name: &str, token: &str) -> Device {
    Device { id: name.into(), target: PushTarget::FcmToken(token.into()), updated_at: NOW, quarantine: None }
}

impl Fixture {
    async fn put(&self, name: &str, device: Device) {
        self.store.put_device(&user(name), device, 10).await.unwrap();
    }

    async fn due_users(&self, now: u64) -> Vec<String> {
        self.store.due(100, now).await.unwrap().iter().map(|due| due.user.to_string()).collect()
    }

    async fn settle(&self, id: NotificationId, name: &str, how: Settlement) -> Vec<Outcome> {
        self.store.settle(&[Settled { id, user: user(name), how }], NOW).await.unwrap()
    }

    async fn take(&self, now: u64) -> Vec<PushJob> {
        self.store.take_pushes(10, LEASE_MS, now).await.unwrap()
    }

    async fn pushed(&self, id: i64, outcome: PushOutcome, now: u64) {
        self.store.on_pushed(&[PushResult { id, outcome }], now).await.unwrap();
    }

    /// Recipients, delivered live, pushed, failed, read, pending.
    async fn report(&self, id: NotificationId) -> [u64; 6] {
        let report = self.store.report(id, NOW).await.unwrap().unwrap();
        [report.recipients, report.delivered_live, report.pushed, report.failed, report.read, report.pending]
    }

    /// A notification that has been told and whose confirmation is due.
    async fn due_for(&self, name: &str, push: PushMode) -> NotificationId {
        let id = self.accept(New::to_user(name, "due").push(push)).await;
        self.tell_all(id.0 as u64, Some(NOW)).await;
        id
    }
}

pub(crate) async fn what_was_told_is_due_until_it_is_settled(on: Fixture) {
    let id = on.accept(New::to_users(&["a", "b", "c", "d"], "x")).await;
    assert_eq!(on.report(id).await, [4, 0, 0, 0, 0, 4]);
    assert_eq!(on.store.next_due().await.unwrap(), None);
    on.tell_all(1, Some(NOW + 5)).await;
    assert_eq!(on.store.next_due().await.unwrap(), Some(NOW + 5));
    assert!(on.due_users(NOW + 4).await.is_empty());
    assert_eq!(on.due_users(NOW + 5).await, ["a", "b", "c", "d"]);
    assert_eq!(on.store.due(2, NOW + 5).await.unwrap()[1].at, Some(place(2)));
    // One reads it first, one's client has it, one's stream has it, and one has no device.
    on.store.mark(&user("a"), &Which::All, Mark::Read, NOW).await.unwrap();
    assert_eq!(on.store.acknowledge(&user("b"), &Acknowledged::One(id), NOW).await.unwrap(), 1);
    assert_eq!(on.store.acknowledge(&user("b"), &Acknowledged::One(id), NOW).await.unwrap(), 0);
    assert_eq!(on.due_users(NOW + 5).await, ["c", "d"]);
    assert_eq!(on.settle(id, "c", Settlement::Confirmed).await, [Outcome::Confirmed]);
    assert_eq!(on.settle(id, "c", Settlement::Push).await, []);
    assert_eq!(on.settle(id, "d", Settlement::Push).await, [Outcome::NoDevice]);
    assert_eq!(on.store.next_due().await.unwrap(), None);
    assert_eq!(on.report(id).await, [4, 2, 0, 0, 1, 0]);
    let never = on.due_for("d", PushMode::Never).await;
    assert_eq!(on.settle(never, "d", Settlement::Push).await, [Outcome::Waiting]);
    // Where nothing depends on it, nothing waits.
    on.accept(New::to_user("e", "x")).await;
    on.tell_all(100, None).await;
    assert_eq!(on.store.next_due().await.unwrap(), None);
    on.verify().await;
}

pub(crate) async fn a_cursor_acknowledges_what_lies_before_it(on: Fixture) {
    let first = on.accept(New::to_user("a", "1")).await;
    let everyone = on.accept(New::to_everyone("2")).await;
    let last = on.accept(New::to_user("a", "3")).await;
    on.put("a", device("phone", "t")).await;
    on.tell_all(10, Some(NOW)).await;
    on.fan_out_all().await;
    assert_eq!(on.due_users(NOW).await.len(), 3);
    let through = |epoch, position| Acknowledged::Through {
        partition: Partition::ZERO,
        at: PartitionCursor { epoch: Epoch(epoch), position: Position(position) },
    };
    let acknowledge = async |what| on.store.acknowledge(&user("a"), &what, NOW).await.unwrap();
    assert_eq!(acknowledge(through(7, 9)).await, 0);
    assert_eq!(acknowledge(through(8, 99)).await, 0);
    assert_eq!(acknowledge(through(7, 11)).await, 2);
    assert_eq!(acknowledge(through(7, 11)).await, 0);
    assert_eq!(on.store.due(9, NOW).await.unwrap().iter().map(|due| due.id).collect::<Vec<_>>(), [last]);
    assert_eq!(on.report(first).await, [1, 1, 0, 0, 0, 0]);
    assert_eq!(on.report(everyone).await, [1, 1, 0, 0, 0, 0]);
    // Late, but before it was sent.
    assert_eq!(on.settle(last, "a", Settlement::Push).await, [Outcome::Pushed]);
    assert_eq!(acknowledge(through(7, 12)).await, 0);
    assert_eq!(on.store.next_push().await.unwrap(), None);
    assert_eq!(on.report(last).await, [1, 1, 0, 0, 0, 0]);
    // What goes to devices in any case still does.
    let always = on.due_for("a", PushMode::Always).await;
    assert_eq!(on.store.acknowledge(&user("a"), &Acknowledged::One(always), NOW).await.unwrap(), 1);
    assert_eq!(on.settle(always, "a", Settlement::ConfirmedAndPush).await, [Outcome::Pushed]);
    assert_eq!(on.take(NOW).await.len(), 1);
    on.verify().await;
}

pub(crate) async fn what_is_for_everyone_is_pushed_to_who_has_a_device(on: Fixture) {
    for name in ["a", "b", "c", "muted"] {
        on.put(name, device("phone", name)).await;
    }
    on.put("b", device("laptop", "b2")).await;
    let preference = KindPreference { push: false, ..KindPreference::default() };
    let preferences = Preferences::from([(Kind::default_kind(), preference)]);
    on.store.set_preferences(&user("muted"), &preferences).await.unwrap();
    assert_eq!(on.counts("no-device").await, (0, 0));
    let id = on.accept(New::to_everyone("x")).await;
    assert!(on.store.report(id, NOW).await.unwrap().unwrap().is_fanning_out);
    on.store.mark(&user("c"), &Which::All, Mark::Read, NOW).await.unwrap();
    on.tell_all(1, Some(NOW + 5)).await;
    on.tell_all(2, Some(NOW + 6)).await;
    let mut wrote = Vec::new();
    while let FanOut::Wrote { rows, is_done, .. } = on.store.fan_out(2, NOW).await.unwrap() {
        wrote.push((rows, is_done));
    }
    assert_eq!(wrote, [(2, false), (0, false), (0, true)]);
    assert_eq!(on.due_users(NOW + 5).await, ["a", "b"]);
    assert_eq!(on.store.due(9, NOW + 5).await.unwrap()[0].at, Some(place(1)));
    assert_eq!(on.settle(id, "b", Settlement::Push).await, [Outcome::Pushed]);
    let mut devices: Vec<_> = on.take(NOW).await.into_iter().map(|job| job.device.id).collect();
    devices.sort_unstable();
    assert_eq!(devices, ["laptop", "phone"]);
    assert_eq!(on.report(id).await, [4, 0, 0, 0, 1, 2]);
    on.verify().await;
}

pub(crate) async fn a_push_is_leased_and_tried_again(on: Fixture) {
    on.put("a", device("phone", "t")).await;
    let id = on.due_for("a", PushMode::Offline).await;
    on.accept(New::to_user("a", "another")).await;
    assert_eq!(on.settle(id, "a", Settlement::Push).await, [Outcome::Pushed]);
    assert_eq!(on.store.next_push().await.unwrap(), Some(NOW));
    let jobs = on.take(NOW).await;
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].notification.id, jobs[0].unread, jobs[0].attempts), (id, 2, 0));
    assert_eq!(jobs[0].device, device("phone", "t"));
    // Nobody else has it before the lease ends; then somebody does.
    assert!(on.take(NOW + LEASE_MS - 1).await.is_empty());
    let again = on.take(NOW + LEASE_MS).await;
    assert_eq!((again[0].id, again[0].attempts), (jobs[0].id, 1));
    let at = NOW + LEASE_MS + 500;
    on.pushed(jobs[0].id, PushOutcome::Retry { at, cause: "503".into() }, NOW).await;
    assert!(on.take(at - 1).await.is_empty());
    assert_eq!(on.store.next_push().await.unwrap(), Some(at));
    let third = on.take(at).await;
    assert_eq!(third[0].attempts, 2);
    assert_eq!(on.report(id).await, [1, 0, 0, 0, 0, 1]);
    on.pushed(third[0].id, PushOutcome::Sent, at).await;
    assert_eq!(on.report(id).await, [1, 0, 1, 0, 0, 0]);
    assert_eq!(on.store.next_push().await.unwrap(), None);
    on.verify().await;
}

pub(crate) async fn a_push_that_is_given_up_can_be_tried_again(on: Fixture) {
    on.put("a", device("phone", "t1")).await;
    on.put("a", device("laptop", "t2")).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = on.due_for("a", PushMode::Offline).await;
        on.settle(id, "a", Settlement::Push).await;
        ids.push(id);
    }
    let jobs = on.take(NOW).await;
    assert_eq!(jobs.len(), 4);
    for job in &jobs {
        on.pushed(job.id, PushOutcome::Dead { cause: "é".repeat(400) }, NOW + 1).await;
    }
    assert_eq!(on.report(ids[0]).await, [1, 0, 0, 1, 0, 0]);
    let dead = on.store.dead_pushes(None, 3).await.unwrap();
    assert!(dead.iter().map(|dead| dead.id).rev().is_sorted() && dead.len() == 3);
    assert_eq!((dead[0].died_at, dead[0].attempts, dead[0].cause.chars().count()), (NOW + 1, 1, 250));
    let rest = on.store.dead_pushes(Some(dead[2].id), 3).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert!(on.store.retry_push(rest[0].id, NOW).await.unwrap());
    assert!(!on.store.retry_push(rest[0].id, NOW).await.unwrap());
    assert!(!on.store.retry_push(i64::MAX, NOW).await.unwrap());
    let again = on.take(NOW).await;
    assert_eq!((again[0].id, again[0].attempts), (rest[0].id, 0));
    on.pushed(again[0].id, PushOutcome::Sent, NOW).await;
    assert_eq!(on.report(rest[0].notification).await, [1, 0, 1, 0, 0, 0]);
    // What has been replaced cannot be.
    let old = on.accept(New::to_user("a", "old").collapse("same")).await;
    on.tell_all(100, Some(NOW)).await;
    on.settle(old, "a", Settlement::Push).await;
    let taken = on.take(NOW).await;
    on.pushed(taken[0].id, PushOutcome::Dead { cause: "410".into() }, NOW).await;
    on.accept(New::to_user("a", "new").collapse("same")).await;
    assert!(!on.store.retry_push(taken[0].id, NOW).await.unwrap());
    on.verify().await;
}

pub(crate) async fn reading_calls_pushes_off(on: Fixture) {
    on.put("a", device("phone", "t1")).await;
    on.put("a", device("laptop", "t2")).await;
    let id = on.due_for("a", PushMode::Always).await;
    on.settle(id, "a", Settlement::Push).await;
    let taken = on.store.take_pushes(1, LEASE_MS, NOW).await.unwrap();
    on.store.mark(&user("a"), &Which::Ids(vec![id]), Mark::Read, NOW).await.unwrap();
    // What is being sent cannot be called back, but it is not tried again.
    assert_eq!(on.store.next_push().await.unwrap(), None);
    on.pushed(taken[0].id, PushOutcome::Retry { at: NOW, cause: "503".into() }, NOW).await;
    assert!(on.take(NOW + LONG / 2).await.is_empty());
    assert_eq!(on.report(id).await[5], 0);
    // One that was sent all the same is counted.
    let id = on.due_for("a", PushMode::Offline).await;
    on.settle(id, "a", Settlement::Push).await;
    let taken = on.take(NOW).await;
    on.store.mark(&user("a"), &Which::All, Mark::Archive, NOW).await.unwrap();
    on.pushed(taken[0].id, PushOutcome::Sent, NOW).await;
    assert_eq!(on.report(id).await[2], 1);
    on.verify().await;
}

pub(crate) async fn a_device_that_is_gone_is_forgotten_if_it_is_still_the_same(on: Fixture) {
    let gone = || PushOutcome::DeviceGone { cause: "UNREGISTERED".into() };
    on.put("a", device("phone", "old")).await;
    let id = on.due_for("a", PushMode::Offline).await;
    on.settle(id, "a", Settlement::Push).await;
    let taken = on.take(NOW).await;
    on.put("a", device("phone", "new")).await;
    on.pushed(taken[0].id, gone(), NOW).await;
    assert_eq!(on.store.devices(&user("a")).await.unwrap().len(), 1);
    let id = on.due_for("a", PushMode::Offline).await;
    on.settle(id, "a", Settlement::Push).await;
    on.pushed(on.take(NOW).await[0].id, gone(), NOW).await;
    assert!(on.store.devices(&user("a")).await.unwrap().is_empty());
    assert_eq!(on.report(id).await, [1, 0, 0, 1, 0, 0]);
    // Another sender's device is kept, and not pushed to until it is put again.
    on.put("a", device("phone", "theirs")).await;
    let id = on.due_for("a", PushMode::Offline).await;
    on.settle(id, "a", Settlement::Push).await;
    on.pushed(on.take(NOW).await[0].id, PushOutcome::Quarantine { cause: "MISMATCH".into() }, NOW).await;
    assert_eq!(on.store.devices(&user("a")).await.unwrap()[0].quarantine.as_deref(), Some("MISMATCH"));
    assert_eq!(on.store.dead_pushes(None, 9).await.unwrap().len(), 1);
    let id = on.due_for("a", PushMode::Offline).await;
    assert_eq!(on.settle(id, "a", Settlement::Push).await, [Outcome::NoDevice]);
    on.put("a", device("phone", "theirs")).await;
    let id = on.due_for("a", PushMode::Offline).await;
    assert_eq!(on.settle(id, "a", Settlement::Push).await, [Outcome::Pushed]);
    on.verify().await;
}

pub(crate) async fn what_has_expired_is_not_pushed(on: Fixture) {
    on.put("a", device("phone", "t")).await;
    let soon = New::to_user("a", "x").expires_at(NOW + 10);
    let late = on.accept(soon.clone()).await;
    on.tell_all(1, Some(NOW)).await;
    let settled = [Settled { id: late, user: user("a"), how: Settlement::Push }];
    assert_eq!(on.store.settle(&settled, NOW + 10).await.unwrap(), [Outcome::Waiting]);
    let id = on.accept(soon).await;
    on.tell_all(2, Some(NOW)).await;
    on.settle(id, "a", Settlement::Push).await;
    assert!(on.take(NOW + 10).await.is_empty());
    assert_eq!(on.store.next_push().await.unwrap(), None);
    assert_eq!(on.store.dead_pushes(None, 9).await.unwrap().len(), 1);
    assert!(on.store.report(id, NOW + 10).await.unwrap().is_none());
    while on.store.sweep(1, NOW + 10).await.unwrap() > 0 {}
    assert!(on.store.dead_pushes(None, 9).await.unwrap().is_empty());
    on.verify().await;
}
