//! Certificates of an authority of the test's own.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer};

/// An authority that signs certificates for this machine.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    /// A new one.
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Self { issuer: Issuer::new(params, key), pem, der })
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a certificate for loopback and writes it and its key, in PEM.
    pub fn write(&self, cert: &Path, key: &Path) -> anyhow::Result<()> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let own_key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&own_key, &self.issuer)?;
        std::fs::write(cert, certificate.pem()).with_context(|| format!("writing {}", cert.display()))?;
        std::fs::write(key, own_key.serialize_pem()).with_context(|| format!("writing {}", key.display()))
    }

    /// A client's configuration that trusts it and nobody else.
    pub fn trust(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        Ok(Arc::new(config.with_no_client_auth()))
    }
}
