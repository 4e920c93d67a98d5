//! Worlds: the balancer among replicas as they really are.
//!
//! Each world is drawn from a seed: replicas that fail, hang, lie, start cold, slow down, heal,
//! leave and are replaced, and traffic that mixes short requests, streams and WebSockets. It is run
//! through the real zone by a virtual clock, the way the module does it ([`module`]), and held
//! against [`invariants`]. Those that today's policy breaks are listed in [`known`].
//!
//! - `cargo test -p pincer-core --test worlds`: 200 worlds, always the same.
//! - `STRICT=1`: nothing is excused.
//! - `make soak`: 10,000 worlds; `WORLDS=n` says how many, `FROM=seed` where they begin,
//!   `LIST=name` lists all that broke an invariant, `LIST=all` those that broke any.
//! - `SEED=n`: that world alone, told second by second. With `SHRINK=name` (of an invariant) the
//!   world is first made as small as it can be while it still breaks that one. `CASE=part of its
//!   name` tells a case of [`cases`].

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a simulation, with numbers that are known to be small"
)]

mod cases;
mod invariants;
mod known;
mod module;
mod random;
mod run;
mod shrink;
mod truth;
mod world;

use invariants::{INVARIANTS, Invariant, Violation};
use known::{KNOWN_BROKEN, Known};
use module::Sabotage;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Worlds of an ordinary run.
const ORDINARY: u64 = 200;
/// Seeds that are named for each invariant.
const EXAMPLES: usize = 6;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What became of one invariant in many worlds.
#[derive(Default)]
struct Tally {
    judged: u64,
    broken: u64,
    /// The first seeds that broke it, and how.
    examples: Vec<(u64, Violation)>,
}

/// Runs the worlds of these seeds on all cores.
fn survey(from: u64, count: u64) -> BTreeMap<Invariant, Tally> {
    let reports: Mutex<BTreeMap<u64, run::Report>> = Mutex::default();
    let next = AtomicU64::new(from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= from + count {
                break;
            }
            let report = run::run(&random::world(seed));
            reports.lock().unwrap().insert(seed, report);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (mut tallies, mut requests) = (BTreeMap::<Invariant, Tally>::new(), 0);
    for (seed, report) in reports.into_inner().unwrap() {
        requests += report.requests;
        for invariant in report.judged {
            tallies.entry(invariant).or_default().judged += 1;
        }
        for violation in report.violations {
            let tally = tallies.entry(violation.invariant).or_default();
            tally.broken += 1;
            tally.examples.push((seed, violation));
        }
    }
    eprintln!("{count} worlds from seed {from}, {requests} requests");
    tallies
}

/// In how many of `count` worlds a known one may be broken: other seeds, and another policy, have a
/// little more or less.
fn excused(known: &Known, count: u64) -> u64 {
    match count {
        0..=ORDINARY => known.of_200 + 5,
        _ => known.of_10_000 * count / 10_000 * 11 / 10 + 5,
    }
}

fn replay(mut world: world::World) {
    if let Ok(name) = std::env::var("SHRINK") {
        let invariant = *INVARIANTS.iter().find(|known| known.name() == name).expect("SHRINK names an invariant");
        world = shrink::shrink(world, |world| run::run(world).breaks(invariant));
    }
    eprintln!("{world}");
    let report = run::run_as(&world, Sabotage::None, true);
    for violation in &report.violations {
        eprintln!("{violation}");
    }
    assert!(report.violations.is_empty(), "{} violations", report.violations.len());
}

#[test]
fn worlds_keep_the_invariants() {
    if let Some(seed) = number("SEED") {
        return replay(random::world(seed));
    }
    let is_strict = std::env::var_os("STRICT").is_some_and(|value| value != "0");
    let count = number("WORLDS").unwrap_or(ORDINARY);
    let tallies = survey(number("FROM").unwrap_or(0), count);
    let mut unexcused = vec![];
    for (invariant, Tally { judged, broken, examples }) in &tallies {
        let name = invariant.name();
        let known = KNOWN_BROKEN.iter().find(|known| known.invariant == *invariant);
        let most = known.filter(|_| !is_strict).map_or(0, |known| excused(known, count));
        let seeds: Vec<u64> = examples.iter().map(|(seed, _)| *seed).take(EXAMPLES).collect();
        eprintln!("{name}: {judged} worlds put it to the test, {broken} break it: SEED={seeds:?}");
        if std::env::var("LIST").is_ok_and(|listed| listed == name || listed == "all") {
            examples.iter().for_each(|(seed, violation)| eprintln!("  SEED={seed} {violation}"));
        }
        if *broken > most {
            let (seed, violation) = &examples[0];
            eprintln!("{}{violation}\n", random::world(*seed));
            unexcused.push(format!("{name}: {broken} worlds, {most} are excused"));
        }
    }
    assert!(unexcused.is_empty(), "{unexcused:#?}");
    if count >= ORDINARY {
        for invariant in INVARIANTS {
            let name = invariant.name();
            let tally = tallies.get(&invariant).unwrap_or_else(|| panic!("{name} is not put to the test"));
            let is_known = KNOWN_BROKEN.iter().any(|known| known.invariant == invariant && known.of_200 > 0);
            assert!(tally.broken > 0 || !is_known, "{name} is broken nowhere any more: take it from KNOWN_BROKEN");
        }
    }
}

#[test]
fn what_was_measured_with_real_replicas_is_seen_here_too() {
    let is_strict = std::env::var_os("STRICT").is_some_and(|value| value != "0");
    let mut wrong = vec![];
    for cases::Case { name, invariant, is_broken, world } in cases::cases() {
        match std::env::var("CASE") {
            Ok(part) if name.contains(&part) => return replay(world),
            Ok(_) => continue,
            Err(_) => {}
        }
        let report = run::run(&world);
        assert!(report.judged.contains(&invariant), "{name}: {} is not put to the test\n{world}", invariant.name());
        let found = report.violations.iter().find(|violation| violation.invariant == invariant);
        match found {
            Some(violation) => eprintln!("{name}: {violation}"),
            None => eprintln!("{name}: holds"),
        }
        if found.is_some() != (is_broken && !is_strict) {
            wrong.push(format!("{name}: broken {}, is_broken {is_broken}", found.is_some()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_world_is_the_same_each_time_it_is_run() {
    for seed in 0..5 {
        let twice = [0, 1].map(|_| run::run(&random::world(seed)));
        assert!(twice[0] == twice[1], "SEED={seed}");
    }
}

/// The invariants broken in some worlds by a module with a fault of ours, that are not broken
/// without.
fn sabotaged(sabotage: Sabotage) -> Vec<Invariant> {
    let broken = |seed: u64, sabotage| -> Vec<Invariant> {
        let report = run::run_as(&random::world(seed), sabotage, false);
        report.violations.iter().map(|violation| violation.invariant).collect()
    };
    let mut more = vec![];
    for seed in 0..20 {
        let before = broken(seed, Sabotage::None);
        more.extend(broken(seed, sabotage).into_iter().filter(|invariant| !before.contains(invariant)));
    }
    more
}

#[test]
fn a_slot_that_is_not_given_back_is_noticed() {
    assert!(sabotaged(Sabotage::Leak).contains(&Invariant::Leaks));
}

#[test]
fn a_wake_up_that_is_lost_is_noticed() {
    assert!(sabotaged(Sabotage::NoKick).contains(&Invariant::Waits));
}
