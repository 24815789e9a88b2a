//! What users have and want, and how they are forgotten.

use tidings_core::{
    notifications::{Kind, KindPreference, Preferences, PushMode},
    ports::{Store as _, store::*},
};
use tidings_protocol::Channel;

use super::fixture::{Fixture, LONG, NOW, New, user};

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn names(channels: &[Channel]) -> Vec<&str> {
    channels.iter().map(Channel::as_str).collect()
}

pub(crate) async fn follows_are_exact_and_limited(on: Fixture) {
    let a = user("a");
    let follow = async |channels: &[&str]| {
        let channels: Vec<Channel> = channels.iter().map(|name| channel(name)).collect();
        on.store.follow(&a, &channels, 3, NOW).await.map(|new| names(&new).join(" "))
    };
    assert_eq!(follow(&["r:2", "r:1", "r:2"]).await.unwrap(), "r:2 r:1");
    assert_eq!(follow(&["r:1", "r:3"]).await.unwrap(), "r:3");
    assert!(matches!(follow(&["r:4"]).await, Err(FollowError::TooMany { max: 3 })));
    assert_eq!(follow(&["r:1"]).await.unwrap(), "");
    let page = async |after: Option<&str>| {
        let follows = on.store.follows(&a, after.map(channel).as_ref(), 2).await.unwrap();
        follows.iter().map(|follow| follow.channel.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, ["r:1", "r:2"]);
    assert_eq!(page(Some("r:2")).await, ["r:3"]);
    let gone = on.store.unfollow(&a, &[channel("r:2"), channel("R:1"), channel("r:2")]).await.unwrap();
    assert_eq!(names(&gone), ["r:2"]);
    assert_eq!(on.store.unfollow(&user("nobody"), &[channel("r:2")]).await.unwrap(), []);
    assert_eq!(page(None).await, ["r:1", "r:3"]);
}

pub(crate) async fn a_push_target_has_one_owner(on: Fixture) {
    let device = |name: &str, target: PushTarget| Device { id: name.into(), target, updated_at: NOW, quarantine: None };
    let token = |text: &str| PushTarget::FcmToken(text.into());
    let put = async |name: &str, device: Device| on.store.put_device(&user(name), device, 2).await;
    let of = async |name: &str| {
        let devices = on.store.devices(&user(name)).await.unwrap();
        devices.into_iter().map(|device| device.id).collect::<Vec<_>>()
    };
    let web = PushTarget::WebPush {
        endpoint: format!("https://push.example.org/{}", "x".repeat(1_000)),
        p256dh: "key".into(),
        auth: "secret".into(),
    };
    assert_eq!(put("a", device("phone", token("t"))).await.unwrap(), Put::Created);
    assert_eq!(put("a", device("browser", web.clone())).await.unwrap(), Put::Created);
    assert_eq!(
        on.store.devices(&user("a")).await.unwrap(),
        [device("browser", web.clone()), device("phone", token("t"))]
    );
    assert_eq!(put("a", device("phone", token("t2"))).await.unwrap(), Put::Replaced);
    assert!(matches!(put("a", device("third", token("t3"))).await, Err(DeviceError::TooMany { max: 2 })));
    // Another name for what the user has already takes no room.
    assert_eq!(put("a", device("mobile", token("t2"))).await.unwrap(), Put::Created);
    assert_eq!(of("a").await, ["browser", "mobile"]);
    // It is somebody else's phone now, unless they cannot have it.
    assert_eq!(put("b", device("phone", token("t2"))).await.unwrap(), Put::Created);
    assert_eq!((of("a").await, of("b").await), (vec!["browser".to_owned()], vec!["phone".to_owned()]));
    put("b", device("x", token("x"))).await.unwrap();
    assert!(put("b", device("y", web)).await.is_err());
    assert_eq!(of("a").await, ["browser"]);
    assert!(on.store.remove_device(&user("a"), "browser").await.unwrap());
    assert!(!on.store.remove_device(&user("a"), "browser").await.unwrap());
    on.verify().await;
}

pub(crate) async fn what_is_muted_is_in_the_inbox_and_not_told(on: Fixture) {
    let wish = |live, push, mute_until| KindPreference { live, push, mute_until };
    let kind = |name: &str| Kind::parse(name).unwrap();
    let preferences = Preferences::from([
        (kind("silent"), wish(false, false, None)),
        (kind("push-only"), wish(false, true, None)),
        (kind("live-only"), wish(true, false, None)),
        (kind("muted"), wish(true, true, Some(NOW + 1))),
        (kind("unmuted"), wish(true, true, Some(NOW))),
    ]);
    on.store.set_preferences(&user("a"), &preferences).await.unwrap();
    assert_eq!(on.store.preferences(&user("a")).await.unwrap(), preferences);
    for kind in ["silent", "push-only", "live-only", "muted", "unmuted"] {
        on.accept(New::to_user("a", kind).kind(kind)).await;
    }
    assert_eq!(on.counts("a").await, (5, 5));
    let untold = on.tell_all(1, None).await;
    let told: Vec<_> =
        untold.iter().map(|told| (told.notification.content.kind.as_str(), told.is_live, told.push)).collect();
    assert_eq!(
        told,
        [
            ("push-only", false, PushMode::Offline),
            ("live-only", true, PushMode::Never),
            ("unmuted", true, PushMode::Offline)
        ]
    );
    let query = MissedQuery { user: user("a"), since: MissedSince::Unread { after: None }, limit: 9 };
    let missed = async |now| {
        let missed = on.store.missed(&query, now).await.unwrap();
        missed.entries.iter().map(|entry| entry.notification.content.title.clone()).collect::<Vec<_>>()
    };
    assert_eq!(missed(NOW).await, ["live-only", "unmuted"]);
    assert_eq!(missed(NOW + 1).await, ["live-only", "muted", "unmuted"]);
    on.store.set_preferences(&user("a"), &Preferences::new()).await.unwrap();
    assert_eq!(on.store.preferences(&user("a")).await.unwrap(), Preferences::new());
}

pub(crate) async fn what_expires_is_gone_at_that_moment(on: Fixture) {
    on.accept(New::to_users(&["a", "b"], "short").expires_at(NOW + 10)).await;
    on.accept(New::to_everyone("short too").expires_at(NOW + 10)).await;
    on.accept(New::to_user("a", "long")).await;
    assert_eq!(on.counts("a").await, (3, 3));
    let at = NOW + 10;
    assert_eq!(on.store.counts(&user("a"), at).await.unwrap().total.unread, 1);
    assert_eq!(on.page("a", at).await.len(), 1);
    assert_eq!(on.store.untold(9, at).await.unwrap().len(), 1);
    let marked = on.store.mark(&user("a"), &Which::All, Mark::Read, at).await.unwrap();
    assert_eq!((marked.changed, marked.counts.total.unread), (1, 0));
    // Nothing to do earlier; then everything, a little at a time.
    assert_eq!(on.store.sweep(100, at - 1).await.unwrap(), 0);
    let mut swept = Vec::new();
    loop {
        match on.store.sweep(2, at).await.unwrap() {
            0 => break,
            rows => swept.push(rows),
        }
    }
    // Three rows of inboxes and two notifications.
    assert_eq!(swept.iter().sum::<usize>(), 5, "{swept:?}");
    assert_eq!(on.counts("b").await, (0, 0));
    assert_eq!(on.titles("a").await, ["long"]);
    on.verify().await;
}

pub(crate) async fn who_is_erased_leaves_nothing_but_numbers(on: Fixture) {
    let id = on.accept(New::to_users(&["a", "b"], "x")).await;
    on.accept(New::to_everyone("to all")).await;
    assert_eq!(on.counts("a").await, (2, 2));
    on.follow("a", "r:1").await;
    let device =
        Device { id: "phone".into(), target: PushTarget::FcmFid("t".into()), updated_at: NOW, quarantine: None };
    on.store.put_device(&user("a"), device, 9).await.unwrap();
    on.tell_all(1, Some(NOW)).await;
    on.store.settle(&[Settled { id, user: user("a"), how: Settlement::ConfirmedAndPush }], NOW).await.unwrap();
    on.store.mark(&user("a"), &Which::Ids(vec![id]), Mark::Read, NOW).await.unwrap();
    assert_eq!(on.store.erase_user(&user("a")).await.unwrap(), 2);
    assert_eq!(on.store.erase_user(&user("a")).await.unwrap(), 0);
    assert!(on.store.devices(&user("a")).await.unwrap().is_empty());
    assert!(on.store.follows(&user("a"), None, 9).await.unwrap().is_empty());
    assert_eq!(on.store.next_push().await.unwrap(), None);
    let report = on.store.report(id, NOW).await.unwrap().unwrap();
    assert_eq!((report.recipients, report.delivered_live, report.read), (2, 1, 1));
    // Who comes back is new.
    assert_eq!(on.titles("a").await, ["to all"]);
    let late = NOW + 2 * LONG;
    while on.store.sweep(100, late).await.unwrap() > 0 {}
    assert_eq!(on.store.verify().await.unwrap().rows, 0);
    on.verify().await;
}

pub(crate) async fn it_says_how_it_fares(on: Fixture) {
    on.accept(New::to_users(&["a", "b"], "x")).await;
    let status = on.store.status().await;
    assert_eq!(status.trouble, None);
    let (name, version) = status.database.split_once(' ').unwrap();
    assert_eq!(name, format!("{:?}", on.on).to_lowercase());
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    assert!(status.gauges.contains(&("untold_rows", 2)), "{:?}", status.gauges);
    let verification = on.store.verify().await.unwrap();
    assert_eq!((verification.users, verification.rows), (2, 2));
    on.store.close().await;
    assert!(on.store.status().await.trouble.is_some());
    assert!(on.store.counts(&user("a"), NOW).await.is_err());
}
