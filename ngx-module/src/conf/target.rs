//! Why the control plane cannot be called: found before a connection is opened.

/// What is wrong with an address of the control plane, or with a certificate or key for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetFault {
    /// There is no address.
    #[error("no address of a control plane is given")]
    None,
    /// The transport cannot use an address.
    #[error("{address} is unusable: {reason}")]
    Address {
        /// The address.
        address: String,
        /// What the transport says.
        reason: String,
    },
    /// A file of certificates has none.
    #[error("{what} holds no PEM block of a certificate")]
    NoCertificate {
        /// Which file.
        what: &'static str,
    },
    /// The transport cannot use the certificate, the key, or the name of the other side.
    #[error("certificate, key or name is unusable: {reason}")]
    Material {
        /// What the transport says.
        reason: String,
    },
}
