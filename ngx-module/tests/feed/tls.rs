//! Mutual TLS: who is let in, who is believed, and what is said when the material is no good.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::conf::control::Endpoint;
use crate::feed::{Level, TlsMaterial};
use crate::server::{ControlPlane, Place, snapshot};
use crate::user::{EventLoop, tcp};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key, for servers and clients.
    fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_until(names, 4096)
    }

    /// The same, good until the beginning of a year.
    fn issue_until(&self, names: &[&str], year: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self, names: &[&str]) -> ServerTlsConfig {
        self.server_of(self.issue(names))
    }

    fn server_of(&self, (certificate, key): (String, String)) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(self.0.pem()))
    }

    fn material(&self, server_name: Option<&str>) -> TlsMaterial {
        let (certificate, key) = self.issue(&["node"]);
        TlsMaterial {
            ca_pem: self.0.pem().into_bytes(),
            certificate_pem: certificate.into_bytes(),
            key_pem: key.into_bytes(),
            server_name: server_name.map(str::to_owned),
        }
    }
}

#[test]
fn both_sides_prove_who_they_are_and_the_name_is_that_of_the_address() {
    let authority = Authority::new("ours");
    let plane =
        ControlPlane::start_at(&Place::AnyPort, Some(authority.server(&["127.0.0.1", "localhost"])), vec![snapshot(1)]);
    let named = Endpoint::Tcp { host: "localhost".to_owned(), port: plane.address.port() };
    for endpoint in [tcp(plane.address), named] {
        let user = EventLoop::start_with(vec![endpoint], Some(authority.material(None)), None);
        plane.hear_hello();
        assert_eq!(user.apply(), 1);
        assert_eq!(plane.hear_ack().revision, 1);
        user.stop();
    }
}

#[test]
fn a_configured_name_is_wanted_instead_of_the_address() {
    let authority = Authority::new("ours");
    let plane = ControlPlane::start_at(&Place::AnyPort, Some(authority.server(&["pincer.example"])), vec![snapshot(1)]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], Some(authority.material(Some("pincer.example"))), None);
    assert_eq!(user.apply(), 1);
    user.stop();
    let user = EventLoop::start_with(vec![tcp(plane.address)], Some(authority.material(None)), None);
    user.event(&["cannot reach control plane", "certificate"]);
    user.stop();
}

#[test]
fn a_unix_socket_speaks_tls_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pincerd.sock");
    let authority = Authority::new("ours");
    let plane =
        ControlPlane::start_at(&Place::Socket(&path), Some(authority.server(&["localhost"])), vec![snapshot(1)]);
    let endpoint = Endpoint::Unix(path.to_str().unwrap().to_owned());
    let user = EventLoop::start_with(vec![endpoint], Some(authority.material(None)), None);
    plane.hear_hello();
    assert_eq!(user.apply(), 1);
    user.stop();
}

#[test]
fn a_control_plane_of_another_authority_is_told_nothing() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let plane = ControlPlane::start_at(&Place::AnyPort, Some(other.server(&["127.0.0.1"])), vec![snapshot(1)]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], Some(authority.material(None)), None);
    user.event(&["cannot reach control plane", "UnknownIssuer"]);
    assert!(user.feed.take().is_none());
    user.stop();
}

#[test]
fn a_node_that_the_control_plane_does_not_know_learns_why() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let plane = ControlPlane::start_at(&Place::AnyPort, Some(authority.server(&["127.0.0.1"])), vec![snapshot(1)]);
    let mut material = other.material(None);
    material.ca_pem = authority.0.pem().into_bytes();
    let user = EventLoop::start_with(vec![tcp(plane.address)], Some(material), None);
    user.event(&["cannot reach control plane", "received fatal alert"]);
    assert!(user.feed.take().is_none());
    user.stop();
}

/// Waits for the line with the cause, then until the feed has tried for long enough to have said it
/// again.
fn is_said_once(user: &EventLoop, cause: &str) {
    let said = user.event(&["cannot reach control plane", cause]);
    assert_eq!(said.level, Level::Error);
    let mut seen = user.feed.status().last_error;
    for _ in 0..4 {
        // Each attempt leaves a text of its own, be it the same words.
        seen = user.until(|feed| {
            let error = feed.status().last_error;
            let same = error.as_ref().zip(seen.as_ref()).is_some_and(|(error, seen)| Arc::ptr_eq(error, seen));
            (!same).then_some(error)
        });
    }
    let more = user.events();
    assert!(more.iter().all(|event| !event.text.contains(cause)) && more.len() <= 1, "{more:?}");
    assert!(!user.feed.status().connected);
}

#[test]
fn a_node_whose_certificate_has_expired_learns_it_and_says_it_once() {
    let authority = Authority::new("ours");
    let plane = ControlPlane::start_at(&Place::AnyPort, Some(authority.server(&["127.0.0.1"])), vec![snapshot(1)]);
    let (certificate, key) = authority.issue_until(&["node"], 2020);
    let (certificate_pem, key_pem) = (certificate.into_bytes(), key.into_bytes());
    let material = TlsMaterial { certificate_pem, key_pem, ..authority.material(None) };
    let user = EventLoop::start_with(vec![tcp(plane.address)], Some(material), None);
    is_said_once(&user, "CertificateExpired");
    user.stop();
}

#[test]
fn a_control_plane_whose_certificate_has_expired_is_not_believed_and_that_is_said_once() {
    let authority = Authority::new("ours");
    let server = authority.server_of(authority.issue_until(&["127.0.0.1"], 2020));
    let plane = ControlPlane::start_at(&Place::AnyPort, Some(server), vec![snapshot(1)]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], Some(authority.material(None)), None);
    is_said_once(&user, "certificate expired");
    user.stop();
}

#[test]
fn plaintext_is_not_spoken_to_a_control_plane_that_wants_tls_nor_the_other_way_round() {
    let authority = Authority::new("ours");
    let wants = ControlPlane::start_at(&Place::AnyPort, Some(authority.server(&["127.0.0.1"])), vec![snapshot(1)]);
    let plain = ControlPlane::start(vec![snapshot(1)]);
    for (plane, material) in [(wants, None), (plain, Some(authority.material(None)))] {
        let user = EventLoop::start_with(vec![tcp(plane.address)], material, None);
        user.event(&["cannot reach control plane"]);
        assert!(user.feed.take().is_none());
        user.stop();
    }
}

#[test]
fn unusable_material_is_refused_before_anything_is_opened_and_no_key_is_shown() {
    let authority = Authority::new("ours");
    assert_eq!(authority.material(None).check(), Ok(()));
    type Spoil = fn(&mut TlsMaterial);
    let spoil: [(&str, Spoil); 5] = [
        ("trusted certificate holds no PEM", |material| material.ca_pem = b"nothing".to_vec()),
        ("certificate holds no PEM", |material| material.certificate_pem.clear()),
        ("certificate, key or name is unusable", |material| material.key_pem = b"nothing".to_vec()),
        ("certificate, key or name is unusable", |material| {
            material.key_pem = KeyPair::generate().unwrap().serialize_pem().into_bytes();
        }),
        ("certificate, key or name is unusable", |material| material.server_name = Some("not a name".to_owned())),
    ];
    for (need, spoil) in spoil {
        let mut material = authority.material(None);
        spoil(&mut material);
        let reason = material.check().unwrap_err().to_string();
        assert!(reason.contains(need), "{need}: {reason}");
        let key = String::from_utf8_lossy(&material.key_pem).into_owned();
        assert!(key.lines().skip(1).all(|line| !reason.contains(line)), "{reason}");
    }
}
