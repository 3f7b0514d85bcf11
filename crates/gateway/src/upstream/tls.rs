//! TLS toward upstreams: TLS 1.2 and 1.3, certificates always verified.
//!
//! One client configuration per upstream, so that sessions are resumed across its paths and never across
//! upstreams with different roots.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tidegate_config::used::Http2;

/// The roots are the built-in ones, or `ca_pem` alone where given. The error says what is wrong with it.
pub fn client_config(ca_pem: Option<&[u8]>, http2: Http2) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca_pem {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|e| format!("tls.ca: not PEM: {e}"))?;
                roots.add(certificate).map_err(|e| format!("tls.ca: {e}"))?;
            }
            if roots.is_empty() {
                return Err("tls.ca: no certificate in the file".to_owned());
            }
        }
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = match http2 {
        Http2::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Http2::Off => vec![b"http/1.1".to_vec()],
        Http2::Only => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}
