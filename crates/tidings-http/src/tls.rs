//! TLS on the listener: the certificate and its key, read again on reload, and the handshake.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};

use crate::socket::Socket;

/// How long a handshake may take: a few round trips, over the slowest of mobile networks.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest file that is read. A chain of certificates takes some KiB.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// What ALPN calls HTTP/2 (RFC 9113 §3.1).
const HTTP2: &[u8] = b"h2";

/// What ALPN calls HTTP/1.1 (RFC 7301 §6).
const HTTP1: &[u8] = b"http/1.1";

/// A certificate with its key, to be replaced while connections are being accepted.
#[derive(Debug)]
pub struct Tls {
    config: ArcSwap<ServerConfig>,
}

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("the file {path:?} cannot be read")]
    Unreadable {
        /// Which of the two.
        file: TlsFile,
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("the file {path:?} holds no {}; accepted is PEM, as in `-----BEGIN {}-----`", file.holds(), file.label())]
    Missing {
        /// Which of the two.
        file: TlsFile,
        /// Its path.
        path: PathBuf,
    },
    /// A file is damaged.
    #[error("the file {path:?} is no valid PEM: {reason}")]
    Malformed {
        /// Which of the two.
        file: TlsFile,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it. Never what it holds.
        reason: String,
    },
    /// The key is that of another certificate.
    #[error(
        "the key in {key:?} is not that of the first certificate in {cert:?}; the server's own certificate stands first, its issuers follow"
    )]
    KeyMismatch {
        /// The certificate's path.
        cert: PathBuf,
        /// The key's path.
        key: PathBuf,
    },
    /// Both can be read, but not served with.
    #[error("the certificate in {cert:?} and its key cannot be used")]
    Unusable {
        /// The certificate's path.
        cert: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// The chain of certificates.
    Certificate,
    /// The private key.
    Key,
}

impl TlsFile {
    fn holds(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "private key",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Certificate => "CERTIFICATE",
            Self::Key => "PRIVATE KEY",
        }
    }
}

impl TlsError {
    /// Which of the two files it is about.
    pub fn file(&self) -> TlsFile {
        match self {
            Self::Unreadable { file, .. } | Self::Missing { file, .. } | Self::Malformed { file, .. } => *file,
            Self::KeyMismatch { .. } => TlsFile::Key,
            Self::Unusable { .. } => TlsFile::Certificate,
        }
    }
}

/// What became of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handshake {
    /// There is a connection.
    Complete,
    /// The client had no version or cipher in common with us, did not trust the certificate, broke off,
    /// or spoke something else.
    Failed,
    /// It took too long.
    TimedOut,
}

impl Tls {
    /// Reads a chain of certificates, the server's own first, and the private key of that, both in PEM.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or holds something else, or the two do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self { config: ArcSwap::from_pointee(server_config(cert, key)?) })
    }

    /// Takes the certificate and the key of another. Open connections keep what they have.
    pub fn replace_by(&self, new: Self) {
        self.config.store(new.config.into_inner());
    }

    /// The server's side of a handshake, with the certificate as it is now.
    pub(crate) fn accept(&self, socket: Socket) -> impl Future<Output = io::Result<TlsStream<Socket>>> + use<> {
        TlsAcceptor::from(self.config.load_full()).accept(socket)
    }
}

/// Whether the client chose HTTP/2. One that says nothing speaks HTTP/1.1.
pub(crate) fn is_http2(stream: &TlsStream<Socket>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let chain = certificates(cert)?;
    let private_key = private_key(key)?;
    let unusable = |source| TlsError::Unusable { cert: cert.to_owned(), source };
    // Named here and not taken from the process, which belongs to the application where we are embedded.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() },
            error => unusable(error),
        })?;
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    // When a node comes back its clients come all at once; those with a ticket need no signature. The
    // keys of tickets are the process's own, change every six hours, and are kept nowhere.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = TlsFile::Certificate;
    let bytes = read(file, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::Missing { file, path: path.to_owned() }),
        Ok(chain) => Ok(chain),
        Err(error) => Err(malformed(file, path, error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = TlsFile::Key;
    PrivateKeyDer::from_pem_slice(&read(file, path)?).map_err(|error| malformed(file, path, error))
}

fn malformed(file: TlsFile, path: &Path, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    let reason = match error {
        pem::Error::NoItemsFound => return TlsError::Missing { file, path },
        // Without the text of the error, which quotes the line: it may be one of the key.
        pem::Error::MissingSectionEnd { .. } => "a section is not ended".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section does not begin as it should".to_owned(),
        pem::Error::Base64Decode(_) => "a section is not in base64".to_owned(),
        _ => "it cannot be decoded".to_owned(),
    };
    TlsError::Malformed { file, path, reason }
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { file, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // A path that is wrong may lead to a device without an end.
    let length = File::open(path).and_then(|opened| opened.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes));
    if length.map_err(unreadable)? as u64 > FILE_MAX_BYTES {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        /// A certificate and its key.
        fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            (
                self.write(&format!("{name}.crt"), made.cert.pem()),
                self.write(&format!("{name}.key"), made.signing_key.serialize_pem()),
            )
        }
    }

    #[test]
    fn a_certificate_with_its_key_is_taken() {
        let files = Files::new();
        let (cert, key) = files.pair("a");
        let tls = Tls::load(&cert, &key).unwrap();
        let before = tls.config.load_full();
        let (cert, key) = files.pair("b");
        tls.replace_by(Tls::load(&cert, &key).unwrap());
        assert!(!Arc::ptr_eq(&before, &tls.config.load_full()));
        // Issuers follow in the same file.
        let chain = [std::fs::read(&cert).unwrap(), std::fs::read(files.pair("c").0).unwrap()].concat();
        Tls::load(&files.write("chain.crt", chain), &key).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_without_what_is_secret() {
        let files = Files::new();
        let (cert, key) = files.pair("a");
        let (_, other_key) = files.pair("b");
        let secret = std::fs::read_to_string(&key).unwrap();
        let cut = files.write("cut.key", &secret[..secret.len() - 20]);
        let nowhere = files.dir.path().join("nowhere");
        let garbage = files.write("garbage", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
        for (cert, key, file, said) in [
            (&nowhere, &key, TlsFile::Certificate, "cannot be read"),
            (&cert, &nowhere, TlsFile::Key, "cannot be read"),
            (&key, &key, TlsFile::Certificate, "holds no certificate"),
            (&cert, &cert, TlsFile::Key, "holds no private key"),
            (&cert, &cut, TlsFile::Key, "no valid PEM"),
            (&garbage, &key, TlsFile::Certificate, "not in base64"),
            (&cert, &other_key, TlsFile::Key, "is not that of the first certificate"),
        ] {
            let error = Tls::load(cert, key).unwrap_err();
            assert_eq!(error.file(), file, "{error}");
            assert!(error.to_string().contains(said), "{error}");
            let line = secret.lines().nth(1).unwrap();
            assert!(!format!("{error} {error:?}").contains(line), "{error:?}");
        }
        let endless = Tls::load(Path::new("/dev/zero"), &key).unwrap_err();
        assert!(matches!(endless, TlsError::Unreadable { .. }), "{endless}");
    }
}
