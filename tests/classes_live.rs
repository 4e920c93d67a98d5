//! Classes that operators change while nginx serves: every worker holds to the new values at once,
//! and no request notices but by them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::client::pinned::{self, Pinned};
use harness::client::revisions::{self, observe};
use harness::nginx::Builder;
use harness::replica::Settings;
use harness::{Client, Nginx, Pincerd, Replica, eventually, limit, stats};
use hyper::Method;
use pincer_proto::v1;
use tokio::task::JoinSet;

/// The tests here measure times or ask without end: one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const WORKERS: usize = 4;
/// Longest time from the answer to a change until every worker holds to it, seconds; on an idle
/// machine it is a tenth of that.
const SEEN_S_MAX: f64 = 0.2;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Fed by `pincerd`; four workers, each of which can be asked by itself.
fn fed(pincerd: &Pincerd, zone: &str, classes: &str) -> Builder {
    Nginx::builder()
        .workers(WORKERS)
        .listen("reuseport")
        .http(format!("pincer_zone pincer:{zone}; {classes}"))
        .http(pincerd.directives("edge-1"))
        .server("keepalive_requests 1000000;")
        .server(revisions::LOCATION)
        .server(pinned::LOCATION)
}

type Control = v1::control_service_client::ControlServiceClient<tonic::transport::Channel>;

fn per_second(requests: u32) -> Option<v1::Rate> {
    Some(v1::Rate { requests, period: v1::RatePeriod::Second.into() })
}

/// Sets these fields of a class; the revision that this made, and when the answer came.
async fn set(control: &mut Control, class: &str, settings: v1::ClassSettings) -> (u64, Instant) {
    let class = v1::Class { name: format!("classes/{class}"), settings: Some(settings), ..v1::Class::default() };
    let request =
        v1::UpdateClassRequest { class: Some(class), allow_missing: true, ..v1::UpdateClassRequest::default() };
    let revision = control.update_class(request).await.expect("a change").into_inner().revision;
    (revision, Instant::now())
}

/// Asks one worker again and again; when it let a request in.
async fn note_admissions(mut worker: Pinned, seen: Arc<Mutex<Vec<Instant>>>, stop: Arc<AtomicBool>) {
    while !stop.load(SeqCst) {
        let (status, ..) = worker.get("/").await.expect("an answer");
        if status == 200 {
            seen.lock().expect("no panic").push(Instant::now());
        } else {
            tokio::time::sleep(ms(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_raised_tenfold_lets_in_tenfold_in_every_worker_at_once_even_whose_burst_is_used_up() {
    let _alone = ALONE.lock().await;
    const CHANGES: usize = 10;
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "1m", "pincer_class free rate=10r/s burst=20 nodelay;")
        .server("location / { pincer_limit class=free key=$pid; empty_gif; }")
        .start()
        .await;
    nginx.connected().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut seen = Vec::new();
    let mut asking = tokio::task::JoinSet::new();
    for worker in Pinned::to_all(&nginx).await {
        let times = Arc::new(Mutex::new(Vec::new()));
        asking.spawn(note_admissions(worker, Arc::clone(&times), Arc::clone(&stop)));
        seen.push(times);
    }
    let mut control = pincer_control::client::connect(&pincerd.dev()).await.expect("pincerd answers");
    // Two let in within less than half the time that the slow rate demands.
    let quick = |two: &[Instant]| two[1] - two[0] < ms(50);
    let slow = |times: &Mutex<Vec<Instant>>| {
        let times = times.lock().expect("no panic");
        times.len() >= 3 && !times[times.len() - 3..].windows(2).any(quick)
    };
    let mut delays = Vec::new();
    for _ in 0..CHANGES {
        set(&mut control, "free", v1::ClassSettings { rate: per_second(10), ..v1::ClassSettings::default() }).await;
        eventually("every worker lets in ten a second", 10.0, || async { seen.iter().all(|times| slow(times)) }).await;
        let (_, at) =
            set(&mut control, "free", v1::ClassSettings { rate: per_second(100), ..v1::ClassSettings::default() })
                .await;
        for times in &seen {
            let since = || async {
                let times = times.lock().expect("no panic");
                // More than the old rate would have let in, by far.
                let more = |(count, &time): (usize, &Instant)| {
                    let earned = 10.0 * time.saturating_duration_since(at).as_secs_f64();
                    (count as f64 >= 2.0 + earned).then_some(time - at)
                };
                times.iter().filter(|time| **time >= at).enumerate().find_map(more)
            };
            delays.push(harness::eventually_some("a hundred a second", 10.0, since).await);
        }
    }
    stop.store(true, SeqCst);
    asking.join_all().await;
    let (p50, p99) = (stats::percentile_s(&delays, 50.0), stats::percentile_s(&delays, 99.0));
    println!("{CHANGES} changes in {WORKERS} workers: work after p50 {:.1} ms, p99 {:.1} ms", p50 * 1e3, p99 * 1e3);
    assert!(p99 <= SEEN_S_MAX * harness::wait::slowness(), "{delays:?}");
}

/// Values that no client of the load comes near; the same for the same number.
fn generous(number: u32) -> v1::ClassSettings {
    v1::ClassSettings {
        rate: per_second(20_000 + number),
        burst: Some(1_000 + number),
        concurrency: Some(50 + number % 50),
        bandwidth: Some((100 << 20) + u64::from(number)),
        priority: Some(number % 256),
        share: Some(number % 20),
        ..v1::ClassSettings::default()
    }
}

async fn create(control: &mut Control, class: &str, settings: v1::ClassSettings) -> u64 {
    let settings = v1::Class { settings: Some(settings), ..v1::Class::default() };
    let request = v1::CreateClassRequest { class_id: class.to_owned(), class: Some(settings), validate_only: false };
    control.create_class(request).await.expect("a class").into_inner().revision
}

async fn delete(control: &mut Control, class: &str) -> u64 {
    let request = v1::DeleteClassRequest { name: format!("classes/{class}"), ..v1::DeleteClassRequest::default() };
    control.delete_class(request).await.expect("a class").into_inner().revision
}

/// Asks as one caller of a class after another until it is told to stop; how many answers, and
/// those that are not 200.
async fn ask_on(client: Client, caller: usize, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut answers, mut failed) = (0, Vec::new());
    while !stop.load(SeqCst) {
        let class = ["free", "vip", "extra", "", "nobody"][(caller + answers) % 5];
        let call = client.call(Method::GET, "/").header("x-class", class).header("x-caller", caller);
        match call.send().await {
            Ok(reply) if reply.status == 200 => {}
            Ok(reply) => failed.push(format!("{class}: {} {}", reply.status, reply.text())),
            Err(error) => failed.push(format!("{class}: {error}")),
        }
        answers += 1;
    }
    (answers, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_changes_of_classes_under_load_fail_no_request_and_are_everywhere_at_once() {
    let _alone = ALONE.lock().await;
    const CHANGES: u32 = 500;
    const CLIENTS: usize = 24;
    let pincerd = Pincerd::start().await;
    let replicas = Replica::several(2, Settings::served_in(4.0)).await;
    let servers = harness::conf::servers(Replica::servers(&replicas), "max_conns=8");
    let classes = "pincer_class default rate=5000r/s burst=1000 nodelay; pincer_class vip priority=1;
        pincer_class free rate=5000r/s burst=1000 nodelay share=20;";
    let nginx = fed(&pincerd, "1m", classes)
        .upstream("u", format!("pincer_balance; pincer_queue size=500 timeout=20s; {servers}"))
        .server("pincer_limit class=$http_x_class key=$http_x_caller;")
        .start()
        .await;
    nginx.connected().await;
    let (stop, until) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(u64::MAX)));
    let mut observers = JoinSet::new();
    for worker in Pinned::to_all(&nginx).await {
        observers.spawn(observe(worker, Arc::clone(&until)));
    }
    let mut load = JoinSet::new();
    for caller in 0..CLIENTS {
        load.spawn(ask_on(Client::pooled(&nginx.url()), caller, Arc::clone(&stop)));
    }
    eventually("the load queues", 10.0, || async { nginx.status().await.waiting() > 0 }).await;
    let mut control = pincer_control::client::connect(&pincerd.dev()).await.expect("pincerd answers");
    let mut made = Vec::new();
    for number in 0..CHANGES {
        let revision = match number % 5 {
            0 => set(&mut control, "free", generous(number)).await.0,
            1 => set(&mut control, "vip", generous(number)).await.0,
            2 => create(&mut control, "extra", generous(number)).await,
            3 => set(&mut control, "default", generous(number)).await.0,
            _ => delete(&mut control, "extra").await,
        };
        made.push((revision, Instant::now()));
    }
    until.store(made.last().expect("revisions").0, SeqCst);
    let shown = tokio::time::timeout(limit(10.0), observers.join_all()).await.expect("every worker shows the last");
    stop.store(true, SeqCst);
    let ends = load.join_all().await;
    let delay = |first: &[(u64, Instant)], revision: u64, at: Instant| {
        let (_, shown) = first.iter().find(|(shown, _)| *shown >= revision).expect("every revision comes");
        shown.saturating_duration_since(at)
    };
    let delays: Vec<Duration> =
        shown.iter().flat_map(|shown| made.iter().map(|(revision, at)| delay(&shown.first, *revision, *at))).collect();
    let (p50, p99) = (stats::percentile_s(&delays, 50.0), stats::percentile_s(&delays, 99.0));
    let answers: usize = ends.iter().map(|(answers, _)| answers).sum();
    println!(
        "{CHANGES} changes in {WORKERS} workers: seen after p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms; {answers} answers",
        p50 * 1e3,
        p99 * 1e3,
        stats::percentile_s(&delays, 100.0) * 1e3
    );
    let failed: Vec<_> = ends.into_iter().flat_map(|(_, failed)| failed).collect();
    assert!(failed.is_empty(), "{} of {answers}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    assert!(made.windows(2).all(|two| two[0].0 < two[1].0), "each change makes a revision");
    assert!(shown.iter().all(|shown| !shown.went_back));
    assert!(p99 <= SEEN_S_MAX * harness::wait::slowness(), "p99 {p99} s");
    let status = nginx.status().await;
    for (class, last) in [("free", 495), ("vip", 496), ("default", 498)] {
        let (class, settings) = (status.class(class), generous(last));
        let said =
            ["burst", "concurrency", "priority", "share"].map(|field| class.number(&format!("/{field}/effective")));
        let meant = [settings.burst, settings.concurrency, settings.priority, settings.share];
        assert_eq!(said.map(Some), meant.map(|value| value.map(f64::from)), "{:#}", class.0);
        assert_eq!(class.text("/rate/effective"), format!("{}r/s", 20_000 + last));
        assert_eq!(class.number("/requests/rejected_rate") + class.number("/requests/rejected_concurrency"), 0.0);
    }
    assert_eq!(status.0["classes"].as_array().map(Vec::len), Some(3), "{:#}", status.0["classes"]);
    assert_eq!(status.number("/control_plane/reconnects") + status.number("/control_plane/refused"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_made_and_removed_five_hundred_times_leaves_nothing_behind_in_a_small_zone() {
    let _alone = ALONE.lock().await;
    let pincerd = Pincerd::start().await;
    let nginx = fed(&pincerd, "96k", "pincer_class default; pincer_class vip priority=1;")
        .server("location / { pincer_limit class=$arg_class; add_header X-Replica $pincer_class; empty_gif; }")
        .start()
        .await;
    nginx.connected().await;
    let records = || async { nginx.status().await.0["class_records"].clone() };
    let before = records().await;
    let mut control = pincer_control::client::connect(&pincerd.dev()).await.expect("pincerd answers");
    let mut workers = Pinned::to_all(&nginx).await;
    for round in 0..500 {
        let name = format!("class-{}", round % 7);
        for (class, is_there) in [(name.as_str(), true), ("default", false)] {
            let revision = if is_there {
                create(&mut control, &name, generous(round)).await
            } else {
                delete(&mut control, &name).await
            };
            let worker = &mut workers[round as usize % WORKERS];
            let start = Instant::now();
            while worker.get("/revision").await.expect("an answer").2.parse() != Ok(revision) {
                assert!(start.elapsed() < limit(10.0), "revision {revision} does not come");
            }
            let (status, applied, _) = worker.get(&format!("/?class={name}")).await.expect("an answer");
            assert_eq!((status, applied.as_str()), (200, class), "round {round}");
        }
    }
    assert_eq!(records().await, before);
    let status = nginx.status().await;
    assert_eq!(status.0["classes"].as_array().map(Vec::len), Some(2));
    assert_eq!(status.class("default").number("/requests/passed"), 500.0);
}
