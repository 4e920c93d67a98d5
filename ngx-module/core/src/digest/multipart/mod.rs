//! The identity of a `multipart/form-data` body (RFC 7578, RFC 2046 section 5.1): its parts, not
//! how they are packed.
//!
//! Two bodies agree if and only if they have the same list of parts. Of a part counts: the
//! parameters of its Content-Disposition (name, filename, `filename*` and others; each as it came
//! or absent), its Content-Type (or that it has none), its transfer encoding unless that changes
//! nothing (7bit, 8bit, binary), its other headers but for Content-Length, and its content, byte by
//! byte. Of no account: the boundary, the order of headers and of parameters, their names' case,
//! quotes.
//!
//! Not read, so hashed as it came: whatever two programs could take for different parts. No
//! boundary or one of other than 1 to 70 characters that RFC 2046 allows; anything before the first
//! boundary, or behind the last but one line's end; a boundary's text within a content or headers,
//! also at the start of a longer line or behind a bare LF; bare CR or LF, folding and control
//! characters in headers; headers of a part over [`part::HEADER_BYTES_MAX`] or
//! [`part::HEADERS_MAX`]; more than [`reader::PARTS_MAX`] parts; Content-Disposition, its name or a
//! parameter twice or its name not at all, Content-Type twice; a Content-Length that is not the
//! content's.
//!
//! What is hashed: each part's content, then its headers in canonical form, then the two lengths;
//! at the end the number of parts. Read from the end, that can be decoded in one way only, so no
//! two lists of parts give the same bytes. Contents need not be kept to be framed.
//!
//! To have the identity of the raw bytes at hand without a second large state: a SHA-256 runs over
//! all that is not content, in stretches, each with its length and that of the content behind it.
//! What cannot be read any more counts as the last content. From both streams the body can be put
//! together again, so a body that is not read is known by the two hashes.
//!
//! `reader` finds the parts, `part` reads their headers. Cost: linear; contents are searched with
//! SIMD (`memchr`). Bound: 8 KiB of headers and their canonical form.

mod part;
mod reader;

pub(super) use reader::{Finished, Reader};
