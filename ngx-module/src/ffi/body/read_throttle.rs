//! Lets the event loop serve others while a body is read and hashed.
//!
//! nginx reads a body for as long as there is something to read, and asks the connection again
//! whenever its buffer is full; with hashing in between a fast client, over TLS above all, holds
//! the worker for as long as its body lasts. So while a body is hashed its connection hands out no
//! more than [`PIECE_BYTES`] at once, however large nginx's buffer is, and after [`TURN_BYTES`] it
//! says once that there is nothing to read now; its event is posted for the next turn of the loop.
//! Streams of HTTP/2 come in frames: there the connection rests as a whole. Those of HTTP/3 are let
//! be, each datagram is an event of its own.
//! Cost: one turn of the loop more for so many bytes.
//!
//! The other way round, body bytes that arrived with the headers of an HTTP/1 request, a kilobyte
//! or less, are pushed back into `r->header_in`, so that nginx reads them again together with the
//! rest: bodies are hashed fastest in even pieces.

use crate::ffi::base::wrapper::ngx_http_v2_stream_t;
use crate::ffi::base::{bits, nginx};
use nginx_sys::{
    NGX_HTTP_VERSION_11, ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_http_request_t, ngx_recv_pt, ngx_uint_t, off_t,
    u_char,
};

/// What is hashed at once: below two milliseconds with the most laborious JSON, ten microseconds
/// raw.
const PIECE_BYTES: usize = 64 << 10;

/// BLAKE3 is fastest on pieces that begin and end at multiples of this, 16 of its chunks; on others
/// it takes two to four times as long.
const EVEN_BYTES: usize = 16 << 10;

/// What is hashed of one body before others are served.
const TURN_BYTES: usize = 128 << 10;

/// What a request's record keeps of it.
#[derive(Default)]
pub(super) struct ReadThrottle {
    /// Bytes hashed since the connection last rested.
    hashed: usize,
    /// All bytes hashed, modulo [`EVEN_BYTES`].
    uneven: usize,
    /// The connection that is read in another way, how it was read before, and how it is now.
    pub(super) instead: Option<(*mut ngx_connection_t, ngx_recv_pt, Recv)>,
    /// The head's buffer holds the beginning of the body, to be read again.
    is_put_back: bool,
    /// What the connection's next read answers: found out with the last one, which had something to
    /// hand out.
    pub(super) failed: Option<isize>,
}

/// How a connection is read.
pub(super) type Recv = unsafe extern "C" fn(*mut ngx_connection_t, *mut u_char, usize) -> isize;

impl ReadThrottle {
    /// `bytes` more of the body were hashed, and it goes on.
    ///
    /// # Safety
    /// `r` is live, its body is being read, and this is its own.
    pub(super) unsafe fn hashed(&mut self, r: *mut ngx_http_request_t, bytes: usize, recv: Recv) {
        self.hashed += bytes;
        self.uneven = (self.uneven + bytes) % EVEN_BYTES;
        // SAFETY: as the caller vouches; a stream's connection outlives it.
        unsafe {
            if !(*r).stream.is_null() {
                if self.is_due() {
                    // All its streams are read in one loop, which looks at this after each read.
                    rest((*(*(*r).stream.cast::<ngx_http_v2_stream_t>()).connection).connection);
                }
            } else if (*r).http_version <= nginx_sys::NGX_HTTP_VERSION_20 as ngx_uint_t {
                self.read_through_us((*r).connection, recv);
            }
        }
    }

    /// # Safety
    /// `connection` is live, and that of this request.
    unsafe fn read_through_us(&mut self, connection: *mut ngx_connection_t, recv: Recv) {
        if self.instead.is_none() {
            // SAFETY: as the caller vouches.
            unsafe {
                self.instead = Some((connection, (*connection).recv, recv));
                (*connection).recv = Some(recv);
            }
        }
    }

    /// Pushes the body bytes that arrived with the headers back, so that nginx reads them again
    /// together with the rest, if `chain` is that part and nginx makes a buffer for the rest next,
    /// which it then makes for all, and reads at once. Nobody else must see `chain` then.
    ///
    /// # Safety
    /// `r` is live, and nginx shows `chain` to the first of the request-body filters; this is the
    /// request's own.
    pub(super) unsafe fn put_back(
        &mut self,
        r: *mut ngx_http_request_t,
        chain: *const ngx_chain_t,
        recv: Recv,
    ) -> bool {
        // SAFETY: as the caller vouches.
        let parts = unsafe { (chain.as_ref(), (*r).header_in.as_mut(), (*r).request_body.as_mut()) };
        let (Some(part), Some(head), Some(body)) = parts else { return false };
        // SAFETY: as the caller vouches.
        if !unsafe { has_length(r) } || !body.buf.is_null() || !part.next.is_null() {
            return false;
        }
        // SAFETY: a link has its buffer, which nobody else uses while nginx shows it.
        let buffer = unsafe { &mut *part.buf };
        // SAFETY: as the caller vouches.
        let configured = unsafe { nginx::core_location(r) }.client_body_buffer_size as off_t;
        // SAFETY: the three are of one request.
        let Some(bytes) = (unsafe { bytes_with_head(buffer, head, body.rest, configured) }) else { return false };
        head.pos = buffer.pos;
        body.rest += bytes;
        // Empty, so that nginx does not wait for somebody to use it.
        buffer.pos = buffer.last;
        self.is_put_back = true;
        // SAFETY: as the caller vouches.
        unsafe { self.read_through_us((*r).connection, recv) };
        true
    }

    /// Hands out what was put back, as far as it fits; how many bytes.
    ///
    /// # Safety
    /// `r` is live, this is its own, and `buffer` has `size` bytes of room.
    pub(super) unsafe fn hand_out(&mut self, r: *mut ngx_http_request_t, buffer: *mut u_char, size: usize) -> usize {
        if !self.is_put_back {
            return 0;
        }
        // SAFETY: as the caller vouches; nginx has not touched the head's buffer since, and the two
        // are apart.
        unsafe {
            let head = &mut *(*r).header_in;
            let waiting = usize::try_from(head.last.offset_from(head.pos)).unwrap_or(0);
            let bytes = waiting.min(size);
            std::ptr::copy_nonoverlapping(head.pos, buffer, bytes);
            head.pos = head.pos.add(bytes);
            self.is_put_back = bytes < waiting;
            bytes
        }
    }

    /// Whether others are to be served now; asked once for each time.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.hashed >= TURN_BYTES;
        if due {
            self.hashed = 0;
        }
        due
    }

    /// How much of `size` bytes of room is to be read: a large piece ends evenly.
    pub(super) fn piece(&self, size: usize) -> usize {
        let size = size.min(PIECE_BYTES);
        if size < 2 * EVEN_BYTES { size } else { size - (self.uneven + size) % EVEN_BYTES }
    }

    /// The connection is itself again.
    ///
    /// # Safety
    /// The connection is live: at the latest at the end of its request.
    pub(super) unsafe fn end(&mut self) {
        if let Some((connection, before, ours)) = self.instead.take() {
            // SAFETY: as the caller vouches. Whoever has put something else there meanwhile keeps
            // it.
            unsafe {
                if (*connection).recv.is_some_and(|now| std::ptr::fn_addr_eq(now, ours)) {
                    (*connection).recv = before;
                }
            }
        }
    }
}

/// Whether the body of `r` comes by HTTP/1 and its length is known.
///
/// # Safety
/// `r` is live.
unsafe fn has_length(r: *const ngx_http_request_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe {
        (*r).http_version <= NGX_HTTP_VERSION_11 as ngx_uint_t
            && (*r).stream.is_null()
            && bits::headers_in::chunked(&raw const (*r).headers_in) == 0
    }
}

/// The bytes of `buffer`, if they arrived with the headers, in their buffer, and nginx treats a
/// body that begins with them as it treats the `rest`.
///
/// # Safety
/// Both buffers are of one live request.
unsafe fn bytes_with_head(buffer: &ngx_buf_t, head: &ngx_buf_t, rest: off_t, configured: off_t) -> Option<off_t> {
    // SAFETY: a reference is to a live structure.
    let is_last = unsafe { bits::buf::last_buf(buffer) != 0 };
    // A buffer that ends where the head's is read up to was cut out of that.
    if is_last || buffer.last != head.pos || head.pos != head.last || buffer.pos < head.start {
        return None;
    }
    // SAFETY: pointers into the head's one buffer.
    let (room, bytes) = unsafe { (head.end.offset_from(head.last), buffer.last.offset_from(buffer.pos)) };
    let (room, bytes) = (room as off_t, bytes as off_t);
    // What fits into memory for nginx, with a quarter more than is configured, still does.
    let in_memory = |rest: off_t| rest < configured + (configured >> 2);
    // nginx reads what fits there into the head's buffer.
    (rest > room && bytes > 0 && in_memory(rest) == in_memory(rest + bytes)).then_some(bytes)
}

/// Nothing is read from `connection` until the loop's next turn, which makes it ready again.
///
/// # Safety
/// `connection` is live; closing it takes its events out of nginx's lists.
pub(super) unsafe fn rest(connection: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches; the list is nginx's own and initialised in every worker.
    unsafe {
        let read = (*connection).read;
        bits::event::set_ready(read, 0);
        // It may be posted for this turn already, which would find it not ready, and nobody would
        // look again.
        bits::event::unpost(read);
        bits::event::post(read, &raw mut nginx_sys::ngx_posted_next_events);
    }
}
