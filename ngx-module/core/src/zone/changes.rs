//! Breakers that opened or closed, for the error log: which peer, and why.
//!
//! A change is made by one compare-and-swap, so one worker sees it happen and is told, whichever
//! call it was; [`crate::lines`] decides whether it is worth a line. What a line says of a failure
//! comes from the caller, who has it from nginx. Names come from the configuration and the control
//! plane; nothing of a request is known here. Bound: [`CHANGES_MAX`] changes of one release.

use core::fmt::Write;

use arrayvec::ArrayVec;

use super::error::printable;
use super::peer::Peer;
use super::{NAME_MAX, PeerIdx, UpstreamIdx, Zone};
use crate::breaker::{Due, Opening};
use crate::lines::{LINES_MAX, Line, WINDOW_NS};
use crate::time::{MonoNs, SECOND_NS};

/// Breakers that one release may change: that of its peer, and those of two peers that failed the
/// same request.
pub const CHANGES_MAX: usize = 3;

/// What became of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// A failure opened it.
    Opened {
        /// Why.
        opening: Opening,
        /// For so long, ms.
        out_ms: u64,
    },
    /// It opened, since another peer answered a request that this one had failed.
    Contradicted {
        /// For so long, ms.
        out_ms: u64,
    },
    /// Its trial closed it.
    Closed(Due),
    /// It closed, since another peer failed the request that had opened it.
    Pardoned,
}

/// A breaker that opened or closed, and is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose breaker.
    pub peer: PeerIdx,
    /// What became of it.
    pub switch: Switch,
    generation: u32,
    line: Line,
}

/// Those of one release.
pub type Changes = ArrayVec<Change, CHANGES_MAX>;

impl Peer {
    /// The change as it is to be logged; `None` if there were too many.
    #[cold]
    pub(super) fn note(&self, at: PeerIdx, switch: Switch, now: MonoNs) -> Option<Change> {
        let line = self.lines.say(now)?;
        Some(Change { peer: at, switch, generation: self.generation(), line })
    }
}

impl Change {
    fn reason(&self, cause: &str) -> String {
        match self.switch {
            Switch::Opened { opening, .. } => match opening {
                Opening::Row(count) => format!("{count} failures in a row, the last: {cause}"),
                Opening::Most { failures, outcomes } => {
                    format!("{failures} of the last {outcomes} requests failed, the last: {cause}")
                }
                Opening::Counted(1) => cause.to_owned(),
                Opening::Counted(count) => {
                    format!("{count} failures, each within fail_timeout of the one before, the last: {cause}")
                }
                Opening::Trial => format!("its trial failed: {cause}"),
            },
            Switch::Contradicted { .. } => "another peer answered what it failed".to_owned(),
            Switch::Closed(Due::Elapsed) => "a trial succeeded".to_owned(),
            Switch::Closed(Due::Reloaded) => "a trial succeeded, at once after a reload".to_owned(),
            Switch::Closed(Due::Set) => "a trial succeeded, at once after the control plane set the peer".to_owned(),
            Switch::Pardoned => "another peer failed the same request".to_owned(),
        }
    }
}

impl Zone<'_> {
    /// The line that tells of `change` in the upstream `u`; `cause` is what the last failure was.
    ///
    /// Allocates. The peer may have left meanwhile: then it has no name.
    #[cold]
    pub fn change_text(&self, u: UpstreamIdx, change: &Change, cause: &str) -> String {
        let mut buffer = [0; NAME_MAX];
        let upstream = self.upstream(u).map_or_else(String::new, |upstream| shown(upstream.name(&mut buffer)));
        let named = self.peer(change.peer).map(|peer| (shown(peer.name(&mut buffer)), peer.generation()));
        let is_it = |(name, generation)| (generation == change.generation).then_some(name);
        let peer = named.and_then(is_it).unwrap_or_else(|| "-".to_owned());
        let (what, out_ms) = match change.switch {
            Switch::Opened { out_ms, .. } | Switch::Contradicted { out_ms } => ("opened", Some(out_ms)),
            Switch::Closed(_) | Switch::Pardoned => ("closed", None),
        };
        let mut text = format!("breaker {what}, upstream={upstream}, peer={peer}");
        // Writing to a String cannot fail.
        if let Some(out_ms) = out_ms {
            let _ = write!(text, ", out_ms={out_ms}");
        }
        if change.line.unsaid > 0 {
            let _ = write!(text, ", unlogged={}", change.line.unsaid);
        }
        if change.line.is_last {
            let window_s = WINDOW_NS / SECOND_NS;
            let _ = write!(text, ", muted=after {LINES_MAX} lines within {window_s} s");
        }
        let _ = write!(text, ", reason={}", change.reason(cause));
        text
    }
}

/// A name as a line may have it.
fn shown(name: &[u8]) -> String {
    printable(name).replace(char::is_control, "?")
}
