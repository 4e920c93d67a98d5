//! The identity of a JSON body (RFC 8259): its value, not its spelling.
//!
//! Two bodies agree if and only if they have the same value up to white space, the order of keys,
//! the spelling of strings ("\u0041" is "A") and the members that [`Ignore`](super::Ignore) names.
//! The canonical form is close to RFC 8785 (JCS): no white space, its escapes, sorted keys; but
//! keys are sorted by their bytes, and **numbers keep their spelling** (1, 1.0 and 1e0 differ, -0
//! and 0 too), since programs differ in what they make of them. An ignored member is left out; an
//! ignored element of an array leaves a mark, so that those behind it keep their index.
//!
//! Not read, so hashed as it came: what is no JSON (trailing bytes, control characters in strings,
//! a byte order mark, nothing at all), and what programs read differently (I-JSON, RFC 7493):
//! duplicate keys, invalid UTF-8, lone surrogates, nesting beyond 128, more than 16,384 members of
//! one object. All this also within ignored members.
//!
//! `reader` is the grammar, byte by byte; `number` and `string` are the parts of it below a value;
//! `canonical` keeps the text and brings the members into order. Cost: linear, plus n log n
//! comparisons of keys when an object of n members closes; nothing is moved, however deep the
//! nesting. Bound: the text is never longer than the body; the tables of members take up to about
//! 10 times the body's length if it consists of nothing but the shortest members, next to nothing
//! for a usual body.

mod canonical;
mod not_json;
mod number;
mod reader;
mod string;

pub(super) use reader::Reader;
pub(super) use string::canonical_string;
