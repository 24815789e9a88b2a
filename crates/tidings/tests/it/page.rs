//! What the server shows in a browser: the page at `/` and the description of the API at `/docs/`.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tidings_testkit::{
    browsers,
    http::HttpClient,
    node::Script,
    process::{ServerOptions, TidingsServer},
};

/// Starting a browser on a busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(120);

/// A name for this machine that is not `localhost`, which browsers and Swagger UI treat as special.
const HOST: &str = "tidings.test";

struct Browser(Script);

impl Browser {
    async fn open(url: &str) -> Self {
        let mut browser = Self(Script::start("page.mjs").unwrap());
        let chromium = browsers::chromium().unwrap();
        browser.ask(json!({ "op": "open", "url": url, "hosts": [HOST], "chromium": chromium })).await;
        browser
    }

    async fn ask(&mut self, command: Value) -> Value {
        self.0.ask(&command, LIMIT).await.unwrap()
    }

    async fn see(&mut self, selector: &str, text: &str) {
        self.ask(json!({ "op": "see", "selector": selector, "text": text })).await;
    }

    async fn fill(&mut self, label: &str, text: &str) {
        self.ask(json!({ "op": "fill", "label": label, "text": text })).await;
    }

    async fn press(&mut self, button: &str) {
        self.ask(json!({ "op": "press", "button": button })).await;
    }

    async fn strings(&mut self, command: Value) -> Vec<String> {
        serde_json::from_value(self.ask(command).await).unwrap()
    }

    /// What stands in the list of events, the newest first, without the times.
    async fn events(&mut self) -> Vec<(String, String)> {
        let places = self.strings(json!({ "op": "texts", "selector": "#events .where" })).await;
        let data = self.strings(json!({ "op": "texts", "selector": "#events code" })).await;
        places.into_iter().zip(data).collect()
    }

    async fn complaints(&mut self) -> Vec<String> {
        self.strings(json!({ "op": "complaints" })).await
    }

    async fn end(self) {
        self.0.end(LIMIT).await.unwrap();
    }
}

async fn dev_server(config: &str) -> TidingsServer {
    let options = ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings")).arg("--dev");
    TidingsServer::start(options).await.unwrap()
}

async fn publish(server: &TidingsServer, event: Value) {
    let json = [("content-type".to_owned(), "application/json".to_owned())];
    let mut client = HttpClient::new(server.addr());
    let answer = client.send(Method::POST, "/v1/publish", &json, event.to_string()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn owned(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(place, data)| (place.to_string(), data.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_publishes_shows_what_comes_and_comes_back() {
    // Long enough for the test to publish something before the page is back.
    let mut server = dev_server("[stream]\nretry = [\"3s\", \"3s\"]\n").await;
    let mut browser = Browser::open(&server.url("/")).await;
    browser.see("#state", "not subscribed").await;
    browser.press("Subscribe").await;
    browser.see("#state", "subscribed to chat:lobby").await;

    browser.fill("Data", "hello <b>there</b>").await;
    browser.press("Publish").await;
    browser.see("#events code", "hello <b>there</b>").await;
    browser.fill("Event type", "said").await;
    browser.fill("Data", r#"{ "n": [1, null] }"#).await;
    browser.press("Publish").await;
    browser.see("#events code", r#"{"n":[1,null]}"#).await;
    // From elsewhere; the second of a type that nothing on the page has named.
    publish(&server, json!({ "channel": "chat:lobby", "data": "line 1\nline 2" })).await;
    publish(&server, json!({ "channel": "chat:lobby", "event": "order.filled", "data": 7 })).await;
    publish(&server, json!({ "channel": "chat:elsewhere", "data": "not for the page" })).await;
    browser.see("#events .where", "order.filled").await;
    let before = [
        ("chat:lobby · order.filled", "7"),
        ("chat:lobby", "line 1\nline 2"),
        ("chat:lobby · said", r#"{"n":[1,null]}"#),
        ("chat:lobby", "hello <b>there</b>"),
    ];
    assert_eq!(browser.events().await, owned(&before));
    if let Some(directory) = std::env::var_os("TIDINGS_TEST_PICTURES") {
        for colours in ["light", "dark"] {
            let file = std::path::Path::new(&directory).join(format!("page-{colours}.png"));
            browser.ask(json!({ "op": "picture", "file": file, "colours": colours })).await;
        }
    }
    assert_eq!(browser.complaints().await, [""; 0]);

    server.kill9().await.unwrap();
    browser.see("#state", "reconnecting").await;
    server.restart().await.unwrap();
    publish(&server, json!({ "channel": "chat:lobby", "data": "while the page was away" })).await;
    browser.see("#state", "subscribed to").await;
    browser.see("#events code", "while the page was away").await;
    publish(&server, json!({ "channel": "chat:lobby", "data": "afterwards" })).await;
    browser.see("#events code", "afterwards").await;
    let mut all = owned(&[("chat:lobby", "afterwards"), ("chat:lobby", "while the page was away")]);
    all.extend(owned(&before));
    assert_eq!(browser.events().await, all);
    // Chromium itself complains of the connection that broke; nobody else has anything to say.
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|text| text.contains("net::ERR_")), "{complaints:?}");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_why_it_was_refused_and_takes_a_key() {
    let key = "tk_0123456789abcdef0123456789";
    let config = format!("[auth]\napi_keys = [\"{key}\"]\n");
    let options = ServerOptions::new(config).binary(env!("CARGO_BIN_EXE_tidings"));
    let server = TidingsServer::start(options).await.unwrap();
    let mut browser = Browser::open(&server.url("/")).await;
    browser.press("Subscribe").await;
    browser.see("#problem", "unauthorized: ").await;
    browser.see("#state", "refused").await;
    browser.fill("Token or key", key).await;
    browser.press("Subscribe").await;
    browser.see("#state", "subscribed to chat:lobby").await;
    browser.press("Publish").await;
    browser.see("#events code", "hello").await;
    // Another channel takes the place of the first.
    browser.fill("Channel", "chat:other").await;
    browser.press("Subscribe").await;
    browser.see("#state", "subscribed to chat:other").await;
    publish_with(&server, key, json!({ "channel": "chat:lobby", "data": "unheard" })).await;
    publish_with(&server, key, json!({ "channel": "chat:other", "data": "heard" })).await;
    browser.see("#events code", "heard").await;
    assert_eq!(browser.events().await, owned(&[("chat:other", "heard"), ("chat:lobby", "hello")]));
    browser.end().await;
}

async fn publish_with(server: &TidingsServer, key: &str, event: Value) {
    let headers = [("content-type", "application/json".to_owned()), ("authorization", format!("Bearer {key}"))]
        .map(|(name, value)| (name.to_owned(), value));
    let mut client = HttpClient::new(server.addr());
    let answer = client.send(Method::POST, "/v1/publish", &headers, event.to_string()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Swagger UI asks an outside service to judge the description, unless it is told not to or the host
/// is called `localhost`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_viewer_of_the_api_is_whole_and_asks_nobody_else() {
    let server = dev_server("").await;
    let port = server.addr().port();
    let mut browser = Browser::open(&format!("http://{HOST}:{port}/docs/")).await;
    browser.see(".opblock-summary-path", "/v1/subscribe").await;
    let text = |selector: &str| json!({ "op": "texts", "selector": selector });
    let paths = browser.strings(text(".opblock-summary-path")).await;
    let described = tidings_http::openapi().paths.paths;
    for path in described.keys() {
        let shown = |shown: &String| shown.replace('\u{200b}', "") == *path;
        assert!(paths.iter().any(shown), "{path} is not among {paths:?}");
    }
    browser.see("button.authorize", "Authorize").await;
    if let Some(directory) = std::env::var_os("TIDINGS_TEST_PICTURES") {
        let file = std::path::Path::new(&directory).join("docs.png");
        browser.ask(json!({ "op": "picture", "file": file })).await;
    }
    let requests = browser.strings(json!({ "op": "requests" })).await;
    let own = format!("http://{HOST}:{port}/");
    let is_own = |url: &&String| url.starts_with(&own) || url.starts_with("data:");
    let foreign: Vec<_> = requests.iter().filter(|url| !is_own(url)).collect();
    assert!(foreign.is_empty(), "asked elsewhere: {foreign:?}");
    assert!(requests.iter().any(|url| url.ends_with("/openapi.json")), "{requests:?}");
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.end().await;
}
