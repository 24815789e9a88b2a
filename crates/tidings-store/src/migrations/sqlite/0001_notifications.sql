-- Numbers of the store as a whole. The last number given to a notification for everyone is counted under a
-- lock, so that they are committed in the order of their numbers.
CREATE TABLE tidings_meta (
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (name)
) STRICT, WITHOUT ROWID;

-- What was accepted. Those for everyone have a number of their own, and say themselves where they were told.
CREATE TABLE tidings_notifications (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    body TEXT,
    url TEXT,
    data TEXT,
    collapse TEXT,
    push INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    audience INTEGER NOT NULL,
    channel TEXT,
    idempotency_key TEXT,
    fingerprint BLOB,
    everyone_seq INTEGER,
    everyone_untold INTEGER,
    escalate_at INTEGER,
    told_partition INTEGER,
    told_epoch INTEGER,
    told_position INTEGER
) STRICT;
CREATE UNIQUE INDEX tidings_notifications_key ON tidings_notifications (idempotency_key);
CREATE UNIQUE INDEX tidings_notifications_everyone ON tidings_notifications (everyone_seq);
CREATE UNIQUE INDEX tidings_notifications_untold ON tidings_notifications (everyone_untold);
CREATE INDEX tidings_notifications_expiry ON tidings_notifications (expires_at);
CREATE INDEX tidings_notifications_told ON tidings_notifications (told_partition, told_epoch, told_position) WHERE told_position IS NOT NULL;

-- Everybody who has anything here. Who changes something of a user's locks this row first.
CREATE TABLE tidings_users (
    user_id TEXT NOT NULL,
    everyone_through INTEGER NOT NULL,
    PRIMARY KEY (user_id)
) STRICT, WITHOUT ROWID;

-- Who has which notification, and how they stand to it: state is 0 unread, 1 read, 2 archived; push is
-- 0 none, 1 under way, 2 sent, 3 given up. The slot is the notification's collapse while it is unread.
CREATE TABLE tidings_inbox (
    user_id TEXT NOT NULL,
    notification_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    is_seen INTEGER NOT NULL,
    was_read INTEGER NOT NULL,
    is_live INTEGER NOT NULL,
    is_delivered INTEGER NOT NULL,
    push INTEGER NOT NULL,
    collapse_slot TEXT,
    told_partition INTEGER,
    told_epoch INTEGER,
    told_position INTEGER,
    PRIMARY KEY (user_id, notification_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX tidings_inbox_slot ON tidings_inbox (user_id, collapse_slot);
CREATE INDEX tidings_inbox_state ON tidings_inbox (user_id, state, notification_id);
CREATE INDEX tidings_inbox_notification ON tidings_inbox (notification_id, user_id);
CREATE INDEX tidings_inbox_expiry ON tidings_inbox (user_id, expires_at);
CREATE INDEX tidings_inbox_told ON tidings_inbox (user_id, told_partition, told_epoch, told_position) WHERE told_position IS NOT NULL;

-- How many of the inbox are unread, and neither read nor seen.
CREATE TABLE tidings_counts (
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    unread INTEGER NOT NULL,
    unseen INTEGER NOT NULL,
    PRIMARY KEY (user_id, kind)
) STRICT, WITHOUT ROWID;

-- What the report of a notification counts although it is in an inbox no more.
CREATE TABLE tidings_gone (
    notification_id INTEGER NOT NULL,
    recipients INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    pushed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    was_read INTEGER NOT NULL,
    PRIMARY KEY (notification_id)
) STRICT, WITHOUT ROWID;

-- Who follows which channel.
CREATE TABLE tidings_follows (
    user_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (user_id, channel)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX tidings_follows_channel ON tidings_follows (channel, user_id);

-- What users want, by kind.
CREATE TABLE tidings_preferences (
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    live INTEGER NOT NULL,
    push INTEGER NOT NULL,
    mute_until INTEGER,
    PRIMARY KEY (user_id, kind)
) STRICT, WITHOUT ROWID;

-- Push targets. No two have the same digest; the revision tells a device from an earlier one of its name.
CREATE TABLE tidings_devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    target INTEGER NOT NULL,
    address TEXT NOT NULL,
    p256dh TEXT,
    auth TEXT,
    digest BLOB NOT NULL,
    revision INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    quarantine TEXT,
    PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX tidings_devices_digest ON tidings_devices (digest);

-- What is not known to have arrived. due_at is 0 until it has been told.
CREATE TABLE tidings_deliveries (
    user_id TEXT NOT NULL,
    notification_id INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    is_live INTEGER NOT NULL,
    push INTEGER NOT NULL,
    PRIMARY KEY (user_id, notification_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX tidings_deliveries_due ON tidings_deliveries (due_at, notification_id, user_id);

-- Notifications that are being written out, and to whom they have been.
CREATE TABLE tidings_fan_outs (
    notification_id INTEGER NOT NULL,
    reached TEXT NOT NULL,
    PRIMARY KEY (notification_id)
) STRICT, WITHOUT ROWID;

-- What is to be sent to devices. due_at is NULL once it is given up (then dead_id is the id) or called off.
CREATE TABLE tidings_pushes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    notification_id INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    due_at INTEGER,
    is_leased INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    cause TEXT,
    died_at INTEGER,
    dead_id INTEGER
) STRICT;
CREATE UNIQUE INDEX tidings_pushes_device ON tidings_pushes (user_id, notification_id, device_id);
CREATE UNIQUE INDEX tidings_pushes_dead ON tidings_pushes (dead_id);
CREATE INDEX tidings_pushes_due ON tidings_pushes (due_at, id);

INSERT INTO tidings_meta (name, value) VALUES ('everyone', 0);
