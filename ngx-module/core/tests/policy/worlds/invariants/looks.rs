//! Invariant 5, first half: looks are few.
//!
//! **Looks take at most 1 % of an upstream's requests over a minute, or one request in 5 s if that
//! is more.** A look sends a client to a peer that is probably slow, so that others need not guess:
//! it is a cost, and the cost is bounded. That looks are frequent enough is what invariants 3 and 5
//! find out by the shares that healed peers have back.

use super::super::truth::History;
use super::super::world::S;
use super::Invariant;

const MINUTE_NS: u64 = 60 * S;
const AT_LEAST: usize = 12;
/// Looks that may fall together at the edges of a minute.
const EDGE: usize = 2;

pub fn judge(history: &mut History) {
    let starts: Vec<u64> = history.attempts.iter().map(|attempt| attempt.start).collect();
    let looks: Vec<usize> = (0..starts.len()).filter(|&a| history.attempts[a].is_look).collect();
    for (n, &a) in looks.iter().enumerate() {
        let from = starts[a].saturating_sub(MINUTE_NS);
        let all = a + 1 - starts.partition_point(|&start| start < from);
        history.judged.insert(Invariant::Looks);
        let taken = n + 1 - looks.partition_point(|&other| starts[other] < from);
        let most = (all / 100).max(AT_LEAST) + EDGE;
        if taken > most {
            let what = format!("{taken} of {all} requests in a minute are looks, at most {most}");
            history.violate(Invariant::Looks, starts[a], what);
            return;
        }
    }
}
