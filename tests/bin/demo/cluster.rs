//! What the demo runs: a control plane, and lanes. A lane is an nginx with replicas of its own, so
//! that lanes do not touch each other.

use harness::replica::Settings;
use harness::{Client, Nginx, Pincerd, Replica, conf, eventually};

/// Requests a second of the comparison: 0.7 of what a lane's replicas can do.
pub const REQUESTS_PER_S: f64 = 14.0;
/// Tokens of each answer.
pub const TOKENS: u32 = 20;
/// Workers of each nginx.
const WORKERS: usize = 2;

/// A lane's replicas: name, slots, time to the first token and between tokens in ms.
const REPLICAS: [(&str, usize, f64, f64); 4] =
    [("gpu-1", 4, 80.0, 15.0), ("gpu-2", 4, 80.0, 15.0), ("cpu-1", 2, 600.0, 60.0), ("cpu-2", 2, 600.0, 60.0)];

/// Everything that runs.
pub struct Cluster {
    /// nginx's own methods first, Pincer last.
    pub lanes: Vec<Lane>,
    /// The control plane of Pincer's lane.
    pub pincerd: Pincerd,
}

/// An nginx and its replicas.
pub struct Lane {
    /// What balances.
    pub name: &'static str,
    /// Sends to it.
    pub client: Client,
    /// In the order of [`REPLICAS`].
    pub replicas: Vec<Replica>,
    /// Stopped when dropped.
    pub nginx: Nginx,
}

impl Cluster {
    /// Starts all of it.
    ///
    /// # Panics
    /// When something does not start; with its log.
    pub async fn start() -> Self {
        let pincerd = Pincerd::start().await;
        let lanes = vec![
            stock("nginx round robin", "").await,
            stock("nginx least_conn", "least_conn;").await,
            pincer(&pincerd).await,
        ];
        Self { lanes, pincerd }
    }

    /// The lane that Pincer balances.
    pub fn pincer(&self) -> &Lane {
        &self.lanes[self.lanes.len() - 1]
    }

    /// Says what is there.
    pub fn describe(&self) {
        for (name, slots, ttft_ms, interval_ms) in REPLICAS {
            println!(
                "  {name}: {slots} answers at once, first token after {ttft_ms} ms, then one every {interval_ms} ms"
            );
        }
        for lane in &self.lanes {
            println!("  {:<18} {}", lane.name, lane.nginx.url());
        }
        println!("  {:<18} {} (gRPC, mutual TLS)", "pincerd", self.pincerd.endpoint());
    }
}

async fn replicas() -> Vec<Replica> {
    let mut replicas = Vec::new();
    for (name, slots, ttft_ms, token_interval_ms) in REPLICAS {
        let settings = Settings { slots, tokens: TOKENS, ..Settings::chat(ttft_ms, token_interval_ms) };
        replicas.push(Replica::named(name).settings(settings).start().await);
    }
    replicas
}

fn lane(name: &'static str, replicas: Vec<Replica>, mut nginx: Nginx) -> Lane {
    // An interrupted demo ends in the middle of requests.
    nginx.leave_in_flight();
    Lane { name, client: nginx.client(), replicas, nginx }
}

async fn stock(name: &'static str, method: &str) -> Lane {
    let replicas = replicas().await;
    let servers = conf::servers(Replica::servers(&replicas), "");
    let nginx = Nginx::builder()
        .stock()
        .workers(WORKERS)
        .http(format!("upstream chat {{ zone chat 256k; {method} {servers} keepalive 32; }}"))
        .server(
            "location / { proxy_pass http://chat; proxy_http_version 1.1; proxy_set_header Connection \"\";
             proxy_buffering off; proxy_next_upstream error timeout http_502 http_503 http_504 non_idempotent; }",
        )
        .start()
        .await;
    lane(name, replicas, nginx)
}

/// `nginx-conf/live.conf` with the places of this run.
async fn pincer(pincerd: &Pincerd) -> Lane {
    let replicas = replicas().await;
    let mut replacements: Vec<(String, String)> = (9001..)
        .zip(&replicas)
        .map(|(port, replica)| (format!("127.0.0.1:{port}"), replica.server().to_owned()))
        .collect();
    for (from, to) in [
        ("worker_processes auto", format!("worker_processes {WORKERS}")),
        ("pincer_control_plane 127.0.0.1:9443", format!("pincer_control_plane {}", pincerd.endpoint())),
        ("/etc/pincer/", format!("{}/", pincerd.dev().display())),
        ("/var/lib/pincer/", "state/".to_owned()),
        ("pincer_allow_peers 10.0.0.0/8", "pincer_allow_peers 127.0.0.0/8".to_owned()),
    ] {
        replacements.push((from.to_owned(), to));
    }
    let borrowed: Vec<_> = replacements.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    let nginx = Nginx::builder().workers(WORKERS).example("live.conf", &borrowed).start().await;
    eventually("nginx is connected to the control plane", 10.0, || async {
        nginx.status().await.0["control_plane"]["connected"] == true
    })
    .await;
    lane("Pincer", replicas, nginx)
}
