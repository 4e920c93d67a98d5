//! The attempts of a request, as the variables show them.
//!
//! Kept small, because every request has it: most requests have one attempt and find no peer full.
//! What others need besides is made in the request's pool when it is first needed; if that fails,
//! nothing is shown of it. Bound: [`ATTEMPTS_MAX`] attempts, the last of which stands for all later
//! ones.

use super::tried::Tried;
use nginx_sys::ngx_pool_t;
use pincer_core::pick::{PeerSet, Why};
use pincer_core::zone::UpstreamIdx;

/// Attempts that are told apart.
const ATTEMPTS_MAX: usize = 4;

/// A time in milliseconds, or none. Longest: 49 days.
#[derive(Clone, Copy, Default)]
pub(super) struct ShownTime(u32);

impl ShownTime {
    /// From nanoseconds.
    pub(super) fn of_ns(ns: u64) -> Self {
        Self(u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Milliseconds; `None` if there was no such time.
    pub(super) fn ms(self) -> Option<u32> {
        self.0.checked_sub(1)
    }
}

/// One attempt.
#[derive(Clone, Copy, Default)]
pub(super) struct Attempt {
    pub(super) first_byte: ShownTime,
    pub(super) queue: ShownTime,
    /// Why its peer was picked, as a [`Why`], plus one; 0 = no peer was picked.
    why: u8,
    /// It is the first after an internal redirect, shown behind a colon.
    pub(super) is_redirected: bool,
}

impl Attempt {
    /// Why its peer was picked, as a number of a [`Why`].
    pub(super) fn why(&self) -> Option<usize> {
        self.why.checked_sub(1).map(usize::from)
    }
}

/// Peers of an upstream that were full when an attempt's peer was picked.
#[derive(Clone, Copy)]
struct Full {
    /// Index of the upstream, plus one; 0 = no peer was full.
    upstream: u32,
    peers: Tried,
}

/// What few requests need.
struct More {
    later: [Attempt; ATTEMPTS_MAX - 1],
    full: [Full; ATTEMPTS_MAX],
}

/// All attempts of a request.
pub(super) struct Attempts {
    first: Attempt,
    len: u8,
    is_redirected_next: bool,
    /// Null until it is needed.
    more: *mut More,
}

impl Attempts {
    pub(super) const NONE: Self = Self {
        first: Attempt { first_byte: ShownTime(0), queue: ShownTime(0), why: 0, is_redirected: false },
        len: 0,
        is_redirected_next: false,
        more: std::ptr::null_mut(),
    };

    /// The request comes to an upstream: the next attempt is behind a redirect if there was one
    /// before.
    pub(super) fn come(&mut self) {
        self.is_redirected_next = self.len > 0;
    }

    /// Begins an attempt.
    ///
    /// # Safety
    /// `pool` is the request's.
    pub(super) unsafe fn begin(&mut self, pool: *mut ngx_pool_t) {
        let is_redirected = std::mem::take(&mut self.is_redirected_next);
        if usize::from(self.len) >= ATTEMPTS_MAX {
            return;
        }
        self.len += 1;
        if self.len > 1 {
            // SAFETY: as the caller vouches.
            unsafe { self.make_more(pool) };
        }
        if let Some(attempt) = self.last() {
            attempt.is_redirected = is_redirected;
        }
    }

    /// The attempt that is under way.
    pub(super) fn last(&mut self) -> Option<&mut Attempt> {
        match self.len {
            0 => None,
            1 => Some(&mut self.first),
            // SAFETY: null, or a record that is as long as the request.
            len => unsafe { self.more.as_mut() }?.later.get_mut(usize::from(len) - 2),
        }
    }

    /// Notes why the peer of the attempt that is under way was picked.
    pub(super) fn note_why(&mut self, why: Why) {
        if let Some(attempt) = self.last() {
            attempt.why = why as u8 + 1;
        }
    }

    /// Notes which peers of `upstream` were full at that pick.
    ///
    /// # Safety
    /// `pool` is the request's.
    #[cold]
    pub(super) unsafe fn note_full(&mut self, upstream: UpstreamIdx, peers: PeerSet, pool: *mut ngx_pool_t) {
        // SAFETY: as the caller vouches; null, or a record that is as long as the request.
        let more = unsafe {
            self.make_more(pool);
            self.more.as_mut()
        };
        let at = usize::from(self.len.saturating_sub(1));
        if let Some(noted) = more.and_then(|more| more.full.get_mut(at)) {
            *noted = Full { upstream: u32::from(upstream.0) + 1, peers: Tried::of(peers) };
        }
    }

    /// # Safety
    /// `pool` is the request's.
    #[cold]
    unsafe fn make_more(&mut self, pool: *mut ngx_pool_t) {
        if self.more.is_null() {
            // SAFETY: as the caller vouches; zeroes are a value of the record.
            self.more = unsafe { nginx_sys::ngx_pcalloc(pool, size_of::<More>()).cast() };
        }
    }

    /// All attempts so far, with the upstream whose peers were full and those peers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Attempt, Option<(UpstreamIdx, PeerSet)>)> {
        // SAFETY: null, or a record that is as long as the request.
        let more = unsafe { self.more.as_ref() };
        let later = more.map_or([].as_slice(), |more| more.later.as_slice());
        let attempts = std::iter::once(&self.first).chain(later).take(usize::from(self.len));
        attempts.enumerate().map(move |(at, attempt)| (attempt, more.and_then(|more| more.full.get(at)?.peers())))
    }
}

impl Full {
    fn peers(&self) -> Option<(UpstreamIdx, PeerSet)> {
        let upstream = u16::try_from(self.upstream.checked_sub(1)?).ok()?;
        Some((UpstreamIdx(upstream), self.peers.set()))
    }
}
