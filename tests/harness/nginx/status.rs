//! Reads `pincer_status`: by path for the tests, and over a plain socket when nginx is being
//! dropped.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::wait;

/// Names under which the status counts requests that are not over.
const UNFINISHED: [&str; 2] = ["in_flight", "waiting"];

/// The status of a zone.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// The number at a JSON pointer, e.g. `/revision`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn number(&self, pointer: &str) -> f64 {
        let found = self.0.pointer(pointer).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("no number {pointer} in {:#}", self.0))
    }

    /// An upstream.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Self {
        Self(
            named(&self.0["upstreams"], &["name"], name)
                .unwrap_or_else(|| panic!("no upstream {name} in {:#}", self.0)),
        )
    }

    /// A rate class.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn class(&self, name: &str) -> Self {
        Self(named(&self.0["classes"], &["name"], name).unwrap_or_else(|| panic!("no class {name} in {:#}", self.0)))
    }

    /// A peer of this upstream by its address.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn peer(&self, address: &str) -> Self {
        let found = named(&self.0["peers"], &["name", "address", "server"], address);
        Self(found.unwrap_or_else(|| panic!("no peer {address} in {:#}", self.0)))
    }

    /// Text at a JSON pointer, e.g. `/breaker`; empty when it is null.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Requests that hold a slot of any peer.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        sum(&self.0["upstreams"], &["in_flight"])
    }

    /// Requests that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        sum(&self.0["upstreams"], &["waiting"])
    }
}

fn named(list: &Value, keys: &[&str], name: &str) -> Option<Value> {
    if let Some(found) = list.get(name) {
        return Some(found.clone());
    }
    list.as_array()?.iter().find(|item| keys.iter().any(|key| item[key] == name)).cloned()
}

/// The sum of all numbers under these names, however deep.
fn sum(value: &Value, names: &[&str]) -> u64 {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| {
                let own = if names.contains(&name.as_str()) { field.as_u64().unwrap_or(0) } else { 0 };
                own + sum(field, names)
            })
            .sum(),
        Value::Array(items) => items.iter().map(|item| sum(item, names)).sum(),
        _ => 0,
    }
}

/// Waits until nothing is in flight; the error says what still is.
pub(super) fn settled(port: u16, seconds: f64) -> Result<(), String> {
    let mut last = String::new();
    let done = wait::blocking(seconds, || {
        last = fetch(port).unwrap_or_else(|error| error.to_string());
        serde_json::from_str(&last).is_ok_and(|json: Value| json.is_object() && sum(&json, &UNFINISHED) == 0)
    });
    if done { Ok(()) } else { Err(format!("still counts requests in flight: {last}")) }
}

fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /pincer_status HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_of_unfinished_requests_are_summed_however_deep() {
        let status = json!({"upstreams": [{"name": "u", "queue": {"waiting": 2}, "peers": [{"in_flight": 3}, {"in_flight": 0}]}]});
        assert_eq!(sum(&status, &UNFINISHED), 5);
        assert_eq!((Status(status.clone()).in_flight(), Status(status).waiting()), (3, 2));
    }
}
