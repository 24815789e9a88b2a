//! Pushes to send, and a clock that can be put forward.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tidings_core::{
    notifications::{Content, Kind, Notification, NotificationId, PushMode},
    ports::{
        PushVerdict,
        store::{Device, PushJob, PushTarget},
    },
};
use tidings_hub::{Tick, Time};
use tidings_protocol::{Data, Millis, UserId};

/// The end of what would otherwise hang. Nobody waits for it when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The system's time, and what it was put forward by. Wall-clock time stays, so that what is signed is
/// good.
pub(crate) struct Clock {
    start: Instant,
    forward_ms: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), forward_ms: AtomicU64::new(0) })
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.forward_ms.fetch_add(by.as_millis() as u64, Relaxed);
    }
}

impl Time for Clock {
    fn now(&self) -> Millis {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as Millis
    }

    fn tick(&self) -> Tick {
        self.start.elapsed() + Duration::from_millis(self.forward_ms.load(Relaxed))
    }
}

pub(crate) fn content(title: &str) -> Content {
    Content {
        kind: Kind::parse("festival.added").unwrap(),
        title: title.to_owned(),
        body: Some("제주 \u{1f3b6}".to_owned()),
        url: Some("https://app.example/festivals/7".to_owned()),
        data: Some(Data::parse(r#"{"festival":7}"#).unwrap()),
        collapse: None,
    }
}

/// A push that ends in an hour.
pub(crate) fn push(target: PushTarget, content: Content) -> PushJob {
    let now = Clock::new().now();
    PushJob {
        id: 1,
        user: UserId::parse("42").unwrap(),
        device: Device { id: "phone".to_owned(), target, updated_at: now, quarantine: None },
        notification: Arc::new(Notification {
            id: NotificationId(17),
            content,
            push: PushMode::Offline,
            created_at: now,
            expires_at: now + 3_600_000,
        }),
        unread: 3,
        attempts: 0,
    }
}

pub(crate) const RETRY: PushVerdict = PushVerdict::Retry { after_ms: None };

pub(crate) fn retry_after(after_ms: u64) -> PushVerdict {
    PushVerdict::Retry { after_ms: Some(after_ms) }
}
