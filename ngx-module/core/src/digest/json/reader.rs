//! The grammar of JSON over a stream of chunks, and which members are ignored.
//!
//! A state machine: each byte leads from one state to the next, so a chunk may end anywhere. Runs
//! of white space, of a string's plain bytes and of a number's are taken at once. Never looks back,
//! never recurses.
//!
//! Cost: about a nanosecond per byte of structure, a tenth of that within long strings. Bound:
//! [`DEPTH_MAX`] containers are open at a time.

use super::super::ignore::{Ignore, Step as Pointers};
use super::super::memory::push;
use super::canonical::{Canonical, IGNORED, Mark, Opened};
use super::not_json::NotJson;
use super::number::Number;
use super::string::{Escaped, Place, Step};

/// Containers within each other. RFC 8259 leaves it open; common parsers stop between 100 and
/// 1,000.
const DEPTH_MAX: usize = 128;

/// What may come next.
#[derive(Clone, Copy)]
enum State {
    /// A value.
    Value,
    /// A value, or the end of the array that has just begun.
    FirstElement,
    /// A key, or the end of the object that has just begun.
    FirstKey,
    /// A key.
    Key,
    /// The colon behind a key.
    Colon,
    /// A comma or the end of the container; at the end of the document white space only.
    After,
    /// More of a string.
    String(Place),
    /// More of a number, or what comes behind it.
    Number(Number),
    /// The rest of `true`, `false` or `null`.
    Literal(&'static [u8]),
}

/// An open container.
struct Frame {
    is_object: bool,
    /// Of an object.
    opened: Opened,
    /// Of the element that is read.
    index: u32,
    /// Pointers that lead to this container.
    pointers: u32,
    /// Pointers that lead to the member or element that is read.
    step: Pointers,
    /// What the text was before it (for a member: behind its key).
    mark: Mark,
}

/// A JSON text on its way.
pub(in super::super) struct Reader {
    text: Canonical,
    frames: Vec<Frame>,
    state: State,
    /// Where in the text the string that is read began.
    string_start: usize,
    is_key: bool,
}

impl Reader {
    /// `bytes_max`: of the body.
    pub(in super::super) fn new(bytes_max: usize) -> Self {
        let text = Canonical::new(bytes_max);
        Self { text, frames: Vec::new(), state: State::Value, string_start: 0, is_key: false }
    }

    /// Takes the next bytes. After an error the reader is of no use.
    pub(in super::super) fn feed(&mut self, ignore: &Ignore, chunk: &[u8]) -> Result<(), NotJson> {
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            rest = match self.state {
                State::String(Place::Plain) => self.plain(ignore, rest)?,
                State::Number(number) => self.number(number, rest)?,
                state => {
                    self.step(ignore, state, byte)?;
                    &rest[1..]
                }
            };
        }
        Ok(())
    }

    /// The value's canonical text, if the document is complete.
    pub(in super::super) fn finish(mut self) -> Result<Canonical, NotJson> {
        if let State::Number(number) = self.state
            && number.is_complete()
        {
            self.end_value()?;
        }
        let is_complete = matches!(self.state, State::After) && self.frames.is_empty();
        if is_complete { Ok(self.text) } else { Err(NotJson) }
    }

    fn step(&mut self, ignore: &Ignore, state: State, byte: u8) -> Result<(), NotJson> {
        match (state, byte) {
            (State::String(place), byte) => self.escape(place, byte),
            (State::Literal(expected), byte) => self.literal(expected, byte),
            (_, b' ' | b'\t' | b'\n' | b'\r') => Ok(()),
            (State::FirstElement, b']') | (State::FirstKey, b'}') => self.close(byte),
            (State::Value | State::FirstElement, byte) => self.begin_value(ignore, byte),
            (State::Key | State::FirstKey, b'"') => self.begin_string(true),
            (State::Colon, b':') => {
                self.state = State::Value;
                Ok(self.text.append(b":")?)
            }
            (State::After, b',') => self.comma(),
            (State::After, b']' | b'}') => self.close(byte),
            _ => Err(NotJson),
        }
    }

    fn begin_value(&mut self, ignore: &Ignore, byte: u8) -> Result<(), NotJson> {
        let depth = self.frames.len();
        if let Some(frame) = self.frames.last_mut()
            && !frame.is_object
        {
            frame.mark = self.text.mark();
            frame.step = ignore.step_index(frame.pointers, depth - 1, frame.index);
        }
        match byte {
            b'{' | b'[' => return self.open(ignore, byte),
            b'"' => return self.begin_string(false),
            b't' => self.state = State::Literal(b"rue"),
            b'f' => self.state = State::Literal(b"alse"),
            b'n' => self.state = State::Literal(b"ull"),
            _ => self.state = State::Number(Number::begin(byte).ok_or(NotJson)?),
        }
        Ok(self.text.append(&[byte])?)
    }

    fn open(&mut self, ignore: &Ignore, bracket: u8) -> Result<(), NotJson> {
        if self.frames.len() == DEPTH_MAX {
            return Err(NotJson);
        }
        let is_object = bracket == b'{';
        let frame = Frame {
            is_object,
            opened: if is_object { self.text.open_object()? } else { Opened::default() },
            index: 0,
            pointers: self.frames.last().map_or_else(|| ignore.all(), |outer| outer.step.set),
            step: Pointers::default(),
            mark: Mark::default(),
        };
        push(&mut self.frames, frame)?;
        self.state = if is_object { State::FirstKey } else { State::FirstElement };
        Ok(self.text.append(&[bracket])?)
    }

    fn close(&mut self, bracket: u8) -> Result<(), NotJson> {
        let frame = self.frames.pop().ok_or(NotJson)?;
        if frame.is_object != (bracket == b'}') {
            return Err(NotJson);
        }
        self.text.append(&[bracket])?;
        if frame.is_object {
            self.text.close_object(frame.opened)?;
        }
        self.end_value()
    }

    fn comma(&mut self) -> Result<(), NotJson> {
        let frame = self.frames.last_mut().ok_or(NotJson)?;
        // an index beyond 32 bits is one that no pointer names
        frame.index = frame.index.saturating_add(1);
        self.state = if frame.is_object { State::Key } else { State::Value };
        Ok(self.text.append(b",")?)
    }

    /// A value is complete: takes it out again if it is ignored.
    fn end_value(&mut self) -> Result<(), NotJson> {
        self.state = State::After;
        let Some(frame) = self.frames.last() else { return Ok(()) };
        if frame.step.is_ignored {
            self.text.rewind(frame.mark);
            if !frame.is_object {
                self.text.append(&[IGNORED])?;
            }
        }
        if frame.is_object {
            self.text.end_member();
        }
        Ok(())
    }

    fn literal(&mut self, expected: &'static [u8], byte: u8) -> Result<(), NotJson> {
        let (first, rest) = expected.split_first().ok_or(NotJson)?;
        if *first != byte {
            return Err(NotJson);
        }
        self.text.append(&[byte])?;
        self.state = State::Literal(rest);
        if rest.is_empty() { self.end_value() } else { Ok(()) }
    }

    /// The number's bytes at the start of `input`; returns what is behind them.
    fn number<'a>(&mut self, number: Number, input: &'a [u8]) -> Result<&'a [u8], NotJson> {
        let (mut number, mut len) = (number, 0);
        while let Some(next) = input.get(len).and_then(|&byte| number.step(byte)) {
            number = next;
            len += 1;
        }
        let (taken, rest) = input.split_at(len);
        self.text.append(taken)?;
        self.state = State::Number(number);
        if rest.is_empty() {
            return Ok(rest);
        }
        if !number.is_complete() {
            return Err(NotJson);
        }
        self.end_value()?;
        Ok(rest)
    }

    fn begin_string(&mut self, is_key: bool) -> Result<(), NotJson> {
        (self.is_key, self.string_start) = (is_key, self.text.len());
        self.state = State::String(Place::Plain);
        Ok(self.text.append(b"\"")?)
    }

    /// The plain bytes at the start of `input` and the quote or backslash behind them; returns the
    /// rest.
    fn plain<'a>(&mut self, ignore: &Ignore, input: &'a [u8]) -> Result<&'a [u8], NotJson> {
        let end = memchr::memchr2(b'"', b'\\', input).unwrap_or(input.len());
        let (run, rest) = input.split_at(end);
        // without a way out, so that the compiler makes SIMD of it
        if run.iter().fold(false, |found, &byte| found | (byte < b' ')) {
            return Err(NotJson);
        }
        self.text.append(run)?;
        let Some((&byte, rest)) = rest.split_first() else { return Ok(rest) };
        if byte == b'\\' {
            self.state = State::String(Place::Escape);
        } else {
            self.text.append(b"\"")?;
            self.end_string(ignore)?;
        }
        Ok(rest)
    }

    fn escape(&mut self, place: Place, byte: u8) -> Result<(), NotJson> {
        let next = match place.step(byte)? {
            Step::Go(next) => next,
            Step::Done(c) => {
                self.text.append(Escaped::new(c).as_ref())?;
                Place::Plain
            }
        };
        self.state = State::String(next);
        Ok(())
    }

    fn end_string(&mut self, ignore: &Ignore) -> Result<(), NotJson> {
        let string = self.text.since(self.string_start);
        if std::str::from_utf8(string).is_err() {
            return Err(NotJson);
        }
        if !self.is_key {
            return self.end_value();
        }
        let depth = self.frames.len();
        let frame = self.frames.last_mut().ok_or(NotJson)?;
        frame.step = ignore.step_key(frame.pointers, depth - 1, string);
        frame.mark = self.text.mark();
        let opened = frame.opened;
        self.state = State::Colon;
        Ok(self.text.begin_member(opened, self.string_start)?)
    }
}
