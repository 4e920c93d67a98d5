//! What a replica counts: requests, the most at once, aborts, connections, and the order of
//! arrivals.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use axum::http::HeaderMap;
use serde::Serialize;

/// Arrivals whose `x-id` is kept.
const ORDER_MAX: usize = 100_000;

/// A replica's counts at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// Requests that arrived, refused ones included.
    pub requests: u64,
    /// Requests whose body was read to its end.
    pub received: u64,
    /// Requests answered to the end.
    pub finished: u64,
    /// Requests whose client went away before that.
    pub aborts: u64,
    /// Requests inside now.
    pub running: u64,
    /// The most that were inside at once: in service or queued within.
    pub running_max: u64,
    /// Connections accepted.
    pub connections: u64,
    /// `x-id` of the requests, in the order of their arrival.
    pub order: Vec<String>,
    /// Header fields of the latest request.
    pub headers: BTreeMap<String, String>,
    /// The same with each of several values, in the order of their names' first.
    pub fields: Vec<(String, String)>,
}

impl Seen {
    /// All values of the latest request's fields that a server may take for `name`, which is lower
    /// case: CGI makes `_` of `-`, and some of any sign.
    #[must_use]
    pub fn values_of(&self, name: &str) -> Vec<&str> {
        let plain = |name: &str| name.replace(|sign: char| !sign.is_ascii_alphanumeric(), "-").to_ascii_lowercase();
        self.fields.iter().filter(|(known, _)| plain(known) == name).map(|(_, value)| value.as_str()).collect()
    }
}

#[derive(Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    received: AtomicU64,
    finished: AtomicU64,
    aborts: AtomicU64,
    running: AtomicU64,
    running_max: AtomicU64,
    connections: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    order: Vec<String>,
    headers: HeaderMap,
}

/// One running request. Dropped before [`Running::finish`], it counts as aborted.
pub(super) struct Running {
    shared: Arc<super::Shared>,
    finished: bool,
}

impl Counters {
    pub(super) fn connection(&self) -> u64 {
        self.connections.fetch_add(1, SeqCst) + 1
    }

    pub(super) fn snapshot(&self) -> Seen {
        let notes = self.notes.lock().expect("no holder panics");
        let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let fields = notes.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        let fields = fields.collect::<Vec<_>>();
        Seen {
            requests: self.requests.load(SeqCst),
            received: self.received.load(SeqCst),
            finished: self.finished.load(SeqCst),
            aborts: self.aborts.load(SeqCst),
            running: self.running.load(SeqCst),
            running_max: self.running_max.load(SeqCst),
            connections: self.connections.load(SeqCst),
            order: notes.order.clone(),
            headers: fields.iter().cloned().collect(),
            fields,
        }
    }

    pub(super) fn reset(&self) {
        for counter in [&self.requests, &self.received, &self.finished, &self.aborts, &self.connections] {
            counter.store(0, SeqCst);
        }
        self.running_max.store(self.running.load(SeqCst), SeqCst);
        self.notes.lock().expect("no holder panics").order.clear();
    }

    fn begin(&self, headers: &HeaderMap) {
        self.requests.fetch_add(1, SeqCst);
        let now = self.running.fetch_add(1, SeqCst) + 1;
        self.running_max.fetch_max(now, SeqCst);
        let mut notes = self.notes.lock().expect("no holder panics");
        if let Some(id) = headers.get("x-id")
            && notes.order.len() < ORDER_MAX
        {
            notes.order.push(String::from_utf8_lossy(id.as_bytes()).into_owned());
        }
        notes.headers.clone_from(headers);
    }
}

impl Running {
    pub(super) fn begin(shared: &Arc<super::Shared>, headers: &HeaderMap) -> Self {
        shared.counters.begin(headers);
        Self { shared: Arc::clone(shared), finished: false }
    }

    pub(super) fn received(&self) {
        self.shared.counters.received.fetch_add(1, SeqCst);
    }

    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let counters = &self.shared.counters;
        counters.running.fetch_sub(1, SeqCst);
        if self.finished { &counters.finished } else { &counters.aborts }.fetch_add(1, SeqCst);
    }
}
