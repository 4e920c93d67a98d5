//! Servers with a bandwidth, and clients that count what they receive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use harness::nginx::Builder;
use harness::{Client, Nginx, Replica};
use http_body_util::BodyExt;
use hyper::Method;

pub const MIB: f64 = 1_048_576.0;
pub const STREAMS: usize = 20;

pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A server all of whose answers are of class `c`.
pub fn paced(class: &str) -> Builder {
    Nginx::builder().http(format!("pincer_zone pincer:1m; pincer_class c {class};")).server("pincer_limit class=c;")
}

pub fn proxied(builder: Builder, replica: &Replica, directives: &str) -> Builder {
    builder.server(format!("location / {{ {directives} proxy_pass http://{}; }}", replica.server()))
}

/// A file of so many bytes in the prefix, below `files/`, served from the location `/files/`.
pub fn with_file(builder: Builder, name: &str, bytes: usize) -> Builder {
    let folder = builder.prefix().join("files");
    let _ = std::fs::create_dir(&folder);
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("permissions");
    };
    mode(&folder, 0o755);
    let content: Vec<u8> = (0..bytes).map(|at| b'a' + u8::try_from(at % 26).expect("small")).collect();
    std::fs::write(folder.join(name), content).expect("a file");
    mode(&folder.join(name), 0o644);
    let root = builder.prefix().display().to_string();
    builder.server(format!("location /files/ {{ root {root}; }}"))
}

/// Downloads, and how much each has received so far.
pub struct Downloads {
    received: Vec<Arc<AtomicU64>>,
    running: tokio::task::JoinSet<()>,
}

impl Downloads {
    /// One of `path` with each client.
    pub fn start(clients: &[Client], path: &str) -> Self {
        let mut all = Self { received: Vec::new(), running: tokio::task::JoinSet::new() };
        for client in clients {
            let (counter, client, path) = (Arc::new(AtomicU64::new(0)), client.clone(), path.to_owned());
            all.received.push(Arc::clone(&counter));
            all.running.spawn(async move {
                let response = client.call(Method::GET, &path).begin().await.expect("an answer");
                assert_eq!(response.status(), 200);
                let mut body = response.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    counter.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), SeqCst);
                }
            });
        }
        all
    }

    pub fn received(&self) -> Vec<u64> {
        self.received.iter().map(|counter| counter.load(SeqCst)).collect()
    }

    /// What each receives per second, over `time`.
    #[allow(clippy::cast_precision_loss)]
    pub async fn rates(&self, time: Duration) -> Vec<f64> {
        let (start, before) = (Instant::now(), self.received());
        tokio::time::sleep(time).await;
        let (after, time_s) = (self.received(), start.elapsed().as_secs_f64());
        before.iter().zip(after).map(|(before, after)| (after - before) as f64 / time_s).collect()
    }
}

/// That the streams together have `total` within 5 %, and each its share within 10 %.
#[allow(clippy::cast_precision_loss)]
pub fn assert_fair(rates: &[f64], total: f64) {
    let sum: f64 = rates.iter().sum();
    let fair = total / rates.len() as f64;
    assert!((sum - total).abs() <= total * 0.05, "{sum} of {total}: {rates:.0?}");
    for rate in rates {
        assert!((rate - fair).abs() <= fair * 0.1, "{rate} where {fair} is fair: {rates:.0?}");
    }
}

pub fn single(nginx: &Nginx) -> Vec<Client> {
    (0..STREAMS).map(|_| Client::single(&nginx.url())).collect()
}

/// A file of [`with_file`] as it should come.
pub fn letters(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| b'a' + u8::try_from(at % 26).expect("small")).collect()
}

/// Clients that each ask again as soon as they have an answer.
pub fn ask_again_and_again(clients: Vec<Client>, path: &'static str, range: Option<&'static str>) -> Downloads {
    let mut all = Downloads { received: Vec::new(), running: tokio::task::JoinSet::new() };
    for client in clients {
        let counter = Arc::new(AtomicU64::new(0));
        all.received.push(Arc::clone(&counter));
        all.running.spawn(async move {
            loop {
                let call = client.call(Method::GET, path);
                let call = if let Some(range) = range { call.header("range", range) } else { call };
                let Ok(response) = call.begin().await else { return };
                assert!([200, 206].contains(&response.status().as_u16()), "{path}: {}", response.status());
                let mut body = response.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    counter.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), SeqCst);
                }
            }
        });
    }
    all
}
