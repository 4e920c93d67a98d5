//! Which client may call which service. The role is the organizational unit (OU) of the client's
//! certificate, which TLS has verified.
//!
//! A certificate with several units has several roles. Cost: parsing one certificate a call; a node
//! calls once a connection.

use std::collections::HashMap;

use crate::{connection::Caller, door::Guest};
use tonic::{Request, Status, transport::server::TlsConnectInfo};
use tonic_types::{ErrorDetails, StatusExt as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// nginx: may call `NodeService`.
    Node,
    /// A person or their tools: may call `ControlService`.
    Operator,
}

impl Role {
    /// The organizational unit (OU) that gives it.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Node => "pincer-node",
            Self::Operator => "pincer-operator",
        }
    }
}

/// Whether the certificate (DER) gives `role`.
fn gives(certificate: &[u8], role: Role) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    certificate.subject().iter_organizational_unit().any(|unit| unit.as_str() == Ok(role.unit()))
}

/// What is known of the caller of a request.
fn connection(request: &Request<()>) -> Option<&TlsConnectInfo<Caller>> {
    request.extensions().get()
}

/// The client's certificate (DER); `None` if there is none.
fn certificate(request: &Request<()>) -> Option<Vec<u8>> {
    let chain = connection(request)?.peer_certs()?;
    chain.first().map(|certificate| certificate.to_vec())
}

/// An interceptor for all services: gives a connection its place at its first call with a role. One
/// without a role is served what needs none, and ends when its time is over.
pub fn admit(request: Request<()>) -> Result<Request<()>, Status> {
    let Some(caller) = connection(&request).map(|info| info.get_ref().clone()) else { return Ok(request) };
    if !caller.is_waiting() {
        return Ok(request);
    }
    let certificate = certificate(&request).unwrap_or_default();
    let guest = if gives(&certificate, Role::Operator) {
        Guest::Operator
    } else if gives(&certificate, Role::Node) {
        Guest::Node
    } else {
        return Ok(request);
    };
    match caller.admit(guest) {
        Ok(()) => Ok(request),
        Err(error) => Err(Status::resource_exhausted(error.to_string())),
    }
}

/// An interceptor that admits only `role`. PERMISSION_DENIED for others, UNAUTHENTICATED without a
/// certificate.
pub fn only(role: Role) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let Some(certificate) = certificate(&request) else {
            return Err(Status::unauthenticated("a client certificate is needed"));
        };
        if gives(&certificate, role) {
            return Ok(request);
        }
        let message = format!("the client certificate has no OU={}, which this service needs", role.unit());
        let details = ErrorDetails::with_error_info("WRONG_ROLE", super::error::DOMAIN, HashMap::new());
        Err(Status::with_error_details(tonic::Code::PermissionDenied, message, details))
    }
}
