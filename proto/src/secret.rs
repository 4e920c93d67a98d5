//! Keeps the secret of an API key out of whatever prints messages: logs, traces, failed assertions.

use std::fmt;

use crate::v1::KeySecret;

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySecret").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_a_secret_does_not_print_it() {
        let message = KeySecret { key: None, secret: "pk_canary".to_owned() };
        let shown = format!("{message:?} {message:#?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}
