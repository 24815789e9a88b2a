//! Users' devices.

use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use tidings_core::ports::store::{Device, DeviceError, PushTarget, Put, StoreError};
use tidings_protocol::UserId;

use crate::{
    codes::{target_code, target_of},
    rows,
    sql::{Database, Row, Session, SqlError, args, reading, transaction},
};

/// The columns of a device `d` that [`device_of`] reads.
pub(crate) const DEVICE: &str = "d.device_id, d.target, d.address, d.p256dh, d.auth, d.updated_at, d.quarantine";

pub(crate) fn device_of(row: &Row, first: usize) -> Result<Device, SqlError> {
    Ok(Device {
        id: row.text(first)?,
        target: target_of(
            row.int(first + 1)?,
            row.text(first + 2)?,
            row.maybe_text(first + 3)?,
            row.maybe_text(first + 4)?,
        )?,
        updated_at: row.natural(first + 5)?,
        quarantine: row.maybe_text(first + 6)?,
    })
}

/// What no two devices have in common, in a form that an index takes.
fn digest(target: &PushTarget) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(target.provider());
    digest.update([0]);
    digest.update(target.address());
    digest.finalize().into()
}

pub(crate) async fn devices(database: &Database, user: &UserId) -> Result<Vec<Device>, SqlError> {
    reading!(database, on => {
        let sql = format!("SELECT {DEVICE} FROM tidings_devices AS d WHERE d.user_id = ? ORDER BY d.device_id");
        let rows = on.query(&sql, args![user.as_str()]).await?;
        rows.iter().map(|row| device_of(row, 0)).collect()
    })
}

pub(crate) async fn put(database: &Database, user: &UserId, device: &Device, max: usize) -> Result<Put, DeviceError> {
    let digest = digest(&device.target);
    let revision = rand::rng().random_range(1..i64::MAX);
    let put = transaction!(database, on => {
        let holder = holder_of(on, &digest).await?;
        let mut users = vec![user.as_str()];
        users.extend(holder.as_ref().map(|(user, _)| user.as_str()));
        rows::lock(on, &users).await?;
        let other = holder.filter(|(owner, name)| owner != user.as_str() || *name != device.id);
        let sql = "SELECT COUNT(*), COUNT(CASE WHEN device_id = ? THEN 1 END) FROM tidings_devices WHERE user_id = ?";
        let counts = on.one(sql, args![device.id.as_str(), user.as_str()]).await?;
        let is_new = counts.int(1)? == 0;
        let goes = u64::from(other.as_ref().is_some_and(|(owner, _)| owner == user.as_str()));
        if is_new && counts.natural(0)?.saturating_sub(goes) >= max as u64 {
            return Ok(Err(DeviceError::TooMany { max }));
        }
        // If it has changed hands since, the insert fails, and all is done again.
        if let Some((owner, name)) = other {
            remove_of(on, &owner, &name).await?;
        }
        let sql = "DELETE FROM tidings_devices WHERE user_id = ? AND device_id = ?";
        on.execute(sql, args![user.as_str(), device.id.as_str()]).await?;
        let (target, p256dh, auth) = target_code(&device.target);
        on.execute(
            "INSERT INTO tidings_devices
                 (user_id, device_id, target, address, p256dh, auth, digest, revision, updated_at, quarantine)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            args![
                user.as_str(),
                device.id.as_str(),
                target,
                device.target.address(),
                p256dh,
                auth,
                &digest[..],
                revision,
                device.updated_at,
                device.quarantine.as_deref(),
            ],
        )
        .await?;
        Ok(Ok(if is_new { Put::Created } else { Put::Replaced }))
    });
    put.map_err(StoreError::from)?
}

pub(crate) async fn remove(database: &Database, user: &UserId, device: &str) -> Result<bool, SqlError> {
    transaction!(database, on => {
        rows::lock_known(on, &[user.as_str()]).await?;
        remove_of(on, user.as_str(), device).await
    })
}

async fn holder_of(on: &mut Session, digest: &[u8; 32]) -> Result<Option<(String, String)>, SqlError> {
    let sql = "SELECT user_id, device_id FROM tidings_devices WHERE digest = ?";
    let Some(row) = on.optional(sql, args![&digest[..]]).await? else { return Ok(None) };
    Ok(Some((row.text(0)?, row.text(1)?)))
}

/// Removes a device of a locked user, and what was to be sent to it.
pub(crate) async fn remove_of(on: &mut Session, user: &str, device: &str) -> Result<bool, SqlError> {
    // Not `dead_id IS NULL`: to SQLite, which takes an index without doubles for one that finds a row or two, that
    // would be the best way, and it leads through all pushes of all users.
    let sql = "DELETE FROM tidings_pushes WHERE user_id = ? AND device_id = ? AND died_at IS NULL";
    on.execute(sql, args![user, device]).await?;
    let sql = "DELETE FROM tidings_devices WHERE user_id = ? AND device_id = ?";
    Ok(on.execute(sql, args![user, device]).await? > 0)
}
