//! Taking notifications, and getting them into inboxes.

use std::collections::BTreeMap;

use tidings_core::{
    notifications::State,
    ports::{
        Store as _,
        store::{AcceptError, FanOut},
    },
};

use super::fixture::{Fixture, LONG, NOW, New, unread_of, user};

pub(crate) async fn a_named_user_has_it_at_once(on: Fixture) {
    let mut new = New::to_users(&["42", "7", "A", "a"], "Élan ☕ 'quoted' \"too\"").kind("festival.added");
    new.0.content.body = Some("line\nline".into());
    new.0.content.url = Some("https://example.org/?a=b".into());
    new.0.content.data = Some(tidings_protocol::Data::parse(r#"{"a":[1,2.50,"\u0000"]}"#).unwrap());
    let id = on.accept(new.clone()).await;
    for name in ["42", "7", "A", "a"] {
        let page = on.page(name, NOW).await;
        assert_eq!(page.len(), 1, "{name}");
        assert_eq!(page[0].notification.id, id);
        assert_eq!(page[0].notification.content, new.0.content);
        assert_eq!((page[0].state, page[0].is_seen, page[0].told_at), (State::Unread, false, None));
        let counts = on.store.counts(&user(name), NOW).await.unwrap();
        assert_eq!(counts.kinds.keys().map(|kind| kind.as_str()).collect::<Vec<_>>(), ["festival.added"]);
        assert_eq!(on.counts(name).await, (1, 1));
    }
    assert_eq!(on.counts("b").await, (0, 0));
    assert!(on.accept(New::to_user("42", "later")).await > id);
    assert_eq!(on.titles("42").await, ["later", "Élan ☕ 'quoted' \"too\""]);
    on.verify().await;
}

pub(crate) async fn a_key_makes_a_request_harmless(on: Fixture) {
    let new = || New::to_user("42", "once").key("k ", 1);
    let first = on.store.accept(new().0).await.unwrap();
    assert!(!first.is_duplicate);
    let again = on.store.accept(new().0).await.unwrap();
    assert!(again.is_duplicate && again.id == first.id);
    let other = on.store.accept(New::to_user("42", "other").key("k ", 2).0).await;
    assert!(matches!(other, Err(AcceptError::KeyConflict)), "{other:?}");
    // Another key, however similar.
    for key in ["k", "K ", "k  "] {
        assert!(!on.store.accept(New::to_user("7", "similar").key(key, 1).0).await.unwrap().is_duplicate, "{key:?}");
    }
    assert_eq!(on.titles("42").await, ["once"]);
    // It lives as long as what it stands for.
    let short = New::to_user("42", "short").key("short", 1).expires_at(NOW + 10);
    let first = on.store.accept(short.clone().0).await.unwrap();
    let later = on.store.accept(short.created_at(NOW + 10).expires_at(NOW + LONG).0).await.unwrap();
    assert!(!later.is_duplicate && later.id > first.id);
}

pub(crate) async fn an_unread_one_is_replaced_by_the_next_of_its_collapse(on: Fixture) {
    on.accept(New::to_user("42", "1 new").collapse("chat").kind("a")).await;
    on.accept(New::to_user("42", "other").collapse("Chat")).await;
    on.accept(New::to_user("7", "another's").collapse("chat")).await;
    let second = on.accept(New::to_user("42", "2 new").collapse("chat").kind("b")).await;
    assert_eq!(on.titles("42").await, ["2 new", "other"]);
    assert_eq!(on.titles("7").await, ["another's"]);
    assert_eq!(on.counts("42").await, (2, 2));
    // What was read is not replaced.
    let which = tidings_core::ports::store::Which::Ids(vec![second]);
    on.store.mark(&user("42"), &which, tidings_core::ports::store::Mark::Read, NOW).await.unwrap();
    on.accept(New::to_user("42", "1 new again").collapse("chat")).await;
    assert_eq!(on.titles("42").await, ["1 new again", "2 new", "other"]);
    assert_eq!(on.counts("42").await, (2, 2));
    // What was replaced is not told.
    let told: Vec<_> = on.tell_all(1, None).await.iter().map(|told| told.notification.content.title.clone()).collect();
    assert_eq!(told, ["other", "another's", "1 new again"]);
    on.verify().await;
}

pub(crate) async fn followers_get_it_in_batches_and_each_once(on: Fixture) {
    for number in 0..25 {
        on.follow(&format!("u{number:02}"), "region:jeju").await;
    }
    on.follow("elsewhere", "region:Jeju").await;
    let first = on.accept(New::to_followers("region:jeju", "first")).await;
    let second = on.accept(New::to_followers("region:jeju", "second")).await;
    let mut written: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    loop {
        match on.store.fan_out(10, NOW).await.unwrap() {
            FanOut::Idle => break,
            FanOut::Wrote { id, rows, is_done } => {
                let batches = written.entry(id.0).or_default();
                batches.push(rows);
                assert_eq!(is_done, batches.len() == 3);
            }
        }
    }
    assert_eq!(written, BTreeMap::from([(first.0, vec![10, 10, 5]), (second.0, vec![10, 10, 5])]));
    for number in 0..25 {
        assert_eq!(on.titles(&format!("u{number:02}")).await, ["second", "first"]);
    }
    assert_eq!(on.counts("elsewhere").await, (0, 0));
    let told = on.tell_all(1, None).await;
    let order: Vec<_> =
        told.iter().map(|told| (told.notification.id, told.user.clone().unwrap().to_string())).collect();
    assert!(order.is_sorted() && order.len() == 50, "{order:?}");
    let report = on.store.report(first, NOW).await.unwrap().unwrap();
    assert_eq!((report.recipients, report.is_fanning_out), (25, false));
    on.verify().await;
}

pub(crate) async fn everyone_has_it_when_they_look(on: Fixture) {
    on.accept(New::to_user("42", "before")).await;
    let id = on.accept(New::to_everyone("to all").kind("news")).await;
    on.accept(New::to_user("42", "after")).await;
    on.accept(New::to_everyone("expired").expires_at(NOW)).await;
    assert_eq!(on.titles("42").await, ["after", "to all", "before"]);
    assert_eq!(on.counts("42").await, (3, 3));
    assert_eq!(on.counts("new").await, (1, 1));
    assert_eq!(unread_of(&on.page("new", NOW).await), 1);
    let told = on.tell_all(1, None).await;
    let to_all: Vec<_> = told.iter().filter(|told| told.user.is_none()).collect();
    assert_eq!(to_all.len(), 1);
    assert_eq!(to_all[0].notification.id, id);
    assert!(to_all[0].counts.is_none());
    assert!(on.page("new", NOW).await[0].told_at.is_some());
    // It is told once.
    assert!(on.tell_all(10, None).await.is_empty());
    on.verify().await;
}
