//! Asks pincerd why it ended a connection: whether it refuses the certificate.
//!
//! With TLS 1.3 the alert arrives after the client's own handshake is done, and HTTP/2 loses it if
//! the client is writing at that moment. So after a failed call the handshake is repeated, and the
//! client only reads. It sends nothing but the handshake. The call blocks its thread. Bound:
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

/// The time for an alert that is on its way already.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The alert by which pincerd refuses `target`'s certificate; `None` if it accepts the certificate,
/// or does not respond.
pub fn refusal(target: &Target) -> Option<AlertDescription> {
    let (host, _) = target.host_and_port()?;
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let connection = ClientConnection::new(Arc::new(config(target)?), name).ok()?;
    let mut stream = StreamOwned::new(connection, connect(target)?);
    // A pincerd that accepts the certificate begins with HTTP/2.
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
