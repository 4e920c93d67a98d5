//! Limits of requests in the zone: one after the other, against models, and under threads that
//! stand for workers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use pincer_core::limit::{ClassSettings, DELAY_NONE, Flow, KeyHash, Rate, write_state};
use pincer_core::time::{MonoNs, SECOND_NS};
use pincer_core::zone::{
    Check, ClassIdx, HeapZone, Holds, LIMITS_MAX, Layout, Limited, ProcessId, Reason, Verdict, WorkerIdx, Zone,
};
use proptest::prelude::*;
use zone_support::*;

fn settings(rate: u32, burst: u32, concurrency: u32) -> ClassSettings {
    ClassSettings {
        rate: Some(Rate::per_second(rate)),
        burst: Some(burst),
        delay: Some(DELAY_NONE),
        concurrency: Some(concurrency),
        ..ClassSettings::default()
    }
}

fn declare(zone: &Zone<'_>, classes: &[ClassSettings]) -> Vec<ClassIdx> {
    zone.header.generation_begin();
    let class = |index: usize| {
        let class = zone.class_reserve(format!("class{index}").as_bytes()).unwrap();
        zone.class_configure(class, &classes[index], NOW).unwrap();
        class
    };
    (0..classes.len()).map(class).collect()
}

fn key(zone: &Zone<'_>, key: &str) -> KeyHash {
    KeyHash::new(zone.header.secret(), key.as_bytes())
}

fn check(zone: &Zone<'_>, class: ClassIdx, name: &str) -> Check {
    Check { class, key: key(zone, name), cost: 1, dry_run: false }
}

fn passed(limited: &Limited) -> bool {
    limited.verdict == Verdict::Passed
}

fn counter(zone: &Zone<'_>, wanted: &str) -> u64 {
    zone.snapshot(NOW).counters.into_iter().find(|counter| counter.name == wanted).unwrap().value
}

fn refused(limited: &Limited) -> (usize, Reason) {
    match limited.verdict {
        Verdict::Rejected { which, reason, .. } => (which, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_limits_must_pass_and_one_that_does_not_gives_back_what_the_others_took() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let classes = declare(&zone, &[settings(10, 4, 0), settings(10, 1, 0), settings(0, 0, 2)]);
    let w = join(&zone, 1);
    let checks: Vec<Check> = classes.iter().map(|class| check(&zone, *class, "k")).collect();
    let first = zone.limit_take(w, &checks, NOW);
    let second = zone.limit_take(w, &checks, NOW);
    assert!(passed(&first) && passed(&second));
    for _ in 0..20 {
        let third = zone.limit_take(w, &checks, NOW);
        assert_eq!((refused(&third), third.holds.len()), ((1, Reason::Rate), 0));
    }
    // Of the first class only two of five are gone.
    let alone: Vec<Limited> = (0..4).map(|_| zone.limit_take(w, &checks[..1], NOW)).collect();
    assert_eq!(alone.iter().map(passed).collect::<Vec<_>>(), [true, true, true, false]);
    let full = zone.limit_take(w, &checks[2..], NOW);
    assert_eq!(refused(&full), (0, Reason::Concurrency));
    zone.limit_withdraw(w, second.holds, NOW);
    assert_eq!(zone.seats_taken(classes[2], checks[2].key), 1);
    assert!(passed(&zone.limit_take(w, &checks[1..], NOW)), "what is withdrawn is there again");
    zone.limit_release(w, first.holds);
    let shown = zone.snapshot(NOW).classes;
    assert_eq!((shown[1].passed, shown[1].rejected_rate, shown[2].rejected_concurrency), (3, 20, 1));
}

#[test]
fn a_burst_without_nodelay_waits_and_who_leaves_meanwhile_gives_its_place_back() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let class = declare(&zone, &[ClassSettings { delay: Some(1), ..settings(10, 3, 0) }])[0];
    let w = join(&zone, 1);
    let checks = [check(&zone, class, "k")];
    let mut all: Vec<Limited> = (0..5).map(|_| zone.limit_take(w, &checks, NOW)).collect();
    let verdicts: Vec<Verdict> = all.iter().map(|limited| limited.verdict).collect();
    let none = Verdict::Rejected { which: 0, reason: Reason::Rate, retry_after_ns: Some(100 * MS) };
    assert_eq!(
        verdicts,
        [Verdict::Passed, Verdict::Passed, Verdict::Delayed(100 * MS), Verdict::Delayed(200 * MS), none]
    );
    zone.limit_withdraw(w, all.remove(3).holds, NOW.plus(10 * MS));
    assert_eq!(zone.limit_take(w, &checks, NOW.plus(10 * MS)).verdict, Verdict::Delayed(190 * MS));
    let shown = zone.snapshot(NOW).classes.remove(0);
    assert_eq!((shown.passed, shown.delayed, shown.rejected_rate, shown.in_flight), (2, 3, 1, 4));
}

#[test]
fn a_dry_run_counts_what_it_would_refuse_and_lets_it_pass() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let classes = declare(&zone, &[settings(1, 0, 1), settings(100, 10, 0)]);
    let w = join(&zone, 1);
    let dry = Check { dry_run: true, ..check(&zone, classes[0], "k") };
    let checks = [check(&zone, classes[1], "k"), dry];
    let first = zone.limit_take(w, &checks, NOW);
    assert!(passed(&first) && first.dry_run.is_none());
    let second = zone.limit_take(w, &checks, NOW);
    assert_eq!((passed(&second), second.dry_run, second.holds.len()), (true, Some(1), 2));
    assert_eq!(zone.seats_taken(classes[0], dry.key), 1);
    zone.limit_withdraw(w, second.holds, NOW);
    zone.limit_release(w, first.holds);
    let shown = zone.snapshot(NOW).classes;
    assert_eq!((shown[0].rejected_dry_run, shown[0].rejected_rate, shown[0].in_flight), (1, 0, 0));
    assert_eq!(counter(&zone, "unbalanced"), 0);
}

#[test]
fn a_changed_class_holds_at_the_next_request_and_another_life_of_it_owes_nothing() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let class = declare(&zone, &[settings(10, 0, 1)])[0];
    let w = join(&zone, 1);
    let checks = [check(&zone, class, "k")];
    let held = zone.limit_take(w, &checks, NOW).holds;
    assert_eq!(refused(&zone.limit_take(w, &checks, NOW)).1, Reason::Rate);
    zone.class_configure(class, &settings(0, 0, 1), NOW).unwrap();
    assert_eq!(refused(&zone.limit_take(w, &checks, NOW)).1, Reason::Concurrency);
    zone.class_configure(class, &settings(0, 0, 2), NOW).unwrap();
    let more = zone.limit_take(w, &checks, NOW);
    assert!(passed(&more) && more.quotas.is_empty());
    for holds in [held, more.holds] {
        zone.limit_release(w, holds);
    }
    assert_eq!(zone.seats_taken(class, checks[0].key), 0);
}

#[test]
fn an_allowance_used_up_at_a_low_rate_comes_back_at_the_rate_that_is_set_then_and_no_faster() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let class = declare(&zone, &[settings(1, 999, 0)])[0];
    let w = join(&zone, 1);
    let checks = [check(&zone, class, "k")];
    let let_in = |now: MonoNs| {
        let taken = std::iter::from_fn(|| Some(zone.limit_take(w, &checks, now)).filter(passed));
        taken.map(|limited| zone.limit_release(w, limited.holds)).count()
    };
    assert_eq!(let_in(NOW), 1_000);
    zone.class_configure(class, &settings(100, 9, 0), NOW).unwrap();
    assert_eq!(let_in(NOW), 0, "used up is used up");
    assert_eq!((0..100).map(|ms| let_in(NOW.plus(ms * MS))).sum::<usize>(), 7, "a tenth of a second but 20 ms");
    assert_eq!(let_in(NOW.plus(SECOND_NS)), 10);
    // When all that is left of it has passed, nobody's debt is lowered: who has been held up since
    // he read the clock does no harm.
    let later = NOW.plus(2_000 * SECOND_NS);
    assert_eq!((let_in(later), let_in(NOW.plus(1_999 * SECOND_NS)), let_in(later)), (10, 0, 0));
}

#[test]
fn quotas_say_what_is_left_and_when_it_is_back() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let class = declare(&zone, &[settings(10, 9, 0)])[0];
    let w = join(&zone, 1);
    let checks = [check(&zone, class, "k")];
    let state = |limited: &Limited| {
        let mut text = String::new();
        write_state(&mut text, &[(&b"vip"[..], limited.quotas[0].1)]).unwrap();
        text
    };
    let first = zone.limit_take(w, &checks, NOW);
    assert_eq!((state(&first), first.quotas[0].1.limit), ("\"vip\";r=9;t=1".to_owned(), 10));
    (0..9).for_each(|_| assert!(passed(&zone.limit_take(w, &checks, NOW))));
    let last = zone.limit_take(w, &checks, NOW);
    assert_eq!((last.quotas[0].1.remaining, last.quotas[0].1.reset_ns), (0, 100 * MS));
    let dear = Check { cost: 11, ..checks[0] };
    let never = zone.limit_take(w, &[dear], NOW.plus(5 * SECOND_NS)).verdict;
    assert_eq!(never, Verdict::Rejected { which: 0, reason: Reason::Rate, retry_after_ns: None });
}

#[test]
fn a_class_that_is_gone_or_a_zone_without_classes_limits_nothing() {
    let layout = Layout::for_bytes(60_000).unwrap();
    let parts = layout.parts;
    assert_eq!((parts.classes.count, parts.rates.count, parts.seats.count), (0, 0, 0));
    for heap in [HeapZone::of(&layout), HeapZone::new(1, 1)] {
        let zone = heap.zone();
        let w = join(&zone, 1);
        let checks: Vec<Check> = (0..20).map(|class| check(&zone, ClassIdx(class), "k")).collect();
        let limited = zone.limit_take(w, &checks, NOW);
        assert!(passed(&limited) && limited.holds.is_empty());
        assert!(checks.len() > LIMITS_MAX);
    }
}

#[test]
fn more_workers_than_words_of_one_way_sit_in_several_and_one_too_many_is_refused() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let class = declare(&zone, &[settings(0, 0, 110)])[0];
    let workers: Vec<WorkerIdx> = (1..=100).map(|pid| join(&zone, pid)).collect();
    let checks = [check(&zone, class, "k")];
    let taken: Vec<Limited> = workers.iter().map(|w| zone.limit_take(*w, &checks, NOW)).collect();
    let seats = taken.iter().filter(|limited| passed(limited)).count();
    assert_eq!((seats, zone.seats_taken(class, checks[0].key)), (96, 96), "eight ways of twelve words");
    assert_eq!(refused(&taken[99]).1, Reason::NoRoom);
    assert_eq!(counter(&zone, "limit_no_room"), 4);
    let reclaimed = zone.reclaim_dead(process(500), |_| false);
    assert_eq!((reclaimed.workers, zone.seats_taken(class, checks[0].key)), (100, 0));
    assert_eq!(zone.snapshot(NOW).classes[0].in_flight, 0);
    taken.into_iter().for_each(|limited| drop(limited.holds));
}

proptest! {
    #[test]
    fn rates_and_seats_are_as_in_a_plain_model(
        steps in prop::collection::vec((0_usize..3, 0_usize..4, 0_u64..150, 0_u8..4, 1_u32..3), 1..400)
    ) {
        let heap = HeapZone::new(1, 1);
        let zone = heap.zone();
        let limits = [(10, 3, 2), (0, 0, 3), (50, 0, 0)];
        let classes = declare(&zone, &limits.map(|(rate, burst, seats)| settings(rate, burst, seats)));
        let workers = [join(&zone, 1), join(&zone, 2), join(&zone, 3)];
        let keys = ["a", "b", "c", "d"].map(|name| key(&zone, name));
        let (mut now, mut held) = (NOW, Vec::new());
        // Per class and key: the TAT in ns, and how many hold a seat.
        let mut model: HashMap<(usize, usize), (u64, u32)> = HashMap::new();
        for (step, (class, name, ms, action, cost)) in steps.into_iter().enumerate() {
            now = now.plus(ms * MS);
            if action == 0 && !held.is_empty() {
                let (w, holds, place): (WorkerIdx, Holds, _) = held.swap_remove(step % held.len());
                zone.limit_release(w, holds);
                model.entry(place).and_modify(|entry| entry.1 -= 1);
                continue;
            }
            let w = workers[step % 3];
            let (rate, burst, seats) = limits[class];
            let limited = zone.limit_take(w, &[Check { class: classes[class], key: keys[name], cost, dry_run: false }], now);
            let entry = model.entry((class, name)).or_default();
            let interval = if rate == 0 { 0 } else { SECOND_NS / u64::from(rate) };
            let next = entry.0.max(now.0) + interval * u64::from(cost);
            let expected = if rate != 0 && next - now.0 > interval * u64::from(burst + 1) {
                Err(Reason::Rate)
            } else if seats != 0 && entry.1 >= seats {
                Err(Reason::Concurrency)
            } else {
                Ok(())
            };
            match expected {
                Ok(()) => {
                    prop_assert_eq!(limited.verdict, Verdict::Passed);
                    *entry = (if rate == 0 { 0 } else { next }, entry.1 + 1);
                    held.push((w, limited.holds, (class, name)));
                }
                Err(reason) => prop_assert_eq!(refused(&limited), (0, reason)),
            }
        }
        for (&(class, name), &(_, seats)) in &model {
            let counted = if limits[class].2 == 0 { 0 } else { seats };
            prop_assert_eq!(zone.seats_taken(classes[class], keys[name]), counted);
        }
        held.into_iter().for_each(|(w, holds, _)| zone.limit_release(w, holds));
        prop_assert_eq!(zone.snapshot(NOW).classes.iter().map(|class| class.in_flight).sum::<u32>(), 0);
    }
}

#[test]
fn four_workers_let_in_exactly_the_rate_and_the_burst() {
    let heap = HeapZone::new(1, 1);
    let class = declare(&heap.zone(), &[settings(1_000, 100, 0)])[0];
    let (clock, admitted) = (AtomicU64::new(NOW.0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (zone, clock, admitted) = (heap.zone(), &clock, &admitted);
            scope.spawn(move || {
                let w = join(&zone, thread + 1);
                let checks = [check(&zone, class, "key")];
                loop {
                    let now = clock.fetch_add(50_000, SeqCst);
                    if now > NOW.0 + 10 * SECOND_NS {
                        break;
                    }
                    let limited = zone.limit_take(w, &checks, MonoNs(now));
                    admitted.fetch_add(u64::from(passed(&limited)), SeqCst);
                    zone.limit_release(w, limited.holds);
                }
            });
        }
    });
    let admitted = admitted.load(SeqCst);
    assert!((10_000..=10_102).contains(&admitted), "{admitted} of 10000 + 100 + 1");
}

/// Floods a zone of 96 KB, 768 keys, with keys of one class beside a key that asks for twice its
/// rate; returns what that key got in `seconds`.
fn flood(vip_class: usize, classes: &[ClassSettings], keys_per_ms: u64, seconds: u64) -> u64 {
    let heap = HeapZone::of(&Layout::for_bytes(96 << 10).unwrap());
    let zone = heap.zone();
    let classes = declare(&zone, classes);
    let w = join(&zone, 1);
    let vip = [Check { class: classes[vip_class], key: key(&zone, "vip"), cost: 1, dry_run: false }];
    let (mut admitted, mut random) = (0, 1_u64);
    for ms in 0..seconds * 1_000 {
        let now = NOW.plus(ms * MS);
        for _ in 0..keys_per_ms {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = KeyHash::new(zone.header.secret(), &random.to_le_bytes());
            let limited = zone.limit_take(w, &[Check { class: classes[0], key, cost: 1, dry_run: false }], now);
            zone.limit_release(w, limited.holds);
        }
        if ms % 5 == 0 {
            let limited = zone.limit_take(w, &vip, now);
            admitted += u64::from(passed(&limited));
            zone.limit_release(w, limited.holds);
        }
    }
    assert!(counter(&zone, "limit_evictions") > keys_per_ms * seconds * 100, "the table was not full");
    assert_eq!(counter(&zone, "limit_untracked"), 0);
    admitted
}

#[test]
fn random_keys_of_another_class_do_not_make_a_limited_key_forgotten() {
    // A request a minute: each random key owes for a minute, and there are far more than the table
    // holds.
    let slow = ClassSettings { rate: Some(Rate::per_minute(1)), ..settings(1, 0, 0) };
    let got = flood(1, &[slow, settings(100, 10, 0)], 30, 5);
    assert!((500..=512).contains(&got), "{got} of 500 + 10 + 1");
}

#[test]
fn random_keys_of_the_same_class_do_not_make_a_limited_key_forgotten() {
    let got = flood(0, &[settings(100, 10, 0)], 200, 2);
    assert!((200..=212).contains(&got), "{got} of 200 + 10 + 1");
}

#[test]
fn twenty_thousand_idle_keys_take_each_others_seats_and_none_is_refused() {
    let heap = HeapZone::of(&Layout::for_bytes(1 << 20).unwrap());
    let zone = heap.zone();
    let class = declare(&zone, &[settings(0, 0, 1)])[0];
    let w = join(&zone, 1);
    let long = zone.limit_take(w, &[check(&zone, class, "long")], NOW);
    for number in 0..20_000_u32 {
        let checks = [Check { class, key: KeyHash::new([1, 2], &number.to_le_bytes()), cost: 1, dry_run: false }];
        let limited = zone.limit_take(w, &checks, NOW);
        assert!(passed(&limited), "{number}");
        zone.limit_release(w, limited.holds);
    }
    assert_eq!(refused(&zone.limit_take(w, &[check(&zone, class, "long")], NOW)).1, Reason::Concurrency);
    zone.limit_release(w, long.holds);
}

#[test]
fn bandwidth_is_shared_by_the_responses_of_a_key_and_follows_a_change() {
    let heap = HeapZone::new(1, 1);
    let zone = heap.zone();
    let limited = |bandwidth| ClassSettings { bandwidth: Some(bandwidth), ..ClassSettings::default() };
    let class = declare(&zone, &[limited(0)])[0];
    let workers = [join(&zone, 1), join(&zone, 2)];
    let checks = [check(&zone, class, "k")];
    let mut flows: Vec<_> = (0..20)
        .map(|i| (workers[i % 2], zone.limit_take(workers[i % 2], &checks, NOW).holds, Flow::default(), 0, NOW))
        .collect();
    // Without a bandwidth all is granted at once; then one is set under the running responses, and
    // raised.
    assert_eq!(
        zone.bandwidth_grant(flows[0].0, &mut flows[0].1[0], &mut Flow::default(), (1 << 30, 1), NOW).bytes,
        1 << 30
    );
    for ms in 0..12_000 {
        let now = NOW.plus(ms * MS);
        match ms {
            0 => zone.class_configure(class, &limited(100_000), now).unwrap(),
            2_000 => zone.class_configure(class, &limited(1_000_000), now).unwrap(),
            _ => {}
        }
        for (w, holds, flow, sent, next) in flows.iter_mut().filter(|(.., next)| *next <= now) {
            let grant = zone.bandwidth_grant(*w, &mut holds[0], flow, (16_384, 1), now);
            zone.bandwidth_sent(&holds[0], flow, grant.bytes);
            *sent += grant.bytes;
            *next = now.plus(grant.retry_after_ns);
        }
    }
    assert_eq!(zone.seats_taken(class, checks[0].key), 20);
    let (total, fair) = (10_200_000_u64, 510_000_u64);
    let sent: u64 = flows.iter().map(|(.., sent, _)| sent).sum();
    assert!(sent.abs_diff(total) * 20 < total, "{sent} of {total}");
    assert!(flows.iter().all(|(.., sent, _)| sent.abs_diff(fair) * 10 < fair));
    assert_eq!(zone.snapshot(NOW).classes[0].bytes, sent);
    for (w, holds, mut flow, ..) in flows {
        zone.bandwidth_end(&holds[0], &mut flow, NOW.plus(12 * SECOND_NS));
        zone.limit_release(w, holds);
    }
    assert_eq!((zone.seats_taken(class, checks[0].key), counter(&zone, "unbalanced")), (0, 0));
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn a_concurrency_is_never_passed_and_no_seat_leaks_when_workers_die() {
    const LIMIT: u32 = 3;
    const KEYS: usize = 40;
    let heap = HeapZone::new(1, 1);
    let class = declare(&heap.zone(), &[settings(0, 0, LIMIT)])[0];
    // What is truly held, counted out before a seat is given back and after it was taken.
    let holders: Vec<AtomicU32> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let (dead, pids) = (std::sync::Mutex::new(Vec::new()), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (zone, holders, dead, pids) = (heap.zone(), &holders, &dead, &pids);
            scope.spawn(move || {
                let mut seed = thread + 1;
                for _ in 0..120 {
                    live(&zone, class, holders, dead, pids.fetch_add(1, SeqCst) + 1, &mut seed);
                }
            });
        }
    });
    let zone = heap.zone();
    zone.reclaim_dead(process(1_000_000), |_| false);
    for name in 0..KEYS {
        assert_eq!(zone.seats_taken(class, key(&zone, &name.to_string())), 0);
    }
    assert_eq!((zone.snapshot(NOW).classes[0].in_flight, counter(&zone, "unbalanced")), (0, 0));
}

/// A life of a worker: takes and gives back seats, then leaves in order or dies with what it holds.
fn live(
    zone: &Zone<'_>,
    class: ClassIdx,
    holders: &[AtomicU32],
    dead: &std::sync::Mutex<Vec<ProcessId>>,
    pid: u32,
    seed: &mut u64,
) {
    let me = process(pid);
    let alive = |process: ProcessId| !dead.lock().unwrap().contains(&process);
    zone.reclaim_dead(me, alive);
    let w = zone.worker_join(me, 1).expect("a slot");
    let mut held: Vec<(usize, Holds)> = Vec::new();
    for _ in 0..random(seed) % 1_500 {
        if random(seed).is_multiple_of(2) {
            // Few keys, so that they are fought for, and many, so that ways change hands.
            let name = (random(seed) % holders.len() as u64) as usize;
            let limited = zone.limit_take(w, &[check(zone, class, &name.to_string())], NOW);
            if passed(&limited) {
                assert!(holders[name].fetch_add(1, SeqCst) < 3, "key {name} over its limit");
                held.push((name, limited.holds));
            }
            let other = format!("other{}", random(seed) % 400);
            let limited = zone.limit_take(w, &[check(zone, class, &other)], NOW);
            zone.limit_release(w, limited.holds);
        } else if let Some((name, holds)) = held.pop() {
            holders[name].fetch_sub(1, SeqCst);
            zone.limit_release(w, holds);
        }
    }
    for (name, _) in &held {
        holders[*name].fetch_sub(1, SeqCst);
    }
    if random(seed).is_multiple_of(2) {
        held.into_iter().for_each(|(_, holds)| zone.limit_release(w, holds));
        zone.worker_leave(w);
    }
    dead.lock().unwrap().push(me);
}
