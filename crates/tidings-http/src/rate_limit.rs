//! How many requests a client may make.
//!
//! A request with an API key counts against that key; any other against the address it comes from.
//! So a backend is never held up by what else its address sends. The caller does, in this order:
//!
//! 1. without an API key: [`RateLimiter::check_address`], before anything is verified;
//! 2. authenticate; if that fails and [`is_suspicious`], [`RateLimiter::charge_failure`], whose refusal
//!    takes the place of the error;
//! 3. with an API key that holds: [`RateLimiter::check_key`].
//!
//! Loopback is not limited by address: it is where tests and a development server are. That is for the
//! caller to see to, who knows whether a request only comes from loopback because a proxy is there.
//!
//! [`is_suspicious`]: crate::auth::AuthError::is_suspicious

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use governor::{
    Quota,
    clock::Clock as _,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use parking_lot::Mutex;
use tidings_core::ports::Clock;

/// How many clients are told apart. A hundred thousand buckets take about 5 MB.
const KEYS_MAX: usize = 100_000;

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 16;

/// How often a full table is searched for buckets that are full again, at most.
const CLEANING_INTERVAL: Duration = Duration::from_secs(1);

/// What a failed authentication costs besides the request itself: a guesser gets a tenth of the rate.
const FAILURE_COST: u32 = 10;

/// The limits. Zero requests per second is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitConfig {
    /// Lasting rate of one address (IPv6: one /64).
    pub ip_requests_per_second: u32,
    /// Requests that one address may make at once.
    pub ip_burst: u32,
    /// Lasting rate of one API key.
    pub key_requests_per_second: u32,
    /// Requests that one API key may make at once.
    pub key_burst: u32,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            // An office behind one address that reconnects at once stays below it.
            ip_requests_per_second: 200,
            ip_burst: 2_000,
            // Well above the 20,000 a second that no limit may hinder.
            key_requests_per_second: 50_000,
            key_burst: 100_000,
        }
    }
}

/// Too many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; try again in {retry_after_secs} s")]
pub struct RateLimited {
    /// For `Retry-After`: at least 1.
    pub retry_after_secs: u32,
}

/// Counts requests. One per server.
pub struct RateLimiter {
    limits: ArcSwap<Limits>,
    clock: PortClock,
    hasher: RandomState,
}

/// The server's clock, as governor reads it.
#[derive(Clone)]
struct PortClock(Arc<dyn Clock>);

impl governor::clock::Clock for PortClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.tick().into()
    }
}

struct Limits {
    config: RateLimitConfig,
    by_address: Option<Buckets>,
    by_key: Option<Buckets>,
}

impl RateLimiter {
    /// Starts counting.
    pub fn new(config: RateLimitConfig, clock: Arc<dyn Clock>) -> Self {
        let clock = PortClock(clock);
        Self { limits: ArcSwap::from_pointee(Limits::new(config, &clock)), clock, hasher: RandomState::new() }
    }

    /// Takes other limits. Where they differ, counting starts anew.
    pub fn reload(&self, config: RateLimitConfig) {
        if self.limits.load().config != config {
            self.limits.store(Arc::new(Limits::new(config, &self.clock)));
        }
    }

    /// Counts a request without an API key.
    pub fn check_address(&self, address: IpAddr) -> Result<(), RateLimited> {
        self.take_from_address(address, 1)
    }

    /// Counts a failed authentication.
    pub fn charge_failure(&self, address: IpAddr) -> Result<(), RateLimited> {
        self.take_from_address(address, FAILURE_COST)
    }

    /// Counts a request with an API key. `label` is that of the principal.
    pub fn check_key(&self, label: &str) -> Result<(), RateLimited> {
        match &self.limits.load().by_key {
            Some(buckets) => buckets.take(self.hasher.hash_one(label), 1),
            None => Ok(()),
        }
    }

    fn take_from_address(&self, address: IpAddr, cost: u32) -> Result<(), RateLimited> {
        match &self.limits.load().by_address {
            Some(buckets) => buckets.take(self.hasher.hash_one(network_of(address.to_canonical())), cost),
            None => Ok(()),
        }
    }
}

/// What shares a bucket: one IPv4 address, or the /64 that one IPv6 client has to itself.
#[derive(Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

fn network_of(address: IpAddr) -> Network {
    match address {
        IpAddr::V4(address) => Network::V4(address.to_bits()),
        IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
    }
}

impl Limits {
    fn new(config: RateLimitConfig, clock: &PortClock) -> Self {
        let by_address = Buckets::new(config.ip_requests_per_second, config.ip_burst, KEYS_MAX, clock);
        let by_key = Buckets::new(config.key_requests_per_second, config.key_burst, KEYS_MAX, clock);
        Self { config, by_address, by_key }
    }
}

/// A bucket per key, and one for all keys that the table has no room for.
struct Buckets {
    limiter: governor::RateLimiter<u64, Table, PortClock, NoOpMiddleware<Nanos>>,
    table: Table,
    burst: NonZeroU32,
    clock: PortClock,
    start: Nanos,
    /// When the table was last cleaned, in nanoseconds since `start`.
    cleaned: AtomicU64,
}

impl Buckets {
    fn new(per_second: u32, burst: u32, keys_max: usize, clock: &PortClock) -> Option<Self> {
        let per_second = NonZeroU32::new(per_second)?;
        let burst = NonZeroU32::new(burst).unwrap_or(per_second);
        let table = Table::new(keys_max);
        let limiter =
            governor::RateLimiter::new(Quota::per_second(per_second).allow_burst(burst), table.clone(), clock.clone());
        let start = clock.now();
        Some(Self { limiter, table, burst, clock: clock.clone(), start, cleaned: AtomicU64::new(0) })
    }

    fn take(&self, key: u64, cost: u32) -> Result<(), RateLimited> {
        if self.table.0.overflowed.load(Ordering::Relaxed) {
            self.clean();
        }
        // No cost is above the burst, so there is always enough capacity in principle.
        let cost = NonZeroU32::new(cost).map_or(self.burst, |cost| cost.min(self.burst));
        match self.limiter.check_key_n(&key, cost) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.clock.now());
                let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(RateLimited { retry_after_secs: u32::try_from(secs.max(1)).unwrap_or(u32::MAX) })
            }
        }
    }

    /// Makes room, if it was not tried just now.
    fn clean(&self) {
        let now = self.clock.now().saturating_sub(self.start).as_u64();
        let cleaned = self.cleaned.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(cleaned) >= Nanos::from(CLEANING_INTERVAL).as_u64();
        // Of several that find it due, one does it.
        if is_due && self.cleaned.compare_exchange(cleaned, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.table.0.overflowed.store(false, Ordering::Relaxed);
            self.limiter.retain_recent();
        }
    }
}

/// The buckets' states. governor's own tables grow without bound.
#[derive(Clone)]
struct Table(Arc<TableInner>);

struct TableInner {
    shards: [Mutex<std::collections::HashMap<u64, Nanos>>; SHARDS],
    shard_max: usize,
    /// The bucket of all keys without one of their own.
    overflow: Mutex<Option<Nanos>>,
    /// Whether it has been used since the last cleaning.
    overflowed: AtomicBool,
}

impl Table {
    fn new(keys_max: usize) -> Self {
        Self(Arc::new(TableInner {
            shards: Default::default(),
            shard_max: keys_max.div_ceil(SHARDS),
            overflow: Mutex::new(None),
            overflowed: AtomicBool::new(false),
        }))
    }
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.0.shards[*key as usize % SHARDS].lock();
        if let Some(state) = shard.get_mut(key) {
            let (outcome, next) = measure(Some(*state))?;
            *state = next;
            return Ok(outcome);
        }
        if shard.len() < self.0.shard_max {
            let (outcome, next) = measure(None)?;
            shard.insert(*key, next);
            return Ok(outcome);
        }
        drop(shard);
        self.0.overflowed.store(true, Ordering::Relaxed);
        let mut overflow = self.0.overflow.lock();
        let (outcome, next) = measure(*overflow)?;
        *overflow = Some(next);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for Table {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.0.shards {
            shard.lock().retain(|_, state| *state > drop_below);
        }
    }

    fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin};

    use tidings_hub::{Tick, Time};
    use tidings_protocol::Millis;

    use super::*;

    /// A clock that stands until it is moved.
    #[derive(Default)]
    struct ManualClock(AtomicU64);

    impl ManualClock {
        fn advance(&self, by: Duration) {
            self.0.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    impl Time for ManualClock {
        fn now(&self) -> Millis {
            self.tick().as_millis() as Millis
        }

        fn tick(&self) -> Tick {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
    }

    impl Clock for ManualClock {
        fn sleep_until(&self, _tick: Tick) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(std::future::pending())
        }
    }

    fn limiter(ip: (u32, u32), key: (u32, u32)) -> (RateLimiter, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let config = RateLimitConfig {
            ip_requests_per_second: ip.0,
            ip_burst: ip.1,
            key_requests_per_second: key.0,
            key_burst: key.1,
        };
        (RateLimiter::new(config, clock.clone()), clock)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many requests in a row are let through, up to a thousand.
    fn allowed(mut request: impl FnMut() -> Result<(), RateLimited>) -> usize {
        (0..1000).take_while(|_| request().is_ok()).count()
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let (limiter, clock) = limiter((2, 5), (0, 0));
        let one = address("192.0.2.1");
        assert_eq!(allowed(|| limiter.check_address(one)), 5);
        assert_eq!(limiter.check_address(one), Err(RateLimited { retry_after_secs: 1 }));
        clock.advance(Duration::from_millis(500));
        assert_eq!(allowed(|| limiter.check_address(one)), 1);
        assert_eq!(allowed(|| limiter.check_address(address("192.0.2.2"))), 5, "another address has its own");
    }

    #[test]
    fn retry_after_is_rounded_up_and_keeps_its_word() {
        let (limiter, clock) = limiter((2, 40), (0, 0));
        let one = address("192.0.2.1");
        assert_eq!(allowed(|| limiter.check_address(one)), 40);
        // Ten requests' worth, at two a second.
        assert_eq!(limiter.charge_failure(one), Err(RateLimited { retry_after_secs: 5 }));
        clock.advance(Duration::from_millis(100));
        assert_eq!(limiter.charge_failure(one), Err(RateLimited { retry_after_secs: 5 }));
        clock.advance(Duration::from_millis(4900));
        assert_eq!(limiter.charge_failure(one), Ok(()));
    }

    #[test]
    fn a_failure_costs_as_much_as_ten_requests() {
        let (limiter, _clock) = limiter((1, 100), (0, 0));
        let one = address("192.0.2.1");
        assert_eq!(allowed(|| limiter.check_address(one).and_then(|()| limiter.charge_failure(one))), 9);
        // Where ten are more than may come at once, one failure takes all.
        let (limiter, _clock) = self::limiter((1, 3), (0, 0));
        assert_eq!(allowed(|| limiter.charge_failure(one)), 1);
    }

    #[test]
    fn one_ipv6_network_shares_a_bucket_and_mapped_ipv4_is_ipv4() {
        let (limiter, _clock) = limiter((1, 4), (0, 0));
        let mut host = 0u32;
        let shared = allowed(|| {
            host += 1;
            limiter.check_address(address(&format!("2001:db8:0:1::{host:x}")))
        });
        assert_eq!(shared, 4);
        assert_eq!(allowed(|| limiter.check_address(address("2001:db8:0:2::1"))), 4);
        assert_eq!(allowed(|| limiter.check_address(address("192.0.2.1"))), 4);
        assert!(limiter.check_address(address("::ffff:192.0.2.1")).is_err());
    }

    #[test]
    fn keys_have_buckets_of_their_own_and_addresses_do_not_count() {
        let (limiter, _clock) = limiter((1, 1), (1, 7));
        assert_eq!(allowed(|| limiter.check_address(address("192.0.2.1"))), 1);
        assert_eq!(allowed(|| limiter.check_key("0a1b2c3d")), 7);
        assert_eq!(allowed(|| limiter.check_key("ffffffff")), 7);
    }

    #[test]
    fn zero_is_no_limit() {
        let (limiter, _clock) = limiter((1, 1), (0, 5));
        assert_eq!(allowed(|| limiter.check_key("0a1b2c3d")), 1000);
        let (limiter, _clock) = self::limiter((0, 5), (1, 1));
        assert_eq!(allowed(|| limiter.check_address(address("192.0.2.1"))), 1000);
    }

    #[test]
    fn a_reload_replaces_the_limits_and_an_equal_one_forgets_nothing() {
        let (limiter, _clock) = limiter((1, 3), (0, 0));
        let one = address("192.0.2.1");
        assert_eq!(allowed(|| limiter.check_address(one)), 3);
        let same = limiter.limits.load().config.clone();
        limiter.reload(same.clone());
        assert!(limiter.check_address(one).is_err());
        limiter.reload(RateLimitConfig { ip_burst: 6, ..same });
        assert_eq!(allowed(|| limiter.check_address(one)), 6);
    }

    #[test]
    fn a_full_table_keeps_its_buckets_shares_one_among_the_rest_and_empties_itself() {
        let clock = Arc::new(ManualClock::default());
        let buckets = Buckets::new(1, 4, SHARDS * 2, &PortClock(clock.clone())).unwrap();
        let len = || buckets.table.len();
        // Two keys for each part of the table fill it.
        for key in 0..SHARDS as u64 * 2 {
            assert_eq!(buckets.take(key, 2), Ok(()));
        }
        assert_eq!(len(), SHARDS * 2);
        // The rest have four between them.
        let mut stranger = 1_000;
        let shared = allowed(|| {
            stranger += 1;
            buckets.take(stranger, 1)
        });
        assert_eq!((shared, len()), (4, SHARDS * 2));
        assert_eq!(allowed(|| buckets.take(0, 1)), 2, "a known key is not hurt by the others");
        // When the known ones are as good as new they make room.
        clock.advance(Duration::from_secs(10));
        assert_eq!(allowed(|| buckets.take(5_000, 1)), 4);
        assert_eq!(len(), 1);
    }
}
