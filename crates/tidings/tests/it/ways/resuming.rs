//! Coming back with a cursor, on every way.

use serde_json::json;
use tidings_testkit::endpoint::Way;

use crate::{
    gaps,
    node::{LIMIT, Node, next, next_data, numbers},
    resume::connected_id,
};

on_every_way!(
    what_was_evicted_is_a_gap_of_its_channel,
    a_cursor_is_taken_from_the_header_or_from_the_query_in_every_spelling,
    every_frame_of_a_catch_up_is_a_place_to_come_back_to,
    a_publish_and_a_stream_right_after_it_do_not_miss_each_other,
);

async fn a_cursor_is_taken_from_the_header_or_from_the_query_in_every_spelling(way: Way) {
    let node = Node::start_on(way, "").await;
    let ids = node.publish_numbers("open:a", 1..=4).await;
    let (first, third) = (&ids[0], &ids[2]);
    // One that ends the moment it has all is not known to have been complete.
    let mut open = Vec::new();
    for (query, headers, cursor) in [
        (String::new(), vec![("last-event-id", first.as_str())], first),
        (String::new(), vec![("Last-Event-ID", first.as_str())], first),
        (format!("&last_event_id={first}"), vec![], first),
        (format!("&lastEventId={first}"), vec![], first),
        (format!("&Last-Event-ID={first}"), vec![], first),
        // The header is newer: a browser's EventSource repeats the URL that it was given.
        (format!("&last_event_id={first}"), vec![("last-event-id", third.as_str())], third),
        (format!("&last_event_id={third}"), vec![("last-event-id", first.as_str())], first),
        // An empty one is none.
        (format!("&last_event_id={first}"), vec![("last-event-id", "")], first),
        (format!("&last_event_id=&lastEventId={first}"), vec![], first),
        // What was asked of the first connection stands in the URL of all that follow.
        (format!("&replay=all&last_event_id={third}"), vec![], third),
        ("&replay=2".to_owned(), vec![("last-event-id", third.as_str())], third),
    ] {
        let mut stream = node.stream_with(&format!("channel=open:a{query}"), &headers).await;
        assert_eq!(connected_id(&mut stream).await, *cursor, "{query} {headers:?}");
        let expected = if cursor == first { numbers(2..=4) } else { numbers(4..=4) };
        assert_eq!(next_data(&mut stream, expected.len()).await, expected, "{query} {headers:?}");
        assert_eq!(stream.last_id(), ids[3]);
        open.push(stream);
    }
    // A cursor that is up to date: nothing before what happens.
    let mut stream = node.stream(&format!("channel=open:a&replay=all&last_event_id={}", ids[3])).await;
    assert_eq!(connected_id(&mut stream).await, ids[3]);
    node.publish_numbers("open:a", 5..=5).await;
    assert_eq!(next_data(&mut stream, 1).await, ["5"]);
    let metric = "tidings_resume_total{outcome=\"complete\"}";
    node.wait_for_metric(metric, 12.0).await;
}

/// Wherever a stream is cut, its last cursor leads to the rest.
async fn every_frame_of_a_catch_up_is_a_place_to_come_back_to(way: Way) {
    let node = Node::start_on(way, "").await;
    let mut start = node.stream("channel=open:a&channel=open:b").await;
    let before = connected_id(&mut start).await;
    let mut expected = Vec::new();
    for n in 0..6_u64 {
        let channel = if n % 3 == 0 { "open:b" } else { "open:a" };
        node.publish(json!({"channel": channel, "data": n})).await;
        // Events of others lie between them in the log.
        node.publish(json!({"channel": "open:other", "data": "other"})).await;
        expected.push(n.to_string());
    }
    assert_eq!(next_data(&mut start, 6).await, expected);
    let mut cursor = before;
    for seen in 0..=6 {
        let mut stream = node.stream(&format!("channel=open:a&channel=open:b&last_event_id={cursor}")).await;
        assert_eq!(connected_id(&mut stream).await, cursor);
        let rest = next_data(&mut stream, 6 - seen).await;
        assert_eq!(rest, expected[seen..]);
        if seen < 6 {
            let mut stream = node.stream(&format!("channel=open:a&channel=open:b&last_event_id={cursor}")).await;
            stream.connected(LIMIT).await.unwrap();
            cursor = next(&mut stream).await.id;
        }
    }
}

/// A cursor that is ahead of the node, as from a publish whose event the node has not read yet.
async fn a_publish_and_a_stream_right_after_it_do_not_miss_each_other(way: Way) {
    let node = Node::start_on(way, "").await;
    let mut last = node.publish(json!({"channel": "open:a", "data": 0})).await.id;
    for n in 1..=50_u64 {
        let mut stream = node.stream(&format!("channel=open:a&last_event_id={last}")).await;
        last = node.publish(json!({"channel": "open:a", "data": n})).await.id;
        stream.connected(LIMIT).await.unwrap();
        let received = next(&mut stream).await;
        assert_eq!((received.data, received.id.as_str()), (n.to_string(), last.as_str()));
    }
}

async fn what_was_evicted_is_a_gap_of_its_channel(way: Way) {
    let node = Node::start_on(way, "[namespaces.short]\nhistory_size = 2\nsubscribe = [\"anyone\"]\n").await;
    let first = node.publish_numbers("short:a", 1..=1).await.remove(0);
    node.publish_numbers("open:b", 10..=10).await;
    node.publish_numbers("short:a", 2..=5).await;
    let channels = "channel=short:a&channel=open:b&channel=short:quiet";
    let mut stream = gaps::resume(&node, channels, &first).await;
    // Told before anything from beyond the beginning of the hole.
    let gap = gaps::assert_gap(&mut stream, &["short:a"], "evicted").await;
    assert_eq!(next_data(&mut stream, 3).await, ["10", "4", "5"]);
    // The gap moves the cursor as far as the next event, 10, which lies inside the hole: who comes back
    // right after it misses nothing, and is told again.
    let mut again = gaps::resume(&node, channels, &gap.id).await;
    gaps::assert_gap(&mut again, &["short:a"], "evicted").await;
    assert_eq!(next_data(&mut again, 3).await, ["10", "4", "5"]);
    drop(again);
    node.publish_numbers("short:a", 6..=6).await;
    assert_eq!(next_data(&mut stream, 1).await, ["6"], "the stream goes on");
    assert_eq!(node.metric("tidings_resume_total{outcome=\"gap\"}").await, 2.0);
}
