//! Workers that die or stop: what is lost is theirs alone, counts are exact soon after, nobody who
//! waits is forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use harness::client::pinned::{self, Pinned};
use harness::client::{CallError, raw};
use harness::nginx::{Builder, Signal, process};
use harness::replica::Settings;
use harness::{Client, Fault, Nginx, Pincerd, Replica, eventually, limit, load, stats};
use hyper::Method;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

const KILLS: usize = 50;
const WORKERS: usize = 3;
/// Connections under load, with requests that wait for slots most of the time.
const CLIENTS: usize = 24;
/// Within this the counts are exact after a death, seconds.
const EXACT_S: f64 = 5.0;
/// Within this the feed is back after its worker's death.
const FEED_BACK: Duration = Duration::from_secs(2);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn queued(replicas: &[Replica], parameters: &str) -> Builder {
    let directives = "pincer_balance; pincer_queue size=200 timeout=20s;";
    Nginx::builder().balanced(directives, Replica::servers(replicas), parameters).server(pinned::LOCATION)
}

/// What the requests of one load came to.
#[derive(Default)]
struct Ends {
    fine: usize,
    /// Failed, with their worker.
    lost: Vec<i32>,
    /// Answered with something else than 200.
    wrong: Vec<u16>,
}

/// Requests one after the other over connections of known workers, until told to stop.
async fn pinned_load(address: String, stop: Arc<AtomicBool>, ends: Arc<Mutex<Ends>>) {
    while !stop.load(SeqCst) {
        // A connection that a dying worker had just taken: nobody's request yet.
        let Ok(mut connection) = Pinned::open(&address).await else { continue };
        while !stop.load(SeqCst) {
            let answer = connection.get("/").await;
            let mut ends = ends.lock().expect("no holder panics");
            match answer {
                Ok((200, ..)) => ends.fine += 1,
                Ok((status, ..)) => ends.wrong.push(status),
                Err(_) => {
                    ends.lost.push(connection.worker());
                    break;
                }
            }
        }
    }
}

fn feed_pid(status: &harness::nginx::Status) -> Option<i64> {
    status.0["control_plane"]["feed_pid"].as_i64()
}

fn in_flight_by_worker(status: &harness::nginx::Status) -> Vec<(i64, u64)> {
    let workers = status.0["workers"].as_array().cloned().unwrap_or_default();
    let of = |worker: &serde_json::Value| Some((worker["pid"].as_i64()?, worker["in_flight"].as_u64()?));
    workers.iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_under_load_lose_only_the_requests_of_the_killed() {
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(3, Settings::served_in(8.0)).await;
    let nginx = queued(&replicas, "max_conns=3")
        .workers(WORKERS)
        .http(pincerd.directives("edge-1"))
        .server("keepalive_requests 1000000;")
        .start()
        .await;
    nginx.connected().await;
    let (stop, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Ends::default())));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(pinned_load(nginx.address(), Arc::clone(&stop), Arc::clone(&ends)));
    }
    let mut random = SmallRng::seed_from_u64(2);
    let (mut killed, mut feed_back) = (BTreeSet::new(), Vec::new());
    for round in 0..KILLS {
        // Any moment will do, hence no condition.
        tokio::time::sleep(ms(random.random_range(5..80))).await;
        let workers = nginx.workers();
        let fed_by = feed_pid(&nginx.status().await).expect("a feed");
        let is_feeding = |pid: &i32| i64::from(*pid) == fed_by;
        let victim = match workers.iter().find(|pid| is_feeding(pid)) {
            Some(feeding) if round % 3 == 0 => *feeding,
            _ => workers[random.random_range(0..workers.len())],
        };
        nginx.kill_worker(victim);
        killed.insert(victim);
        let death = Instant::now();
        eventually("the worker is replaced", 10.0, || async { nginx.workers().len() == WORKERS }).await;
        if i64::from(victim) == fed_by {
            let is_back = |status: &harness::nginx::Status| {
                feed_pid(status).is_some_and(|pid| pid != fed_by) && status.0["control_plane"]["connected"] == true
            };
            eventually("the feed is back", 10.0, || async { is_back(&nginx.status().await) }).await;
            feed_back.push(death.elapsed());
        }
    }
    let told = pincerd.ctl(&["--wait", "5s", "peer", "set", "u", replicas[0].server(), "--weight", "2"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    stop.store(true, SeqCst);
    let stopped = Instant::now();
    clients.join_all().await;
    let exact = || async {
        let status = nginx.status().await;
        (status.in_flight(), status.waiting()) == (0, 0)
    };
    eventually("nothing is in flight or waits", EXACT_S, exact).await;
    let exact_after = stopped.elapsed();
    let ends = std::mem::take(&mut *ends.lock().expect("no holder panics"));
    println!(
        "{KILLS} kills, {} of the feed's worker: {} requests fine, {} lost with their worker; feed back after at most {:.0} ms; exact {:.0} ms after the load",
        feed_back.len(),
        ends.fine,
        ends.lost.len(),
        stats::percentile_s(&feed_back, 100.0) * 1e3,
        exact_after.as_secs_f64() * 1e3,
    );
    let others: Vec<_> = ends.lost.iter().filter(|pid| !killed.contains(pid)).collect();
    assert!(others.is_empty(), "lost in living workers {others:?}\n{}", nginx.tail());
    assert!(ends.wrong.is_empty(), "{:?}", ends.wrong);
    assert!(ends.fine > 1000, "{} fine", ends.fine);
    let slowest = feed_back.iter().max().copied().unwrap_or_default();
    assert!(!feed_back.is_empty() && slowest <= FEED_BACK.mul_f64(harness::wait::slowness()), "{slowest:?}");
    // The requests that a death cut off may still run at the replica when their slots are given
    // anew.
    let most = replicas.iter().map(|replica| replica.seen().running_max).max().unwrap_or_default();
    assert!(most <= 9, "{most} at once at a replica of three slots");
    assert_eq!(nginx.status().await.number("/counters/unbalanced"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_equal_the_requests_that_live_after_each_death() {
    let replicas = Replica::several(2, Settings::served_in(1.0)).await;
    let nginx = queued(&replicas, "max_conns=20").workers(WORKERS).listen("reuseport").start().await;
    for replica in &replicas {
        replica.fault(Fault::Hang).await;
    }
    let (mut held, address) = (Vec::new(), nginx.address());
    let mut slowest = Duration::ZERO;
    for round in 0..12 {
        while held.len() < 30 {
            held.push(raw::send(&address, "/", &[]).await);
        }
        eventually("all are in flight", 5.0, || async { nginx.status().await.in_flight() == 30 }).await;
        let by_worker = in_flight_by_worker(&nginx.status().await);
        let (victim, count) = by_worker[round % by_worker.len()];
        nginx.kill_worker(i32::try_from(victim).expect("a pid"));
        let death = Instant::now();
        let left = 30 - count;
        eventually("exactly the living count", EXACT_S, || async { nginx.status().await.in_flight() == left }).await;
        slowest = slowest.max(death.elapsed());
        let mut living = Vec::new();
        for request in held {
            // The killed worker's sockets are closed by the kernel.
            if request.is_open().await {
                living.push(request);
            }
        }
        held = living;
        assert_eq!(held.len() as u64, left, "round {round}");
        eventually("the worker is replaced", 10.0, || async { nginx.workers().len() == WORKERS }).await;
    }
    println!("counts exact at most {:.0} ms after a death", slowest.as_secs_f64() * 1e3);
    for replica in &replicas {
        replica.fault(Fault::None).await;
    }
    for request in held {
        assert_eq!(raw::status(&request.read_all().await), 200);
    }
}

type Pending = tokio::task::JoinHandle<Result<pinned::Answer, CallError>>;

fn ask(mut connection: Pinned) -> Pending {
    tokio::spawn(async move { connection.get("/").await })
}

async fn status_of(pending: Pending) -> Option<u16> {
    pending.await.expect("no panic").ok().map(|(status, ..)| status)
}

async fn counts(nginx: &Nginx, in_flight: u64, waiting: u64) {
    let wanted = (in_flight, waiting);
    let now = || async {
        let status = nginx.status().await;
        (status.in_flight(), status.waiting()) == wanted
    };
    eventually(&format!("in flight and waiting are {wanted:?}"), EXACT_S, now).await;
}

/// One hanging peer of so many slots, all held, and `waiters` requests that wait in every worker.
/// Holders first, both with their workers.
async fn full(
    nginx: &Nginx,
    replica: &Replica,
    slots: u64,
    waiters: u64,
) -> (Vec<(i32, Pending)>, Vec<(i32, Pending)>) {
    replica.fault(Fault::Hang).await;
    let (mut holding, mut waiting) = (Vec::new(), Vec::new());
    let mut held = 0;
    while held < slots {
        for connection in Pinned::to_all(nginx).await {
            if held < slots {
                held += 1;
                holding.push((connection.worker(), ask(connection)));
                counts(nginx, held, 0).await;
            }
        }
    }
    for round in 0..waiters {
        let connections = Pinned::to_all(nginx).await;
        let present = u64::try_from(connections.len()).expect("small");
        for connection in connections {
            waiting.push((connection.worker(), ask(connection)));
        }
        counts(nginx, slots, (round + 1) * present).await;
    }
    (holding, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slots_of_a_killed_worker_go_to_those_who_wait_in_others() {
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let nginx = queued(&replicas, "max_conns=6").workers(WORKERS).listen("reuseport").start().await;
    let mut longest = Duration::ZERO;
    for round in 0..6 {
        let (holding, waiting) = full(&nginx, &replicas[0], 6, 3).await;
        // The first waiter of all is in this worker in every third round.
        let victim = waiting[round % WORKERS].0;
        nginx.kill_worker(victim);
        let death = Instant::now();
        // Six go on to hold the slots: the living holders and, instead of the dead, the oldest
        // waiters of the living.
        counts(&nginx, 6, 6 - 2).await;
        longest = longest.max(death.elapsed());
        replicas[0].fault(Fault::None).await;
        for (worker, pending) in holding.into_iter().chain(waiting) {
            let status = status_of(pending).await;
            assert!(worker == victim || status == Some(200), "round {round}: {status:?} in a living worker");
        }
        counts(&nginx, 0, 0).await;
        eventually("the worker is replaced", 10.0, || async { nginx.workers().len() == WORKERS }).await;
    }
    println!("those who wait go on at most {:.0} ms after the death", longest.as_secs_f64() * 1e3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freed_slot_wakes_who_waits_in_another_worker_at_once() {
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let nginx = queued(&replicas, "max_conns=1").workers(WORKERS).listen("reuseport").start().await;
    let mut rounds = Vec::new();
    for _ in 0..15 {
        let (holding, waiting) = full(&nginx, &replicas[0], 1, 2).await;
        let start = Instant::now();
        replicas[0].fault(Fault::None).await;
        for (_, pending) in holding.into_iter().chain(waiting) {
            assert_eq!(status_of(pending).await, Some(200));
        }
        rounds.push(start.elapsed());
        counts(&nginx, 0, 0).await;
    }
    let median = stats::percentile_s(&rounds, 50.0);
    println!("one slot went through six waiters in {WORKERS} workers in {:.1} ms (median)", median * 1e3);
    // Looking by timer alone takes over 200 ms.
    assert!(median < limit(0.08).as_secs_f64(), "{median} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_with_the_best_key_does_not_hold_up_the_others() {
    let replicas = Replica::several(1, Settings::served_in(2.0)).await;
    let nginx = queued(&replicas, "max_conns=1").workers(WORKERS).listen("reuseport").start().await;
    for _ in 0..3 {
        let (mut holding, mut waiting) = full(&nginx, &replicas[0], 1, 2).await;
        let holder = holding[0].0;
        let first = waiting.iter().position(|(worker, _)| *worker != holder).expect("another worker");
        let stopped = waiting[first].0;
        assert!(process::signal(stopped, Signal::STOP));
        // The holder's worker may have the oldest key; the one stopped has it from the next release
        // on.
        replicas[0].fault(Fault::None).await;
        let start = Instant::now();
        assert_eq!(status_of(holding.remove(0).1).await, Some(200));
        let (theirs, others): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|(worker, _)| *worker == stopped);
        for (_, pending) in others {
            assert_eq!(status_of(pending).await, Some(200));
        }
        let waited = start.elapsed();
        assert!(waited < limit(1.0), "the others waited {waited:?} for a stopped worker");
        let mut more = Pinned::to_others(&nginx, &[stopped]).await.into_iter();
        let mut connection = more.next().expect("a living worker");
        for _ in 0..50 {
            assert_eq!(connection.get("/").await.expect("an answer").0, 200);
        }
        let waited = start.elapsed();
        assert!(waited < limit(3.0), "fifty requests took {waited:?} beside a stopped worker");
        assert!(theirs.iter().all(|(_, pending)| !pending.is_finished()));
        assert!(process::signal(stopped, Signal::CONT));
        for (_, pending) in theirs {
            assert_eq!(status_of(pending).await, Some(200));
        }
        counts(&nginx, 0, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_that_was_draining_leaves_nobody_behind() {
    let replicas = Replica::several(1, Settings::served_in(1.0)).await;
    let nginx = queued(&replicas, "max_conns=3").workers(WORKERS).listen("reuseport").start().await;
    let (holding, waiting) = full(&nginx, &replicas[0], 3, 1).await;
    nginx.reload().await;
    let mut late = Vec::new();
    for connection in Pinned::to_all(&nginx).await {
        late.push(ask(connection));
    }
    counts(&nginx, 3, 6).await;
    for pid in nginx.draining() {
        nginx.kill_worker(pid);
    }
    counts(&nginx, 3, 0).await;
    replicas[0].fault(Fault::None).await;
    for pending in late {
        assert_eq!(status_of(pending).await, Some(200));
    }
    for (_, pending) in holding.into_iter().chain(waiting) {
        assert_eq!(status_of(pending).await, None, "they went with their workers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_dying_at_once_leave_exact_counts_and_a_working_nginx() {
    let replicas = Replica::several(2, Settings::served_in(3.0)).await;
    let nginx = queued(&replicas, "max_conns=2").workers(WORKERS).start().await;
    for _ in 0..5 {
        replicas[0].fault(Fault::Hang).await;
        let client = Client::single(&nginx.url());
        let pending: Vec<_> = (0..30).map(|_| tokio::spawn(client.call(Method::GET, "/").send())).collect();
        eventually("some wait", 5.0, || async { nginx.status().await.waiting() > 0 }).await;
        for pid in nginx.workers() {
            nginx.kill_worker(pid);
        }
        replicas[0].fault(Fault::None).await;
        for request in pending {
            let _ = request.await.expect("no panic");
        }
        eventually("the workers are replaced", 10.0, || async { nginx.workers().len() == WORKERS }).await;
        counts(&nginx, 0, 0).await;
        let replies = load::gets(&client, "/", 60, 12).await;
        assert!(replies.iter().all(|reply| reply.status == 200), "{}", nginx.tail());
    }
}
