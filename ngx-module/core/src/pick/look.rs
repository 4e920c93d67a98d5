//! Looks at idle peers that are taken to be slower: is it still true?
//!
//! An idle peer's evidence ages. It is due for a look when its last sample is [`STALE_NS`] old, and
//! as old as its samples' story before: four slow answers in a burst prove little two seconds
//! later, a minute of them some more. Looks are an upstream's to spend ([`crate::looks`]: at most 1
//! % of its requests, or one in 5 s if that is more); the peer of which least is known goes first.
//! One that is not due by then gets one request in a hundred at most, the seldomer the slower it
//! is, so that the loss stays under 1 % of the best service time. A peer whose last sample was like
//! the best peer's and contradicts its own mean is asked again at once, one request at a time,
//! until its mean says so too or a sample does not: that costs little.
//!
//! Pure. Cost: a pass over the slower peers.

use super::field::{Field, bits};
use super::{Demand, EXPLORE_ONE_IN};
use crate::affinity;
use crate::time::SECOND_NS;

/// Evidence of this age makes an idle peer due for a look, ns.
pub const STALE_NS: u64 = 2 * SECOND_NS;
/// What a peer's samples have said for so long, or for so many services if that is longer, needs no
/// more proof, ns.
const PROVEN_NS: u64 = 60 * SECOND_NS;
/// See [`PROVEN_NS`].
const PROVEN_SERVICES: u64 = 64;
/// A sample so many times under the mean contradicts it.
const FAR: u64 = 4;

/// The idle peer that is worth this request.
pub(super) fn choose(field: &Field, demand: &Demand) -> Option<usize> {
    let slower = field.set & !field.like_best;
    if slower == 0 || !field.is_learned() {
        return None;
    }
    let is_idle = |&i: &usize| field.peers[i].pending == 0 && field.is_free(i);
    if let Some(again) = bits(slower).filter(is_idle).find(|&i| is_news(field, i)) {
        return Some(again);
    }
    if !demand.may_look {
        return None;
    }
    let is_stale = |&i: &usize| is_idle(&i) && field.peers[i].silent_ns >= STALE_NS;
    let age = |i: usize| field.peers[i].silent_ns as f64 / proven_ns(field, i) as f64;
    let due = bits(slower).filter(is_stale).filter(|&i| field.peers[i].silent_ns >= proven_ns(field, i));
    let least_known = due.max_by(|&one, &other| age(one).total_cmp(&age(other)));
    if least_known.is_some() || !demand.random.is_multiple_of(EXPLORE_ONE_IN) {
        return least_known;
    }
    let turn = demand.random / EXPLORE_ONE_IN;
    let best_ns = field.service_ns(field.best()).max(1);
    let odds = |i: usize| (field.service_ns(i).max(field.peers[i].usual_ns) / best_ns).max(1);
    field.rotated(slower, turn).find(is_stale).filter(|&i| affinity::mix(turn).is_multiple_of(odds(i)))
}

/// Whether the last samples of a slower peer were like the best peer's, and far from its own mean.
/// Of one that is unlike its usual self a hint will do.
pub(super) fn is_news(field: &Field, i: usize) -> bool {
    let (best_ns, recent_ns) = (field.service_ns(field.best()), field.peers[i].recent_ns);
    let is_like_best = recent_ns <= best_ns.saturating_add(best_ns / 4);
    (is_like_best && recent_ns < field.service_ns(i) / FAR)
        || (recent_ns < best_ns.saturating_mul(2) && field.is_degraded(i))
}

/// For how long what is known of the peer will do, ns: as long as it has been so. Of one that was
/// faster before that is no time.
fn proven_ns(field: &Field, i: usize) -> u64 {
    if field.is_degraded(i) {
        return STALE_NS;
    }
    let most_ns = field.service_ns(i).saturating_mul(PROVEN_SERVICES).max(PROVEN_NS);
    field.peers[i].span_ns.clamp(STALE_NS, most_ns)
}
