//! A throw-away certificate authority and one server certificate for the loopback, for tests of TLS
//! peers and listeners.
//!
//! Never used for the control plane: `pincerd --dev` makes its own.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The name that the server certificate carries, besides 127.0.0.1.
pub const SERVER_NAME: &str = "replica.test";

/// A CA with one server certificate, also on disk as PEM for nginx.
pub struct Pki {
    folder: tempfile::TempDir,
    server_config: Arc<ServerConfig>,
}

impl Pki {
    /// Makes both anew.
    ///
    /// # Panics
    /// When keys cannot be made or files not written.
    #[must_use]
    pub fn new() -> Self {
        let ca_key = KeyPair::generate().expect("CA key");
        let mut ca = CertificateParams::new(Vec::<String>::new()).expect("CA parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        let ca_cert = ca.self_signed(&ca_key).expect("CA certificate");
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate().expect("server key");
        let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
        let cert = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("server certificate");

        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, pem) in [("ca.pem", ca_cert.pem()), ("server.pem", cert.pem()), ("server.key", key.serialize_pem())]
        {
            std::fs::write(folder.path().join(name), pem).expect("write PEM");
        }
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], private)
            .expect("certificate fits key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { folder, server_config: Arc::new(config) }
    }

    /// For a TLS replica.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server_config)
    }

    /// The CA's certificate (for `proxy_ssl_trusted_certificate`).
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The server's certificate and key (for `ssl_certificate`).
    #[must_use]
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("server.pem"), self.folder.path().join("server.key"))
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}
