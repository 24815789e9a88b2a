//! The plan: what is measured, against whom, for how long. The plan of polling is in [`crate::polling`].

use std::time::Duration;

use crate::{
    plan::{
        CPU_PER_DELIVERY, Case, Contender, DELIVERIES, Drawing, ENDED, EVENTS, HEARTBEATS, IDLE_CPU, KERNEL_BYTES,
        Kind, LONGEST, MESSAGES, Metric, OPENED, OPENING_CPU, P50, P90, P99, P999, Pinning, Plot, RESIDENT_END,
        RESIDENT_START, SLOW_ENDED, STREAM_BYTES, Section, Unit,
    },
    polling,
    servers::Server::{self, AxumSse, Nats, Nchan, Raw, RawBatch, Redis, RedisDurable, Tidings},
};

/// All who can fan out, in the order of the tables.
const FAN_OUT: [Server; 5] = [Tidings, Raw, RawBatch, AxumSse, Nchan];

/// Those that send all that waits for a stream at once, and so need more messages for a second's work.
const COALESCING: [Server; 3] = [Tidings, RawBatch, AxumSse];

/// The namespace that the server is started with for events that need not survive it.
const VOLATILE: &str = "--channel-prefix volatile:";

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Whether all is smaller: a look, not a measurement.
    pub is_quick: bool,
    /// Streams that there are descriptors for, for server and client each.
    pub streams_max: usize,
}

impl Size {
    /// So many streams, or fewer where that is impossible.
    pub(crate) fn streams(self, wanted: usize) -> usize {
        let wanted = if self.is_quick { wanted / 10 } else { wanted };
        wanted.min(self.streams_max).max(10)
    }

    fn seconds(self, wanted: u32) -> u32 {
        if self.is_quick { 1 } else { wanted }
    }
}

/// All sections, in the order of the document.
pub fn all(size: Size) -> Vec<Section> {
    vec![
        broadcast(size),
        open_loop(size),
        unicast(size),
        idle(size),
        storm(size),
        flatness(size),
        shards(size),
        slow_readers(size),
        publish(size),
        churn(size),
        polling::section(size),
        brokers(size),
        soak(size),
        stress(),
    ]
}

/// A case in which each server is asked the same.
fn case(id: &str, title: String, servers: &[Server], arguments: impl Fn(Server) -> String, metrics: &[Metric]) -> Case {
    Case {
        id: id.to_owned(),
        title,
        contenders: servers.iter().map(|server| Contender::new(*server, &arguments(*server))).collect(),
        metrics: metrics.to_vec(),
        pinning: Pinning::Apart,
        repetitions_max: usize::MAX,
    }
}

/// What makes a number readable.
pub(crate) fn thousands(number: usize) -> String {
    crate::render::number(number as f64)
}

fn broadcast(size: Size) -> Section {
    let of = |id: &str, wanted: usize, window: usize, pinning: Pinning| {
        let streams = size.streams(wanted);
        let arguments = move |server: Server| {
            // About a second's work for each, by what the kernel can do and whether a window helps.
            let per_second = if window > 1 && COALESCING.contains(&server) { 1_200_000 } else { 200_000 };
            let messages = (per_second / if size.is_quick { streams * 4 } else { streams }).max(2 * window).max(20);
            format!("broadcast --streams {streams} --window {window} --messages {messages} {VOLATILE}")
        };
        let is_pinned = pinning == Pinning::Apart;
        let pinned = if is_pinned { "" } else { ", not pinned" };
        let title = format!("{} streams, window {window}{pinned}", thousands(streams));
        // The headline's figure once more, without those of whom it says nothing new.
        let servers: &[Server] = if is_pinned { &FAN_OUT } else { &[Tidings, RawBatch, AxumSse, Nchan] };
        Case { pinning, ..case(id, title, servers, arguments, &[DELIVERIES]) }
    };
    let cases = vec![
        of("1000-w1", 1_000, 1, Pinning::Apart),
        of("1000-w16", 1_000, 16, Pinning::Apart),
        of("10000-w1", 10_000, 1, Pinning::Apart),
        of("10000-w16", 10_000, 16, Pinning::Apart),
        of("10000-w16-unpinned", 10_000, 16, Pinning::Free),
    ];
    let groups = vec![
        ("1000-w1", "1,000 streams, window 1"),
        ("1000-w16", "1,000 streams, window 16"),
        ("10000-w1", "10,000 streams, window 1"),
        ("10000-w16", "10,000 streams, window 16"),
    ];
    Section {
        id: "broadcast",
        title: "One event to many streams",
        about: "All streams listen to one channel. The window is how many messages are published and not yet delivered \
                to all: with 1, each has to arrive everywhere before the next is sent; with 16, a server may send \
                what has gathered for a stream in one system call. 128 bytes of data.",
        cases,
        plots: vec![Plot {
            file: "broadcast",
            title: "Deliveries a second",
            drawing: Drawing::Bars { cases: groups, metric: DELIVERIES },
        }],
        kind: Kind::Cases,
    }
}

fn open_loop(size: Size) -> Section {
    let (streams, seconds) = (size.streams(10_000), size.seconds(3));
    let arguments =
        move |_: Server| format!("broadcast --streams {streams} --rate 10 --duration {seconds}s {VOLATILE}");
    let title = format!("{} streams", thousands(streams));
    Section {
        id: "open-loop",
        title: "Ten events a second to 10,000 streams",
        about: "Events are sent when they are due, whatever the server makes of it, and latency counts from that moment \
                to the arrival at each stream: a server that stalls does not look better for it. As one event goes to \
                all streams, the last of them waits for the system calls of all others.",
        cases: vec![case("10", title, &FAN_OUT, arguments, &[P50, P90, P99, P999, LONGEST, CPU_PER_DELIVERY])],
        plots: vec![Plot {
            file: "latency",
            title: "Latency of a broadcast, ten events a second",
            drawing: Drawing::Percentiles { case: "10" },
        }],
        kind: Kind::Cases,
    }
}

fn unicast(size: Size) -> Section {
    let (users, seconds) = (size.streams(10_000), size.seconds(2));
    let arguments =
        move |_: Server| format!("unicast --users {users} --publishers 64 --duration {seconds}s {VOLATILE}");
    let title = format!("{} users, 64 publishers", thousands(users));
    Section {
        id: "unicast",
        title: "One event to one user",
        about: "Each user has a stream on a channel of its own. 64 publishers send over HTTP, each with one request \
                under way, every message to a user drawn at random. Tidings authenticates each publish, orders it in \
                its log and keeps it in the channel's history; the others forward it.",
        cases: vec![case("64", title, &FAN_OUT, arguments, &[MESSAGES, P50, P99])],
        plots: vec![],
        kind: Kind::Cases,
    }
}

fn idle(size: Size) -> Section {
    let streams = size.streams(19_000);
    let metrics = [STREAM_BYTES, KERNEL_BYTES];
    let shared = move |_: Server| format!("idle --streams {streams} --settle 1s --duration 1s {VOLATILE}");
    let own = move |_: Server| format!("idle --streams {streams} --own-channels --settle 1s --duration 1s {VOLATILE}");
    // As long as the heartbeat's interval: each stream then gets one.
    let held = if size.is_quick { 2 } else { 15 };
    let users = format!("idle --streams {streams} --own-channels --settle 1s --duration {held}s");
    let users = Contender::new(Tidings, &users).authenticated();
    let count = thousands(streams);
    Section {
        id: "idle",
        title: "What an idle stream costs",
        about: "Resident memory of the server's processes with all streams open, less that before, for each stream; the \
                kernel's own memory for the sockets, those of the client included, beside it. All but `raw` send a \
                heartbeat every 15 s.",
        cases: vec![
            case("shared", format!("{count} streams, one channel"), &FAN_OUT, shared, &metrics),
            case("own", format!("{count} streams, a channel each"), &FAN_OUT, own, &metrics),
            Case {
                contenders: vec![users],
                repetitions_max: 3,
                ..case(
                    "users",
                    format!("{count} authenticated users, each on the personal channel, over a round of heartbeats"),
                    &[],
                    |_| String::new(),
                    &[STREAM_BYTES, KERNEL_BYTES, IDLE_CPU],
                )
            },
        ],
        plots: vec![Plot {
            file: "memory",
            title: "Own memory of an idle stream",
            drawing: Drawing::Bars {
                cases: vec![("shared", "one channel"), ("own", "a channel each"), ("users", "authenticated users")],
                metric: STREAM_BYTES,
            },
        }],
        kind: Kind::Cases,
    }
}

fn storm(size: Size) -> Section {
    let streams = size.streams(10_000);
    let arguments = move |_: Server| format!("storm --streams {streams} --concurrency 256 {VOLATILE}");
    let title = format!("{} streams, 256 at a time", thousands(streams));
    let metrics = [OPENED, P50, P99, OPENING_CPU];
    let users = Contender::new(Tidings, &format!("storm --streams {streams} --concurrency 256")).authenticated();
    let users_title = format!("{} authenticated users, each on the personal channel", thousands(streams));
    Section {
        id: "storm",
        title: "Everybody comes at once",
        about: "After a network's outage or a server's restart all clients connect together. The time of a stream runs \
                from its connect to the first sign that it is open: `connected` for Tidings, the answer's head for the \
                others.",
        cases: vec![
            case("256", title, &FAN_OUT, arguments, &metrics),
            Case { contenders: vec![users], ..case("users", users_title, &[], |_| String::new(), &metrics) },
        ],
        plots: vec![],
        kind: Kind::Cases,
    }
}

fn flatness(size: Size) -> Section {
    let seconds = size.seconds(2);
    let of = |id: &str, wanted: usize| {
        let streams = size.streams(wanted);
        // Processor time is counted in hundredths of a second, so that each case has to have enough of it.
        let rate = 100_000.0 / streams as f64;
        let arguments =
            move |_: Server| format!("broadcast --streams {streams} --rate {rate:.3} --duration {seconds}s {VOLATILE}");
        let title = format!("{} streams", thousands(streams));
        case(id, title, &[Tidings, Raw], arguments, &[CPU_PER_DELIVERY])
    };
    Section {
        id: "flatness",
        title: "Does a delivery cost more when there are more streams?",
        about: "Events to one channel at a fixed rate, such that there are 100,000 deliveries a second whatever the number \
                of streams.",
        cases: vec![of("1000", 1_000), of("5000", 5_000), of("10000", 10_000), of("19000", 19_000)],
        plots: vec![Plot {
            file: "flatness",
            title: "Server CPU for a delivery",
            drawing: Drawing::Lines {
                cases: vec![("1000", 1e3), ("5000", 5e3), ("10000", 10e3), ("19000", 19e3)],
                axis: "streams",
                metric: CPU_PER_DELIVERY,
            },
        }],
        kind: Kind::Cases,
    }
}

fn shards(size: Size) -> Section {
    let (streams, seconds) = (size.streams(10_000), size.seconds(2));
    let arguments = format!("broadcast --streams {streams} --rate 10 --duration {seconds}s {VOLATILE}");
    let of =
        |name: &str, shards: &str| Contender::named(name, Tidings, &arguments).with("TIDINGS_SERVER__SHARDS", shards);
    let title = format!("{} streams, 10 events a second", thousands(streams));
    Section {
        id: "shards",
        title: "One shard and two",
        about: "The same load with the sockets on one thread and on two, nothing pinned. On a machine with two cores a \
                second shard cannot double what is delivered, as the client needs a core; it must not make a \
                delivery dearer.",
        cases: vec![Case {
            contenders: vec![of("one shard", "1"), of("two shards", "2")],
            pinning: Pinning::Free,
            ..case("10", title, &[], |_| String::new(), &[CPU_PER_DELIVERY, P50, P99])
        }],
        plots: vec![],
        kind: Kind::Cases,
    }
}

fn slow_readers(size: Size) -> Section {
    let of = |id: &str, wanted: usize, rate: u32, data_bytes: usize, seconds: u32| {
        let streams = size.streams(wanted);
        let slow = (wanted / 100).max(50).min(streams);
        let load = format!(
            "broadcast --streams {streams} --rate {rate} --duration {seconds}s --data-bytes {data_bytes} {VOLATILE}"
        );
        let with = format!("{load} --slow-readers {slow}");
        let title = format!(
            "{} streams, {rate} events of {} KiB a second, {slow} slow readers or none",
            thousands(streams),
            data_bytes / 1024
        );
        Case {
            contenders: vec![
                Contender::named("without", Tidings, &load),
                Contender::named("with slow readers", Tidings, &with),
            ],
            ..case(id, title, &[], |_| String::new(), &[P50, P99, CPU_PER_DELIVERY, SLOW_ENDED])
        }
    };
    Section {
        id: "slow-readers",
        title: "Some who do not read",
        about: "The same load with and without clients that have the smallest receive buffer and never read; the figures \
                are those of the others. In the first case the kernel's buffers take what is not read, in the second the \
                server has to end the stream.",
        // The second sends each stream 4 MB: more than a socket of this kernel holds, and the queue behind it.
        cases: vec![of("many", 10_000, 10, 1 << 10, size.seconds(3)), of("ended", 500, 50, 16 << 10, 5)],
        plots: vec![],
        kind: Kind::Cases,
    }
}

fn publish(size: Size) -> Section {
    let seconds = size.seconds(2);
    let of = |id: &str, title: &str, contenders: Vec<Contender>| Case {
        contenders,
        ..case(id, title.to_owned(), &[], |_| String::new(), &[EVENTS])
    };
    let tidings = |name: &str, arguments: &str| {
        let arguments = format!("publish --duration {seconds}s --data-bytes 200 {arguments}");
        Contender::named(name, Tidings, &arguments)
    };
    let redis = |arguments: &str| {
        let arguments = format!("redis-append --duration {seconds}s --data-bytes 200 {arguments}");
        Contender::named("Redis", RedisDurable, &arguments)
    };
    Section {
        id: "publish",
        title: "Publishing",
        about: "Events are counted when their publisher has been told that they are as durable as promised: a durable \
                one is in SQLite's write-ahead log and `fdatasync` has returned. Redis appends to a stream (`XADD`) with \
                `appendfsync always`, on the same disk. 200 bytes of data, nobody listens.",
        cases: vec![
            of(
                "single",
                "one event a request, 64 publishers",
                vec![
                    tidings("Tidings, durable", "--publishers 64 --channel-prefix durable:"),
                    tidings("Tidings, volatile", "--publishers 64 --channel-prefix volatile:"),
                    redis("--publishers 64 --batch 1"),
                ],
            ),
            of(
                "batch",
                "NDJSON of 1,000 events, or pipelines of 1,000 commands, 4 publishers",
                vec![
                    tidings("Tidings, durable", "--publishers 4 --batch 1000 --channel-prefix durable:"),
                    tidings("Tidings, volatile", "--publishers 4 --batch 1000 --channel-prefix volatile:"),
                    redis("--publishers 4 --batch 1000"),
                ],
            ),
        ],
        plots: vec![],
        kind: Kind::Cases,
    }
}

fn churn(size: Size) -> Section {
    let (seconds, settle) = if size.is_quick { (3, 1) } else { (20, 5) };
    let arguments = format!("churn --duration {seconds}s --settle {settle}s {VOLATILE}");
    const START: Metric = Metric {
        id: "settled_bytes",
        title: "resident memory when settled",
        pointer: "/resident_settled_bytes",
        factor: 1.0,
        unit: Unit::Bytes,
    };
    const END: Metric = Metric {
        id: "end_bytes",
        title: "resident memory at the end",
        pointer: "/resident_end_bytes",
        factor: 1.0,
        unit: Unit::Bytes,
    };
    Section {
        id: "churn",
        title: "Clients that come and go",
        about: "500 streams a second are opened, stay for a second on average and leave, every other one by a reset, \
                while 100 events a second are published. This is a short look at whether memory grows; \
                `tidings bench churn --duration 30m` is a long one.",
        cases: vec![Case {
            repetitions_max: 1,
            ..case("500", format!("{seconds} s"), &[Tidings], move |_| arguments.clone(), &[START, END])
        }],
        plots: vec![],
        kind: Kind::Cases,
    }
}

fn soak(size: Size) -> Section {
    let streams = size.streams(19_000);
    // The small run has a round of heartbeats still.
    let (held, text) = if size.is_quick { (20, "20 s") } else { (30 * 60, "30 minutes") };
    let arguments = format!("idle --streams {streams} --own-channels --settle 1s --duration {held}s");
    let opening_and_settling = Duration::from_secs(120);
    let contender = Contender {
        limit: Duration::from_secs(held) + opening_and_settling,
        ..Contender::new(Tidings, &arguments).authenticated()
    };
    let title = format!("{} authenticated users for {text}", thousands(streams));
    Section {
        id: "soak",
        title: "Idle streams for half an hour",
        about: "Authenticated users, each on the personal channel, with a heartbeat every 15 s and nothing else. A run in \
                which a stream ended by itself does not count. It takes half an hour and little of the machine, so it \
                is only measured when it is asked for by name, and may run beside others: nothing is pinned, unless \
                `--cores` says where.",
        cases: vec![Case {
            contenders: vec![contender],
            pinning: Pinning::AsAsked,
            repetitions_max: 1,
            ..case(
                "users",
                title,
                &[],
                |_| String::new(),
                &[IDLE_CPU, HEARTBEATS, ENDED, RESIDENT_START, RESIDENT_END, STREAM_BYTES],
            )
        }],
        plots: vec![],
        kind: Kind::Soak,
    }
}

fn brokers(size: Size) -> Section {
    let seconds = size.seconds(2);
    let publish = |name: &str, server: Server, scenario: &str| {
        Contender::named(name, server, &format!("{scenario} --duration {seconds}s --data-bytes 128"))
    };
    Section {
        id: "brokers",
        title: "For scale: message brokers by themselves",
        about: "One publisher that pipelines as fast as it is let, one subscriber over the broker's own protocol. No \
                browser speaks these, and there is no history; it shows what a machine like this does with a \
                plain TCP protocol and large batches.",
        cases: vec![Case {
            contenders: vec![publish("Redis", Redis, "redis-publish"), publish("NATS", Nats, "nats-publish")],
            ..case("one", "one publisher, one subscriber".to_owned(), &[], |_| String::new(), &[MESSAGES])
        }],
        plots: vec![],
        kind: Kind::Cases,
    }
}

fn stress() -> Section {
    Section {
        id: "stress",
        title: "Lossless, under fire",
        about: "Publishers publish and subscribers read through a proxy that cuts every connection sooner or later, while \
                the server is killed (`kill -9`) and started again. In the end every subscriber must hold every \
                acknowledged event of its channels, once, in order, without a gap; the run fails if not. See \
                [testing.md](testing.md).",
        cases: Vec::new(),
        plots: Vec::new(),
        kind: Kind::Stress,
    }
}
