//! The limit on open files: every stream takes one, and the soft limit is 1,024 on most systems.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and says what that is; `None` is no limit.
pub(super) fn raise_limit() -> Option<u64> {
    let hard = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
    hard
}
