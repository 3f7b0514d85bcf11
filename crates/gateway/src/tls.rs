//! The listener's certificate, read again when its files change.
//!
//! Owns the current TLS configuration; connections take it once, at their handshake, so a change affects only
//! new ones. Files that cannot be used leave the certificate in force as it is, and say so in the log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_config::used::ListenTls;

/// How often the files are looked at. Kubernetes swaps a directory link that file watches miss, so content is
/// compared; it takes a mounted secret a minute to arrive anyway.
const LOOK: Duration = Duration::from_secs(2);

/// What the listener shows.
pub struct Certificate {
    files: ListenTls,
    config: ArcSwap<ServerConfig>,
}

impl Certificate {
    /// Reads the files. The error names the file at fault.
    pub fn load(files: ListenTls) -> anyhow::Result<Self> {
        let config = server_config(&read(&files.cert)?, &read(&files.key)?, &files)?;
        Ok(Self { files, config: ArcSwap::from(config) })
    }

    /// For the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Looks at the files for as long as the process lives.
    pub async fn watch(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LOOK);
        let mut seen = None;
        loop {
            tick.tick().await;
            let (cert, key) =
                tokio::join!(tokio::fs::read(&self.files.cert), tokio::fs::read(&self.files.key));
            let (Ok(cert), Ok(key)) = (cert, key) else { continue };
            let hash =
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[cert.as_slice(), &key].concat());
            let hash = hash.as_ref().to_vec();
            let Some(before) = seen.replace(hash) else { continue };
            if seen.as_ref() == Some(&before) {
                continue;
            }
            match server_config(&cert, &key, &self.files) {
                Ok(config) => {
                    self.config.store(config);
                    tracing::info!(cert = %self.files.cert.display(), "listener certificate read again");
                }
                Err(error) => {
                    tracing::error!(%error, "the changed listener certificate cannot be used; the old one stays");
                }
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| anyhow::anyhow!("listen.tls: {}: {e}", path.display()))
}

fn server_config(cert: &[u8], key: &[u8], files: &ListenTls) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| anyhow::anyhow!("listen.tls.cert: {}: not PEM: {e}", files.cert.display()))?;
    if chain.is_empty() {
        anyhow::bail!("listen.tls.cert: {}: no certificate in the file", files.cert.display());
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|e| anyhow::anyhow!("listen.tls.key: {}: no private key: {e}", files.key.display()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| anyhow::anyhow!("listen.tls: certificate and key do not fit: {e}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
