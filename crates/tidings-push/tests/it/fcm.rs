//! FCM: what is sent, and what each of its answers means.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tidings_core::ports::{
    PushError, PushSender as _, PushVerdict,
    store::{PushJob, PushTarget},
};
use tidings_hub::Time;
use tidings_push::{FcmConfig, Senders, ServiceAccount};
use tidings_testkit::{
    certificates::Authority,
    push::{FakeFcm, FcmAnswer},
    wait,
};

use crate::support::{Clock, LIMIT, RETRY, content, push, retry_after};

fn config(fcm: &FakeFcm) -> FcmConfig {
    FcmConfig {
        project_id: None,
        service_account: ServiceAccount::parse(&fcm.service_account()).unwrap(),
        base_url: fcm.base_url().parse().unwrap(),
        token_url: None,
        trusted: Vec::new(),
    }
}

fn senders(config: FcmConfig, clock: &Arc<Clock>) -> Senders {
    let time: Arc<dyn Time> = clock.clone();
    Senders::new(Some(config), None, &time).unwrap()
}

fn to(token: &str) -> PushJob {
    push(PushTarget::FcmToken(token.to_owned()), content("Jazz"))
}

async fn refusal(senders: &Senders, job: &PushJob) -> PushError {
    senders.send(job).await.unwrap_err()
}

#[tokio::test]
async fn a_message_says_all_to_every_platform() {
    let fcm = FakeFcm::start().await.unwrap();
    let senders = senders(config(&fcm), &Clock::new());
    assert!(senders.serves("fcm") && !senders.serves("web_push"));
    senders.send(&to("a-token")).await.unwrap();
    let mut job = push(PushTarget::FcmFid("a-fid".to_owned()), content("Jazz"));
    Arc::make_mut(&mut job.notification).content.collapse = Some("weather".to_owned());
    senders.send(&job).await.unwrap();

    let [message] = &fcm.taken("a-token")[..] else { panic!() };
    assert_eq!((&message["token"], message.get("fid")), (&json!("a-token"), None));
    assert_eq!(message["notification"], json!({ "title": "Jazz", "body": "제주 \u{1f3b6}" }));
    let data = &message["data"];
    assert_eq!((&data["id"], &data["kind"], &data["unread"]), (&json!("17"), &json!("festival.added"), &json!("3")));
    assert_eq!((&data["url"], &data["data"]), (&json!("https://app.example/festivals/7"), &json!("{\"festival\":7}")));
    assert_eq!(message["android"]["priority"], "HIGH");
    assert_eq!(message["android"].get("collapse_key"), None);
    let ttl: u64 = message["android"]["ttl"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    assert_eq!(message["apns"]["payload"]["aps"]["badge"], 3);
    assert_eq!(message["apns"]["headers"]["apns-collapse-id"], "17");
    assert_eq!(message["webpush"]["fcm_options"]["link"], "https://app.example/festivals/7");

    let [message] = &fcm.taken("a-fid")[..] else { panic!() };
    assert_eq!((&message["fid"], message.get("token")), (&json!("a-fid"), None));
    let topic = message["android"]["collapse_key"].as_str().unwrap();
    assert_eq!(message["apns"]["headers"]["apns-collapse-id"], topic);
    assert_eq!(message["android"]["notification"]["tag"], topic);
    assert!(senders.troubles().is_empty() && fcm.complaints().is_empty());
}

#[tokio::test]
async fn a_message_that_is_too_long_is_cut_and_says_so() {
    let fcm = FakeFcm::start().await.unwrap();
    let senders = senders(config(&fcm), &Clock::new());
    let mut content = content("Jazz");
    content.body = Some("\"제주\"\n".repeat(2000));
    senders.send(&push(PushTarget::FcmToken("a".to_owned()), content)).await.unwrap();
    let [message] = &fcm.taken("a")[..] else { panic!() };
    assert_eq!(message["data"]["truncated"], "true");
    assert!(message["notification"]["body"].as_str().unwrap().ends_with('…'));
    assert_eq!(fcm.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn every_answer_that_is_documented_means_what_it_says() {
    let fcm = FakeFcm::start().await.unwrap();
    let senders = senders(config(&fcm), &Clock::new());
    for (answer, verdict, is_trouble) in [
        (FcmAnswer::unregistered(), PushVerdict::DeviceGone, false),
        (FcmAnswer::invalid_token(), PushVerdict::DeviceGone, false),
        (FcmAnswer::invalid_token_without_field(), PushVerdict::DeviceGone, false),
        (FcmAnswer::invalid_fid(), PushVerdict::DeviceGone, false),
        (FcmAnswer::invalid_argument("message.android.ttl"), PushVerdict::GiveUp, false),
        (FcmAnswer::sender_id_mismatch(), PushVerdict::Quarantine, false),
        (FcmAnswer::quota_exceeded(), retry_after(60_000), false),
        (FcmAnswer::quota_exceeded().retry_after("7"), retry_after(7_000), false),
        (FcmAnswer::unavailable(), RETRY, false),
        (FcmAnswer::unavailable().retry_after("30"), retry_after(30_000), false),
        (FcmAnswer::unavailable().retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), retry_after(0), false),
        (FcmAnswer::unavailable().retry_after("soon"), RETRY, false),
        (FcmAnswer::internal(), RETRY, false),
        (FcmAnswer::of(502, "<html>Bad Gateway</html>"), RETRY, false),
        (FcmAnswer::of(413, ""), PushVerdict::GiveUp, false),
        (FcmAnswer::of(302, "").retry_after("1"), PushVerdict::GiveUp, false),
        (FcmAnswer::third_party_auth_error(), RETRY, true),
        (FcmAnswer::permission_denied(), RETRY, true),
        (FcmAnswer::no_project(), RETRY, true),
    ] {
        fcm.answer("secret-token", answer.clone());
        let error = refusal(&senders, &to("secret-token")).await;
        assert_eq!(error.verdict, verdict, "{answer:?}");
        assert!(!error.cause.contains("secret-token"), "{error}");
        let troubles = senders.troubles();
        assert_eq!(troubles.iter().any(|text| error.cause.is_empty() || text.contains(&error.cause)), is_trouble);
    }
    assert_eq!(fcm.tokens_issued(), 1, "none of these is the access token's fault");
}

#[tokio::test]
async fn what_was_a_trouble_is_none_once_a_message_is_taken() {
    let fcm = FakeFcm::start().await.unwrap();
    let senders = senders(config(&fcm), &Clock::new());
    fcm.answer("a", FcmAnswer::permission_denied());
    refusal(&senders, &to("a")).await;
    let [trouble] = &senders.troubles()[..] else { panic!() };
    assert!(trouble.starts_with("fcm: FCM answered 403") && trouble.contains("cloudmessaging.messages.create"));
    senders.send(&to("a")).await.unwrap();
    assert!(senders.troubles().is_empty());
}

#[tokio::test]
async fn an_access_token_is_asked_for_once_and_again_before_it_ends() {
    let fcm = FakeFcm::start().await.unwrap();
    let clock = Clock::new();
    let senders = senders(config(&fcm), &clock);
    let job = to("a");
    for result in futures_join(&senders, &job, 40).await {
        result.unwrap();
    }
    assert_eq!(fcm.token_requests(), 1);
    clock.forward(Duration::from_secs(3600 - 301));
    senders.send(&job).await.unwrap();
    assert_eq!(fcm.token_requests(), 1);
    clock.forward(Duration::from_secs(2));
    senders.send(&job).await.unwrap();
    assert_eq!(fcm.token_requests(), 2);
}

/// So many at a time.
async fn futures_join(senders: &Senders, job: &PushJob, count: usize) -> Vec<Result<(), PushError>> {
    let mut sending: Vec<_> = (0..count).map(|_| senders.send(job)).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|context| {
        sending.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        if sending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results
}

#[tokio::test]
async fn a_revoked_access_token_is_replaced_in_the_same_attempt() {
    let fcm = FakeFcm::start().await.unwrap();
    let clock = Clock::new();
    let senders = senders(config(&fcm), &clock);
    senders.send(&to("a")).await.unwrap();
    clock.forward(Duration::from_secs(60));
    fcm.revoke_tokens();
    senders.send(&to("a")).await.unwrap();
    assert_eq!((fcm.tokens_issued(), senders.troubles().len()), (2, 0));
}

#[tokio::test]
async fn a_new_access_token_that_is_refused_is_a_trouble_and_not_a_storm() {
    let fcm = FakeFcm::start().await.unwrap();
    let senders = senders(config(&fcm), &Clock::new());
    fcm.answer_always("a", Some(FcmAnswer::unauthenticated()));
    for _ in 0..5 {
        assert_eq!(refusal(&senders, &to("a")).await.verdict, RETRY);
    }
    assert_eq!(fcm.token_requests(), 1);
    assert!(senders.troubles()[0].contains("FCM answered 401"), "{:?}", senders.troubles());
    fcm.answer_always("a", None);
    senders.send(&to("a")).await.unwrap();
    assert!(senders.troubles().is_empty());
}

#[tokio::test]
async fn a_service_account_that_is_refused_is_a_trouble_and_not_a_storm() {
    let fcm = FakeFcm::start().await.unwrap();
    let clock = Clock::new();
    let senders = senders(config(&fcm), &clock);
    fcm.deny_token(400, r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#);
    let job = to("a");
    for result in futures_join(&senders, &job, 10).await {
        let error = result.unwrap_err();
        assert_eq!(error.verdict, RETRY);
        assert!(error.cause.contains("400 invalid_grant: Invalid JWT Signature."), "{error}");
    }
    assert_eq!(fcm.token_requests(), 1);
    assert!(senders.troubles()[0].contains("invalid_grant"), "{:?}", senders.troubles());
    // Later it is asked again.
    clock.forward(Duration::from_secs(5));
    senders.send(&job).await.unwrap();
    assert_eq!((fcm.token_requests(), senders.troubles().len()), (2, 0));
}

#[tokio::test]
async fn another_key_than_the_accounts_is_refused() {
    let (fcm, other) = (FakeFcm::start().await.unwrap(), FakeFcm::start().await.unwrap());
    let mut account: serde_json::Value = serde_json::from_str(&fcm.service_account()).unwrap();
    let others: serde_json::Value = serde_json::from_str(&other.service_account()).unwrap();
    account["private_key"] = others["private_key"].clone();
    let mut config = config(&fcm);
    config.service_account = ServiceAccount::parse(&account.to_string()).unwrap();
    let error = refusal(&senders(config, &Clock::new()), &to("a")).await;
    assert!(error.cause.contains("Invalid JWT Signature"), "{error}");
}

#[tokio::test]
async fn an_fcm_that_cannot_be_reached_is_a_trouble_and_tried_again() {
    let fcm = FakeFcm::start().await.unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = config(&fcm);
    config.base_url = format!("http://{closed}").parse().unwrap();
    let senders = senders(config, &Clock::new());
    assert_eq!(refusal(&senders, &to("a")).await.verdict, RETRY);
    assert_eq!(senders.troubles().len(), 1);
}

#[tokio::test]
async fn an_fcm_that_does_not_answer_is_a_trouble_until_it_does() {
    let fcm = FakeFcm::start().await.unwrap();
    let senders = senders(config(&fcm), &Clock::new());
    fcm.hold(true);
    let error = refusal(&senders, &to("a")).await;
    assert_eq!((error.verdict, error.cause.as_str()), (RETRY, "no answer within 10s"));
    assert_eq!(senders.troubles(), ["fcm: no answer within 10s"]);
    fcm.hold(false);
    senders.send(&to("a")).await.unwrap();
    assert!(senders.troubles().is_empty());
}

#[tokio::test]
async fn what_has_expired_is_given_up_without_a_request() {
    let fcm = FakeFcm::start().await.unwrap();
    let senders = senders(config(&fcm), &Clock::new());
    let mut job = to("a");
    Arc::make_mut(&mut job.notification).expires_at = Clock::new().now() - 1;
    assert_eq!(refusal(&senders, &job).await.verdict, PushVerdict::GiveUp);
    assert_eq!(fcm.connections(), 0);
}

#[tokio::test]
async fn many_at_a_time_share_a_few_connections_of_http2() {
    let authority = Authority::new().unwrap();
    let fcm = FakeFcm::start_tls(&authority).await.unwrap();
    let mut config = config(&fcm);
    config.trusted = vec![reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap()];
    let senders = Arc::new(senders(config, &Clock::new()));
    fcm.hold(true);
    let sending: Vec<_> = (0..350)
        .map(|number| {
            let senders = senders.clone();
            tokio::spawn(async move { senders.send(&to(&format!("token-{number}"))).await })
        })
        .collect();
    wait::until("all of them to wait", LIMIT, async || (fcm.under_way() == 350).then_some(())).await.unwrap();
    fcm.hold(false);
    for task in sending {
        task.await.unwrap().unwrap();
    }
    let messages = fcm.messages();
    assert_eq!(messages.len(), 350);
    assert!(messages.iter().all(|sent| sent.is_http2));
    // Four for messages, and one for the access token.
    assert_eq!(fcm.connections(), 5);
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_refused() {
    let fcm = FakeFcm::start_tls(&Authority::new().unwrap()).await.unwrap();
    let error = refusal(&senders(config(&fcm), &Clock::new()), &to("a")).await;
    assert!(error.cause.contains("certificate"), "{error}");
}

#[tokio::test]
async fn what_is_not_configured_is_given_up_and_says_so() {
    let time: Arc<dyn Time> = Clock::new();
    let senders = Senders::new(None, None, &time).unwrap();
    assert!(!senders.serves("fcm") && senders.vapid_public_key().is_none() && senders.troubles().is_empty());
    let error = refusal(&senders, &to("a")).await;
    assert_eq!((error.verdict, error.cause.as_str()), (PushVerdict::GiveUp, "fcm is not configured"));
}
