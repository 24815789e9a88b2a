//! A TCP proxy on loopback that loses connections on purpose.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// After how many bytes connections are cut. Each gets a number between the two, small ones as
/// likely as large ones on a logarithmic scale: in the head of the answer, in the middle of a frame,
/// between two frames, after thousands of them.
#[derive(Debug, Clone, Copy)]
pub struct CutPlan {
    /// Fewest bytes before the cut.
    pub min_bytes: u64,
    /// Most bytes before the cut. It has to be well above a request with its answer, or nobody gets
    /// anywhere.
    pub max_bytes: u64,
}

/// What happens to one connection: it is cut when either direction has used up its bytes.
#[derive(Debug, Clone, Copy)]
struct Fate {
    to_client_bytes: u64,
    to_server_bytes: u64,
    ending: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Both sides get a RST, and what they have not read yet is lost to them.
    Reset,
    /// Both sides get a FIN.
    Finish,
}

/// Both sides of one connection must be dropped now.
struct Cut;

struct Shared {
    upstream: SocketAddr,
    plan: CutPlan,
    rng: Mutex<StdRng>,
    cutting: AtomicBool,
    cuts: AtomicU64,
    connections: AtomicU64,
    paused: watch::Sender<bool>,
    /// Counts the calls of `cut_all`.
    cut_all: watch::Sender<u64>,
}

/// The proxy. It cuts from the start, and ends with all its connections when it is dropped.
pub struct CuttingProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl CuttingProxy {
    /// Listens on a free port and passes on to `upstream`, which may be down at times: then a
    /// connection is reset as soon as it comes.
    pub async fn start(upstream: SocketAddr, plan: CutPlan, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            plan,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            cutting: AtomicBool::new(true),
            cuts: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            paused: watch::Sender::new(false),
            cut_all: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, accepting })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on only passes on.
    pub fn stop_cutting(&self) {
        self.shared.cutting.store(false, Relaxed);
    }

    /// Cuts again, a connection that is past its number of bytes at its next one.
    pub fn start_cutting(&self) {
        self.shared.cutting.store(true, Relaxed);
    }

    /// Stops passing on bytes, without closing anything: to both sides the other one is just silent.
    pub fn pause(&self) {
        self.shared.paused.send_replace(true);
    }

    /// Passes bytes on again.
    pub fn resume(&self) {
        self.shared.paused.send_replace(false);
    }

    /// Cuts every connection there is now.
    pub fn cut_all(&self) {
        self.shared.cut_all.send_modify(|calls| *calls += 1);
    }

    /// How many connections have been cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Relaxed)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_all();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                shared.connections.fetch_add(1, Relaxed);
                tokio::spawn(carry(client, Arc::clone(&shared)));
            }
            // Out of file descriptors, or the client is gone already: the next one may do better.
            Err(_) => crate::wait::back_off(Duration::from_millis(20)).await,
        }
    }
}

async fn carry(mut client: TcpStream, shared: Arc<Shared>) {
    let fate = shared.roll();
    let mut cut_all = shared.cut_all.subscribe();
    let Ok(mut server) = TcpStream::connect(shared.upstream).await else {
        end(client, Ending::Reset).await;
        return;
    };
    // A proxy that gathers bytes would hide in which pieces they come. It is only a wish.
    let _wish = client.set_nodelay(true).and(server.set_nodelay(true));
    let outcome = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let both = async {
            tokio::try_join!(
                pump(server_reads, client_writes, fate.to_client_bytes, &shared),
                pump(client_reads, server_writes, fate.to_server_bytes, &shared),
            )
        };
        tokio::select! {
            outcome = both => outcome.map(|_| ()),
            _ = cut_all.changed() => Err(Cut),
        }
    };
    if outcome.is_err() {
        shared.cuts.fetch_add(1, Relaxed);
        end(client, fate.ending).await;
        end(server, fate.ending).await;
    }
}

/// Passes bytes on in one direction until it ends, or until its bytes are used up and it is cut.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut budget_bytes: u64,
    shared: &Shared,
) -> Result<(), Cut> {
    let mut paused = shared.paused.subscribe();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // An error of one side is passed to the other as a cut: it has to learn of it.
        let length = from.read(&mut buffer).await.map_err(|_| Cut)?;
        if paused.wait_for(|paused| !paused).await.is_err() {
            return Err(Cut);
        }
        if length == 0 {
            return to.shutdown().await.map_err(|_| Cut);
        }
        let is_last = shared.cutting.load(Relaxed) && length as u64 >= budget_bytes;
        let pass_on = if is_last { budget_bytes as usize } else { length };
        to.write_all(&buffer[..pass_on]).await.map_err(|_| Cut)?;
        if is_last {
            return Err(Cut);
        }
        budget_bytes = budget_bytes.saturating_sub(length as u64);
    }
}

async fn end(mut stream: TcpStream, ending: Ending) {
    // Each fails only where the peer was faster.
    match ending {
        Ending::Reset => {
            let _gone = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        Ending::Finish => {
            let _gone = stream.shutdown().await;
        }
    }
}

impl Shared {
    fn roll(&self) -> Fate {
        let mut rng = self.rng.lock();
        let CutPlan { min_bytes, max_bytes } = self.plan;
        let (low, high) = ((min_bytes.max(1) as f64).ln(), (max_bytes.max(2) as f64).ln());
        let bytes = |rng: &mut StdRng| rng.random_range(low..=high.max(low)).exp() as u64;
        Fate {
            to_client_bytes: bytes(&mut rng),
            // Most requests get through: what is to be cut most often is what the server sends.
            to_server_bytes: if rng.random_bool(0.25) { bytes(&mut rng) } else { u64::MAX },
            ending: if rng.random_bool(0.5) { Ending::Reset } else { Ending::Finish },
        }
    }
}
