//! The TLS sessions of an upstream's peers, as a worker keeps them.

use nginx_sys::SSL_SESSION;

/// The sessions of an upstream's peers in this worker.
#[derive(Default)]
pub(crate) struct Sessions(Vec<Entry>);

struct Entry {
    peer: u16,
    generation: u32,
    session: *mut SSL_SESSION,
}

impl Sessions {
    pub(super) fn find(&self, peer: u16, generation: u32) -> *mut SSL_SESSION {
        let found = self.0.iter().find(|entry| entry.peer == peer && entry.generation == generation);
        found.map_or(std::ptr::null_mut(), |entry| entry.session)
    }

    /// Keeps `session` in place of an earlier one. Bound: one for each peer record of the upstream.
    pub(super) fn keep(&mut self, peer: u16, generation: u32, session: *mut SSL_SESSION) {
        let entry = Entry { peer, generation, session };
        match self.0.iter_mut().find(|entry| entry.peer == peer) {
            Some(old) => {
                let old = std::mem::replace(old, entry);
                // SAFETY: the reference that `ngx_ssl_get_session` gave us when it was kept, given
                // back once.
                unsafe { nginx_sys::SSL_SESSION_free(old.session) };
            }
            None => self.0.push(entry),
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        for entry in &self.0 {
            // SAFETY: as in `keep`.
            unsafe { nginx_sys::SSL_SESSION_free(entry.session) };
        }
    }
}
