//! Service time of a peer, learned from single samples: a ratio of sums that forgets.
//!
//! The mean is sum / weight. Both sums halve every `half_life`, but never faster than in [`SPAN`]
//! services (a peer that takes a minute per request would otherwise be judged by its last request
//! alone), and the weight is held at [`SAMPLES_MAX`], so that a busy peer that turns slow is
//! noticed after tens of requests and not after its thousands of good ones have aged. A run of
//! samples that all lie far on one side of the mean replaces it ([`RUN_UP`], [`RUN_DOWN`]): that is
//! how a replica that breaks is believed at once. One that heals is believed after three samples
//! like those it gave before ([`Estimate::usual_ns`], a long mean beside the short one). The spread
//! of the samples gives the standard error of the mean, so that the pick can tell a slower peer
//! from bad luck. With nothing new to learn the mean stays for ever; it never decays to zero.
//!
//! Lock-free: the two sums share one word, changed by compare-and-swap; `last_at` is swapped, so
//! the time that has passed is split between concurrent updaters without a gap or an overlap.
//! Samples that come fast and are nothing out of the ordinary are gathered in one word and folded
//! in together ([`GATHER_NS`]); whoever reads the mean counts them too. Cost: about 3 ns a sample
//! that is gathered, 20 ns for another. All-zero bytes are the empty estimate. Never sees failures:
//! whether a request yields a sample is the caller's decision.

use crate::time::{MonoNs, SECOND_NS};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// `half_life=` when not configured, ns. In the simulation latency is the same from 3 s to 30 s,
/// since [`SPAN`] guards slow services; what differs is how surely a healed replica has its share
/// back within 15 s (54 cases of slowness, rate and variance: 54 at 3 s, 52 at 5 s, 48 at 6 to 30
/// s), and how evenly equal peers of varied work share (within a fifth at 5 s and above, not at 3
/// s).
pub const HALF_LIFE_NS: u64 = 5 * SECOND_NS;
/// Most samples that count. 128 keep the mean of lognormal work of cv 1.2 within 8 % (one σ), well
/// under the 25 % that count as a tie.
const SAMPLES_MAX: f32 = 128.0;
/// Until samples say otherwise they are taken to vary by this (standard deviation / mean), with the
/// weight of [`PRIOR_SAMPLES`].
const PRIOR_CV: f32 = 0.5;
/// See [`PRIOR_CV`].
const PRIOR_SAMPLES: f32 = 4.0;
/// The half-life is at least so many mean services.
const SPAN: f32 = 16.0;
/// So many samples in a row above `FAR_UP` × mean are a new truth: by chance once in 160,000
/// samples of lognormal work of cv 1.2.
const RUN_UP: u32 = 4;
/// Factor of a sample that is far above the mean.
const FAR_UP: f32 = 3.0;
/// So many samples in a row under mean / `FAR_DOWN` are a new truth: by chance once in 60,000
/// samples of the same work.
const RUN_DOWN: u32 = 6;
/// So many at least, however little the samples before them weigh.
const RUN_LEAST: u32 = 2;
/// Divisor of a sample that is far below the mean.
const FAR_DOWN: f32 = 4.0;
/// While the mean has a weight of [`GATHER_WEIGHT`] at most, a run under mean / `HALF_DOWN` is a
/// new truth too, once it outweighs all else that is known.
const HALF_DOWN: f32 = 3.0;
/// Samples that the usual mean is over: a spell of tens of slow responses hardly moves it, some 150
/// single explorations do.
const USUAL_SAMPLES: u32 = 256;
/// After so many samples a single one counts for at most [`USUAL_STEP`] times the usual mean.
const USUAL_TRUSTED: u32 = 8;
/// See [`USUAL_TRUSTED`].
const USUAL_STEP: f32 = 4.0;
/// A peer is unlike its usual self if its mean is this many times the usual one.
pub const DEGRADED: f32 = 2.0;
/// A sample under so many usual means is one of a healthy peer.
const LIKE_USUAL: f32 = 1.25;
/// So many of these in a row and a degraded peer has healed.
const RUN_HEALED: u32 = 3;
/// The mean age of requests without a signal counts for 1/`AGE_SCALE` of itself. Seen at a random
/// moment, lognormal work of cv 1.2 has a mean age of 1.2 services: counted in full, chance alone
/// makes busy peers look slow, and the p99 of two fast and six slow replicas is 1.6 × the oracle's
/// instead of 1.2 ×; at a third, equal peers without `max_conns` are 2 % behind least connections;
/// a hang shows a service later.
const AGE_SCALE: u64 = 4;

/// A peer of which nothing was heard for so long, but for the time of the sample itself, was idle,
/// ns.
const IDLE_NS: f32 = 2e9;
/// All that was known of an idle peer weighs so much against a sample that is better: it was not
/// asked because of it, so nothing else could contradict it.
const IDLE_WEIGHT: f32 = 3.0;
/// A sample is better if so many times as much is still less than the mean.
const BETTER: f32 = 2.0;
/// As [`IDLE_WEIGHT`], for a peer that is slower than usual, and a sample that is like usual.
const HEALED_WEIGHT: f32 = 2.0;

/// Samples are gathered for so long, and then folded in with one ageing: nothing against any
/// half-life that can be configured (100 ms and up).
const GATHER_NS: u64 = 25_000_000;
/// So many are gathered at most: with more, a sum of ordinary samples might hide when the mean
/// moves.
const GATHER_MAX: u64 = 8;
/// Before the mean has this weight every sample is folded in by itself: it is still being found.
const GATHER_WEIGHT: f32 = 8.0;
/// Longer samples are not gathered: a sum of [`GATHER_MAX`] and more has to fit 56 bits. 39 hours.
const GATHER_SAMPLE_NS_MAX: u64 = 1 << 47;

/// Lock-free mean of samples with a half-life. All-zero bytes are the empty estimate.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Estimate {
    /// Two f32: sum of samples (ns) above, their weight below.
    sums: AtomicU64,
    /// Time of the last sample.
    last_at: AtomicU64,
    /// The last sample above, the one before it below, both f32 ns.
    recent: AtomicU64,
    /// f32 mean square deviation (ns²) above. Racy by design.
    spread: AtomicU64,
    /// f32 sum of the present run above, its length in bits 0–15, its side in bit 16 (1 = above).
    /// Racy by design: a lost update delays it.
    run: AtomicU64,
    /// Samples that are not in the sums yet: their sum (ns) above, their number in the low 8 bits.
    gathered: AtomicU64,
    /// f32 sum of the squares (ns²) of what is gathered. Racy by design.
    squares: AtomicU64,
    /// What an ordinary sample is: least value above, span below, both in 2^10 ns. 0 = none is.
    ordinary: AtomicU64,
    /// f32 mean over the last [`USUAL_SAMPLES`] samples (ns) above, their number so far below. Racy
    /// by design.
    usual: AtomicU64,
    /// Time of the first sample of what is taken for the truth now.
    since: AtomicU64,
}

/// What became of a sample that is gathered.
enum Gathered {
    /// It waits for others.
    Kept,
    /// It was the last: they have to be folded in now.
    Full,
}

impl Estimate {
    /// Folds one sample in; `true` if it ended a run that has become a new truth and replaced the
    /// mean.
    ///
    /// `value_ns` 0 counts as 1 ns. A sample that is older than the last one is folded in without
    /// ageing anything.
    #[inline]
    pub fn record(&self, value_ns: u64, half_life_ns: u64, now: MonoNs) -> bool {
        if self.is_ordinary(value_ns) {
            match self.gather(value_ns, now) {
                Some(Gathered::Kept) => {
                    let value = value_ns as f32;
                    self.squares.store(pack((unpack(self.squares.load(Relaxed)).0 + value * value, 0.0)), Relaxed);
                    return false;
                }
                Some(Gathered::Full) => return self.record_fully(value_ns, true, half_life_ns, now),
                None => {}
            }
        }
        self.record_fully(value_ns, false, half_life_ns, now)
    }

    /// `counted`: the sample is among the gathered, but for its square.
    fn record_fully(&self, value_ns: u64, counted: bool, half_life_ns: u64, now: MonoNs) -> bool {
        let value = value_ns.max(1) as f32;
        let batch = self.take_gathered();
        let fresh = if counted { (0.0, 0.0) } else { (value, 1.0) };
        let (old_sum, old_weight) = unpack(self.sums.load(Relaxed));
        let mean = if old_weight > 0.0 { old_sum / old_weight } else { value };
        self.recent.store(pack((value, unpack(self.recent.load(Relaxed)).0)), Relaxed);
        let run = self.advance_run(value, mean, old_weight);
        if run.is_some() || old_weight <= 0.0 {
            self.since.store(now.0, Relaxed);
        }
        self.advance_usual((batch.0 + fresh.0, batch.1 + fresh.1));
        let (sum, weight) = self.fold_in(batch, fresh, self.is_like_healed(value, mean), run, half_life_ns, now);
        self.advance_spread(batch, value, mean, counted, weight);
        self.set_ordinary(sum / weight, weight);
        run.is_some()
    }

    /// Folds one sample into the mean alone, at a fraction of the cost: no run, spread or usual
    /// mean is kept of it.
    ///
    /// For a time that rises and falls with another one that is recorded in full: `renewed` says
    /// that that one's mean was replaced, so this one's is too.
    #[inline]
    pub fn follow(&self, value_ns: u64, renewed: bool, half_life_ns: u64, now: MonoNs) {
        let value = value_ns.max(1) as f32;
        let fresh = match (!renewed).then(|| self.gather(value_ns, now)).flatten() {
            Some(Gathered::Kept) => return,
            Some(Gathered::Full) => (0.0, 0.0),
            None => (value, 1.0),
        };
        self.fold_in(self.take_gathered(), fresh, false, renewed.then_some((value, 1.0)), half_life_ns, now);
    }

    /// Whether a sample is so near the mean that it can neither begin, go on with nor end a run.
    #[inline]
    fn is_ordinary(&self, value_ns: u64) -> bool {
        let (least, span) = halves(self.ordinary.load(Relaxed));
        (value_ns >> 10).wrapping_sub(u64::from(least)) < u64::from(span)
    }

    /// Adds the sample to those that wait to be folded in; `None` if it has to be folded in at
    /// once.
    #[inline]
    fn gather(&self, value_ns: u64, now: MonoNs) -> Option<Gathered> {
        if value_ns >= GATHER_SAMPLE_NS_MAX || now.since(MonoNs(self.last_at.load(Relaxed))) >= GATHER_NS {
            return None;
        }
        let before = self.gathered.fetch_add(value_ns << 8 | 1, Relaxed) & 0xff;
        Some(if before + 1 < GATHER_MAX { Gathered::Kept } else { Gathered::Full })
    }

    /// What was gathered: sum and number.
    fn take_gathered(&self) -> (f32, f32) {
        let word = if self.gathered.load(Relaxed) == 0 { 0 } else { self.gathered.swap(0, Relaxed) };
        ((word >> 8) as f32, (word & 0xff) as f32)
    }

    /// The sums, with what is gathered.
    fn all(&self) -> (f32, f32) {
        let (sum, weight) = unpack(self.sums.load(Relaxed));
        let gathered = self.gathered.load(Relaxed);
        (sum + (gathered >> 8) as f32, weight + (gathered & 0xff) as f32)
    }

    /// Says which samples may be gathered from now on: none while a run is on or the mean is young,
    /// else those that [`Self::advance_run`] passes over.
    fn set_ordinary(&self, mean: f32, weight: f32) {
        let mut word = 0;
        if self.run.load(Relaxed) == 0 && weight >= GATHER_WEIGHT {
            let usual = f32::from_bits(halves(self.usual.load(Relaxed)).0);
            let healed = if mean > usual * DEGRADED { usual * LIKE_USUAL } else { 0.0 };
            // A step inside of both bounds, for what the units cut off.
            let least = (whole((mean / FAR_DOWN).max(healed)) >> 10) + 1;
            let most = whole(mean * FAR_UP) >> 10;
            let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            word = u64::from(narrow(least)) << 32 | u64::from(narrow(most.saturating_sub(least)));
        }
        self.ordinary.store(word, Relaxed);
    }

    /// Returns the new sum and weight.
    #[inline]
    fn fold_in(
        &self,
        batch: (f32, f32),
        fresh: (f32, f32),
        healed: bool,
        run: Option<(f32, f32)>,
        half_life_ns: u64,
        now: MonoNs,
    ) -> (f32, f32) {
        let elapsed_ns = now.since(MonoNs(self.last_at.fetch_max(now.0, Relaxed)));
        let mut old = self.sums.load(Relaxed);
        loop {
            let (sum, weight) = unpack(old);
            // What was gathered came right after the last fold, so it ages like what was there.
            let new = fold((sum + batch.0, weight + batch.1), fresh, healed, run, elapsed_ns, half_life_ns);
            match self.sums.compare_exchange_weak(old, pack(new), Relaxed, Relaxed) {
                Ok(_) => return new,
                Err(seen) => old = seen,
            }
        }
    }

    /// Whether the mean is that of a peer which has fallen ill, and the sample like those before.
    fn is_like_healed(&self, value: f32, mean: f32) -> bool {
        let usual = f32::from_bits(halves(self.usual.load(Relaxed)).0);
        mean > usual * DEGRADED && value < usual * LIKE_USUAL
    }

    /// Adds the sample to the run of outliers it continues; returns sum and length of a run that
    /// has become a new truth.
    fn advance_run(&self, value: f32, mean: f32, weight: f32) -> Option<(f32, f32)> {
        let healed = self.is_like_healed(value, mean);
        let above = value > mean * FAR_UP;
        let far = value < mean / FAR_DOWN;
        let below = healed || far || (weight <= GATHER_WEIGHT && value < mean / HALF_DOWN);
        let old = self.run.load(Relaxed);
        if !above && !below {
            if old != 0 {
                self.run.store(0, Relaxed);
            }
            return None;
        }
        let side = u32::from(above) << 16;
        let (old_sum, old_tail) = halves(old);
        let (run_sum, length) = if old_tail & (1 << 16) == side {
            (f32::from_bits(old_sum) + value, (old_tail & 0xffff) + 1)
        } else {
            (value, 1)
        };
        let needed = match (above, healed) {
            (true, _) => RUN_UP,
            (false, true) => RUN_HEALED,
            // Few samples, or old ones, are overturned by a run that outweighs them.
            (false, false) => {
                let others = weight - (length - 1) as f32;
                let most = if far { RUN_DOWN } else { u32::MAX };
                u32::try_from(whole(others + 1.0)).unwrap_or(most).clamp(RUN_LEAST, most)
            }
        };
        if length >= needed {
            self.run.store(0, Relaxed);
            return Some((run_sum, length as f32));
        }
        self.run.store(u64::from(run_sum.to_bits()) << 32 | u64::from(side | length), Relaxed);
        None
    }

    /// Folds the samples' distances from the mean into the spread; `weight` is that of the mean
    /// they made. `value` is not among the squares.
    fn advance_spread(&self, (sum, number): (f32, f32), value: f32, mean: f32, counted: bool, weight: f32) {
        // Of the batch, Σ(v − m)² = Σv² − 2mΣv + nm².
        let squares = if number > 0.0 { unpack(self.squares.load(Relaxed)).0 } else { 0.0 };
        let (sum, number) = if counted { (sum - value, number - 1.0) } else { (sum, number) };
        let deviations = (squares - mean * (2.0 * sum - mean * number)).max(0.0) + (value - mean) * (value - mean);
        if squares != 0.0 {
            self.squares.store(0, Relaxed);
        }
        let (square, _) = unpack(self.spread.load(Relaxed));
        let number = number + 1.0;
        let part = (number / weight.max(1.0)).min(1.0);
        let one = 1.0 / weight.max(1.0);
        let square = square + (deviations / number * (1.0 - one) - square) * part;
        self.spread.store(pack((square, 0.0)), Relaxed);
    }

    /// Standard error of the mean, ns: how far it may be off by chance. 0 = no sample yet.
    #[must_use]
    pub fn error_ns(&self) -> u64 {
        let (sum, weight) = unpack(self.sums.load(Relaxed));
        if weight <= 0.0 {
            return 0;
        }
        let (square, _) = unpack(self.spread.load(Relaxed));
        let mean = sum / weight;
        let prior = PRIOR_SAMPLES * PRIOR_CV * PRIOR_CV * mean * mean;
        whole(((square * weight + prior) / (weight + PRIOR_SAMPLES) / weight).sqrt())
    }

    /// Folds the mean of a few samples in.
    fn advance_usual(&self, (sum, number): (f32, f32)) {
        let value = sum / number;
        let (mean, count) = halves(self.usual.load(Relaxed));
        let (mean, count) =
            (f32::from_bits(mean), count.saturating_add(u32::try_from(whole(number)).unwrap_or(1)).min(USUAL_SAMPLES));
        let value = if count > USUAL_TRUSTED { value.min(mean * USUAL_STEP) } else { value };
        let mean = mean + (value - mean) * number / count as f32;
        self.usual.store(u64::from(mean.to_bits()) << 32 | u64::from(count), Relaxed);
    }

    /// What the mean usually is, ns: it moves with samples only, and slowly, so it is what a
    /// replica that fell ill may come back to. 0 = no sample yet.
    #[must_use]
    pub fn usual_ns(&self) -> u64 {
        whole(f32::from_bits(halves(self.usual.load(Relaxed)).0))
    }

    /// The mean in ns; 0 = no sample yet.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        let (sum, weight) = self.all();
        if weight > 0.0 { whole(sum / weight).max(1) } else { 0 }
    }

    /// The lesser of the last two samples in ns; 0 = none.
    #[must_use]
    pub fn recent_ns(&self) -> u64 {
        let (last, before) = unpack(self.recent.load(Relaxed));
        whole(if before > 0.0 { last.min(before) } else { last })
    }

    /// The greater of the last two samples in ns; 0 = none.
    #[must_use]
    pub fn recent_most_ns(&self) -> u64 {
        let (last, before) = unpack(self.recent.load(Relaxed));
        whole(last.max(before))
    }

    /// Effective number of samples in the mean, rounded, as of the last sample.
    #[must_use]
    pub fn samples(&self) -> u32 {
        u32::try_from(whole(self.all().1.round())).unwrap_or(u32::MAX)
    }

    /// Time since the last sample, ns; 0 without any.
    #[must_use]
    pub fn silent_ns(&self, now: MonoNs) -> u64 {
        match self.last_at.load(Relaxed) {
            0 => 0,
            last_at => now.since(MonoNs(last_at)),
        }
    }

    /// Samples in the usual mean, at most [`USUAL_SAMPLES`]; what is gathered is not among them
    /// yet.
    #[must_use]
    pub fn usual_samples(&self) -> u32 {
        halves(self.usual.load(Relaxed)).1
    }

    /// For how long the samples have said what they say, ns: from the first one after the mean was
    /// last replaced to the last.
    #[must_use]
    pub fn span_ns(&self) -> u64 {
        MonoNs(self.last_at.load(Relaxed)).since(MonoNs(self.since.load(Relaxed)))
    }

    /// Forgets everything (a record is reused for another peer).
    pub fn reset(&self) {
        let learned = [&self.sums, &self.last_at, &self.recent, &self.spread, &self.run, &self.usual, &self.since];
        for word in learned.into_iter().chain([&self.gathered, &self.squares, &self.ordinary]) {
            word.store(0, Relaxed);
        }
    }
}

/// S_eff: the mean, or what the mean age of the requests still without a signal says, if that is
/// worse. Both in ns.
#[must_use]
pub const fn effective_ns(mean_ns: u64, pending_age_ns: u64) -> u64 {
    let age_ns = pending_age_ns / AGE_SCALE;
    if age_ns > mean_ns { age_ns } else { mean_ns }
}

/// Ages the sums and adds the sample, or starts anew from a run that has become the truth.
fn fold(
    (sum, weight): (f32, f32),
    fresh: (f32, f32),
    healed: bool,
    run: Option<(f32, f32)>,
    elapsed_ns: u64,
    half_life_ns: u64,
) -> (f32, f32) {
    if let Some(renewed) = run {
        return renewed;
    }
    if weight <= 0.0 {
        return fresh;
    }
    let half_life = (half_life_ns.max(1) as f32).max(SPAN * sum / weight);
    let mut kept = remaining(elapsed_ns as f32 / half_life);
    let is_better = fresh.0 * BETTER < sum / weight * fresh.1;
    if healed {
        kept = kept.min(HEALED_WEIGHT / weight);
    } else if is_better && elapsed_ns as f32 - fresh.0 >= IDLE_NS {
        kept = kept.min(IDLE_WEIGHT / weight);
    }
    let (sum, weight) = (sum * kept + fresh.0, weight * kept + fresh.1);
    let over = (weight / SAMPLES_MAX).max(1.0);
    (sum / over, weight / over)
}

/// 2^−x. Between samples that come fast x is tiny, and three terms of the series are exact to
/// 10^-8, at a fraction of the cost.
fn remaining(x: f32) -> f32 {
    const SMALL: f32 = 1.0 / 256.0;
    if x > SMALL {
        return (-x).exp2();
    }
    let y = x * std::f32::consts::LN_2;
    1.0 - y + y * y / 2.0
}

/// The whole part; 0 for what is negative or not a number.
#[allow(clippy::cast_possible_truncation, reason = "the cast saturates, which is what is wanted")]
const fn whole(value: f32) -> u64 {
    value as u64
}

fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, (word & 0xffff_ffff) as u32)
}

fn unpack(word: u64) -> (f32, f32) {
    let (sum, weight) = halves(word);
    (f32::from_bits(sum), f32::from_bits(weight))
}

fn pack((sum, weight): (f32, f32)) -> u64 {
    u64::from(sum.to_bits()) << 32 | u64::from(weight.to_bits())
}
