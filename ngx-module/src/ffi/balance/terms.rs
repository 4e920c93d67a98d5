//! What the queue must know of classes: how each waits, and what is counted for it.
//!
//! A request without a class waits as [`QueueClass::NONE`], under the terms of the directive alone.
//! Never decides an order: that is the core's.

use super::request::RequestState;
use crate::ffi::limit::record;
use pincer_core::turn::Terms;
use pincer_core::zone::{ClassIdx, QueueClass, QueueRule, UpstreamIdx, WorkerIdx, Zone};

/// The class that the request waits as: the one that was applied to it.
pub(crate) fn class_of(state: &RequestState) -> QueueClass {
    // SAFETY: a record lives in its request's pool.
    let applied = unsafe { record::class_of(state.request) };
    applied.map_or(QueueClass::NONE, |class| QueueClass(class.0.saturating_add(1)))
}

fn index(class: QueueClass) -> Option<ClassIdx> {
    class.0.checked_sub(1).map(ClassIdx)
}

fn rule(zone: &Zone<'_>, class: QueueClass) -> Option<QueueRule> {
    Some(zone.class(index(class)?)?.queue_rule())
}

/// How a class waits, by what is in force now.
pub(crate) fn terms_of(zone: &Zone<'_>, class: QueueClass) -> Terms {
    let of = |rule: QueueRule| Terms { priority: rule.priority, share: rule.share, queue_max: rule.queue_max };
    rule(zone, class).map(of).unwrap_or_default()
}

/// How long a request of the class may wait, in milliseconds, where the directive says `queue_ms`.
pub(crate) fn timeout_ms(zone: &Zone<'_>, class: QueueClass, queue_ms: u64) -> u64 {
    let own = rule(zone, class).map(|rule| u64::from(rule.timeout_ms)).filter(|ms| *ms > 0);
    own.map_or(queue_ms, |ms| ms.min(queue_ms))
}

/// What becomes of a request that waits, or wants to.
pub(crate) enum Event {
    /// It waits.
    Entered,
    /// It got a slot, after so many ns.
    Served(u64),
    /// It waited too long: so many ns.
    TimedOut(u64),
    /// Its client is gone, or no peer is eligible any more.
    Left,
    /// The queue is full.
    Refused,
    /// It had a place, and gave way.
    Evicted,
}

/// Counts it for the upstream and for the class.
pub(crate) fn count(zone: &Zone<'_>, upstream: UpstreamIdx, worker: WorkerIdx, class: QueueClass, event: &Event) {
    match *event {
        Event::Entered | Event::Left => {}
        Event::Served(waited_ns) => zone.queue_left(upstream, waited_ns),
        Event::TimedOut(waited_ns) => zone.queue_timeout(upstream, waited_ns),
        Event::Refused | Event::Evicted => zone.queue_overflow(upstream),
    }
    let Some(class) = index(class) else { return };
    match *event {
        Event::Entered => return zone.class_waiting_add(class, worker),
        Event::Refused => return zone.class_queue_overflow(class),
        Event::Evicted => zone.class_queue_overflow(class),
        Event::Served(waited_ns) => zone.class_queue_left(class, waited_ns, false),
        Event::TimedOut(waited_ns) => zone.class_queue_left(class, waited_ns, true),
        Event::Left => {}
    }
    zone.class_waiting_sub(class, worker);
}
