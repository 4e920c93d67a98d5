//! No descriptor is ever lost: after whatever happened, master and workers have as many open as
//! before it.
//!
//! Counts /proc/PID/fd. What a process opens once and keeps is there before the first count,
//! because everything happens once before it.

use harness::client::raw;
use harness::{Client, Fault, Nginx, Pincerd, Replica, eventually, load};
use hyper::Method;

/// How often everything happens: one lost descriptor a time is then far beyond what may differ by
/// chance, which is none.
const ROUNDS: usize = 3;

/// Open descriptors of a process.
fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap_or_else(|error| panic!("descriptors of {pid}: {error}")).count()
}

/// Waits until process `pid` has `count` open descriptors.
async fn has(nginx: &Nginx, what: &str, pid: i32, count: usize) {
    let named = || {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.display().to_string())).collect::<Vec<_>>()
    };
    let equal = harness::wait::blocking(10.0, || descriptors(pid) == count);
    assert!(equal, "{what}: {count} before, {} now: {:?}\n{}", descriptors(pid), named(), nginx.tail());
}

/// Requests that wait: some leave, some time out, one finds no room, one is served, and in the end
/// the peer refuses.
async fn every_end_of_a_wait(nginx: &Nginx, replica: &Replica) {
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let get = || tokio::spawn(client.call(Method::GET, "/").must());
    let waiting = async |count: u64| {
        eventually(&format!("{count} wait"), 10.0, || async { nginx.status().await.waiting() == count }).await;
    };
    let holder = get();
    eventually("one is in flight", 10.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let mut leavers = Vec::new();
    for _ in 0..8 {
        leavers.push(raw::send(&nginx.address(), "/", &[]).await);
    }
    waiting(8).await;
    assert_eq!(client.get("/").await.status, 502, "no room in the queue");
    for (number, leaver) in leavers.into_iter().enumerate() {
        if number % 2 == 0 { leaver.give_up() } else { leaver.reset() }
    }
    waiting(0).await;
    let late = get();
    assert_eq!(late.await.expect("no panic").status, 504, "its time is over");
    let served = get();
    waiting(1).await;
    replica.fault(Fault::None).await;
    assert_eq!((holder.await.expect("no panic").status, served.await.expect("no panic").status), (200, 200));
    replica.fault(Fault::Hang).await;
    let holder = get();
    eventually("one is in flight", 10.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let refused = get();
    waiting(1).await;
    replica.fault(Fault::Refuse).await;
    assert_eq!((holder.await.expect("no panic").status, refused.await.expect("no panic").status), (200, 502));
    replica.fault(Fault::None).await;
    eventually("the peer is back", 10.0, || async { client.get("/").await.status == 200 }).await;
}

async fn lose_none_by_waiting_for(replica: Replica) {
    let directives = "pincer_balance; pincer_queue size=8 timeout=3s;";
    let nginx = Nginx::builder().balanced(directives, [replica.server()], "max_conns=1 max_fails=0").start().await;
    let worker = nginx.workers()[0];
    every_end_of_a_wait(&nginx, &replica).await;
    // A connection more or less to the peer or a client is closed a moment after its answer.
    let idle = settled(worker).await;
    for _ in 0..ROUNDS {
        every_end_of_a_wait(&nginx, &replica).await;
    }
    has(&nginx, "the worker", worker, idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_leave_no_descriptor_behind_however_they_end() {
    lose_none_by_waiting_for(Replica::named("a").start().await).await;
}

/// A connect that fails at once takes another way through the queue than one that fails later.
#[tokio::test(flavor = "multi_thread")]
async fn nor_do_they_when_the_peer_refuses_at_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    lose_none_by_waiting_for(Replica::named("a").unix(folder.path().join("a.sock")).start().await).await;
}

/// The count of `pid` when it has not changed for a while.
async fn settled(pid: i32) -> usize {
    let mut last = Vec::new();
    harness::eventually_some("the count of descriptors stands still", 10.0, || {
        last.push(descriptors(pid));
        let recent = &last[last.len().saturating_sub(6)..];
        let still = recent.len() == 6 && recent.iter().all(|count| *count == recent[0]);
        let count = still.then_some(recent[0]);
        async move { count }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_and_lost_control_planes_leave_no_descriptor_behind() {
    let mut pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, harness::replica::Settings::served_in(2.0)).await;
    let servers = harness::conf::servers(Replica::servers(&replicas), "max_conns=2");
    let nginx = Nginx::builder()
        .workers(2)
        .http("pincer_zone pincer:1m state=state/last;")
        .http(pincerd.directives("edge-1"))
        .upstream("u", format!("pincer_balance; pincer_queue size=100 timeout=20s; {servers}"))
        .start()
        .await;
    let mut before = None;
    for round in 0..=ROUNDS {
        load::gets(&Client::single(&nginx.url()), "/", 100, 10).await;
        nginx.connected().await;
        pincerd.kill();
        let gone = || async { nginx.status().await.0["control_plane"]["connected"] == false };
        eventually("the control plane is gone", 10.0, gone).await;
        pincerd.start_again().await;
        let back = || async { nginx.status().await.0["control_plane"]["connected"] == true };
        eventually("the control plane is back", 15.0, back).await;
        nginx.reload().await;
        nginx.connected().await;
        eventually("the old workers are gone", 10.0, || async { nginx.draining().is_empty() }).await;
        let master = nginx.master();
        match before {
            None => before = Some(settled(master).await),
            Some(count) => has(&nginx, &format!("the master after {round} reloads"), master, count).await,
        }
    }
    // A worker's descriptors are the master's when it is forked, so the workers of the last reload
    // have as many as those of the first.
    let workers = nginx.workers();
    let counts = (settled(workers[0]).await, settled(workers[1]).await);
    nginx.reload().await;
    nginx.connected().await;
    eventually("the old workers are gone", 10.0, || async { nginx.draining().is_empty() }).await;
    let workers = nginx.workers();
    has(&nginx, "the first worker", workers[0], counts.0).await;
    has(&nginx, "the second worker", workers[1], counts.1).await;
}
