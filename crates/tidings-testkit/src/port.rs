//! Ports that stay ours while the server that listens on them is dead.

use std::{
    fs::{File, TryLockError},
    net::TcpListener,
};

use anyhow::Context as _;
use rand::Rng as _;

/// Below the range from which Linux picks ports for outgoing connections (`ip_local_port_range`), so
/// that no client can take the port of a server that is being restarted.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that no other test of this machine is given as long as this lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked; the lock goes with the process, however it ends.
    _lock: File,
}

impl Port {
    /// Finds a port that is free now.
    pub fn reserve() -> anyhow::Result<Self> {
        // For each user, because one cannot open the files of another.
        let user = rustix::process::getuid().as_raw();
        let locks = std::env::temp_dir().join(format!("tidings-test-ports-{user}"));
        std::fs::create_dir_all(&locks).with_context(|| format!("creating {}", locks.display()))?;
        for _ in 0..1000 {
            let number = rand::rng().random_range(RANGE);
            let path = locks.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) if TcpListener::bind(("127.0.0.1", number)).is_ok() => {
                    return Ok(Self { number, _lock: lock });
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
        }
        anyhow::bail!("no port between {} and {} is free", RANGE.start, RANGE.end)
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
