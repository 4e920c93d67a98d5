//! Which client may call which service. The role is the organizational unit (OU) of the client's
//! certificate, which TLS has verified.
//!
//! A certificate with several units has several roles. Cost: parsing one certificate a call; a node
//! calls once a connection.

use std::collections::HashMap;

use tonic::{Request, Status};
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

/// An interceptor that admits only `role`. PERMISSION_DENIED for others, UNAUTHENTICATED without a
/// certificate.
pub fn only(role: Role) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let certificates = request.peer_certs();
        let Some(certificate) = certificates.as_ref().and_then(|chain| chain.first()) else {
            return Err(Status::unauthenticated("a client certificate is needed"));
        };
        if gives(certificate, role) {
            return Ok(request);
        }
        let message = format!("the client certificate has no OU={}, which this service needs", role.unit());
        let details = ErrorDetails::with_error_info("WRONG_ROLE", super::error::DOMAIN, HashMap::new());
        Err(Status::with_error_details(tonic::Code::PermissionDenied, message, details))
    }
}
