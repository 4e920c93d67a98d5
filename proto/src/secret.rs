//! Keeps secrets of API keys, and keys of caches, out of whatever prints messages: logs, traces,
//! failed assertions.

use std::fmt;

use crate::v1::{CacheKey, CacheKeyDigest, KeySecret};

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySecret").field("key", &self.key).finish_non_exhaustive()
    }
}

/// May hold a client's own words.
impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheKey").finish_non_exhaustive()
    }
}

/// Whoever guesses a cache key can check the guess by its digest.
impl fmt::Debug for CacheKeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheKeyDigest").finish_non_exhaustive()
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

    #[test]
    fn a_request_for_one_key_does_not_print_it() {
        use crate::v1::{Purge, PurgeCacheRequest, purge, purge_cache_request};
        let text = b"canary".to_vec();
        let entries = purge_cache_request::Entries::Key(CacheKey { text: text.clone() });
        let request = PurgeCacheRequest { entries: Some(entries), ..PurgeCacheRequest::default() };
        let entries = purge::Entries::Key(CacheKeyDigest { md5: text.clone() });
        let command = Purge { entries: Some(entries), ..Purge::default() };
        let shown = format!("{request:?} {request:#?} {command:?} {command:#?}");
        assert!(
            !shown.contains("canary") && !shown.contains(&format!("{text:?}")) && !shown.contains("99,"),
            "{shown}"
        );
    }
}
