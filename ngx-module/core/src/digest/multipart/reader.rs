//! Finds the parts in a stream of chunks.
//!
//! A state machine that hands contents to the hash function as they come. Of a content it holds
//! back only as many bytes as a line's end and a boundary may have begun in; a search in them and
//! the next chunk's first bytes finds a boundary across the seam, a search in the rest all others.
//!
//! Which bytes are content and which are framing does not depend on how the body was cut, also when
//! it cannot be read to its end. Never allocates but for one part's headers. Cost: linear, whatever
//! the body (`memmem` is a two-way search with a SIMD start).

use arrayvec::ArrayVec;
use memchr::memmem;
use sha2::{Digest as _, Sha256};

use super::super::algorithm::Hasher;
use super::super::content_type::BOUNDARY_BYTES_MAX;
use super::super::memory::append;
use super::part::{self, HEADER_BYTES_MAX};

/// Parts of one body.
pub(super) const PARTS_MAX: u64 = 1_000;

/// Two hyphens and the boundary.
const DELIMITER_BYTES_MAX: usize = 2 + BOUNDARY_BYTES_MAX;

/// A line's end and a delimiter.
const SEAM_BYTES_MAX: usize = 2 + DELIMITER_BYTES_MAX;

/// What is expected next.
#[derive(Clone, Copy)]
enum State {
    /// The rest of the first delimiter, of which that much has come.
    First(usize),
    /// A line's end or two hyphens behind a delimiter.
    AfterDelimiter,
    /// The LF behind its CR.
    LineEnd,
    /// The second hyphen.
    Hyphen,
    /// A part's headers.
    Headers,
    /// A part's content.
    Content,
    /// Nothing, or a line's end of which that much has come.
    End(usize),
    /// The rest of a body that cannot be read.
    Rest,
}

/// What became of the body.
pub(in super::super) enum Finished {
    /// It was read; the content's hash function has all its parts.
    Parts,
    /// It was not: the hash of the framing stands for the rest.
    Framing([u8; 32]),
}

/// A multipart body on its way.
pub(in super::super) struct Reader {
    delimiter: ArrayVec<u8, DELIMITER_BYTES_MAX>,
    state: State,
    parts: u64,
    /// The headers that are read.
    block: Vec<u8>,
    /// Canonical form of the headers of the part whose content is read.
    form: Vec<u8>,
    /// What its Content-Length says.
    content_bytes: Option<u64>,
    /// The last bytes of a content, in which a line's end and a delimiter may have begun.
    held: ArrayVec<u8, SEAM_BYTES_MAX>,
    framing: Sha256,
    /// Of the stretch of framing that came last, and of the content behind it.
    framing_len: u64,
    content_len: u64,
}

impl Reader {
    /// None if the boundary is too long.
    pub(in super::super) fn new(boundary: &[u8]) -> Option<Self> {
        let mut delimiter = ArrayVec::new();
        delimiter.try_extend_from_slice(b"--").ok()?;
        delimiter.try_extend_from_slice(boundary).ok()?;
        Some(Self {
            delimiter,
            state: State::First(0),
            parts: 0,
            block: Vec::new(),
            form: Vec::new(),
            content_bytes: None,
            held: ArrayVec::new(),
            framing: Sha256::new(),
            framing_len: 0,
            content_len: 0,
        })
    }

    /// Takes the next bytes; contents go to `content`.
    pub(in super::super) fn feed(&mut self, chunk: &[u8], content: &mut Hasher) {
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            let taken = match self.state {
                State::Content => self.content(rest, content),
                State::Headers => self.headers(rest),
                State::Rest => {
                    self.pass(rest, content);
                    rest.len()
                }
                state => self.between(state, byte),
            };
            rest = &rest[taken..];
        }
    }

    /// The body is complete.
    pub(in super::super) fn finish(mut self, content: &mut Hasher) -> Finished {
        if matches!(self.state, State::End(0 | 2)) {
            content.number(self.parts);
            return Finished::Parts;
        }
        let held = std::mem::take(&mut self.held);
        self.pass(&held, content);
        self.end_stretch();
        Finished::Framing(self.framing.finalize().into())
    }

    /// One byte outside of headers and contents. What does not fit is no framing, so it is not
    /// taken.
    fn between(&mut self, state: State, byte: u8) -> usize {
        let next =
            match (state, byte) {
                (State::First(len), byte) if self.delimiter.get(len) == Some(&byte) => {
                    if len + 1 == self.delimiter.len() { State::AfterDelimiter } else { State::First(len + 1) }
                }
                (State::AfterDelimiter, b'\r') => State::LineEnd,
                (State::AfterDelimiter, b'-') => State::Hyphen,
                (State::LineEnd, b'\n') if self.parts < PARTS_MAX => State::Headers,
                (State::Hyphen, b'-') => State::End(0),
                (State::End(0), b'\r') => State::End(1),
                (State::End(1), b'\n') => State::End(2),
                _ => {
                    self.state = State::Rest;
                    return 0;
                }
            };
        self.state = next;
        self.frame(&[byte]);
        1
    }

    /// Headers up to the empty line, which may have begun in what came before.
    fn headers(&mut self, input: &[u8]) -> usize {
        const END: &[u8] = b"\r\n\r\n";
        // so that the bound cuts at the same byte however the body is split
        let input = &input[..input.len().min(HEADER_BYTES_MAX - self.block.len())];
        let before = self.block.len();
        if append(&mut self.block, input, HEADER_BYTES_MAX).is_err() {
            self.state = State::Rest;
            return 0;
        }
        let from = before.saturating_sub(END.len() - 1);
        let found = memmem::find(&self.block[from..], END).map(|at| from + at + END.len());
        let taken = found.map_or(input.len(), |end| end - before);
        self.frame(&input[..taken]);
        if let Some(end) = found {
            self.block.truncate(end);
            self.end_headers();
        } else if self.block.len() == HEADER_BYTES_MAX {
            self.state = State::Rest;
        }
        taken
    }

    fn end_headers(&mut self) {
        // a lenient program could end the part there
        if memmem::find(&self.block, &self.delimiter).is_some() {
            self.state = State::Rest;
            return;
        }
        match part::read(&self.block, &mut self.form) {
            Ok(headers) => {
                self.content_bytes = headers.content_bytes;
                self.state = State::Content;
            }
            Err(part::Unreadable) => self.state = State::Rest,
        }
        self.block.clear();
    }

    /// More of a content; returns how much of `input` was taken.
    fn content(&mut self, input: &[u8], content: &mut Hasher) -> usize {
        let keep = self.delimiter.len() + 1;
        // any delimiter of which a byte, or of whose line's end a byte, is held ends within this
        // much of the input
        let ahead = input.len().min(self.delimiter.len() + 2);
        if !self.held.is_empty() {
            let mut seam: ArrayVec<u8, { 2 * SEAM_BYTES_MAX }> =
                self.held.iter().chain(&input[..ahead]).copied().collect();
            let held = std::mem::take(&mut self.held);
            if let Some(at) = memmem::find(&seam, &self.delimiter) {
                return self.found(&seam, at, content) - held.len();
            }
            if ahead == input.len() {
                let passed = seam.len().saturating_sub(keep);
                self.pass(&seam[..passed], content);
                self.held.extend(seam.drain(passed..));
                return ahead;
            }
            self.pass(&held, content);
        }
        match memmem::find(input, &self.delimiter) {
            Some(at) => self.found(input, at, content),
            None => {
                let passed = input.len().saturating_sub(keep);
                self.pass(&input[..passed], content);
                self.held.extend(input[passed..].iter().copied());
                input.len()
            }
        }
    }

    /// A delimiter stands in `window` at `at`: the content's end if it begins a line. Returns where
    /// what is behind it begins.
    fn found(&mut self, window: &[u8], at: usize, content: &mut Hasher) -> usize {
        let end = at + self.delimiter.len();
        let Some(inner) = window[..at].strip_suffix(b"\r\n") else {
            self.state = State::Rest;
            self.pass(&window[..end], content);
            return end;
        };
        self.pass(inner, content);
        self.end_part(content);
        self.frame(&window[inner.len()..end]);
        end
    }

    fn end_part(&mut self, content: &mut Hasher) {
        let is_right = self.content_bytes.is_none_or(|bytes| bytes == self.content_len);
        self.state = if is_right { State::AfterDelimiter } else { State::Rest };
        content.update(&self.form);
        content.number(self.form.len() as u64);
        content.number(self.content_len);
        self.parts += 1;
        self.end_stretch();
    }

    fn pass(&mut self, bytes: &[u8], content: &mut Hasher) {
        self.content_len += bytes.len() as u64;
        content.update(bytes);
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.framing_len += bytes.len() as u64;
        self.framing.update(bytes);
    }

    /// The lengths behind a stretch of framing and the content that followed it.
    fn end_stretch(&mut self) {
        for len in [self.framing_len, self.content_len] {
            self.framing.update(len.to_le_bytes());
        }
        (self.framing_len, self.content_len) = (0, 0);
    }
}
