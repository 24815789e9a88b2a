//! The page of what a million streams would need.

use crate::{
    plan::{ENDED, HEARTBEATS, IDLE_CPU, RESIDENT_END, RESIDENT_START, Unit},
    render,
    results::Results,
    scaling::{Constants, From, HEARTBEAT_SECONDS, STREAMS},
    template::{Values, figure, table},
};

const TEMPLATE: &str = include_str!("../pages/scaling.md");

const GIB: f64 = (1_u64 << 30) as f64;

/// Memory of the machines that are looked at, in GiB.
const MEMORIES: [f64; 4] = [4.0, 8.0, 16.0, 32.0];

/// Numbers of cores, each with a shard.
const CORES: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

/// Cores of a node in a cluster.
const NODE_CORES: f64 = 8.0;

/// Sizes of a cluster.
const NODES: [f64; 4] = [2.0, 3.0, 4.0, 6.0];

/// Between these two seconds clients come back (`stream.retry`): two seconds long.
const RETRY_SECONDS: f64 = 2.0;

/// The default of `server.drain_window`.
const DRAIN_SECONDS: f64 = 10.0;

/// Linux's ports for outgoing connections, 32,768 to 60,999.
const PORTS: f64 = 28_232.0;

/// What a socket holds of an event until it is acknowledged, where it is little: a page.
const BUFFER_BYTES: f64 = 4096.0;

/// What a stream with TLS was seen to take in a debug build. It is not from this suite, and the page says so.
const TLS_STREAM_BYTES: f64 = 32.0 * 1024.0;

/// The page.
pub fn page(results: &Results) -> anyhow::Result<String> {
    let constants = Constants::read(results);
    let value = |from: Option<From>| from.map(|from| from.value);
    let million = |bytes: Option<f64>| size(bytes.map(|bytes| bytes * STREAMS));
    let mut values = Values::default();
    values.text("where", provenance(results));
    values.text("constants", constants_table(&constants, results));

    values.figure("own_bytes", value(constants.own_bytes), Unit::Bytes);
    values.figure("kernel_bytes", value(constants.kernel_bytes), Unit::Bytes);
    values.text("million_own", million(value(constants.own_bytes)));
    values.text("million_kernel", million(value(constants.kernel_bytes)));
    values.text("million_memory", size(constants.memory_bytes(STREAMS)));
    values.text("memory_table", memory_table(&constants));
    values.text("buffers", million(Some(BUFFER_BYTES)));

    values.figure("heartbeat_seconds", Some(HEARTBEAT_SECONDS), Unit::Number);
    values.figure("heartbeats_per_second", Some(STREAMS / HEARTBEAT_SECONDS), Unit::Number);
    values.figure("heartbeat_micros", value(constants.heartbeat_micros), Unit::Micros);
    values.text("heartbeat_source", source(constants.heartbeat_micros));
    values.figure("heartbeat_cores", constants.heartbeat_cores(STREAMS), Unit::Ratio);
    values.text("soak", soak(results));

    values.figure("delivery_micros", value(constants.delivery_micros), Unit::Micros);
    values.text("broadcast_table", broadcast_table(&constants));
    values.figure("alone", value(constants.alone_per_second), Unit::Number);
    values.figure("coalesced", value(constants.coalesced_per_second), Unit::Number);

    let openings = value(constants.openings_per_second);
    values.figure("openings", openings, Unit::Number);
    values.text("opening_source", source(constants.openings_per_second));
    values.figure("opening_micros", value(constants.opening_micros), Unit::Micros);
    values.text("opening_table", opening_table(&constants));
    values.figure("arrivals", Some(STREAMS / RETRY_SECONDS), Unit::Number);
    values.figure("retry_cores", Some(NODE_CORES), Unit::Number);
    values.figure("retry_spread", constants.opening_seconds(STREAMS, NODE_CORES), Unit::Seconds);
    values.figure("drain_rate", Some(STREAMS / DRAIN_SECONDS), Unit::Number);
    values.figure("drain_cores", openings.map(|rate| STREAMS / DRAIN_SECONDS / rate), Unit::Ratio);
    values.figure("catch_up", constants.broadcast_seconds(STREAMS, 1.0), Unit::Seconds);

    values.figure("node_cores", Some(NODE_CORES), Unit::Number);
    values.text("nodes_table", nodes_table(&constants));
    values.text("ports", render::number(PORTS));
    values.figure("port_pairs", Some((STREAMS / PORTS).ceil()), Unit::Number);
    values.text("tls_memory", million(Some(TLS_STREAM_BYTES)));
    values.fill(TEMPLATE)
}

/// Memory of a machine's size.
fn size(bytes: Option<f64>) -> String {
    match bytes.filter(|bytes| *bytes >= GIB) {
        Some(bytes) => format!("{:.1} GiB", bytes / GIB),
        None => figure(bytes, Unit::Bytes),
    }
}

/// The section that a figure is from.
fn source(from: Option<From>) -> String {
    from.map_or("not measured".to_owned(), |from| format!("section `{}`", from.section))
}

fn provenance(results: &Results) -> String {
    let Some(newest) = results.values().max_by_key(|result| &result.measured_at) else {
        return "Nothing of it was measured yet.".to_owned();
    };
    let text = format!("{}. {}.", newest.machine.line(), render::versions(newest));
    let quick = results.values().any(|result| result.is_quick);
    render::wrapped(&text) + &if quick { format!("\n\n{}", render::SMALL_RUN) } else { String::new() }
}

fn constants_table(constants: &Constants, results: &Results) -> String {
    let row = |title: &str, from: Option<From>, unit| {
        let place = from.map(|From { section, case, .. }| {
            let title = results.get(section).and_then(|result| result.cases.iter().find(|other| other.case == case));
            let title = title.map(|case| format!(", {}", case.title)).unwrap_or_default();
            format!("section `{section}`{title}")
        });
        vec![title.to_owned(), figure(from.map(|from| from.value), unit), place.unwrap_or_default()]
    };
    let rows = [
        row("Tidings's memory for an idle stream", constants.own_bytes, Unit::Bytes),
        row("the kernel's for its socket (half of what both ends take)", constants.kernel_bytes, Unit::Bytes),
        row("CPU of a heartbeat", constants.heartbeat_micros, Unit::Micros),
        row("CPU of a delivery", constants.delivery_micros, Unit::Micros),
        row("deliveries a second of a core, one event at a time", constants.alone_per_second, Unit::Number),
        row("the same, 16 at a time", constants.coalesced_per_second, Unit::Number),
        row("streams that a core opens in a second", constants.openings_per_second, Unit::Number),
        row("CPU of opening one", constants.opening_micros, Unit::Micros),
    ];
    table(&["", "measured", "where"], &rows)
}

fn memory_table(constants: &Constants) -> String {
    let rows = MEMORIES.map(|gib| {
        let streams = constants.streams_in(gib * GIB);
        vec![format!("{gib} GiB"), figure(streams, Unit::Number)]
    });
    table(&["machine", "idle streams"], &rows)
}

fn broadcast_table(constants: &Constants) -> String {
    let rows = CORES.map(|shards| {
        let seconds = constants.broadcast_seconds(STREAMS, shards);
        let rate = seconds.map_or_else(|| figure(None, Unit::Number), |seconds| format!("{:.2}", 1.0 / seconds));
        vec![format!("{shards}"), figure(seconds, Unit::Seconds), rate]
    });
    table(&["shards, each on a core", "the last of a million has it after", "such events a second at most"], &rows)
}

fn opening_table(constants: &Constants) -> String {
    let rows = CORES.map(|cores| {
        let seconds = constants.opening_seconds(STREAMS, cores);
        vec![format!("{cores}"), figure(seconds, Unit::Seconds)]
    });
    table(&["cores", "a million streams are open after"], &rows)
}

fn nodes_table(constants: &Constants) -> String {
    let rows = NODES.map(|nodes| {
        let (each, after) = (STREAMS / nodes, STREAMS / (nodes - 1.0));
        let cores = NODE_CORES * (nodes - 1.0);
        vec![
            format!("{nodes}"),
            render::number(each),
            render::number(after),
            size(constants.memory_bytes(after)),
            figure(constants.heartbeat_cores(after), Unit::Ratio),
            figure(constants.broadcast_seconds(after, NODE_CORES), Unit::Seconds),
            figure(constants.opening_seconds(each, cores), Unit::Seconds),
        ]
    });
    let head = [
        "nodes",
        "streams each",
        "each, when one has died",
        "memory of each then",
        "cores for heartbeats then",
        "an event to all then takes",
        "its streams are open elsewhere after",
    ];
    table(&head, &rows)
}

/// What the half hour showed, if there was one.
fn soak(results: &Results) -> String {
    let Some(result) = results.get("soak") else {
        return "\nHalf an hour of it was not measured yet (`bench-suite soak`).".to_owned();
    };
    let of = |metric: crate::plan::Metric| figure(result.median("users", "Tidings", metric.id), metric.unit);
    let title = result.cases.first().map_or("the streams", |case| &case.title);
    let text = format!(
        "Measured, {title}: {} of a core, {} heartbeats, {} streams ended by themselves; Tidings's resident memory was {} at \
         the start and {} at the end.",
        of(IDLE_CPU),
        of(HEARTBEATS),
        of(ENDED),
        of(RESIDENT_START),
        of(RESIDENT_END)
    );
    format!("\n{}", render::wrapped(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{render::tests::result, scaling::tests::results};

    #[test]
    fn the_page_has_what_is_worked_out() {
        let page = page(&results()).unwrap();
        let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in [
            "takes 500 B of Tidings and 3,500 B of the kernel",
            "| 8 GiB | 1.61 M |",
            "66,667 writes a second for a million. One costs 20.0 µs of processor time (section `idle`), so that is 1.33 cores",
            "| 1 | 5.00 s | 0.20 |",
            "| 16 | 0.31 s | 3.20 |",
            // The authenticated users' rate: 20,000 a second.
            "A core opened 20,000 streams a second (section `storm`), with 40.0 µs",
            "| 2 | 25.00 s |",
            "a million come at 500 k a second",
            // Of three nodes one dies: 500,000 for each of two, and a third of a million opened by 16 cores.
            "| 3 | 333,333 | 500,000 | 1.9 GiB | 0.67 | 0.31 s | 1.04 s |",
            "a million take 36 pairs",
            "Half an hour of it was not measured yet",
            "2 cores of Abacus",
        ] {
            assert!(words.contains(text), "{text:?} is not in\n{page}");
        }
        assert!(!words.contains("| not measured |") && !words.contains("takes not measured"), "{page}");
    }

    #[test]
    fn the_half_hour_is_told() {
        let mut results = results();
        results.insert("soak".to_owned(), result("soak", "users", IDLE_CPU.id, &[("Tidings", &[1.25])]));
        let page = page(&results).unwrap();
        assert!(page.contains("many streams: 1.2 % of a core"), "{page}");
    }

    #[test]
    fn without_results_the_page_says_so() {
        let page = page(&Results::new()).unwrap();
        assert!(page.contains("Nothing of it was measured yet."), "{page}");
        assert!(
            page.contains("| 8 GiB | not measured |") && page.contains("| 1 | not measured | not measured |"),
            "{page}"
        );
        assert!(!page.contains("NaN") && !page.contains("inf "), "{page}");
    }
}
