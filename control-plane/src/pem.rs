//! Certificates and keys from PEM files, checked before TLS gets them, so that an error names the
//! file and what is wrong with it.
//!
//! Only the handshake shows whether the other side trusts a certificate. Cost: each file is read
//! and parsed once more.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    Error, InconsistentKeys, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    sign::CertifiedKey,
};

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It holds something else.
    #[error("cannot use {path}: {why}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The reason, and the need.
        why: String,
    },
}

fn read(path: &Path) -> Result<String, PemError> {
    fs::read_to_string(path).map_err(|source| PemError::Read { path: path.to_owned(), source })
}

fn unusable(path: &Path, why: impl Into<String>) -> PemError {
    PemError::Unusable { path: path.to_owned(), why: why.into() }
}

fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| unusable(path, format!("it is no PEM: {error}")))?;
    if all.is_empty() {
        return Err(unusable(path, "it holds no certificate, PEM with BEGIN CERTIFICATE is needed"));
    }
    Ok(all)
}

/// The cryptography of this process.
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()))
}

/// The certificates of authorities in a file, at least one of them sound.
pub fn authorities(path: &Path) -> Result<String, PemError> {
    let text = read(path)?;
    let mut roots = RootCertStore::empty();
    let mut last = None;
    for certificate in certificates(path, &text)? {
        last = roots.add(certificate).err().or(last);
    }
    match last {
        Some(error) if roots.is_empty() => Err(unusable(path, format!("it holds no sound certificate: {error}"))),
        _ => Ok(text),
    }
}

/// A certificate, with its chain, and its key.
pub fn identity(certificate: &Path, key: &Path) -> Result<(String, String), PemError> {
    let (certificate_text, key_text) = (read(certificate)?, read(key)?);
    let chain = certificates(certificate, &certificate_text)?;
    let der = PrivateKeyDer::from_pem_slice(key_text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(key, "it holds no private key, PEM with BEGIN PRIVATE KEY is needed"),
        error => unusable(key, format!("it is no PEM: {error}")),
    })?;
    let signing = provider().key_provider.load_private_key(der);
    let signing = signing.map_err(|error| unusable(key, format!("it holds no key that TLS can use: {error}")))?;
    match CertifiedKey::new(chain, signing).keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok((certificate_text, key_text)),
        Err(Error::InconsistentKeys(_)) => {
            Err(unusable(key, format!("it is not the key of the certificate in {}", certificate.display())))
        }
        Err(error) => Err(unusable(certificate, format!("it holds no sound certificate: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::dev::{self, Name};

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        dev::ensure(folder, SystemTime::now()).unwrap();
        let (certificate, key) = (Name::Operator.certificate(folder), Name::Operator.key(folder));
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        assert!(authorities(&folder.join(dev::CA_FILE)).is_ok() && identity(&certificate, &key).is_ok());
        let nonsense = file("nonsense", "nonsense");
        let empty = file("empty", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let cut = file("cut", "-----BEGIN CERTIFICATE-----\nAAAA\n");
        let bad_key = file("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let gone = folder.join("gone");
        let node_key = Name::Node.key(folder);
        for (error, path, said) in [
            (authorities(&gone).unwrap_err(), &gone, "No such file"),
            (authorities(&nonsense).unwrap_err(), &nonsense, "holds no certificate"),
            (authorities(&empty).unwrap_err(), &empty, "no sound certificate"),
            (authorities(&cut).unwrap_err(), &cut, "no PEM"),
            (identity(&nonsense, &key).unwrap_err(), &nonsense, "holds no certificate"),
            (identity(&empty, &key).unwrap_err(), &empty, "no sound certificate"),
            (identity(&certificate, &nonsense).unwrap_err(), &nonsense, "holds no private key"),
            (identity(&certificate, &bad_key).unwrap_err(), &bad_key, "no key that TLS can use"),
            (identity(&certificate, &node_key).unwrap_err(), &node_key, "not the key of the certificate in"),
        ] {
            let error = error.to_string();
            assert!(error.contains(&path.display().to_string()) && error.contains(said), "{said}: {error}");
        }
    }
}
