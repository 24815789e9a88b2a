//! The secrets of `--dev`: made once, kept in the data directory, so that tokens and keys survive
//! a restart of the server under development.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{config::Secret, secret_file};

/// The file in the data directory.
const FILE_NAME: &str = "dev-secrets.toml";

/// 40 characters of base62 hold 238 bits: more than the 128 that suffice, and for HS256 more than
/// the 32 bytes that RFC 7518 §3.2 asks for.
const RANDOM_CHARS: usize = 40;

/// An API key and a signing secret for development.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevSecrets {
    /// A key for publishing, `tk_dev_…`.
    pub api_key: Secret,
    /// The secret that `tidings token --dev` signs with.
    pub jwt_hs256_secret: Secret,
}

/// Why there are no development secrets.
#[derive(Debug, thiserror::Error)]
pub enum DevSecretsError {
    /// The file cannot be read or made.
    #[error("cannot keep development secrets in {path}; give --data-dir a directory that can be written to", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds something else. What it holds is not told: it could be a secret.
    #[error("{path} is not what --dev wrote there; remove it to have it made anew", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl DevSecrets {
    /// Reads the secrets from the data directory, or makes them there on first use. Two processes
    /// that start at once agree on those of one of them.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, DevSecretsError> {
        let path = data_dir.join(FILE_NAME);
        let text = secret_file::load_or_create(data_dir, FILE_NAME, || {
            format!(
                "# Made by `tidings --dev`, for development only. Remove it to have it made anew.\n\
                 api_key = \"tk_dev_{}\"\njwt_hs256_secret = \"{}\"\n",
                secret_file::random_text(RANDOM_CHARS),
                secret_file::random_text(RANDOM_CHARS),
            )
        });
        Self::parse(&text.map_err(|source| DevSecretsError::Io { path: path.clone(), source })?, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, DevSecretsError> {
        toml::from_str(text).map_err(|_| DevSecretsError::Malformed { path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn secrets_are_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("new/data");
        let first = DevSecrets::load_or_create(&data_dir).unwrap();
        assert!(first.api_key.expose().starts_with("tk_dev_"));
        assert!(first.jwt_hs256_secret.expose().len() >= 32);
        assert_eq!(DevSecrets::load_or_create(&data_dir).unwrap(), first);
        let mode = fs::metadata(data_dir.join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1, "the file written aside is left over");
    }

    #[test]
    fn all_who_start_at_once_agree() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| DevSecrets::load_or_create(dir.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|secrets| *secrets == all[0]));
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), "api_key = 5").unwrap();
        assert!(matches!(DevSecrets::load_or_create(dir.path()), Err(DevSecretsError::Malformed { .. })));
    }
}
