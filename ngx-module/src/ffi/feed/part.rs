//! What other features tell the control plane, and what it asks of them: registered while they are
//! configured, called in the order of the modules.

use crate::feed::PurgeCommand;
use pincer_proto::v1::{Hello, Purged};

/// A feature's part in the talk with the control plane.
pub(crate) trait Part {
    /// Says what nginx.conf declares.
    fn declare(&self, _hello: &mut Hello) {}

    /// Whether purges are this feature's.
    fn takes_purges(&self) -> bool {
        false
    }

    /// Takes a command in hand, or gives its result at once; else that goes into `answer`, later.
    fn command(&'static self, _command: PurgeCommand, _answer: Answer) -> Option<Purged> {
        None
    }

    /// The stream that waits for results ends.
    fn abandon(&self) {}
}

/// Where a command's result goes.
pub(crate) struct Answer {
    pub(super) stream: u64,
    pub(super) deliver: fn(u64, Purged),
}

impl Answer {
    /// The command has ended.
    pub(crate) fn send(self, purged: Purged) {
        (self.deliver)(self.stream, purged);
    }
}
