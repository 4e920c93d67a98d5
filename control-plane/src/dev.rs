//! Certificates for trying Pincer out on one machine: `ca.pem` and, signed by it, those of a
//! server, a node and an operator.
//!
//! They are not for production, and their names say so. They are valid for the loopback only and
//! for 30 days, and the CA's key is discarded, so nobody can sign more. A complete set that is
//! valid for another day is used again; otherwise all of it is made anew. Keys have mode 0600, the
//! folder 0700. A folder in which other users could place a key or a store is refused. Cost: four
//! key pairs, some milliseconds.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pincer_core::trust::{Distrust, Place, Trusted};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::service::role::Role;

/// How long a certificate is valid.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// A set that expires sooner is made anew.
const LEFT_MIN: Duration = Duration::from_secs(24 * 3600);
/// Before now, for clocks that disagree.
const EARLIER: Duration = Duration::from_secs(3600);
/// Names in the server's certificate.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "::1", "localhost"];
/// In every subject.
const WARNING: &str = "Pincer development, not for production";

/// Where the addresses are written when pincerd is ready: lines `grpc=ADDRESS` and `http=ADDRESS`.
pub const ENDPOINT_FILE: &str = "endpoint";
/// The embedded store.
pub const STORE_FILE: &str = "store.redb";
/// The CA's certificate.
pub const CA_FILE: &str = "ca.pem";

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file or the folder.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Other users can write into the folder for the keys.
    #[error("--dev {} is no place for keys and a store, a folder of one's own is needed: {}: {why}", folder.display(), path.display())]
    Distrusted {
        /// The folder as given.
        folder: PathBuf,
        /// What is wrong: the folder, one above it, or a link.
        path: PathBuf,
        /// The reason.
        why: Distrust,
    },
    /// Making a certificate.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> DevError + '_ {
    |source| DevError::Io { path: path.to_owned(), source }
}

/// One of the certificates; also the stem of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `server.pem`, `server.key`.
    Server,
    /// `node.pem`, `node.key`.
    Node,
    /// `operator.pem`, `operator.key`.
    Operator,
}

impl Name {
    const ALL: [Self; 3] = [Self::Server, Self::Node, Self::Operator];

    fn stem(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
            Self::Operator => "operator",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Server => "pincer-server",
            Self::Node => Role::Node.unit(),
            Self::Operator => Role::Operator.unit(),
        }
    }

    /// The certificate's file.
    pub fn certificate(self, folder: &Path) -> PathBuf {
        folder.join(self.stem()).with_extension("pem")
    }

    /// The key's file.
    pub fn key(self, folder: &Path) -> PathBuf {
        folder.join(self.stem()).with_extension("key")
    }
}

/// Makes the folder, for its owner only. A folder that exists must be as safe as that.
pub fn make_folder(folder: &Path) -> Result<(), DevError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error(folder))?;
    check_folder(folder, Trusted { user: rustix::process::geteuid().as_raw() })
}

/// Refuses a folder that another user owns, can write into, or can replace. Refuses a folder too if
/// one of its files belongs to another user or can be written by others.
fn check_folder(folder: &Path, trusted: Trusted) -> Result<(), DevError> {
    let judge = |path: &Path, place, found: &fs::Metadata| {
        let refused = |why| DevError::Distrusted { folder: folder.to_owned(), path: path.to_owned(), why };
        trusted.judge(place, found.uid(), found.mode()).map_err(refused)
    };
    // The path is checked as it was given: whoever owns a link, or may write into its folder,
    // decides where it leads.
    let named = std::path::absolute(folder).map_err(io_error(folder))?;
    for part in named.ancestors() {
        let found = fs::symlink_metadata(part).map_err(io_error(part))?;
        if found.is_symlink() {
            judge(part, Place::Link, &found)?;
        } else if part != named {
            judge(part, Place::Above, &found)?;
        }
    }
    let path = folder.canonicalize().map_err(io_error(folder))?;
    for above in path.ancestors().skip(1) {
        judge(above, Place::Above, &fs::metadata(above).map_err(io_error(above))?)?;
    }
    judge(&path, Place::Folder, &fs::metadata(&path).map_err(io_error(&path))?)?;
    let certificates = Name::ALL.into_iter().flat_map(|name| [name.certificate(&path), name.key(&path)]);
    let others = [CA_FILE, STORE_FILE, ENDPOINT_FILE].map(|name| path.join(name));
    for file in certificates.chain(others) {
        match fs::symlink_metadata(&file) {
            Ok(found) if found.is_symlink() => {
                return Err(DevError::Distrusted { folder: folder.to_owned(), path: file, why: Distrust::Link });
            }
            Ok(found) => judge(&file, Place::File, &found)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&file)(error)),
        }
    }
    Ok(())
}

/// Makes sure that `folder` has a set that is valid at `now`. True if the set was made now.
pub fn ensure(folder: &Path, now: SystemTime) -> Result<bool, DevError> {
    if is_good(folder, now) {
        return Ok(false);
    }
    make(folder, now)?;
    Ok(true)
}

fn is_good(folder: &Path, now: SystemTime) -> bool {
    let Some(ca) = read_certificate(&folder.join(CA_FILE), now) else { return false };
    Name::ALL.into_iter().all(|name| {
        let key = fs::read_to_string(name.key(folder)).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
        let certificate = read_certificate(&name.certificate(folder), now);
        let (Some(key), Some(certificate)) = (key, certificate) else { return false };
        certificate.issuer == ca.subject && certificate.key == key.public_key_raw()
    })
}

/// What `is_good` compares.
struct Seen {
    subject: String,
    issuer: String,
    key: Vec<u8>,
}

/// The certificate, if it can be read and is valid for another day.
fn read_certificate(path: &Path, now: SystemTime) -> Option<Seen> {
    let bytes = fs::read(path).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let at = i64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let left_s = certificate.validity().not_after.timestamp().checked_sub(at)?;
    let is_good =
        certificate.validity().not_before.timestamp() <= at && left_s >= i64::try_from(LEFT_MIN.as_secs()).ok()?;
    is_good.then(|| Seen {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        key: certificate.public_key().subject_public_key.data.to_vec(),
    })
}

fn params(common_name: &str, unit: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, WARNING);
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + LIFE).into();
    params
}

fn make(folder: &Path, now: SystemTime) -> Result<(), DevError> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params("", "pincer-ca", now);
    // Each set has a name of its own, so that files of two sets are never taken for one set.
    let id: String = ca.key_identifier(&ca_key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    ca.distinguished_name.push(DnType::CommonName, format!("pincer development CA {id}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    for name in Name::ALL {
        let key = KeyPair::generate()?;
        let mut leaf = params(&format!("pincer development {}", name.stem()), name.unit(), now);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.use_authority_key_identifier_extension = true;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if name == Name::Server {
            leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            leaf.subject_alt_names = CertificateParams::new(LOOPBACK.map(String::from).to_vec())?.subject_alt_names;
        }
        write(&name.key(folder), &key.serialize_pem(), 0o600)?;
        write(&name.certificate(folder), &leaf.signed_by(&key, &issuer)?.pem(), 0o644)?;
    }
    write(&folder.join(CA_FILE), &ca_pem, 0o644)
}

/// Replaces a file atomically: readers see the complete old file or the complete new one.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<(), DevError> {
    let new = path.with_extension("new");
    let write = || {
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_set_is_used_again_until_a_day_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        assert!(ensure(folder.path(), now).unwrap());
        let first = fs::read(folder.path().join(CA_FILE)).unwrap();
        assert!(!ensure(folder.path(), now).unwrap());
        assert!(!ensure(folder.path(), now + LIFE - LEFT_MIN - Duration::from_secs(60)).unwrap());
        assert!(ensure(folder.path(), now + LIFE - LEFT_MIN + Duration::from_secs(60)).unwrap());
        assert_ne!(fs::read(folder.path().join(CA_FILE)).unwrap(), first);
    }

    #[test]
    fn a_set_that_is_not_whole_is_made_anew() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = SystemTime::now();
        ensure(other.path(), now).unwrap();
        let spoil: [&dyn Fn(); 4] = [
            &|| fs::remove_file(folder.path().join("node.key")).unwrap(),
            &|| fs::write(folder.path().join("server.pem"), "nonsense").unwrap(),
            &|| assert!(fs::copy(other.path().join("operator.key"), folder.path().join("operator.key")).unwrap() > 0),
            &|| assert!(fs::copy(other.path().join(CA_FILE), folder.path().join(CA_FILE)).unwrap() > 0),
        ];
        for spoil in spoil {
            ensure(folder.path(), now).unwrap();
            spoil();
            assert!(ensure(folder.path(), now).unwrap());
        }
    }

    #[test]
    fn keys_are_for_their_owner_only_and_the_cas_is_not_kept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("dev");
        make_folder(&folder).unwrap();
        make_folder(&folder).unwrap();
        ensure(&folder, SystemTime::now()).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let mut files: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let names = ["ca.pem", "node.key", "node.pem", "operator.key", "operator.pem", "server.key", "server.pem"];
        assert_eq!(files, names);
        for name in files.iter().filter(|name| name.ends_with(".key")) {
            assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
