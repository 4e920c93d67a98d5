//! Mute responses of the zone's peers, see [`crate::mutes`]: counts them, and makes a peer unknown
//! whose rate of them is unusual.
//!
//! Costs nothing but for a response that is mute: then a pass over the upstream's peers. Racy by
//! design: a lost update shifts a window.

use core::sync::atomic::Ordering::Relaxed;

use super::{Peer, UpstreamIdx, Zone};
use crate::mutes::{Tally, WINDOW, is_unusual};
use crate::pick::Why;
use crate::time::MonoNs;

impl Peer {
    /// Requests that were given a slot of this peer so far.
    pub(super) fn picked(&self) -> u64 {
        let with_slot = self.counters.picks.iter().take(Why::NoSlot as usize);
        with_slot.fold(0, |sum, count| u64::wrapping_add(sum, count.load(Relaxed)))
    }

    /// What it answered so far.
    fn tally(&self, high: usize) -> Tally {
        let answered = self.picked().saturating_sub(u64::from(self.in_flight(high)));
        Tally { answered, mute: self.mutes.count() }
    }
}

impl Zone<'_> {
    /// `peer` gave a mute response.
    #[cold]
    pub(super) fn mute_response(&self, peer: &Peer, now: MonoNs) {
        peer.mutes.add();
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
            peer.mutes.set_unknown(now);
        } else if busiest > WINDOW {
            for (_, _, each) in self.linked(upstream) {
                let tally = each.tally(high);
                each.mutes.set_base(tally.shortened(tally.since(each.mutes.base()), busiest));
            }
        }
    }
}
