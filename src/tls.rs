//! Which servers are trusted when we dial: the system's certificate authorities, and Mozilla's where the system has none. One
//! crypto provider for the whole house.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// The TLS side of a connection. Read anew for every attempt, as a machine's authorities can change.
pub fn client_config() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    let (accepted, ignored) = roots.add_parsable_certificates(native.certs);
    if accepted == 0 {
        tracing::debug!(
            ignored,
            "no certificate authorities on this system, using the built-in ones"
        );
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    match builder {
        Ok(builder) => builder.with_root_certificates(roots).with_no_client_auth(),
        Err(error) => unreachable!("ring speaks TLS 1.2 and 1.3: {error}"),
    }
}
