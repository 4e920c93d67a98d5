//! Invariants 3, 4 and 5: shares among like peers.
//!
//! **3. A slowed peer that is well again has at least 80 % of its fair share 15 s later; an ejected
//! one 10 s after its first good answer.** Until then the others carry its load, and its operator
//! has paid for a replica that idles. A slowed peer is well when it no longer works on a request
//! that it began while it was slow: what it shows until then is slow. An ejected peer is tried
//! again 32 s + a quarter after the last trial at the latest, so its first good answer is due
//! within 45 s where requests come.
//!
//! **4. Shares by weight among like peers are within ±20 % over 1,000 requests.** Weights are how a
//! canary is limited. Where the favoured peer cannot take its share for want of slots the others
//! have to, so only feasible shares are judged.
//!
//! **5. A peer whose first four answers were slow, and that is as fast as its twin then, carries
//! like load within 10 s.** Four answers of a replica that was loading its weights say little, and
//! less with time; without a look they would be held against it for ever.
//!
//! 3 of a slowed peer and 5 are judged where no other peer needs the upstream's looks at that time:
//! those are bounded (one request in a hundred, or one in 5 s), and may not reach for several.
//!
//! A fair share lies between what weights alone give (idle), weights times slots (busy) and slots
//! alone (full).

use super::super::truth::{Attempt, COLD_SETTLES_NS, EJECTED_SETTLES_NS, History, SLOW_SETTLES_NS, is_of_fastest};
use super::super::world::*;
use super::Invariant;

/// How long shares are counted.
const WINDOW_NS: u64 = 25 * S;
/// Fewer expected requests are chance.
const EXPECTED_MIN: f64 = 30.0;
/// Looks are counted for so long.
const LOOKS_NS: u64 = 60 * S;
/// The longest time out, 32 s, its jitter, and some seconds in which a request may come.
const TRIED_WITHIN_NS: u64 = 45 * S;

/// In this time a cold peer has had its four slow answers: four looks and what they take, twice.
const WARM_WITHIN_NS: u64 = 50 * S;

/// Requests of 1,000 by which chance may move a share: one and a half standard deviations of an
/// eighth.
const CHANCE: f64 = 15.0;

struct Share {
    got: usize,
    all: usize,
    least: f64,
    most: f64,
}

/// `None` = there is nothing to judge; otherwise what is wrong, if anything is.
type Verdict = Option<Option<String>>;

pub fn judge(world: &World, history: &mut History) {
    if world.marked_everywhere() {
        return;
    }
    let mut verdicts = vec![];
    for (p, replica) in world.replicas.iter().enumerate() {
        for (index, spell) in replica.spells.iter().enumerate() {
            match (spell.what.meaning(), history.lives[p].healed_at[index]) {
                (Meaning::Slow, _) if spell.to_ns >= world.span_ns => {}
                (Meaning::Slow, _) => {
                    let healed = history.slow_until(world, p, index);
                    let from = healed + SLOW_SETTLES_NS;
                    let verdict =
                        if has_looks(world, history, p, healed) { lags(world, history, p, from) } else { None };
                    verdicts.push((Invariant::HealsSlow, from, verdict));
                }
                (_, Some(at)) => {
                    let from = at + EJECTED_SETTLES_NS;
                    // What it was asked before may fail after its first good answer: it is ejected
                    // anew.
                    let fails_late = |a: &Attempt| {
                        a.replica == p && a.start < spell.to_ns && (a.end == 0 || a.end > at) && a.token.is_none()
                    };
                    let is_judged = !history.attempts.iter().any(fails_late);
                    let verdict = if is_judged { lags(world, history, p, from) } else { None };
                    verdicts.push((Invariant::HealsEjected, from, verdict));
                }
                (_, None) => {
                    // What hung then holds its slot, and its age counts, until nginx gives up.
                    let hung_ns = if spell.what == What::Hang { world.read_timeout_ns } else { 0 };
                    let (from, due) = trial_due(world, spell.to_ns.saturating_add(hung_ns));
                    verdicts.push((Invariant::HealsEjected, due, forgotten(world, history, p, from, due)));
                }
            }
        }
        let life = &history.lives[p];
        match (replica.cold, life.warm_at) {
            (None, _) => {}
            (Some((answers, _)), Some(warm_at)) if life.slow_answers >= answers => {
                let from = warm_at + COLD_SETTLES_NS;
                let verdict = if has_looks(world, history, p, warm_at) { lags(world, history, p, from) } else { None };
                verdicts.push((Invariant::Stale, from, verdict));
            }
            (Some(cold), _) => {
                let due = replica.joins_ns + WARM_WITHIN_NS;
                verdicts.push((Invariant::Stale, due, stays_cold(world, history, p, cold, due)));
            }
        }
    }
    verdicts.extend(by_weight(world, history).map(|(at, what)| (Invariant::Shares, at, Some(what))));
    for (invariant, at, verdict) in verdicts {
        let Some(verdict) = verdict else { continue };
        history.judged.insert(invariant);
        if let Some(what) = verdict {
            history.violate(invariant, at, what);
        }
    }
}

/// Whether the upstream's looks are for `p` alone from the moment at which it is well again: no
/// other peer is slower, or was within the minute over which looks are counted. They are one
/// request in a hundred, or one in 5 s: where several peers need them, that is not enough for each
/// of them in time.
fn has_looks(world: &World, history: &History, p: usize, from: u64) -> bool {
    let is_no_rival = |q: usize| {
        q == p
            || !world.replicas[q].is_in(from)
            || (is_of_fastest(world, q, from) && history.needed_no_look(world, q, from.saturating_sub(LOOKS_NS), from))
    };
    (0..world.replicas.len()).all(is_no_rival)
}

/// Says so if `p` has less than 80 % of its fair share in the window that begins at `from`.
fn lags(world: &World, history: &History, p: usize, from: u64) -> Verdict {
    let to = window_end(world, from)?;
    let share = share_of(world, history, p, from, to)?;
    let fair = share.least * share.all as f64;
    let least = 0.8 * fair - 2.0 * fair.sqrt();
    let told =
        || format!("r{p} gets {} of {} from {} to {} s, at least {least:.0}", share.got, share.all, from / S, to / S);
    (fair >= EXPECTED_MIN).then(|| ((share.got as f64) < least).then(told))
}

/// Says so if `p`, the only one that is not well, has not even had its slow answers until `due`,
/// although requests came: a look in 5 s would have given it more.
fn stays_cold(world: &World, history: &History, p: usize, (answers, factor): (u32, f64), due: u64) -> Verdict {
    let replica = &world.replicas[p];
    let is_well = |q: usize| q == p || history.is_settled_through(world, q, replica.joins_ns + 5 * S, due);
    let slow_ns = world.service_ns(replica.group) * factor * f64::from(answers);
    let came = history.attempts.iter().filter(|a| (replica.joins_ns..due).contains(&a.start)).count();
    let is_judged = replica.spells.is_empty()
        && slow_ns < 10.0 * S as f64
        && due < world.span_ns.min(replica.leaves_ns)
        && is_of_fastest(world, p, due)
        && has_looks(world, history, p, replica.joins_ns + 5 * S)
        && (0..world.replicas.len()).all(is_well)
        && history.lives[p].begun <= answers
        && came >= 100;
    let told = || format!("r{p} has had {} answers until {} s, {came} came", history.lives[p].slow_answers, due / S);
    is_judged.then(|| Some(told()))
}

/// From when a peer that is well since `healed` may expect a request, and when it is due at the
/// latest. With explicit `max_fails` and `fail_timeout` the time out is nginx's; but a reload
/// brings a server back, as it does in nginx, or a wrong `fail_timeout=10000s` cannot be mended
/// without a stop.
fn trial_due(world: &World, healed: u64) -> (u64, u64) {
    let out_ns = world.fail_timeout_ns.map_or(TRIED_WITHIN_NS, |ns| ns + 5 * S);
    let due = healed.saturating_add(out_ns);
    match world.reload_ns.filter(|&at| at >= healed && at + 10 * S < due) {
        Some(at) if world.fail_timeout_ns.is_some() => (at, at + 10 * S),
        _ => (healed, due),
    }
}

/// Says so if `p`, well since `from`, was not given a request that it could answer until `due`,
/// although as many came as a fair share has.
fn forgotten(world: &World, history: &History, p: usize, from: u64, due: u64) -> Verdict {
    let replica = &world.replicas[p];
    let later = |spell: &Spell| (from..due).contains(&spell.from_ns);
    if due >= world.span_ns || replica.leaves_ns < due || replica.spells.iter().any(later) {
        return None;
    }
    let came = history.attempts.iter().filter(|attempt| (from..due).contains(&attempt.start)).count();
    // One whose slots are taken by WebSockets has to wait, too.
    let holds = |a: &&Attempt| a.replica == p && a.start + 4 * S <= due && (a.end == 0 || a.end >= due);
    let held = history.attempts.iter().filter(holds).count();
    let is_full = replica.max_conns > 0 && held >= replica.max_conns as usize;
    // At least one after the time out has passed.
    let late = history.attempts.iter().any(|attempt| (due - 4 * S..due).contains(&attempt.start));
    let got = history.attempts.iter().any(|a| a.replica == p && (from..due).contains(&a.start));
    let told = || format!("r{p} is well since {} s and not tried until {} s; {came} came", from / S, due / S);
    (came >= 30 && late && !is_full).then(|| (!got).then(told))
}

/// The end of a window in which nothing joins or leaves; `None` if it would be too short.
fn window_end(world: &World, from: u64) -> Option<u64> {
    let reload = world.reloads().into_iter().find(|&at| at > from).unwrap_or(EVER);
    let to = (from + WINDOW_NS).min(reload).min(world.span_ns);
    (to >= from + 10 * S).then_some(to)
}

/// What `p` got among the settled peers of its speed; `None` where no such peer is beside it, or
/// where faster ones are.
fn share_of(world: &World, history: &History, p: usize, from: u64, to: u64) -> Option<Share> {
    let is_member = |q: &usize| {
        world.replicas[*q].group == world.replicas[p].group && history.is_settled_through(world, *q, from, to)
    };
    let members: Vec<usize> = (0..world.replicas.len()).filter(is_member).collect();
    let is_unlimited = members.iter().any(|&q| world.replicas[q].max_conns == 0);
    if !members.contains(&p)
        || members.len() < 2
        || !is_of_fastest(world, p, from)
        || (is_unlimited && !is_feasible(world, &members, 0.8))
    {
        return None;
    }
    let part =
        |of: fn(&Replica) -> f64| of(&world.replicas[p]) / members.iter().map(|&q| of(&world.replicas[q])).sum::<f64>();
    let parts = [
        part(|replica| f64::from(replica.weight)),
        part(|replica| f64::from(replica.weight) * f64::from(replica.max_conns.max(1))),
        part(|replica| f64::from(replica.max_conns.max(1))),
    ];
    let during = history.attempts.iter().filter(|attempt| (from..to).contains(&attempt.start));
    let got_by: Vec<usize> =
        during.map(|attempt| attempt.replica).filter(|replica| members.contains(replica)).collect();
    Some(Share {
        got: got_by.iter().filter(|&&replica| replica == p).count(),
        all: got_by.len(),
        least: parts.iter().copied().fold(f64::MAX, f64::min),
        most: parts.iter().copied().fold(0.0, f64::max),
    })
}

/// The first 1,000 requests in a row of the fastest group, all of it settled, that are not shared
/// by weight.
fn by_weight(world: &World, history: &History) -> Option<(u64, Option<String>)> {
    let fast: Vec<usize> = (0..world.replicas.len()).filter(|&p| world.replicas[p].group == 0).collect();
    let slots = |replica: &Replica| (replica.places, replica.max_conns);
    let is_even = fast.iter().all(|&p| slots(&world.replicas[p]) == slots(&world.replicas[fast[0]]));
    // WebSockets come too seldom to be even.
    if fast.len() < 2 || !is_even || !is_feasible(world, &fast, 0.5) || world.traffic.mix[2] > 0.0 {
        return None;
    }
    let starts: Vec<u64> =
        history.attempts.iter().filter(|a| world.replicas[a.replica].group == 0).map(|a| a.start).collect();
    let mut judged = None;
    for window in starts.chunks_exact(1_000) {
        let (from, to) = (window[0], window[999] + 1);
        if world.reloads().into_iter().any(|at| (from..to).contains(&at)) {
            continue;
        }
        let there: Vec<usize> = fast.iter().copied().filter(|&p| world.replicas[p].is_in(from)).collect();
        // Without limits a burst waits at the replicas: those are slow then, and need looks, all of
        // them.
        let is_late = |burst: &Burst| burst.at_ns < to && from < burst.at_ns + LOOKS_NS;
        if world.replicas[fast[0]].max_conns == 0 && world.traffic.bursts.iter().any(is_late) {
            continue;
        }
        // What is left of earlier troubles is judged by the other invariants.
        let is_pure = |p: usize| {
            world.replicas[p].cold.is_none() && world.replicas[p].spells.iter().all(|spell| spell.from_ns >= to)
        };
        if !there.iter().all(|&p| is_pure(p) && history.is_settled_through(world, p, from, to)) {
            continue;
        }
        for &p in &there {
            let Some(share) = share_of(world, history, p, from, to) else { continue };
            judged = Some((to, None));
            let (least, most) = (share.least * 800.0 - CHANCE, share.most * 1_200.0 + CHANCE);
            if !(least..=most).contains(&(share.got as f64)) {
                let what = format!(
                    "r{p} gets {} of {} from {} to {} s, {least:.0} to {most:.0} are by weight",
                    share.got,
                    share.all,
                    from / S,
                    to / S
                );
                return Some((to, Some(what)));
            }
        }
    }
    judged
}

/// Whether each of the group could serve its share by weight with this part of its places.
fn is_feasible(world: &World, group: &[usize], part: f64) -> bool {
    let weights: u32 = group.iter().map(|&p| world.replicas[p].weight).sum();
    group.iter().map(|&p| &world.replicas[p]).all(|replica| {
        let per_s = world.traffic.per_s * f64::from(replica.weight) / f64::from(weights);
        per_s <= part * world.capacity(replica)
    })
}
