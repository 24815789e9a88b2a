//! Clients that are slower than what is published: what conflates, and what ends them.

use serde_json::{Value, json};
use tidings_testkit::{client::SseClient, endpoint::Way, publisher::Publisher, wait};

use super::endings::closed;
use crate::node::{API_KEY, LIMIT, Node, next_data, numbers, value_of};

on_every_way!(
    a_client_whose_queue_was_full_is_told_and_goes_on_from_where_it_was,
    a_slow_reader_gets_every_ordinary_event_and_of_a_conflated_series_the_newest,
    within_the_window_a_burst_of_signals_arrives_as_one_and_an_ordinary_event_ends_the_wait,
    a_client_that_never_reads_is_ended_and_can_come_back,
    a_client_that_takes_nothing_times_out_even_if_its_queue_has_room,
);

const DROPPED: &str = "tidings_events_dropped_total{reason=\"conflated\"}";

pub(super) async fn publish_all(node: &Node, events: &[Value]) {
    let answer = Publisher::new(node.endpoint(), Some(API_KEY)).publish_lines(events).await.unwrap();
    assert!(answer.status == 200 && !answer.text().contains("error"), "{}", answer.text());
}

/// A client that takes little ahead of what is read from it, and has read `connected`.
async fn deaf(node: &Node, query: &str) -> SseClient {
    let path = format!("/v1/subscribe?{query}");
    let mut stream = SseClient::connect(node.endpoint().taking_little(), &path, &[]).await.unwrap();
    stream.connected(LIMIT).await.unwrap();
    stream
}

async fn a_slow_reader_gets_every_ordinary_event_and_of_a_conflated_series_the_newest(way: Way) {
    let config = "[stream]\nqueue_max_bytes = 100000000\nqueue_max_events = 100000\n\
                  [namespaces.board]\nconflate_window = \"0s\"\nsubscribe = [\"anyone\"]\ndurable = false\n";
    let node = Node::start_on(way, config).await;
    let mut stream = deaf(&node, "channel=board:1&channel=board:2&envelope=1").await;
    // Until what the kernel takes is full, and some signals have been replaced in the queue.
    let padding = "x".repeat(50_000);
    let mut published = 0_u64;
    while node.metric(DROPPED).await < 20.0 {
        assert!(published < 5_000, "the queue never filled");
        let round = (published..published + 20).flat_map(|n| {
            let channel = format!("board:{}", n % 2 + 1);
            let ordinary = json!({"channel": channel, "data": {"n": n, "padding": padding}});
            let holdings = json!({"channel": channel, "event": "holdings", "data": {"n": n}, "conflate": "holdings"});
            let prices = json!({"channel": channel, "event": "prices", "data": {"n": n}, "conflate": "prices"});
            [ordinary, holdings, prices]
        });
        publish_all(&node, &round.collect::<Vec<_>>()).await;
        published += 20;
    }
    let end = json!({"channel": "board:1", "event": "end", "data": {"n": published}});
    publish_all(&node, &[end]).await;
    let (mut ordinary, mut series, mut all) = (Vec::new(), std::collections::HashMap::new(), Vec::new());
    loop {
        let received = stream.next_event(LIMIT).await.unwrap();
        let envelope: Value = serde_json::from_str(&received.data).unwrap();
        let n = envelope["data"]["n"].as_u64().unwrap();
        all.push(n);
        match received.event.as_str() {
            "message" => ordinary.push(n),
            "end" => break,
            event => {
                let key = (envelope["channel"].as_str().unwrap().to_owned(), event.to_owned());
                let seen: &mut Vec<u64> = series.entry(key).or_default();
                assert!(seen.last().is_none_or(|last| *last < n), "{seen:?} {n}");
                seen.push(n);
            }
        }
    }
    assert_eq!(ordinary, (0..published).collect::<Vec<_>>());
    assert!(all.is_sorted(), "the log's order: {all:?}");
    let mut newest: Vec<_> = series.values().map(|seen| *seen.last().unwrap()).collect();
    newest.sort();
    assert_eq!(newest, [published - 2, published - 2, published - 1, published - 1]);
    let conflated: usize = series.values().map(|seen| published as usize / 2 - seen.len()).sum();
    assert_eq!(node.metric(DROPPED).await, conflated as f64);
}

async fn within_the_window_a_burst_of_signals_arrives_as_one_and_an_ordinary_event_ends_the_wait(way: Way) {
    let config = "[namespaces.short]\nconflate_window = \"200ms\"\nsubscribe = [\"anyone\"]\n\
                  [namespaces.long]\nconflate_window = \"1m\"\nsubscribe = [\"anyone\"]\n";
    let node = Node::start_on(way, config).await;
    let mut stream = node.stream("channel=short:a&channel=long:a&channel=open:a").await;
    stream.connected(LIMIT).await.unwrap();
    let signal = |channel: &str, n: u64| json!({"channel": channel, "data": n, "conflate": "requery"});
    publish_all(&node, &(1..=50).map(|n| signal("short:a", n)).collect::<Vec<_>>()).await;
    assert_eq!(next_data(&mut stream, 1).await, ["50"]);
    // Each value is a series of its own, and so is each channel.
    let other = json!({"channel": "long:a", "data": 100, "conflate": "other"});
    let events: Vec<_> = (1..=50).map(|n| signal("long:a", n)).chain([other]).collect();
    publish_all(&node, &events).await;
    // The window is a minute; what comes now pushes all before it out, in order.
    publish_all(&node, &[json!({"channel": "open:a", "data": "now"})]).await;
    assert_eq!(next_data(&mut stream, 3).await, ["50", "100", "now"]);
}

async fn a_client_that_never_reads_is_ended_and_can_come_back(way: Way) {
    let config = "[stream]\nwrite_timeout = \"200ms\"\nqueue_max_bytes = 262144\n[limits]\nmax_data_bytes = 65536\n\
                  [namespaces.bulk]\nhistory_size = 10000\ndurable = false\nsubscribe = [\"anyone\"]\n";
    let node = Node::start_on(way, config).await;
    let deaf = deaf(&node, "channel=bulk:a").await;
    let mut good = node.stream("channel=bulk:b").await;
    good.connected(LIMIT).await.unwrap();
    let padding = "x".repeat(60_000);
    let mut rounds = 0;
    // As fast as the server takes it: the queue is full long before the write times out.
    while node.metric("tidings_connections{transport=\"sse\"}").await == 2.0 {
        rounds += 1;
        assert!(rounds < 500, "a client that never reads took 500 MB");
        publish_all(&node, &vec![json!({"channel": "bulk:a", "data": padding}); 16]).await;
    }
    let metrics = node.get("/metrics").await.text();
    let closed = |reason: &str| {
        value_of(&metrics, &format!("tidings_connections_closed_total{{transport=\"sse\",reason=\"{reason}\"}}"))
    };
    assert_eq!(closed("slow_consumer"), Some(1.0), "{metrics}");
    assert_eq!((closed("peer_timeout"), closed("client_reset")), (Some(0.0), Some(0.0)));
    // What was in its queue was dropped and is counted; its client would find it in history.
    let dropped = value_of(&metrics, "tidings_events_dropped_total{reason=\"slow_consumer\"}").unwrap();
    assert!((1.0..=10.0).contains(&dropped), "{dropped} frames waited in a queue of 256 KiB");
    // The others have not noticed.
    publish_all(&node, &[json!({"channel": "bulk:b", "data": "here"})]).await;
    assert_eq!(next_data(&mut good, 1).await, ["here"]);
    drop(deaf);
}

async fn a_client_that_takes_nothing_times_out_even_if_its_queue_has_room(way: Way) {
    let config = "[stream]\nwrite_timeout = \"200ms\"\nqueue_max_bytes = 100000000\nqueue_max_events = 100000\n\
                  [namespaces.bulk]\nhistory_size = 10\ndurable = false\nsubscribe = [\"anyone\"]\n";
    let node = Node::start_on(way, config).await;
    let deaf = deaf(&node, "channel=bulk:a").await;
    let events = vec![json!({"channel": "bulk:a", "data": "x".repeat(60_000)}); 16];
    for _ in 0..20 {
        publish_all(&node, &events).await;
    }
    let ended = wait::until("the stream to end", LIMIT, async || {
        let metrics = node.get("/metrics").await.text();
        (value_of(&metrics, "tidings_connections{transport=\"sse\"}") == Some(0.0)).then_some(metrics)
    });
    let metrics = ended.await.unwrap();
    assert_eq!(value_of(&metrics, &closed("sse", "peer_timeout")), Some(1.0), "{metrics}");
    drop(deaf);
}

async fn a_client_whose_queue_was_full_is_told_and_goes_on_from_where_it_was(way: Way) {
    let config = "[stream]\nqueue_max_events = 64\n\
                  [namespaces.bulk]\nhistory_size = 100000\ndurable = false\nsubscribe = [\"anyone\"]\n";
    let node = Node::start_on(way, config).await;
    let mut slow = deaf(&node, "channel=bulk:a").await;
    let padding = "x".repeat(20_000);
    let mut published = 1_u64;
    publish_all(&node, &[json!({"channel": "bulk:a", "data": "0 first"})]).await;
    let first = slow.next_event(LIMIT).await.unwrap();
    // From here on it does not read.
    while node.metric("tidings_events_dropped_total{reason=\"slow_consumer\"}").await == 0.0 {
        assert!(published < 20_000, "the queue never filled");
        // Few enough for the queue, as what is published together comes together.
        let round = (published..published + 4).map(|n| json!({"channel": "bulk:a", "data": format!("{n} {padding}")}));
        publish_all(&node, &round.collect::<Vec<_>>()).await;
        published += 4;
    }
    // It reads again: all that was on its way, and why that ends.
    let mut events = slow.until_end(LIMIT).await.unwrap();
    let last = events.pop().unwrap();
    assert_eq!(last.event, "closing", "{}", last.data);
    assert_eq!(serde_json::from_str::<Value>(&last.data).unwrap()["reason"], "slow_consumer");
    node.wait_for_metric(&closed("sse", "slow_consumer"), 1.0).await;
    events.insert(0, first);
    let mut seen: Vec<_> = events.iter().map(|event| event.data.split(' ').next().unwrap().to_owned()).collect();
    assert!(seen.len() < published as usize, "{} of {published}", seen.len());
    let mut back = node.stream(&format!("channel=bulk:a&last_event_id={}", slow.last_id())).await;
    back.connected(LIMIT).await.unwrap();
    let rest = next_data(&mut back, published as usize - seen.len()).await;
    seen.extend(rest.iter().map(|data| data.split(' ').next().unwrap().to_owned()));
    assert_eq!(seen, numbers(0..=published - 1));
}
