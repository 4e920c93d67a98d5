//! Mute answers of the zone's peers, see [`crate::mutes`]: counts them, and makes a peer unknown
//! whose rate of them is unusual.
//!
//! Costs nothing but for an answer that is mute: then a pass over the upstream's peers. Racy by
//! design: a lost update shifts a window.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::{Peer, UpstreamIdx, Zone};
use crate::mutes::{Tally, WINDOW, is_unusual};
use crate::pick::Why;
use crate::time::MonoNs;

/// A peer's mute answers. All-zero bytes are a valid start.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Mutes {
    /// All of them.
    count: AtomicU64,
    /// Where the window begins.
    base_answered: AtomicU64,
    base_mute: AtomicU64,
    /// When the peer was made unknown for the last time, ns; 0 = never.
    unknown_at: AtomicU64,
}

impl Mutes {
    fn base(&self) -> Tally {
        Tally { answered: self.base_answered.load(Relaxed), mute: self.base_mute.load(Relaxed) }
    }

    fn set_base(&self, base: Tally) {
        self.base_answered.store(base.answered, Relaxed);
        self.base_mute.store(base.mute, Relaxed);
    }

    /// Whether the peer was made unknown after this moment: what was asked before is of the work
    /// that it did then.
    #[inline]
    pub(super) fn is_outdated(&self, start: MonoNs) -> bool {
        start.0 < self.unknown_at.load(Relaxed)
    }

    pub(super) fn reset(&self) {
        self.unknown_at.store(0, Relaxed);
        self.count.store(0, Relaxed);
        self.set_base(Tally::default());
    }
}

impl Peer {
    /// Requests that were given a slot of this peer so far.
    pub(super) fn picked(&self) -> u64 {
        let with_slot = self.counters.picks.iter().take(Why::NoSlot as usize);
        with_slot.fold(0, |sum, count| u64::wrapping_add(sum, count.load(Relaxed)))
    }

    /// What it answered so far.
    fn tally(&self, high: usize) -> Tally {
        let answered = self.picked().saturating_sub(u64::from(self.in_flight(high)));
        Tally { answered, mute: self.mutes.count.load(Relaxed) }
    }
}

impl Zone<'_> {
    /// `peer` gave a mute answer.
    #[cold]
    pub(super) fn mute_answer(&self, peer: &Peer, now: MonoNs) {
        peer.mutes.count.fetch_add(1, Relaxed);
        let home = peer.home.load(Relaxed) >> 16;
        let upstream = u16::try_from(home).ok().and_then(|home| home.checked_sub(1)).map(UpstreamIdx);
        let Some(upstream) = upstream.and_then(|u| self.upstream(u)) else { return };
        let high = self.workers_high();
        let (mut own, mut others, mut busiest) = (Tally::default(), Tally::default(), 0);
        for (_, _, each) in self.linked(upstream) {
            let window = each.tally(high).since(each.mutes.base());
            busiest = busiest.max(window.answered);
            if core::ptr::eq(each, peer) {
                own = window;
            } else {
                others = others.plus(window);
            }
        }
        if is_unusual(own, others) {
            peer.mutes.set_base(peer.tally(high));
            peer.forget_speed();
            peer.mutes.unknown_at.store(now.0, Relaxed);
        } else if busiest > WINDOW {
            for (_, _, each) in self.linked(upstream) {
                let tally = each.tally(high);
                each.mutes.set_base(tally.shortened(tally.since(each.mutes.base()), busiest));
            }
        }
    }
}
