//! The digest of a request's body, taken from the stream as it arrives.
//!
//! Decides which form a body has, and gives each form an identity: two bodies of one identity may
//! share a response from the cache, so whatever is not known for certain to mean the same must
//! differ. In doubt a body is hashed as it came, in a domain of its own ([`Hashed::Unparsed`]).
//!
//! - raw: the bytes. The digest is the one that `b3sum`, `sha256sum` and `xxh128sum` print, for an
//!   empty body too.
//! - json: the value ([`json`]) without white space, order of keys, spelling of strings and the
//!   ignored members. The list of these is a part of it: after a change of the list nothing is as
//!   before.
//! - multipart: the list of parts ([`multipart`]) without the boundary, and without the order and
//!   quoting of what stands in their headers.
//! - auto: one of these by Content-Type: `application/json` and `application/…+json`,
//!   `multipart/form-data`, all else raw.
//!
//! A body with a Content-Encoding is never parsed: its identity is the coding's name and the bytes.
//!
//! Any split of a body into chunks gives the same digest. Cost: linear in the chunk, but for
//! sorting the members of an object when it closes. Bound: below 2 KiB of state; beside it JSON
//! takes `json_bytes_max` (a hostile one about ten times that), multipart at most 8 KiB of a part's
//! headers. Never blocks, never logs.

mod algorithm;
mod content_type;
mod form;
mod ignore;
mod json;
mod key;
mod memory;
mod multipart;
mod value;

pub use algorithm::Algorithm;
pub use content_type::normal_content_type;
pub use form::{Form, Hashed};
pub use ignore::{IGNORE_MAX, Ignore, IgnoreError, TOKENS_MAX};
pub use key::{KEY_TEXT_BYTES, KeyContext, abbreviated, cache_key, key_text};
pub use value::{DIGEST_BYTES_MAX, Digest, Hex};

use algorithm::{Domain, Hasher};
use content_type::Reading;
use memory::Boxed;

/// One location's way to hash. Outlives the requests, which borrow it at every step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// The hash function.
    pub algorithm: Algorithm,
    /// How bodies are read.
    pub form: Form,
    /// Members that are no part of a JSON body's identity.
    pub ignore: Ignore,
    /// Bytes of the longest JSON body that is parsed; a longer one is [`Hashed::Unparsed`].
    pub json_bytes_max: usize,
}

/// A body on its way. Every call must bring the [`Params`] it was made with.
pub struct BodyDigest {
    hasher: Hasher,
    reader: Reader,
    bytes: u64,
}

/// Who looks at the bytes before or beside the hash function.
enum Reader {
    /// Nobody.
    None(Hashed),
    /// The hash function takes the bytes as they come, in case they are not JSON.
    Json(Boxed<json::Reader>),
    /// The hash function takes what the reader hands on.
    Multipart(Boxed<multipart::Reader>),
}

impl BodyDigest {
    /// Starts; `content_type` and `content_encoding` are the request headers' values, empty if
    /// there are none.
    #[must_use]
    pub fn new(params: &Params, content_type: &[u8], content_encoding: &[u8]) -> Self {
        if let Some(coding) = coding(content_encoding) {
            return Self::coded(params, coding);
        }
        let reader = match content_type::reading(params.form, content_type) {
            Reading::Raw => Some(Reader::None(Hashed::Raw)),
            Reading::Json => Boxed::new(json::Reader::new(params.json_bytes_max)).map(Reader::Json),
            Reading::Multipart(boundary) => {
                multipart::Reader::new(boundary).and_then(Boxed::new).map(Reader::Multipart)
            }
            Reading::Unparsed => None,
        };
        let reader = reader.unwrap_or(Reader::None(Hashed::Unparsed));
        let domain = match reader {
            Reader::None(Hashed::Raw) => Domain::Plain,
            Reader::None(_) | Reader::Json(_) => Domain::Unparsed,
            Reader::Multipart(_) => Domain::Multipart,
        };
        Self { hasher: Hasher::new(params.algorithm, domain), reader, bytes: 0 }
    }

    /// The digest of a body that came in one piece: as [`BodyDigest::new`], [`BodyDigest::update`]
    /// and [`BodyDigest::finish`], and for most bodies without a streaming state, whose 2 KiB take
    /// a tenth of the time that hashing 16 KiB does.
    #[must_use]
    pub fn of_complete(params: &Params, content_type: &[u8], content_encoding: &[u8], body: &[u8]) -> Digest {
        if params.algorithm == Algorithm::Blake3
            && coding(content_encoding).is_none()
            && matches!(content_type::reading(params.form, content_type), Reading::Raw)
        {
            return Digest::new(algorithm::plain_blake3(body), Hashed::Raw);
        }
        let mut digest = Self::new(params, content_type, content_encoding);
        digest.update(params, body);
        digest.finish(params)
    }

    fn coded(params: &Params, coding: &[u8]) -> Self {
        let mut hasher = Hasher::new(params.algorithm, Domain::Coded);
        hasher.number(coding.len() as u64);
        coding.iter().for_each(|byte| hasher.update(&[byte.to_ascii_lowercase()]));
        Self { hasher, reader: Reader::None(Hashed::Raw), bytes: 0 }
    }

    /// Takes the next bytes of the body, any number of them.
    pub fn update(&mut self, params: &Params, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        match &mut self.reader {
            Reader::None(_) => self.hasher.update(chunk),
            Reader::Json(reader) => {
                self.hasher.update(chunk);
                let is_short = self.bytes <= params.json_bytes_max as u64;
                let is_read = is_short && reader.get_mut().is_some_and(|it| it.feed(&params.ignore, chunk).is_ok());
                if !is_read {
                    self.reader = Reader::None(Hashed::Unparsed);
                }
            }
            Reader::Multipart(reader) => {
                if let Some(reader) = reader.get_mut() {
                    reader.feed(chunk, &mut self.hasher);
                }
            }
        }
    }

    /// The digest of all that came. Call it once, when the body is complete.
    ///
    /// Of JSON, this is where the canonical text is hashed.
    #[must_use]
    pub fn finish(&mut self, params: &Params) -> Digest {
        let Self { hasher, reader, .. } = self;
        let new = |domain| Hasher::new(params.algorithm, domain);
        let hashed = match std::mem::replace(reader, Reader::None(Hashed::Unparsed)) {
            Reader::None(hashed) => hashed,
            Reader::Json(reader) => match reader.take().map(json::Reader::finish) {
                Some(Ok(text)) => {
                    *hasher = new(if params.ignore.is_empty() { Domain::Json } else { Domain::JsonIgnoring });
                    params.ignore.hash(hasher);
                    text.hash(hasher);
                    Hashed::Json
                }
                _ => Hashed::Unparsed,
            },
            Reader::Multipart(reader) => match reader.take().map(|reader| reader.finish(hasher)) {
                Some(multipart::Finished::Framing(framing)) => {
                    let (contents, _) = std::mem::replace(hasher, new(Domain::UnparsedMultipart)).finish();
                    hasher.update(&contents);
                    hasher.update(&framing);
                    Hashed::Unparsed
                }
                _ => Hashed::Multipart,
            },
        };
        Digest::new(hasher.finish(), hashed)
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The content coding that a body came in, if there is one.
fn coding(content_encoding: &[u8]) -> Option<&[u8]> {
    let coding = content_encoding.trim_ascii();
    (!coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")).then_some(coding)
}

// The promise to whoever keeps one per request; and nginx's pools align to a word.
const _: () = assert!(size_of::<BodyDigest>() <= 2048 && align_of::<BodyDigest>() <= 8);
