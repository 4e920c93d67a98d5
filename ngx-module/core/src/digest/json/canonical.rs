//! The canonical text while it grows, and the order of the members in it.
//!
//! Members stand in the text as they came. When an object closes whose members are not in order, or of which some are ignored, its members are sorted by key and
//! only the order is written down; the text is brought into it once, while it is hashed. So nothing is moved, and a body of any nesting is hashed
//! in one pass. Most objects of most bodies need that; an object in order, and all text between, costs nothing.
//!
//! Cost: n log n comparisons per object of n members (`sort_unstable`: in place, no worse case), linear hashing with a binary search per member of an object that holds
//! others. Bound: 12 bytes per member of an open object, 8 + 16 bytes per member and object out of order; places are 32 bits, so the body is below 4 GiB.

use super::super::algorithm::Hasher;
use super::super::memory::{Refused, append, push};
use super::NotJson;

/// Stands for an ignored element of an array; no value is spelled so.
pub(super) const IGNORED: u8 = b'?';

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
    /// Closed objects whose members do not stand in order.
    objects: Vec<Object>,
}

/// A member of an open object; ignored if nothing is behind the key.
#[derive(Clone, Copy)]
struct Member {
    start: u32,
    key_end: u32,
    end: u32,
}

#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

/// From its opening brace to behind the closing one.
#[derive(Clone, Copy)]
struct Object {
    start: u32,
    end: u32,
    /// First of its members in `ordered`.
    first: u32,
    members: u32,
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

    /// Members of open objects so far: what [`Canonical::close_object`] wants to know of the moment when its object opened.
    pub(super) fn members(&self) -> usize {
        self.open.len()
    }

    /// The key that began at `start` has ended.
    pub(super) fn begin_member(&mut self, start: usize) -> Result<(), Refused> {
        let here = place(self.text.len());
        push(&mut self.open, Member { start: place(start), key_end: here, end: here })
    }

    /// The last key's value has ended (or was forgotten).
    pub(super) fn end_member(&mut self) {
        let here = place(self.text.len());
        if let Some(member) = self.open.last_mut() {
            member.end = here;
        }
    }

    /// The object that began at `start`, when `members` were open, has ended with a brace. Refuses duplicate keys.
    pub(super) fn close_object(&mut self, start: usize, members: usize) -> Result<(), NotJson> {
        let Self { text, open, ordered, objects, .. } = self;
        let own = open.get_mut(members..).ok_or(NotJson)?;
        let key = |member: &Member| text.get(member.start as usize..member.key_end as usize).unwrap_or_default();
        let is_ordered = own.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]));
        if !is_ordered {
            own.sort_unstable_by(|a, b| key(a).cmp(key(b)));
            if own.windows(2).any(|pair| key(&pair[0]) == key(&pair[1])) {
                return Err(NotJson);
            }
        }
        let is_whole = own.iter().all(|member| member.end > member.key_end);
        if !is_ordered || !is_whole {
            let first = place(ordered.len());
            for member in own.iter().filter(|member| member.end > member.key_end) {
                push(ordered, Span { start: member.start, end: member.end })?;
            }
            let members = place(ordered.len()) - first;
            push(objects, Object { start: place(start), end: place(text.len()), first, members })?;
        }
        open.truncate(members);
        Ok(())
    }

    /// Hashes the text with all members in order.
    pub(in super::super) fn hash(mut self, hasher: &mut Hasher) {
        if self.objects.is_empty() {
            return hasher.update(&self.text);
        }
        // they closed from the inside out; from here on an object stands before those within it
        self.objects.sort_unstable_by_key(|object| object.start);
        let mut out = Gather { hasher, bytes: [0; GATHER_BYTES], len: 0 };
        self.write(Span { start: 0, end: place(self.text.len()) }, 0, self.objects.len(), &mut out);
        out.flush();
    }

    /// Writes `span`, in which the objects `from..to` are out of order. Calls itself once per nesting, of which the reader has a bound.
    fn write(&self, span: Span, from: usize, to: usize, out: &mut Gather<'_>) {
        let (mut at, mut next) = (span.start, from);
        while next < to
            && let Some(object) = self.objects.get(next)
        {
            out.put(self.slice(at, object.start + 1));
            let inner = next + 1;
            let after = self.first_from(inner, to, object.end);
            let members = object.first as usize..(object.first + object.members) as usize;
            for (i, member) in self.ordered.get(members).unwrap_or_default().iter().enumerate() {
                out.put(if i == 0 { b"" } else { b"," });
                if inner == after {
                    out.put(self.slice(member.start, member.end));
                } else {
                    let first = self.first_from(inner, after, member.start);
                    self.write(*member, first, self.first_from(first, after, member.end), out);
                }
            }
            out.put(b"}");
            (at, next) = (object.end, after);
        }
        out.put(self.slice(at, span.end));
    }

    /// The first of the objects `from..to` that starts at `place` or behind it, else `to`.
    fn first_from(&self, from: usize, to: usize, place: u32) -> usize {
        from + self.objects.get(from..to).unwrap_or_default().partition_point(|object| object.start < place)
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
