//! What the feed's thread leaves on the board about its link: how it stands, why it does not, and
//! that the thread runs.
//!
//! Each change also asks the journal whether it is worth a line in the error log. Bound: a reason
//! of [`LINK_ERROR_BYTES_MAX`].

use std::mem;
use std::time::Instant;

use pincer_core::time::MonoNs;
use pincer_core::zone::LINK_ERROR_BYTES_MAX;

use super::{Level, Shared};
use crate::feed::fault::{self, Fault};

impl Shared {
    /// The stream to `address` is open.
    pub(in crate::feed) fn connected(&self, address: &str) {
        let now = Instant::now();
        let mut board = self.board();
        board.status.connected = true;
        // The answer that opened it is a word, too.
        board.status.last_message = Some(now);
        board.status.pulse = Some(now);
        board.status.reconnects = board.opened;
        board.opened += 1;
        drop(board);
        self.stands(address);
        self.wake();
    }

    /// The stream to `address` still stands: says so in the log if that was not said yet.
    pub(in crate::feed) fn stands(&self, address: &str) {
        let mut board = self.board();
        let said = board.journal.stands(self.now());
        drop(board);
        if said {
            self.event(Level::Notice, format!("connected to control plane, address={address}"));
        }
    }

    /// The stream to `address`, or the attempt to open one (`opened` is false), has ended. It is
    /// the one at `place` among the endpoints.
    pub(in crate::feed) fn failed(&self, place: usize, address: &str, opened: bool, fault: &Fault) {
        let reason = &fault.reason;
        self.disconnected(&format!("{address}: {reason}"));
        let what = if opened { "lost" } else { "cannot reach" };
        let mut board = self.board();
        let said = board.journal.failed(place, &format!("{what} {}", fault.cause()), self.now());
        drop(board);
        if said {
            self.event(Level::Error, format!("{what} control plane, address={address}, reason={reason}"));
        }
    }

    /// The client panicked, at no endpoint in particular.
    pub(in crate::feed) fn panicked(&self) {
        self.disconnected("the feed panicked");
        let mut board = self.board();
        let said = board.journal.failed(usize::MAX, "panic", self.now());
        drop(board);
        if said {
            self.event(Level::Error, "feed panicked, it is started again".to_owned());
        }
    }

    /// There is no stream, for `reason`.
    pub(in crate::feed) fn disconnected(&self, reason: &str) {
        let reason = fault::clean(reason, LINK_ERROR_BYTES_MAX);
        let mut board = self.board();
        let was_connected = mem::take(&mut board.status.connected);
        board.status.last_error = Some(reason.into());
        board.status.pulse = Some(Instant::now());
        drop(board);
        if was_connected {
            self.wake();
        }
    }

    /// The thread runs.
    pub(in crate::feed) fn pulse(&self) {
        self.board().status.pulse = Some(Instant::now());
        self.wake();
    }

    /// For the journal, which only compares.
    fn now(&self) -> MonoNs {
        MonoNs(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
