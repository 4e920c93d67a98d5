//! Changes a weight and drains a replica with `pincerctl`, each shown by the share of the traffic
//! before and after.

use std::time::Duration;

use harness::paths;

use crate::cluster::{Cluster, Lane};
use crate::table;
use crate::traffic::{self, Plan};

/// Requests a second here: few enough that the weights decide, not the slots.
const REQUESTS_PER_S: f64 = 6.0;
/// Time of the traffic after each change.
const PHASE: Duration = Duration::from_secs(7);
/// How long to wait for every nginx to have a change.
const WAIT: &str = "5s";

/// The upstream of `nginx-conf/live.conf`.
const UPSTREAM: &str = "chat";

/// The changes, one after the other; undone at the end.
pub async fn changes(cluster: &Cluster) {
    let lane = cluster.pincer();
    let [first, second] = [lane.replicas[0].server(), lane.replicas[1].server()];
    phase(lane, "as configured").await;
    ctl(cluster, &["peer", "set", UPSTREAM, first, "--weight", "9"]).await;
    phase(lane, "gpu-1 has weight 9").await;
    ctl(cluster, &["peer", "set", UPSTREAM, first, "--weight", "unset"]).await;
    ctl(cluster, &["peer", "set", UPSTREAM, second, "--state", "draining"]).await;
    phase(lane, "gpu-2 is draining").await;
    ctl(cluster, &["peer", "set", UPSTREAM, second, "--state", "unset"]).await;
    println!("\n{}", indented(&cluster.pincerd.must(&["peer", "list", UPSTREAM]).await));
}

/// Some seconds of traffic through Pincer, then who got how much of it.
async fn phase(lane: &Lane, what: &str) {
    for replica in &lane.replicas {
        replica.forget();
    }
    let outcomes = traffic::run([lane], &Plan::new(REQUESTS_PER_S, PHASE)).await;
    let broken = outcomes.iter().filter(|outcome| !outcome.done && !outcome.given_up).count();
    println!("  {what:<20} {}   {} requests, {broken} broken", share_line(lane), outcomes.len());
}

fn share_line(lane: &Lane) -> String {
    let shares = lane.replicas.iter().zip(table::shares(lane));
    shares.map(|(replica, share)| format!("{} {share:>3.0} %", replica.name())).collect::<Vec<_>>().join("  ")
}

async fn ctl(cluster: &Cluster, arguments: &[&str]) {
    let arguments = [arguments, &["--wait", WAIT]].concat();
    println!("\n  $ pincerctl {}", arguments.join(" "));
    println!("{}", indented(&cluster.pincerd.must(&arguments).await));
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

/// Prints commands to try, and sends a little traffic until Ctrl-C so that their effect shows.
pub async fn keep(cluster: &Cluster) {
    let lane = cluster.pincer();
    let ctl = format!("{} --dev {}", paths::pincerctl().display(), cluster.pincerd.dev().display());
    let [first, second] = [lane.replicas[0].server(), lane.replicas[1].server()];
    println!("\n== Everything runs until Ctrl-C. In another terminal:");
    println!("  {ctl} node list");
    println!("  {ctl} peer list {UPSTREAM}");
    println!("  {ctl} peer set {UPSTREAM} {first} --weight 9 --wait {WAIT}");
    println!("  {ctl} peer set {UPSTREAM} {second} --state draining --wait {WAIT}");
    println!("  {ctl} peer set {UPSTREAM} {second} --state unset --wait {WAIT}");
    println!("  {ctl} watch");
    println!("  curl -s {}/pincer_status", lane.nginx.status_client().base());
    println!("  curl -s {}/pincer_metrics", lane.nginx.status_client().base());
    println!("  curl -sN {}/v1/chat/completions -d '{{\"stream\":true}}'", lane.nginx.url());
    println!("  curl -s http://{first}/_control -H content-type:application/json -d '{{\"slow_factor\":10}}'");
    println!(
        "  curl -s http://{second}/_control -H content-type:application/json -d '{{\"fault\":{{\"status\":500}}}}'"
    );
    println!();
    loop {
        phase(lane, "now").await;
    }
}
