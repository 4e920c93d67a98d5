//! A set of peers in the size and alignment that nginx's pools have.

use pincer_core::pick::PeerSet;

/// The peers that failed a request, in words that are aligned as nginx's pools align.
#[derive(Clone, Copy, Default)]
pub(super) struct Tried([u64; 2]);

impl Tried {
    /// Adds peer `index` of the upstream.
    pub(super) fn add(&mut self, index: u8) {
        self.0[usize::from(index >> 6 & 1)] |= 1 << (index & 63);
    }

    /// All at once.
    pub(super) fn of(set: PeerSet) -> Self {
        let word = |shift: u32| u64::try_from(set >> shift & PeerSet::from(u64::MAX)).unwrap_or(0);
        Self([word(0), word(64)])
    }

    /// Whether there is none.
    pub(super) fn is_empty(self) -> bool {
        self.0 == [0, 0]
    }

    /// As the pick wants it.
    pub(super) fn set(self) -> PeerSet {
        PeerSet::from(self.0[0]) | PeerSet::from(self.0[1]) << 64
    }
}
