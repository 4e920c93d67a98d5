//! Who may take the request: peers by rank, without those that hang.

use super::field::bits;
use super::view::{Admission, PEERS_MAX, PeerSet, PeerView, STALLED, STALLED_NS};

/// Where nobody is known: the requests of others are without theirs for such a part of the time.
const MUTE_PART: u64 = 8;

/// The eligible peers by rank.
#[derive(Default)]
pub(super) struct Ranks {
    pub open: PeerSet,
    pub trial: PeerSet,
    pub backup: PeerSet,
    pub backup_trial: PeerSet,
    pub ejected: PeerSet,
}

impl Ranks {
    pub fn of(peers: &[PeerView], tried: PeerSet) -> Self {
        let mut ranks = Self::default();
        for (i, peer) in peers.iter().take(PEERS_MAX).enumerate() {
            let bit = 1 << i;
            if peer.weight == 0 || tried & bit != 0 {
                continue;
            }
            match (peer.admission, peer.backup) {
                (Admission::Open, _) if peer.stalled => ranks.ejected |= bit,
                (Admission::Open, false) => ranks.open |= bit,
                (Admission::Trial, false) => ranks.trial |= bit,
                (Admission::Open, true) => ranks.backup |= bit,
                (Admission::Trial, true) => ranks.backup_trial |= bit,
                (Admission::Ejected, _) => ranks.ejected |= bit,
                (Admission::Shut, _) => {}
            }
        }
        ranks.leave_out_mute(peers);
        ranks
    }

    /// Where nobody is known: a peer that has shown no signal for long, while another one's
    /// requests show theirs, is not idle but hangs.
    fn leave_out_mute(&mut self, peers: &[PeerView]) {
        let is_old = |i: &usize| {
            peers[*i].service_ns == 0 && peers[*i].pending >= STALLED && peers[*i].pending_age_ns >= STALLED_NS
        };
        for set in [&mut self.open, &mut self.backup] {
            let old = bits(*set).filter(is_old).fold(0, |old: PeerSet, i| old | 1 << i);
            if old == 0 {
                continue;
            }
            let oldest_ns = bits(*set & !old).map(|i| peers[i].pending_age_ns).max();
            let is_mute = |i: &usize| oldest_ns.is_some_and(|ns| peers[*i].pending_age_ns / MUTE_PART > ns);
            let mute = bits(old).filter(is_mute).fold(0, |mute: PeerSet, i| mute | 1 << i);
            *set &= !mute;
            self.ejected |= mute;
        }
    }
}
