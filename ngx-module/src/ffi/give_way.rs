//! Lets the event loop serve others while a body is read and hashed.
//!
//! nginx reads a body for as long as there is something to read, and asks the connection again whenever its buffer is full; with hashing in between a fast
//! client, over TLS above all, holds the worker for as long as its body lasts. So while a body is hashed its connection hands out no more than [`PIECE_BYTES`]
//! at once, however large nginx's buffer is, and after [`TURN_BYTES`] it says once that there is nothing to read now; its event comes again in the next turn
//! of the loop. Streams of HTTP/2 come in frames: there the connection rests as a whole. Those of HTTP/3 are let be, each datagram is an event of its own.
//! Cost: one turn of the loop more for so many bytes.

use super::nginx;
use nginx_sys::{ngx_connection_t, ngx_http_request_t, ngx_recv_pt, ngx_uint_t, u_char};

/// What is hashed at once: below two milliseconds with the most laborious JSON, ten microseconds raw.
const PIECE_BYTES: usize = 64 << 10;

/// BLAKE3 is fastest on pieces that begin and end at multiples of this, 16 of its chunks; on others it takes two to four times as long.
const EVEN_BYTES: usize = 16 << 10;

/// What is hashed of one body before others are served.
const TURN_BYTES: usize = 128 << 10;

/// What a request's record keeps of it.
#[derive(Default)]
pub(super) struct GivingWay {
    /// Bytes hashed since the connection last rested.
    hashed: usize,
    /// All bytes hashed, modulo [`EVEN_BYTES`].
    uneven: usize,
    /// The connection that is read through [`recv`], and how it was read before.
    instead: Option<(*mut ngx_connection_t, ngx_recv_pt)>,
}

/// What begins each stream of HTTP/2, in every version of nginx; the whole of it is known only where nginx is built with HTTP/2.
#[repr(C)]
struct StreamHead {
    request: *mut ngx_http_request_t,
    connection: *mut StreamConnectionHead,
}

#[repr(C)]
struct StreamConnectionHead {
    connection: *mut ngx_connection_t,
}

type Recv = unsafe extern "C" fn(*mut ngx_connection_t, *mut u_char, usize) -> isize;

impl GivingWay {
    /// `bytes` more of the body were hashed, and it goes on.
    ///
    /// # Safety
    /// `r` is live, its body is being read, and this is its own.
    pub(super) unsafe fn hashed(&mut self, r: *mut ngx_http_request_t, bytes: usize) {
        self.hashed += bytes;
        self.uneven = (self.uneven + bytes) % EVEN_BYTES;
        // SAFETY: as the caller vouches; a stream's connection outlives it.
        unsafe {
            if !(*r).stream.is_null() {
                if self.is_due() {
                    // All its streams are read in one loop, which looks at this after each read.
                    rest((*(*(*r).stream.cast::<StreamHead>()).connection).connection);
                }
            } else if self.instead.is_none() && (*r).http_version <= nginx_sys::NGX_HTTP_VERSION_20 as ngx_uint_t {
                let connection = (*r).connection;
                self.instead = Some((connection, (*connection).recv));
                (*connection).recv = Some(recv);
            }
        }
    }

    /// Whether others are to be served now; asked once for each time.
    fn is_due(&mut self) -> bool {
        let due = self.hashed >= TURN_BYTES;
        if due {
            self.hashed = 0;
        }
        due
    }

    /// How much of `size` bytes of room is to be read: a large piece ends evenly.
    fn piece(&self, size: usize) -> usize {
        let size = size.min(PIECE_BYTES);
        if size < 2 * EVEN_BYTES { size } else { size - (self.uneven + size) % EVEN_BYTES }
    }

    /// The connection is itself again.
    ///
    /// # Safety
    /// The connection is live: at the latest at the end of its request.
    pub(super) unsafe fn end(&mut self) {
        if let Some((connection, before)) = self.instead.take() {
            // SAFETY: as the caller vouches. Whoever has put something else there meanwhile keeps it.
            unsafe {
                if (*connection).recv.is_some_and(|now| std::ptr::fn_addr_eq(now, recv as Recv)) {
                    (*connection).recv = before;
                }
            }
        }
    }
}

/// Stands in for a connection's `recv` while a body is read and hashed.
unsafe extern "C" fn recv(connection: *mut ngx_connection_t, buffer: *mut u_char, size: usize) -> isize {
    // SAFETY: nginx calls with a live connection, whose data is one of the requests that it has while one of them reads its body; the reference ends before
    // anyone else runs.
    unsafe {
        let Some(giving_way) = super::body::giving_way((*connection).data.cast()) else { return nginx::ERROR };
        if (*giving_way).is_due() {
            rest(connection);
            return nginx::AGAIN;
        }
        match (*giving_way).instead {
            Some((_, Some(before))) => before(connection, buffer, (*giving_way).piece(size)),
            _ => nginx::ERROR,
        }
    }
}

/// Nothing is read from `connection` until the loop's next turn, which makes it ready again.
///
/// # Safety
/// `connection` is live; closing it takes its events out of nginx's lists.
unsafe fn rest(connection: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches; the list is nginx's own and initialised in every worker.
    unsafe {
        let read = (*connection).read;
        (*read).set_ready(0);
        // It may be posted for this turn already, which would find it not ready, and nobody would look again.
        if (*read).posted() != 0 {
            nginx_sys::ngx_delete_posted_event(read);
        }
        nginx_sys::ngx_post_event(read, &raw mut nginx_sys::ngx_posted_next_events);
    }
}
