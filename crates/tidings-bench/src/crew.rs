//! The clients of one run: one that leads, and as many members as threads or processes were asked for.

use std::{
    io::BufReader,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{nanos, now_nanos},
    epoll::Epoll,
    link::{Link, Said},
    process,
    report::Progress,
    scenario,
    streams::{BUFFER_BYTES, Shard},
    tally::Tally,
    target::Target,
};

/// How often a server's memory is looked at while it settles.
const SETTLE_STEP: Duration = Duration::from_millis(250);

/// Longest that a server's memory is waited for.
const SETTLE_MAX: Duration = Duration::from_secs(15);

/// Memory that changes by less has settled.
const SETTLED_BYTES: u64 = 64 * 1024;

/// What all scenarios want to know.
#[derive(Clone)]
pub struct Common {
    /// The server.
    pub target: Target,
    /// What the channels' names begin with.
    pub channel_prefix: String,
    /// The server's processes, if they are on this machine: what they use is told as a sum.
    pub pids: Vec<u32>,
    /// Client threads.
    pub threads: u32,
    /// Client processes; with more than one, further threads are processes too.
    pub processes: u32,
    /// How long nothing may come before the rest counts as lost.
    pub patience: Duration,
    /// What runs as a client process: a program that calls [`crate::member`] when it is given
    /// `bench member`.
    pub program: PathBuf,
}

/// What a client is to do.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) patience_nanos: u64,
    pub(crate) load: scenario::Load,
}

/// What every client works with.
pub(crate) struct Desk {
    pub(crate) target: Arc<Target>,
    pub(crate) shard: Shard,
    /// How long nothing may come before the rest counts as lost.
    pub(crate) patience_nanos: u64,
    pub(crate) epoll: Epoll,
    pub(crate) buffer: Box<[u8]>,
}

/// A client's part of a scenario. Making it opens what is to be open.
pub(crate) trait Work {
    /// Does what is to be done while nothing is measured, until then or until something is said.
    fn tend(&mut self, until: u64) -> anyhow::Result<()>;

    /// Does the measured part.
    fn run(&mut self, start: u64, crew: &mut Side, progress: &mut Progress<'_>) -> anyhow::Result<()>;

    /// What was counted.
    fn tally(&mut self) -> Tally;
}

/// The others, as one client sees them.
pub(crate) struct Side {
    peers: Vec<Peer>,
    /// Whether this client leads, or is alone.
    pub(crate) leads: bool,
    /// How many messages there were, once there will be no more.
    pub(crate) published: Option<u64>,
    started: Option<u64>,
}

struct Peer {
    link: Link,
    delivered: u64,
    opened: Option<Tally>,
    result: Option<Tally>,
}

impl Side {
    fn new(links: Vec<Link>, leads: bool) -> Self {
        let peer = |link| Peer { link, delivered: 0, opened: None, result: None };
        Self { peers: links.into_iter().map(peer).collect(), leads, published: None, started: None }
    }

    /// Takes what was said.
    pub(crate) fn listen(&mut self) -> anyhow::Result<()> {
        for peer in &mut self.peers {
            if peer.result.is_some() {
                continue;
            }
            while let Some(said) = peer.link.take()? {
                match said {
                    Said::Opened(tally) => peer.opened = Some(*tally),
                    Said::Delivered(count) => peer.delivered = count,
                    Said::Result(tally) => {
                        peer.result = Some(*tally);
                        break;
                    }
                    Said::Start(at) => self.started = Some(at),
                    Said::Published(count) => self.published = Some(count),
                    Said::Plan(..) | Said::Failed(_) => anyhow::bail!("something was said out of turn"),
                }
            }
        }
        Ok(())
    }

    /// How many messages the streams of all the others have.
    pub(crate) fn delivered(&self) -> Option<u64> {
        self.peers.iter().map(|peer| peer.delivered).min()
    }

    /// Says it to all.
    pub(crate) fn say(&mut self, said: &Said) -> anyhow::Result<()> {
        self.peers.iter_mut().try_for_each(|peer| peer.link.say(said.clone()))
    }
}

/// The client that leads, and its members.
pub(crate) struct Crew {
    work: Box<dyn Work>,
    side: Side,
    /// Dropped last: a member that has lost its leader ends.
    _children: Vec<Member>,
}

/// A client process, which ends with its leader whatever happens.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        // It has ended, or has nobody left to work for.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Crew {
    /// Starts the members and opens what is to be open. Answers what that came to.
    pub(crate) fn open(common: &Common, load: scenario::Load) -> anyhow::Result<(Self, Tally)> {
        let of = common.processes.max(1) * common.threads.max(1);
        let plan = Plan { target: common.target.clone(), patience_nanos: nanos(common.patience), load };
        let epoll = Epoll::new().context("setting up epoll")?;
        let mut links = Vec::new();
        let mut children = Vec::new();
        for index in 1..of {
            let shard = Shard { index: index.into(), of: of.into() };
            if common.processes > 1 {
                let (child, link) = start_process(common, &epoll)?;
                children.push(child);
                links.push(link);
            } else {
                links.push(start_thread(&epoll)?);
            }
            if let Some(link) = links.last_mut() {
                link.say(Said::Plan(Box::new(plan.clone()), shard))?;
            }
        }
        let mut side = Side::new(links, true);
        let mut work = open_work(plan, Shard { index: 0, of: of.into() }, epoll)?;
        let mut opened = work.tally();
        while side.peers.iter().any(|peer| peer.opened.is_none()) {
            work.tend(now_nanos() + nanos(SETTLE_STEP))?;
            side.listen()?;
        }
        for peer in &side.peers {
            opened.add(peer.opened.as_ref().unwrap_or(&Tally::default()));
        }
        Ok((Self { work, side, _children: children }, opened))
    }

    /// Waits until a server's memory no longer changes: allocators give memory back with a delay.
    pub(crate) fn settle(&mut self, pids: &[u32], calm: Duration) -> anyhow::Result<()> {
        let start = now_nanos();
        let (mut since, mut settled_at) = (start, process::usage(pids)?.map_or(0, |usage| usage.rss_bytes));
        while !pids.is_empty() && now_nanos() < since + nanos(calm) && now_nanos() < start + nanos(SETTLE_MAX) {
            self.work.tend(now_nanos() + nanos(SETTLE_STEP))?;
            let bytes = process::usage(pids)?.map_or(0, |usage| usage.rss_bytes);
            if bytes.abs_diff(settled_at) > SETTLED_BYTES {
                (since, settled_at) = (now_nanos(), bytes);
            }
        }
        Ok(())
    }

    /// Does the measured part, and answers what all came to. The connections stay open until the crew is dropped: to
    /// close thousands is work for a server, which is not to be taken for what was measured.
    pub(crate) fn run(&mut self, progress: &mut Progress<'_>) -> anyhow::Result<Tally> {
        let start = now_nanos();
        self.side.say(&Said::Start(start))?;
        self.work.run(start, &mut self.side, progress)?;
        while self.side.peers.iter().any(|peer| peer.result.is_none()) {
            self.work.tend(now_nanos() + nanos(SETTLE_STEP))?;
            self.side.listen()?;
        }
        let mut tally = self.work.tally();
        for result in self.side.peers.iter().filter_map(|peer| peer.result.as_ref()) {
            tally.add(result);
        }
        Ok(tally)
    }
}

/// An epoll stays on the thread that made it, so the thread says first how to wake it.
fn start_thread(epoll: &Epoll) -> anyhow::Result<Link> {
    let leader = epoll.waker();
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let Ok(own) = Epoll::new() else { return };
        let (link, other) = Link::pair(leader, own.waker());
        if sender.send(link).is_ok() {
            serve(own, other);
        }
    });
    receiver.recv().context("setting up epoll in a thread")
}

fn start_process(common: &Common, epoll: &Epoll) -> anyhow::Result<(Member, Link)> {
    let mut child = Command::new(&common.program)
        .args(["bench", "member"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a client process")?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let child = Member(child);
    let (stdin, stdout) = stdin.zip(stdout).context("a client process without input and output")?;
    Ok((child, Link::lines(BufReader::new(stdout), stdin, epoll.waker())))
}

fn open_work(plan: Plan, shard: Shard, epoll: Epoll) -> anyhow::Result<Box<dyn Work>> {
    let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
    let Plan { target, patience_nanos, load } = plan;
    load.open(Desk { target: Arc::new(target), shard, patience_nanos, epoll, buffer })
}

/// Works as a member: does what is said on standard input, and answers on standard output.
pub fn member() -> anyhow::Result<()> {
    let epoll = Epoll::new().context("setting up epoll")?;
    let link = Link::lines(BufReader::new(std::io::stdin()), std::io::stdout(), epoll.waker());
    serve(epoll, link);
    Ok(())
}

fn serve(epoll: Epoll, mut link: Link) {
    let Ok(Said::Plan(plan, shard)) = link.wait() else { return };
    let mut side = Side::new(vec![link], false);
    if let Err(error) = serve_plan(*plan, shard, epoll, &mut side) {
        // A leader that is gone has nothing to be told.
        let _gone = side.say(&Said::Failed(format!("{error:#}")));
    }
}

fn serve_plan(plan: Plan, shard: Shard, epoll: Epoll, side: &mut Side) -> anyhow::Result<()> {
    let mut work = open_work(plan, shard, epoll)?;
    side.say(&Said::Opened(Box::new(work.tally())))?;
    let start = loop {
        side.listen()?;
        if let Some(start) = side.started {
            break start;
        }
        work.tend(now_nanos() + nanos(SETTLE_STEP))?;
    };
    work.run(start, side, &mut Progress::silent())?;
    side.say(&Said::Result(Box::new(work.tally())))?;
    // Until the leader is gone, which has the servers' processor time to look at before connections close.
    while side.listen().is_ok() {
        work.tend(now_nanos() + nanos(SETTLE_STEP))?;
    }
    Ok(())
}
