//! Web Push: what is sent, read by code that is not ours, and what each answer means.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tidings_core::{
    notifications::Content,
    ports::{
        PushError, PushSender as _, PushVerdict,
        store::{PushJob, PushTarget},
    },
};
use tidings_hub::Time;
use tidings_push::{Senders, VapidKey, WebPushConfig};
use tidings_testkit::push::{PushService, Subscription};

use crate::support::{Clock, RETRY, content, push, retry_after};

const SUBJECT: &str = "mailto:operator@example.org";

fn senders(allow_private: &[&str]) -> Senders {
    let time: Arc<dyn Time> = Clock::new();
    let config = WebPushConfig {
        key: VapidKey::generate().unwrap(),
        subject: SUBJECT.to_owned(),
        allow_private: allow_private.iter().map(|net| net.parse().unwrap()).collect(),
    };
    Senders::new(None, Some(config), &time).unwrap()
}

fn target(subscription: &Subscription) -> PushTarget {
    let Subscription { endpoint, p256dh, auth, .. } = subscription.clone();
    PushTarget::WebPush { endpoint, p256dh, auth }
}

fn to(subscription: &Subscription, content: Content) -> PushJob {
    push(target(subscription), content)
}

async fn refusal(senders: &Senders, job: &PushJob) -> PushError {
    senders.send(job).await.unwrap_err()
}

#[tokio::test]
async fn a_message_is_read_by_a_browser_and_says_who_sent_it() {
    let service = PushService::start().await.unwrap();
    let senders = senders(&["127.0.0.1/32"]);
    assert!(senders.serves("web_push") && !senders.serves("fcm"));
    let subscription = service.subscribe().await.unwrap();
    assert_eq!(senders.check(&target(&subscription)), Ok(()));
    senders.send(&to(&subscription, content("Jazz"))).await.unwrap();

    let [sent] = &service.delivered(&subscription)[..] else { panic!("{:?}", service.complaints()) };
    let mut payload = sent.payload.clone();
    assert!(payload["created_at"].take().is_u64());
    let expected = json!({
        "id": "17",
        "kind": "festival.added",
        "title": "Jazz",
        "body": "제주 \u{1f3b6}",
        "url": "https://app.example/festivals/7",
        "data": { "festival": 7 },
        "tag": "17",
        "unread": 3,
        "created_at": null,
    });
    assert_eq!(payload, expected);
    let ttl: u64 = sent.header("ttl").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    assert_eq!((sent.header("urgency"), sent.header("topic")), (Some("normal"), None));
    assert_eq!(sent.claims["sub"], SUBJECT);
    assert_eq!(Some(sent.key.as_str()), senders.vapid_public_key());
    assert!(senders.troubles().is_empty());
}

#[tokio::test]
async fn versions_of_one_notification_have_one_topic() {
    let service = PushService::start().await.unwrap();
    let senders = senders(&["127.0.0.0/8"]);
    let subscription = service.subscribe().await.unwrap();
    let mut content = content("Rain");
    content.collapse = Some("weather in Jeju, with words that are nobody's business".to_owned());
    senders.send(&to(&subscription, content.clone())).await.unwrap();
    content.title = "Sun".to_owned();
    senders.send(&to(&subscription, content)).await.unwrap();
    let [rain, sun] = &service.delivered(&subscription)[..] else { panic!("{:?}", service.complaints()) };
    let topic = rain.header("topic").unwrap();
    assert_eq!((topic.len(), sun.header("topic"), &rain.payload["tag"]), (32, Some(topic), &json!(topic)));
}

#[tokio::test]
async fn the_longest_message_is_4096_bytes_whatever_is_to_be_said() {
    let service = PushService::start().await.unwrap();
    let senders = senders(&["127.0.0.0/8"]);
    let subscription = service.subscribe().await.unwrap();
    for body in ["x".repeat(5000), "제주\"\\\n\u{1}".repeat(1000)] {
        let mut content = content("Jazz");
        content.body = Some(body);
        senders.send(&to(&subscription, content)).await.unwrap();
    }
    for sent in service.delivered(&subscription) {
        assert!((4080..=4096).contains(&sent.message_bytes), "{}", sent.message_bytes);
        assert_eq!((&sent.payload["truncated"], &sent.payload["data"]), (&json!(true), &json!({ "festival": 7 })));
        assert!(sent.payload["body"].as_str().unwrap().ends_with('…'));
    }
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn every_answer_means_what_it_says() {
    let service = PushService::start().await.unwrap();
    let senders = senders(&["127.0.0.0/8"]);
    let subscription = service.subscribe().await.unwrap();
    for status in [200, 201, 202, 204] {
        service.answer(&subscription, status, &[]);
        senders.send(&to(&subscription, content("Jazz"))).await.unwrap();
    }
    let seven: &[(&str, &str)] = &[("retry-after", "7")];
    let past: &[(&str, &str)] = &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
    for (status, headers, verdict) in [
        (404, &[][..], PushVerdict::DeviceGone),
        (410, &[], PushVerdict::DeviceGone),
        (400, &[], PushVerdict::GiveUp),
        (413, &[], PushVerdict::GiveUp),
        (415, &[], PushVerdict::GiveUp),
        (429, &[], RETRY),
        (429, seven, retry_after(7_000)),
        (500, &[], RETRY),
        (502, &[], RETRY),
        (503, past, retry_after(0)),
        (503, seven, retry_after(7_000)),
        (408, &[], RETRY),
        (401, &[], RETRY),
        (403, seven, retry_after(7_000)),
    ] {
        service.answer(&subscription, status, headers);
        let error = refusal(&senders, &to(&subscription, content("Jazz"))).await;
        assert_eq!(error.verdict, verdict, "{status}");
        assert!(!error.cause.contains("/push/"), "{error}");
    }
    assert_eq!(service.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_that_is_refused_is_a_trouble_until_it_is_taken() {
    let service = PushService::start().await.unwrap();
    let senders = senders(&["127.0.0.0/8"]);
    let subscription = service.subscribe().await.unwrap();
    service.answer(&subscription, 403, &[]);
    refusal(&senders, &to(&subscription, content("Jazz"))).await;
    let [trouble] = &senders.troubles()[..] else { panic!() };
    assert!(trouble.contains("http://127.0.0.1:") && !trouble.contains("/push/"), "{trouble}");
    senders.send(&to(&subscription, content("Jazz"))).await.unwrap();
    assert!(senders.troubles().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (service, other) = (PushService::start().await.unwrap(), PushService::start().await.unwrap());
    let senders = senders(&["127.0.0.0/8"]);
    let subscription = service.subscribe().await.unwrap();
    let elsewhere = other.subscribe().await.unwrap();
    for status in [301, 302, 307, 308] {
        service.answer(&subscription, status, &[("location", &elsewhere.endpoint)]);
        assert_eq!(refusal(&senders, &to(&subscription, content("Jazz"))).await.verdict, PushVerdict::GiveUp);
    }
    assert_eq!((service.requests(), other.requests()), (4, 0));
}

/// Whoever puts a device chooses the URL: it must not lead to what only the server can reach.
#[tokio::test]
async fn no_network_of_ours_is_reached_unless_it_is_allowed() {
    let service = PushService::start().await.unwrap();
    let subscription = service.subscribe().await.unwrap();
    let port = subscription.endpoint.rsplit(':').next().unwrap();
    for allow in [&[][..], &["10.0.0.0/8"]] {
        let senders = senders(allow);
        for scheme in ["http", "https"] {
            for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"] {
                let target = PushTarget::WebPush {
                    endpoint: format!("{scheme}://{host}:{port}"),
                    p256dh: subscription.p256dh.clone(),
                    auth: subscription.auth.clone(),
                };
                let error = refusal(&senders, &push(target, content("Jazz"))).await;
                assert_eq!(error.verdict, PushVerdict::GiveUp, "{scheme} {host}: {error}");
                assert!(error.cause.contains("public") || error.cause.contains("https"), "{scheme} {host}: {error}");
            }
        }
    }
    assert_eq!(service.connections(), 0);
}

/// A name is as good as the address behind it: `localhost` where loopback is allowed.
#[tokio::test]
async fn a_name_that_resolves_to_an_allowed_network_is_reached() {
    let service = PushService::start().await.unwrap();
    let senders = senders(&["127.0.0.0/8"]);
    let mut subscription = service.subscribe().await.unwrap();
    subscription.endpoint = subscription.endpoint.replace("127.0.0.1", "localhost");
    // The stand-in knows itself by its address, and so refuses the token: that it answers is the point.
    let error = refusal(&senders, &to(&subscription, content("Jazz"))).await;
    assert!(error.cause.contains("the push service answered 403"), "{error}");
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_given_its_time_and_no_more() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = PushService::start().await.unwrap();
    let senders = senders(&["127.0.0.0/8"]);
    let mut subscription = service.subscribe().await.unwrap();
    subscription.endpoint = format!("http://{}/", silent.local_addr().unwrap());
    let job = to(&subscription, content("Jazz"));
    let sending = senders.send(&job);
    let error = tokio::time::timeout(Duration::from_secs(60), sending).await.expect("it ends by itself").unwrap_err();
    assert_eq!((error.verdict, error.cause.as_str()), (RETRY, "no answer within 10s"));
}

#[tokio::test]
async fn many_at_a_time_arrive_each_once() {
    let service = PushService::start().await.unwrap();
    let senders = Arc::new(senders(&["127.0.0.0/8"]));
    let mut subscriptions = Vec::new();
    for _ in 0..50 {
        subscriptions.push(service.subscribe().await.unwrap());
    }
    let sending: Vec<_> = subscriptions
        .iter()
        .map(|subscription| {
            let (senders, job) = (senders.clone(), to(subscription, content("Jazz")));
            tokio::spawn(async move { senders.send(&job).await })
        })
        .collect();
    for task in sending {
        task.await.unwrap().unwrap();
    }
    for subscription in &subscriptions {
        assert_eq!(service.delivered(subscription).len(), 1);
    }
}
