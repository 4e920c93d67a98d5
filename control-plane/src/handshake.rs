//! Asks pincerd why it ended a connection: whether it refuses the certificate.
//!
//! With TLS 1.3 a client learns that only after its own handshake is done, in an answer that HTTP/2
//! loses when it is writing just then. So, once a call has failed, this shakes hands again and only
//! reads. Never sends anything but the handshake. Blocks: call it from a thread that may. Bound:
//! `TIMEOUT` for each step.

use std::{
    io::{self, Read as _},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use crate::{client::Target, pem};

/// For an answer that is on its way already.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The alert by which pincerd refuses `target`'s certificate; `None` if it doesn't, or nobody is
/// there.
pub fn refusal(target: &Target) -> Option<AlertDescription> {
    let (host, _) = target.host_and_port()?;
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let connection = ClientConnection::new(Arc::new(config(target)?), name).ok()?;
    let mut stream = StreamOwned::new(connection, connect(target)?);
    // A pincerd that takes the certificate begins to speak HTTP/2.
    let error = stream.read(&mut [0]).err()?;
    match error.get_ref()?.downcast_ref()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

fn connect(target: &Target) -> Option<TcpStream> {
    let mut addresses = target.address().to_socket_addrs().ok()?;
    let stream = addresses.find_map(|address| TcpStream::connect_timeout(&address, TIMEOUT).ok())?;
    let limit = || -> io::Result<()> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))
    };
    limit().ok()?;
    Some(stream)
}

fn config(target: &Target) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(&target.ca).ok()?.flatten());
    let chain: Vec<_> = CertificateDer::pem_file_iter(&target.certificate).ok()?.flatten().collect();
    let key = PrivateKeyDer::from_pem_file(&target.key).ok()?;
    let config = ClientConfig::builder_with_provider(pem::provider()).with_safe_default_protocol_versions().ok()?;
    let mut config = config.with_root_certificates(roots).with_client_auth_cert(chain, key).ok()?;
    config.alpn_protocols.push(b"h2".to_vec());
    Some(config)
}
