//! The canonical text while it grows, and the order of the members in it.
//!
//! Members stand in the text as they came. When an object closes whose members are not in order, or
//! of which some are ignored, its members are sorted by key and only the order is written down; the
//! text is brought into it once, while it is hashed. So nothing is moved, and a body of any nesting
//! is hashed in one pass. An object in order, and all text between, costs nothing but a comparison
//! per member.
//!
//! Objects are listed in the order in which they opened. So what a member holds is a range of that
//! list, and no search is needed to find it.
//!
//! Cost: n log n comparisons per object of n members (`sort_unstable`: in place, no worse case),
//! linear hashing. Bound: [`MEMBERS_MAX`] per object; 32 bytes per member of an open object, 16 +
//! 24 bytes per member and object that is out of order or holds one that is; places are 32 bits, so
//! the body is below 4 GiB.

use std::cmp::Ordering;

use super::super::algorithm::Hasher;
use super::super::memory::{Refused, append, push};
use super::not_json::NotJson;

/// Stands for an ignored element of an array; no value is spelled so.
pub(super) const IGNORED: u8 = b'?';

/// Members of one object. Sorting them takes 2 ms at worst, and nobody else may use the worker in
/// that time.
const MEMBERS_MAX: usize = 16 << 10;

/// Bytes that are gathered before they are hashed: enough for the widest SIMD of BLAKE3.
const GATHER_BYTES: usize = 16 << 10;

/// The text of a value, in parts of which some are out of order.
#[derive(Default)]
pub(in super::super) struct Canonical {
    text: Vec<u8>,
    text_bytes_max: usize,
    /// Members of the objects that are open, the innermost's last.
    open: Vec<Member>,
    /// Members of closed objects in order; each object's stand together.
    ordered: Vec<Span>,
    /// In the order of their opening braces: those that are open, are out of order or hold one that
    /// is.
    objects: Vec<Object>,
}

/// A piece of text, and the range of objects that opened in it.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    objects_from: u32,
    objects_to: u32,
}

/// A member of an open object; ignored if nothing is behind the key.
#[derive(Clone, Copy)]
struct Member {
    /// The key's first bytes as a number: decides most comparisons without a look at the text.
    prefix: u64,
    key_end: u32,
    span: Span,
}

impl Member {
    fn new(text: &[u8], start: usize, objects: u32) -> Self {
        // behind the opening quote; no byte of the text is zero, so shorter keys come first as they
        // should
        let (mut prefix, key) = ([0; 8], text.get(start + 1..).unwrap_or_default());
        prefix.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        let here = place(text.len());
        let span = Span { start: place(start), end: here, objects_from: objects, objects_to: objects };
        Self { prefix: u64::from_be_bytes(prefix), key_end: here, span }
    }

    fn key<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.span.start as usize..self.key_end as usize).unwrap_or_default()
    }

    fn compare(&self, other: &Self, text: &[u8]) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| self.key(text).cmp(other.key(text)))
    }

    const fn is_ignored(&self) -> bool {
        self.span.end == self.key_end
    }
}

/// From its opening brace to behind the closing one.
#[derive(Clone, Copy, Default)]
struct Object {
    start: u32,
    end: u32,
    /// Its members in `ordered`, if `is_unordered`; else they stand in the text as they should.
    first: u32,
    members: u32,
    /// The next object that is not within it.
    after: u32,
    is_unordered: bool,
}

/// An object that has begun: what [`Canonical::close_object`] needs to know again.
#[derive(Clone, Copy, Default)]
pub(super) struct Opened {
    object: usize,
    members: usize,
}

/// How much there was, to go back to.
#[derive(Clone, Copy, Default)]
pub(super) struct Mark {
    text: usize,
    ordered: usize,
    objects: usize,
}

impl Canonical {
    pub(super) fn new(text_bytes_max: usize) -> Self {
        Self { text_bytes_max: text_bytes_max.min(u32::MAX as usize), ..Self::default() }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        append(&mut self.text, bytes, self.text_bytes_max)
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn since(&self, start: usize) -> &[u8] {
        self.text.get(start..).unwrap_or_default()
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { text: self.text.len(), ordered: self.ordered.len(), objects: self.objects.len() }
    }

    /// Forgets what came since `mark`, the order of objects in it too.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.text.truncate(mark.text);
        self.ordered.truncate(mark.ordered);
        self.objects.truncate(mark.objects);
    }

    /// An object begins, its brace comes next.
    pub(super) fn open_object(&mut self) -> Result<Opened, Refused> {
        let opened = Opened { object: self.objects.len(), members: self.open.len() };
        push(&mut self.objects, Object { start: place(self.text.len()), ..Object::default() })?;
        Ok(opened)
    }

    /// The key that began at `start` has ended. Refuses more than [`MEMBERS_MAX`] of one object.
    pub(super) fn begin_member(&mut self, opened: Opened, start: usize) -> Result<(), Refused> {
        if self.open.len() >= opened.members + MEMBERS_MAX {
            return Err(Refused);
        }
        push(&mut self.open, Member::new(&self.text, start, place(self.objects.len())))
    }

    /// The last key's value has ended (or was forgotten).
    pub(super) fn end_member(&mut self) {
        let (here, objects) = (place(self.text.len()), place(self.objects.len()));
        if let Some(member) = self.open.last_mut() {
            (member.span.end, member.span.objects_to) = (here, objects);
        }
    }

    /// The object has ended with a brace. Refuses duplicate keys.
    pub(super) fn close_object(&mut self, opened: Opened) -> Result<(), NotJson> {
        let Self { text, open, ordered, objects, .. } = self;
        let own = open.get_mut(opened.members..).ok_or(NotJson)?;
        let is_ordered = own.windows(2).all(|pair| pair[0].compare(&pair[1], text).is_lt());
        if !is_ordered {
            own.sort_unstable_by(|a, b| a.compare(b, text));
            if own.windows(2).any(|pair| pair[0].compare(&pair[1], text).is_eq()) {
                return Err(NotJson);
            }
        }
        let after = objects.len();
        let object = objects.get_mut(opened.object).ok_or(NotJson)?;
        if !is_ordered || own.iter().any(Member::is_ignored) {
            let first = place(ordered.len());
            for member in own.iter().filter(|member| !member.is_ignored()) {
                push(ordered, member.span)?;
            }
            let (end, members) = (place(text.len()), place(ordered.len()) - first);
            *object = Object { end, first, members, after: place(after), is_unordered: true, ..*object };
        } else if after == opened.object + 1 {
            objects.pop();
        }
        open.truncate(opened.members);
        Ok(())
    }

    /// Hashes the text with all members in order.
    pub(in super::super) fn hash(self, hasher: &mut Hasher) {
        if self.objects.is_empty() {
            return hasher.update(&self.text);
        }
        let mut out = Gather { hasher, bytes: [0; GATHER_BYTES], len: 0 };
        let (end, objects_to) = (place(self.text.len()), place(self.objects.len()));
        self.write(Span { start: 0, end, objects_from: 0, objects_to }, &mut out);
        out.flush();
    }

    /// Writes the text of `span` in order. Calls itself once per nesting, of which the reader has a
    /// bound.
    fn write(&self, span: Span, out: &mut Gather<'_>) {
        let (mut at, mut next) = (span.start, span.objects_from);
        while next < span.objects_to
            && let Some(object) = self.objects.get(next as usize)
        {
            if !object.is_unordered {
                next += 1;
                continue;
            }
            out.put(self.slice(at, object.start + 1));
            let members = object.first as usize..(object.first + object.members) as usize;
            for (i, member) in self.ordered.get(members).unwrap_or_default().iter().enumerate() {
                out.put(if i == 0 { b"" } else { b"," });
                if member.objects_from == member.objects_to {
                    out.put(self.slice(member.start, member.end));
                } else {
                    self.write(*member, out);
                }
            }
            out.put(b"}");
            (at, next) = (object.end, object.after);
        }
        out.put(self.slice(at, span.end));
    }

    fn slice(&self, start: u32, end: u32) -> &[u8] {
        self.text.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// The text is bounded below 4 GiB, and no table is longer than it.
fn place(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Small pieces on their way to the hash function, which is fast with large ones.
struct Gather<'a> {
    hasher: &'a mut Hasher,
    bytes: [u8; GATHER_BYTES],
    len: usize,
}

impl Gather<'_> {
    fn put(&mut self, piece: &[u8]) {
        if self.len + piece.len() > GATHER_BYTES {
            self.flush();
        }
        match self.bytes.get_mut(self.len..self.len + piece.len()) {
            Some(room) => {
                room.copy_from_slice(piece);
                self.len += piece.len();
            }
            // longer than all the room, which is empty now
            None => self.hasher.update(piece),
        }
    }

    fn flush(&mut self) {
        self.hasher.update(&self.bytes[..self.len]);
        self.len = 0;
    }
}
