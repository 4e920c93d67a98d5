//! Looks at idle peers that are taken to be slower: is it still true?
//!
//! An idle peer's evidence ages. It is due for a look when its last sample is [`STALE_NS`] old; if
//! [`FEW`] samples or more say so, as old as their story before, up to [`PROVEN_NS`]: four slow
//! answers prove little two seconds later. Looks are an upstream's to spend ([`crate::looks`]: at
//! most 1 % of its requests, or one in 5 s if that is more); the peer of which least is known goes
//! first. One that is not due by then gets one request in a hundred at most, the seldomer the
//! slower it is.
//!
//! A peer whose last samples were like the best peer's, against its own mean, is asked again at
//! once, one request at a time, until its mean says so too or a sample does not: that costs little.
//!
//! Pure. Cost: a pass over the slower peers.

use super::field::{Field, bits};
use super::view::{Demand, EXPLORE_ONE_IN};
use crate::affinity;
use crate::time::SECOND_NS;

/// Evidence of this age makes an idle peer due for a look, ns.
pub const STALE_NS: u64 = 2 * SECOND_NS;
/// Fewer samples than these prove nothing for longer than [`STALE_NS`].
const FEW: u32 = 6;
/// Longer than this, or than so many services, nothing is believed without another look, ns.
const PROVEN_NS: u64 = 5 * SECOND_NS;
/// See [`PROVEN_NS`].
const PROVEN_SERVICES: u64 = 32;
/// A sample so many times under the mean contradicts it; two in a row do so under 1 /
/// [`FAR_TWICE`].
const FAR: u64 = 4;
/// See [`FAR`].
const FAR_TWICE: f64 = 1.5;
/// A mean whose standard error is over this part of it rests on little: on two samples, or on a
/// dozen of varied work.
const ERROR_PART: u64 = 3;

/// The idle peer that is worth this request.
pub(super) fn choose(field: &Field, demand: &Demand) -> Option<usize> {
    let slower = field.set & !field.like_best;
    if slower == 0 || !field.is_learned() {
        return None;
    }
    // One of which all that is under way hangs is idle, too.
    let is_idle = |&i: &usize| (field.peers[i].pending == 0 || field.peers[i].silent_ns != 0) && field.is_free(i);
    let again = bits(slower).filter(|_| demand.may_look_again).filter(is_idle).find(|&i| is_news(field, i));
    if again.is_some() {
        return again;
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

/// Whether the last samples of a slower peer were near the best peer's mean, and its own mean is
/// contradicted by them, rests on little, or is unlike its usual self.
pub(super) fn is_news(field: &Field, i: usize) -> bool {
    let (peer, best_ns, service_ns) = (&field.peers[i], field.service_ns(field.best()), field.service_ns(i));
    let is_doubtful = || peer.recent_ns < service_ns / FAR || peer.error_ns > service_ns / ERROR_PART;
    let is_near = |sample_ns: u64, part: u64| sample_ns < best_ns.saturating_add(best_ns / part);
    (is_near(peer.recent_ns, 2) && (is_doubtful() || (is_near(peer.recent_most_ns, 2) && is_contradicted(field, i))))
        || (is_near(peer.recent_ns, 1) && field.is_degraded(i))
}

/// Whether the last two samples of an idle peer were both far below its mean.
fn is_contradicted(field: &Field, i: usize) -> bool {
    let most_ns = field.peers[i].recent_most_ns;
    most_ns != 0 && (most_ns as f64) * FAR_TWICE < field.service_ns(i) as f64
}

/// For how long what is known of the peer will do, ns: as long as it has been so. Of one that was
/// faster before, or whose last samples say otherwise, that is no time.
fn proven_ns(field: &Field, i: usize) -> u64 {
    if field.is_degraded(i) || field.peers[i].samples < FEW || is_contradicted(field, i) {
        return STALE_NS;
    }
    let most_ns = field.service_ns(i).saturating_mul(PROVEN_SERVICES).max(PROVEN_NS);
    field.peers[i].span_ns.clamp(STALE_NS, most_ns)
}
