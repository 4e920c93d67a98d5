//! What the origin received, kept for each execution: the proxies name it in `X-Fuzz-Client`, the
//! address that the client came from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The header that names the execution.
pub const CLIENT: &str = "x-fuzz-client";

/// All that came from one side.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<HashMap<String, Client>>>);

#[derive(Default)]
struct Client {
    requests: Vec<String>,
    open: usize,
    last: Option<Instant>,
}

/// A request that is being received; what is known of it is noted when this goes.
pub struct Open {
    seen: Seen,
    client: String,
    /// One line of what was received, without the body.
    pub head: String,
    /// The body so far.
    pub body: Vec<u8>,
    /// Whether the body has ended as it should.
    pub complete: bool,
}

impl Seen {
    /// Notes that a request of `client` has begun.
    pub fn open(&self, client: &str, head: String) -> Open {
        self.with(client, |of| of.open += 1);
        Open { seen: self.clone(), client: client.to_owned(), head, body: Vec::new(), complete: false }
    }

    fn with<T>(&self, client: &str, change: impl FnOnce(&mut Client) -> T) -> T {
        let mut all = self.0.lock().expect("no holder panics");
        let of = all.entry(client.to_owned()).or_default();
        of.last = Some(Instant::now());
        change(of)
    }

    /// Waits until nothing of `client` is under way and nothing has come for `quiet`, at most
    /// `limit`; takes what was received, sorted.
    pub async fn take(&self, client: &str, quiet: Duration, limit: Duration) -> Vec<String> {
        let began = Instant::now();
        loop {
            let still = {
                let all = self.0.lock().expect("no holder panics");
                all.get(client).is_some_and(|of| of.open > 0 || of.last.is_some_and(|last| last.elapsed() < quiet))
                    || began.elapsed() < quiet
            };
            if !still || began.elapsed() > limit {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut requests =
            self.0.lock().expect("no holder panics").remove(client).map(|of| of.requests).unwrap_or_default();
        requests.sort();
        requests
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let body = crate::text::summary(&self.body);
        let end = if self.complete { "" } else { crate::documented::PARTIAL };
        let line = format!("{} body {body}{end}", self.head);
        self.seen.clone().with(&self.client, |of| {
            of.open = of.open.saturating_sub(1);
            of.requests.push(line);
        });
    }
}
