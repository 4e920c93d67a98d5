//! API keys, as printed, and a new secret, which is printed once.

use std::fmt;

use pincer_proto::v1::{self, key::State};
use serde::Serialize;

use super::table::{Table, columns, last, plain, row};

/// A key.
#[derive(Debug, Serialize)]
pub struct Key {
    key: String,
    tenant: String,
    class: String,
    state: &'static str,
    fingerprint: String,
    old_fingerprint: Option<String>,
    old_expire_time: Option<String>,
    cidrs: Vec<String>,
    expire_time: Option<String>,
    create_time: Option<String>,
    rotate_time: Option<String>,
    etag: String,
    revision: u64,
}

fn state(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Rotating => "rotating",
        State::Expired => "expired",
        State::Revoked => "revoked",
        State::Unspecified => "-",
    }
}

impl From<&v1::Key> for Key {
    fn from(k: &v1::Key) -> Self {
        let time = |time: Option<prost_types::Timestamp>| time.map(|time| time.to_string());
        Self {
            key: last(&k.name, 1),
            tenant: k.tenant.clone(),
            class: k.class.clone(),
            state: state(k.state()),
            fingerprint: k.fingerprint.clone(),
            old_fingerprint: (!k.old_fingerprint.is_empty()).then(|| k.old_fingerprint.clone()),
            old_expire_time: time(k.old_expire_time),
            cidrs: k.cidrs.clone(),
            expire_time: time(k.expire_time),
            create_time: time(k.create_time),
            rotate_time: time(k.rotate_time),
            etag: k.etag.clone(),
            revision: k.revision,
        }
    }
}

impl Key {
    /// The key's id.
    pub fn id(&self) -> &str {
        &self.key
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let old = match (&self.old_fingerprint, &self.old_expire_time) {
            (Some(old), Some(until)) => format!(", {old} is valid until {until}"),
            _ => String::new(),
        };
        let Self { key, tenant, class, state, fingerprint, .. } = self;
        plain(&format!("key {key}: tenant {tenant}, class {class}, {state}, fingerprint {fingerprint}{old}"))
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            self.key.clone(),
            self.fingerprint.clone(),
            self.tenant.clone(),
            self.class.clone(),
            if self.cidrs.is_empty() { "anywhere".to_owned() } else { self.cidrs.join(",") },
            or_dash(&self.expire_time),
            self.state.to_owned(),
            or_dash(&self.old_fingerprint),
            or_dash(&self.old_expire_time),
            self.etag.clone(),
        ]
    }
}

/// `key list`.
#[derive(Debug, Serialize)]
pub struct Keys {
    keys: Vec<Key>,
}

impl From<Vec<v1::Key>> for Keys {
    fn from(all: Vec<v1::Key>) -> Self {
        Self { keys: all.iter().map(Key::from).collect() }
    }
}

impl Table for Keys {
    fn table(&self) -> String {
        let header = [
            "KEY",
            "FINGERPRINT",
            "TENANT",
            "CLASS",
            "FROM",
            "EXPIRES",
            "STATE",
            "OLD FINGERPRINT",
            "OLD EXPIRES",
            "ETAG",
        ];
        let mut rows = vec![row(header)];
        rows.extend(self.keys.iter().map(Key::row));
        columns(&rows)
    }
}

/// A secret on its way to the terminal.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
