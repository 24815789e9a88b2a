//! Several at once, and what is cut off in the middle.

use std::{sync::Arc, time::Duration};

use tidings_core::ports::{Store as _, store::*};
use tidings_store::SqlStore;

use super::fixture::{Fixture, NOW, New, total, user};

const AT_ONCE: usize = 8;

/// Runs as many tasks at once, each with its number.
async fn at_once<T, F>(work: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..AT_ONCE).map(|number| tokio::spawn(work(number))).collect();
    let mut done = Vec::with_capacity(tasks.len());
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}

pub(crate) async fn one_of_many_requests_with_a_key_is_taken(on: Fixture) {
    let on = Arc::new(on);
    for round in 0..5 {
        let accepted = at_once(|number| {
            let on = Arc::clone(&on);
            async move {
                let name = if number % 2 == 0 { "a" } else { "b" };
                on.store.accept(New::to_user(name, "x").key(&format!("key-{round}"), 1).0).await.unwrap()
            }
        })
        .await;
        assert!(accepted.iter().all(|other| other.id == accepted[0].id), "{accepted:?}");
        assert_eq!(accepted.iter().filter(|accepted| !accepted.is_duplicate).count(), 1);
    }
    assert_eq!(on.counts("a").await.0 + on.counts("b").await.0, 5);
    on.verify().await;
}

pub(crate) async fn counts_are_exact_whoever_comes_at_once(on: Fixture) {
    let on = Arc::new(on);
    for name in ["a", "b", "c"] {
        on.follow(name, "r:1").await;
    }
    at_once(|number| {
        let on = Arc::clone(&on);
        async move {
            for round in 0..12 {
                let names: &[&str] = if number % 2 == 0 { &["a", "b", "c"] } else { &["c", "b", "a"] };
                match (number + round) % 6 {
                    0 => drop(on.accept(New::to_users(names, "x").collapse("same")).await),
                    1 => drop(on.accept(New::to_everyone("x").collapse("same")).await),
                    2 => {
                        on.accept(New::to_followers("r:1", "x").collapse("same")).await;
                        on.store.fan_out(2, NOW).await.unwrap();
                    }
                    3 => drop(on.accept(New::to_users(names, "x")).await),
                    4 => {
                        let mark = [Mark::Read, Mark::Archive, Mark::Seen, Mark::Unread][round % 4];
                        on.store.mark(&user(names[0]), &Which::All, mark, NOW).await.unwrap();
                    }
                    _ => {
                        on.tell_all((number * 1_000 + round * 50 + 1) as u64, Some(NOW)).await;
                        let due = on.store.due(50, NOW).await.unwrap();
                        let settled: Vec<_> = due
                            .into_iter()
                            .map(|due| Settled { id: due.id, user: due.user, how: Settlement::Push })
                            .collect();
                        on.store.settle(&settled, NOW).await.unwrap();
                    }
                }
            }
        }
    })
    .await;
    on.fan_out_all().await;
    for name in ["a", "b", "c"] {
        let counts = on.store.counts(&user(name), NOW).await.unwrap();
        let page = on.page(name, NOW).await;
        assert_eq!(super::fixture::unread_of(&page) as u64, total(&counts).0);
        // However they came, one that is unread stands for all of its value; and what was marked unread
        // while another stood for them.
        let ids: Vec<_> = page.iter().map(|entry| entry.notification.id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] > pair[1]));
    }
    on.verify().await;
}

pub(crate) async fn what_is_for_everyone_comes_once_whoever_looks_at_once(on: Fixture) {
    let on = Arc::new(on);
    let pages = at_once(|number| {
        let on = Arc::clone(&on);
        async move {
            let mut seen = Vec::new();
            for _ in 0..6 {
                if number % 2 == 0 {
                    on.accept(New::to_everyone("x")).await;
                }
                seen.push(on.counts("a").await.0);
            }
            seen
        }
    })
    .await;
    // What a user has once seen stays.
    assert!(pages.iter().all(|seen| seen.is_sorted()), "{pages:?}");
    assert_eq!(on.counts("a").await.0, 24);
    on.verify().await;
}

/// A step that is dropped in the middle, wherever that is, has happened as a whole or not at all.
pub(crate) async fn writing_out_survives_being_cut_off(on: Fixture) {
    const FOLLOWERS: usize = 60;
    for number in 0..FOLLOWERS {
        on.follow(&format!("u{number:03}"), "r:1").await;
    }
    let id = on.accept(New::to_followers("r:1", "x")).await;
    let mut cuts: u64 = 0;
    while on.store.report(id, NOW).await.unwrap().unwrap().is_fanning_out {
        // Each time a little later.
        let limit = Duration::from_micros(50 * cuts);
        let _cut_or_done = tokio::time::timeout(limit, on.store.fan_out(7, NOW)).await;
        cuts += 1;
        if cuts.is_multiple_of(20) {
            let other = SqlStore::open(&on.config, NOW).await.unwrap();
            let _cut_or_done = tokio::time::timeout(limit, other.fan_out(7, NOW)).await;
            other.close().await;
        }
        assert!(cuts < 20_000);
    }
    for number in 0..FOLLOWERS {
        assert_eq!(on.counts(&format!("u{number:03}")).await, (1, 1));
    }
    assert_eq!(on.tell_all(1, None).await.len(), FOLLOWERS);
    on.verify().await;
}

pub(crate) async fn each_push_is_taken_by_one_worker(on: Fixture) {
    let on = Arc::new(on);
    for number in 0..20 {
        let target = PushTarget::FcmToken(format!("t{number}"));
        let device = Device { id: format!("d{number}"), target, updated_at: NOW, quarantine: None };
        on.store.put_device(&user("a"), device, 100).await.unwrap();
    }
    let id = on.accept(New::to_user("a", "x")).await;
    on.tell_all(1, Some(NOW)).await;
    on.store.settle(&[Settled { id, user: user("a"), how: Settlement::Push }], NOW).await.unwrap();
    let taken = at_once(|_| {
        let on = Arc::clone(&on);
        async move {
            let mut taken = Vec::new();
            for _ in 0..4 {
                taken.extend(on.store.take_pushes(3, 60_000, NOW).await.unwrap().into_iter().map(|job| job.id));
            }
            taken
        }
    })
    .await;
    let mut taken: Vec<i64> = taken.into_iter().flatten().collect();
    taken.sort_unstable();
    let count = taken.len();
    taken.dedup();
    assert_eq!((taken.len(), count), (20, 20));
}
