-- MySQL commits after each of these, so each can be run again.

-- Numbers of the store as a whole. The last number given to a notification for everyone is counted under a
-- lock, so that they are committed in the order of their numbers.
CREATE TABLE IF NOT EXISTS tidings_meta (
    name VARBINARY(200) NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What was accepted. Those for everyone have a number of their own, and say themselves where they were told.
CREATE TABLE IF NOT EXISTS tidings_notifications (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    kind VARBINARY(200) NOT NULL,
    title MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    body MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    url MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    data MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    collapse VARBINARY(200),
    push BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    audience BIGINT NOT NULL,
    channel VARBINARY(200),
    idempotency_key VARBINARY(200),
    fingerprint VARBINARY(32),
    everyone_seq BIGINT,
    everyone_untold BIGINT,
    escalate_at BIGINT,
    told_partition BIGINT,
    told_epoch BIGINT,
    told_position BIGINT,
    UNIQUE KEY tidings_notifications_key (idempotency_key),
    UNIQUE KEY tidings_notifications_everyone (everyone_seq),
    UNIQUE KEY tidings_notifications_untold (everyone_untold),
    KEY tidings_notifications_expiry (expires_at),
    KEY tidings_notifications_told (told_partition, told_epoch, told_position)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Everybody who has anything here. Who changes something of a user's locks this row first.
CREATE TABLE IF NOT EXISTS tidings_users (
    user_id VARBINARY(200) NOT NULL,
    everyone_through BIGINT NOT NULL,
    PRIMARY KEY (user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Who has which notification, and how they stand to it: state is 0 unread, 1 read, 2 archived; push is
-- 0 none, 1 under way, 2 sent, 3 given up. The slot is the notification's collapse while it is unread.
CREATE TABLE IF NOT EXISTS tidings_inbox (
    user_id VARBINARY(200) NOT NULL,
    notification_id BIGINT NOT NULL,
    kind VARBINARY(200) NOT NULL,
    expires_at BIGINT NOT NULL,
    state BIGINT NOT NULL,
    is_seen BIGINT NOT NULL,
    was_read BIGINT NOT NULL,
    is_live BIGINT NOT NULL,
    is_delivered BIGINT NOT NULL,
    push BIGINT NOT NULL,
    collapse_slot VARBINARY(200),
    told_partition BIGINT,
    told_epoch BIGINT,
    told_position BIGINT,
    PRIMARY KEY (user_id, notification_id),
    UNIQUE KEY tidings_inbox_slot (user_id, collapse_slot),
    KEY tidings_inbox_state (user_id, state, notification_id),
    KEY tidings_inbox_notification (notification_id, user_id),
    KEY tidings_inbox_expiry (user_id, expires_at),
    KEY tidings_inbox_told (user_id, told_partition, told_epoch, told_position)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- How many of the inbox are unread, and neither read nor seen.
CREATE TABLE IF NOT EXISTS tidings_counts (
    user_id VARBINARY(200) NOT NULL,
    kind VARBINARY(200) NOT NULL,
    unread BIGINT NOT NULL,
    unseen BIGINT NOT NULL,
    PRIMARY KEY (user_id, kind)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What the report of a notification counts although it is in an inbox no more.
CREATE TABLE IF NOT EXISTS tidings_gone (
    notification_id BIGINT NOT NULL,
    recipients BIGINT NOT NULL,
    delivered BIGINT NOT NULL,
    pushed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    was_read BIGINT NOT NULL,
    PRIMARY KEY (notification_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Who follows which channel.
CREATE TABLE IF NOT EXISTS tidings_follows (
    user_id VARBINARY(200) NOT NULL,
    channel VARBINARY(200) NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (user_id, channel),
    UNIQUE KEY tidings_follows_channel (channel, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What users want, by kind.
CREATE TABLE IF NOT EXISTS tidings_preferences (
    user_id VARBINARY(200) NOT NULL,
    kind VARBINARY(200) NOT NULL,
    live BIGINT NOT NULL,
    push BIGINT NOT NULL,
    mute_until BIGINT,
    PRIMARY KEY (user_id, kind)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Push targets. No two have the same digest; the revision tells a device from an earlier one of its name.
CREATE TABLE IF NOT EXISTS tidings_devices (
    user_id VARBINARY(200) NOT NULL,
    device_id VARBINARY(200) NOT NULL,
    target BIGINT NOT NULL,
    address MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    p256dh MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    auth MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    digest VARBINARY(32) NOT NULL,
    revision BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    quarantine MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    PRIMARY KEY (user_id, device_id),
    UNIQUE KEY tidings_devices_digest (digest)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What is not known to have arrived. due_at is 0 until it has been told.
CREATE TABLE IF NOT EXISTS tidings_deliveries (
    user_id VARBINARY(200) NOT NULL,
    notification_id BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    is_live BIGINT NOT NULL,
    push BIGINT NOT NULL,
    PRIMARY KEY (user_id, notification_id),
    KEY tidings_deliveries_due (due_at, notification_id, user_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Notifications that are being written out, and to whom they have been.
CREATE TABLE IF NOT EXISTS tidings_fan_outs (
    notification_id BIGINT NOT NULL,
    reached VARBINARY(200) NOT NULL,
    PRIMARY KEY (notification_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What is to be sent to devices. due_at is NULL once it is given up (then dead_id is the id) or called off.
CREATE TABLE IF NOT EXISTS tidings_pushes (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    user_id VARBINARY(200) NOT NULL,
    notification_id BIGINT NOT NULL,
    device_id VARBINARY(200) NOT NULL,
    provider VARBINARY(200) NOT NULL,
    due_at BIGINT,
    is_leased BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    cause MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    died_at BIGINT,
    dead_id BIGINT,
    UNIQUE KEY tidings_pushes_device (user_id, notification_id, device_id),
    UNIQUE KEY tidings_pushes_dead (dead_id),
    KEY tidings_pushes_due (due_at, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT IGNORE INTO tidings_meta (name, value) VALUES ('everyone', 0);
