//! TLS of the relay: certificate and key from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::Error;

/// Of a certificate chain and its key.
///
/// # Errors
///
/// [`Error::Invalid`] naming the file that cannot be used.
pub(super) fn acceptor(certificates: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let unusable = |field, path: &Path, error: &dyn std::fmt::Display| Error::Invalid {
        field,
        reason: format!("{path:?} cannot be used: {error}"),
    };
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable("tls-cert", certificates, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls-key", key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| unusable("tls-cert", certificates, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
