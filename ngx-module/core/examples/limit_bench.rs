//! What the limiter costs, and that a flood of keys changes nothing: checks a second beside a mutex
//! and a tree, times of look-ups, a key among ten million random ones.
//!
//! `cargo run --release -p pincer-core --example limit_bench` prints all. `… -- rate N` only makes
//! N checks of the rates of 1,000 keys whose hashes are ready: under callgrind two runs of
//! different N give the instructions of one, and `… -- loop N` what of them is the loop's.
//! `… -- rates N` the same for a request held to a rate, with counters, headers' values and its
//! end; `… -- checks N` with a concurrency, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use pincer_core::limit::{ClassSettings, DELAY_NONE, Gcra, KeyHash, Rate, ticks};
use pincer_core::time::MonoNs;
use pincer_core::zone::{Check, ClassIdx, HeapZone, Layout, ProcessId, Verdict, WorkerIdx, Zone};

const KEYS: usize = 1_000;
const START: MonoNs = MonoNs(1_000_000_000_000);
const FLOOD: u64 = 10_000_000;
const TIME: Duration = Duration::from_millis(200);
const ROUNDS: usize = 9;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mode, count) = (arguments.next(), arguments.next().and_then(|count| count.parse().ok()).unwrap_or(0_u64));
    match mode.as_deref() {
        Some("loop") => rate(count, false),
        Some("rate") => rate(count, true),
        Some("checks") => checks(count, 8),
        Some("rates") => checks(count, 0),
        _ => {
            throughput();
            flood(true);
            flood(false);
        }
    }
}

fn zone_of(bytes: usize) -> HeapZone {
    let heap = HeapZone::of(&Layout::for_bytes(bytes).unwrap());
    heap.zone().header.generation_begin();
    heap
}

fn class(zone: &Zone<'_>, name: &str, rate: u32, burst: u32, concurrency: u32) -> ClassIdx {
    let class = zone.class_reserve(name.as_bytes()).unwrap();
    let settings = ClassSettings {
        rate: Some(Rate::per_second(rate)),
        burst: Some(burst),
        delay: Some(DELAY_NONE),
        concurrency: Some(concurrency),
        ..ClassSettings::default()
    };
    zone.class_configure(class, &settings, MonoNs(0)).unwrap();
    class
}

fn worker(zone: &Zone<'_>, pid: u32) -> WorkerIdx {
    zone.worker_join(ProcessId { pid, start: 1 }, 1).unwrap()
}

fn hashes(zone: &Zone<'_>) -> Vec<KeyHash> {
    (0..KEYS)
        .map(|key| KeyHash::new(zone.header.secret(), format!("10.0.{}.{}", key / 256, key % 256).as_bytes()))
        .collect()
}

fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *random >> 17
}

/// Only checks, for callgrind.
fn checks(count: u64, concurrency: u32) {
    let heap = zone_of(1 << 20);
    let zone = heap.zone();
    let (class, w) = (class(&zone, "bench", 1_000, 100, concurrency), worker(&zone, 1));
    let keys = hashes(&zone);
    let (mut random, mut passed) = (1, 0_u64);
    for step in 0..count {
        let key = keys[next(&mut random) as usize % KEYS];
        let check = [Check { class, key, cost: 1, dry_run: false }];
        let limited = zone.limit_take(w, black_box(&check), MonoNs(START.0 + step * 1_000));
        passed += u64::from(limited.verdict == Verdict::Passed);
        zone.limit_release(w, limited.holds);
    }
    println!("{passed} of {count} passed");
}

/// Only checks of a rate, for callgrind.
/// Without `checked` only what else there is to it: choosing keys and telling the time.
fn rate(count: u64, checked: bool) {
    let heap = zone_of(1 << 20);
    let zone = heap.zone();
    let (class, keys) = (class(&zone, "bench", 1_000, 100, 0), hashes(&zone));
    let (mut random, mut passed) = (1, 0_u64);
    for step in 0..count {
        let key = keys[next(&mut random) as usize % KEYS];
        let (key, now) = (black_box(key), black_box(MonoNs(START.0 + step * 1_000)));
        passed += u64::from(!checked || zone.rate_check(class, key, 1, now));
    }
    println!("{passed} of {count} passed");
}

/// Checks a second on `threads` threads, for the time of the bench.
fn run(threads: u32, step: impl Fn(u32, u64, u64) + Sync) -> f64 {
    let stop = AtomicBool::new(false);
    let total: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (step, stop) = (&step, &stop);
                scope.spawn(move || {
                    let (mut random, mut done) = (u64::from(thread) + 1, 0_u64);
                    while !stop.load(SeqCst) {
                        for _ in 0..256 {
                            step(thread, next(&mut random), START.0 + done * 1_000);
                            done += 1;
                        }
                    }
                    done
                })
            })
            .collect();
        std::thread::sleep(TIME);
        stop.store(true, SeqCst);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    total as f64 / TIME.as_secs_f64() / 1e6
}

fn throughput() {
    let heap = zone_of(1 << 20);
    let zone = heap.zone();
    let class = class(&zone, "bench", 1_000, 100, 0);
    let workers = [worker(&zone, 1), worker(&zone, 2)];
    let keys = hashes(&zone);
    let names: Vec<String> = (0..KEYS).map(|key| format!("10.0.{}.{}", key / 256, key % 256)).collect();
    let gcra = Gcra { interval: Rate::per_second(1_000).interval(), burst: 100, delay: DELAY_NONE };
    let tree: Mutex<BTreeMap<String, u64>> = Mutex::new(names.iter().map(|name| (name.clone(), 0)).collect());
    let ours = |thread: u32, random: u64, now: u64| {
        let check = [Check { class, key: keys[random as usize % KEYS], cost: 1, dry_run: false }];
        let limited = zone.limit_take(workers[thread as usize], &check, MonoNs(now));
        zone.limit_release(workers[thread as usize], black_box(limited).holds);
    };
    let hashed = |thread: u32, random: u64, now: u64| {
        let key = KeyHash::new(zone.header.secret(), names[random as usize % KEYS].as_bytes());
        let limited =
            zone.limit_take(workers[thread as usize], &[Check { class, key, cost: 1, dry_run: false }], MonoNs(now));
        zone.limit_release(workers[thread as usize], black_box(limited).holds);
    };
    let rates = |_: u32, random: u64, now: u64| {
        black_box(zone.rate_check(class, keys[random as usize % KEYS], 1, MonoNs(now)));
    };
    let theirs = |_: u32, random: u64, now: u64| {
        let mut tree = tree.lock().unwrap();
        let tat = tree.get_mut(&names[random as usize % KEYS]).unwrap();
        if let Ok(admitted) = gcra.admit(*tat, ticks(MonoNs(now)), 1) {
            *tat = admitted.tat;
        }
    };
    for threads in [1, 2] {
        // Turn by turn, so that a busy machine hits all alike; the median of each.
        let mut rounds: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            rounds[0].push(run(threads, rates));
            rounds[1].push(run(threads, ours));
            rounds[2].push(run(threads, hashed));
            rounds[3].push(run(threads, theirs));
        }
        let [rates, ours, hashed, theirs] = rounds.map(|mut round| {
            round.sort_by(f64::total_cmp);
            round[ROUNDS / 2]
        });
        println!(
            "{threads} threads, {KEYS} keys, million checks a second: rate alone {rates:.1}, a request with counters and its end {ours:.1}, \
             with the key's hash too {hashed:.1}, mutex and tree {theirs:.2}: {:.1}x {:.1}x {:.1}x",
            rates / theirs,
            ours / theirs,
            hashed / theirs
        );
    }
}

/// A key that asks for twice its rate among random keys of its own class or another.
fn flood(same_class: bool) {
    let heap = zone_of(1 << 20);
    let zone = heap.zone();
    let vip_class = class(&zone, "vip", 100, 10, 0);
    let free_class = class(&zone, "free", 10, 5, 0);
    let (random_class, w) = (if same_class { vip_class } else { free_class }, worker(&zone, 1));
    let vip = KeyHash::new(zone.header.secret(), b"vip");
    let (mut random, mut admitted, mut vip_times) = (7, 0_u32, Vec::new());
    let mut times: Vec<u32> = Vec::with_capacity(FLOOD as usize / 16);
    // Ten seconds of the zone's clock, a million random keys in each.
    for step in 0..FLOOD {
        let now = MonoNs(START.0 + step * 1_000);
        let key = KeyHash::new(zone.header.secret(), &next(&mut random).to_le_bytes());
        let check = [Check { class: random_class, key, cost: 1, dry_run: false }];
        let (started, measured) = (Instant::now(), step % 16 == 0);
        let limited = zone.limit_take(w, &check, now);
        if measured {
            times.push(started.elapsed().as_nanos() as u32);
        }
        zone.limit_release(w, limited.holds);
        if step % 5_000 == 0 {
            let check = [Check { class: vip_class, key: vip, cost: 1, dry_run: false }];
            let started = Instant::now();
            let limited = zone.limit_take(w, &check, now);
            vip_times.push(started.elapsed().as_nanos() as u32);
            admitted += u32::from(limited.verdict == Verdict::Passed);
            zone.limit_release(w, limited.holds);
        }
    }
    let evicted = zone.header.counters.limit_evictions.load(Relaxed);
    let p99 = |times: &mut Vec<u32>| {
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    println!(
        "{FLOOD} random keys of {} class: the key got {admitted} of 1011, evictions {}, ns p50/p99 with the clock's own cost {:?}, of the key {:?}",
        if same_class { "its own" } else { "another" },
        evicted,
        p99(&mut times),
        p99(&mut vip_times)
    );
}
