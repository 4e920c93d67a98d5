//! The headers of a part, in canonical form.
//!
//! Each text with its length before it and each list with its number of items, so that no two lists
//! of headers have the same form. Never sees the content. Cost: linear, but for sorting
//! [`HEADERS_MAX`] names.

use arrayvec::ArrayVec;

use super::super::content_type::{Malformed, Parameter, Parameters, is_token_byte};
use super::super::memory::{Refused, append};

/// Bytes of one part's headers.
pub(super) const HEADER_BYTES_MAX: usize = 8 << 10;

/// Headers of one part, and parameters of its Content-Disposition. Forms have three of each.
pub(super) const HEADERS_MAX: usize = 32;

/// Bytes of the longest canonical form: each of two lists of [`HEADERS_MAX`] pairs has lengths
/// beside the bytes.
const FORM_BYTES_MAX: usize = HEADER_BYTES_MAX + 1024;

/// What a part's headers say.
pub(super) struct Headers {
    /// Content-Length, which must be right.
    pub(super) content_bytes: Option<u64>,
}

/// The headers are not read.
#[derive(Debug)]
pub(super) struct Unreadable;

impl From<Malformed> for Unreadable {
    fn from(_: Malformed) -> Self {
        Self
    }
}

impl From<Refused> for Unreadable {
    fn from(_: Refused) -> Self {
        Self
    }
}

/// A name, and its value without white space around it.
#[derive(Clone, Copy)]
struct Header<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

/// Reads `block`, a part's headers with the empty line behind them, and writes their canonical form
/// to `form`.
pub(super) fn read(block: &[u8], form: &mut Vec<u8>) -> Result<Headers, Unreadable> {
    let block = block.strip_suffix(b"\r\n\r\n").ok_or(Unreadable)?;
    let (mut disposition, mut content_type, mut encoding, mut length) = (None, None, None, None);
    let mut others: ArrayVec<Header<'_>, HEADERS_MAX> = ArrayVec::new();
    // a bare CR or LF is left in a line, where no header may have it
    for line in Lines(Some(block)) {
        let header = header(line)?;
        let place = match header.name {
            name if name.eq_ignore_ascii_case(b"content-disposition") => &mut disposition,
            name if name.eq_ignore_ascii_case(b"content-type") => &mut content_type,
            name if name.eq_ignore_ascii_case(b"content-transfer-encoding") => &mut encoding,
            name if name.eq_ignore_ascii_case(b"content-length") => &mut length,
            _ => {
                others.try_push(header).map_err(|_| Unreadable)?;
                continue;
            }
        };
        if place.replace(header.value).is_some() {
            return Err(Unreadable);
        }
    }
    form.clear();
    write_disposition(disposition.ok_or(Unreadable)?, form)?;
    write_option(content_type, form)?;
    write_option(encoding.filter(|value| !is_identity(value)), form)?;
    write_others(&mut others, form)?;
    let content_bytes = length.map(|value| decimal(value).ok_or(Unreadable)).transpose()?;
    Ok(Headers { content_bytes })
}

/// Transfer encodings that leave the content as it is (RFC 2045, section 6.2).
fn is_identity(encoding: &[u8]) -> bool {
    [&b"7bit"[..], b"8bit", b"binary"].iter().any(|name| encoding.eq_ignore_ascii_case(name))
}

/// Pieces between CRLF.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n");
        self.0 = end.map(|end| &rest[end + 2..]);
        Some(&rest[..end.unwrap_or(rest.len())])
    }
}

fn header(line: &[u8]) -> Result<Header<'_>, Unreadable> {
    let colon = line.iter().position(|&byte| byte == b':').ok_or(Unreadable)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let is_named = !name.is_empty() && name.iter().copied().all(is_token_byte);
    // the whole line, since a bare CR or LF at its end would be trimmed
    let is_text = line.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    if is_named && is_text { Ok(Header { name, value }) } else { Err(Unreadable) }
}

/// Digits only: no sign, no list.
fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

fn write_disposition(value: &[u8], form: &mut Vec<u8>) -> Result<(), Unreadable> {
    let kind = value.split(|&byte| byte == b';').next().unwrap_or_default();
    if !kind.trim_ascii_end().eq_ignore_ascii_case(b"form-data") {
        return Err(Unreadable);
    }
    let mut parameters: ArrayVec<Parameter<'_>, HEADERS_MAX> = ArrayVec::new();
    for parameter in Parameters::of(value) {
        parameters.try_push(parameter?).map_err(|_| Unreadable)?;
    }
    parameters.sort_unstable_by(|a, b| lower(a.name).cmp(lower(b.name)));
    let is_twice = parameters.windows(2).any(|pair| pair[0].name.eq_ignore_ascii_case(pair[1].name));
    if is_twice || !parameters.iter().any(|parameter| parameter.name.eq_ignore_ascii_case(b"name")) {
        return Err(Unreadable);
    }
    write_number(parameters.len(), form)?;
    for parameter in &parameters {
        write_name(parameter.name, form)?;
        write_text(parameter.text(), form)?;
    }
    Ok(())
}

/// By name, those of one name in the order in which they came.
fn write_others(others: &mut ArrayVec<Header<'_>, HEADERS_MAX>, form: &mut Vec<u8>) -> Result<(), Unreadable> {
    let mut order: ArrayVec<usize, HEADERS_MAX> = (0..others.len()).collect();
    order.sort_unstable_by(|&a, &b| lower(others[a].name).cmp(lower(others[b].name)).then(a.cmp(&b)));
    write_number(order.len(), form)?;
    for index in order {
        write_name(others[index].name, form)?;
        write_text(others[index].value, form)?;
    }
    Ok(())
}

fn lower(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(u8::to_ascii_lowercase)
}

fn write_option(text: Option<&[u8]>, form: &mut Vec<u8>) -> Result<(), Refused> {
    write_number(usize::from(text.is_some()), form)?;
    text.map_or(Ok(()), |text| write_text(text, form))
}

fn write_name(name: &[u8], form: &mut Vec<u8>) -> Result<(), Refused> {
    let start = form.len() + size_of::<u32>();
    write_text(name, form)?;
    form[start..].make_ascii_lowercase();
    Ok(())
}

fn write_text(text: &[u8], form: &mut Vec<u8>) -> Result<(), Refused> {
    write_number(text.len(), form)?;
    append(form, text, FORM_BYTES_MAX)
}

/// Below 8 KiB, so 32 bits hold it.
fn write_number(number: usize, form: &mut Vec<u8>) -> Result<(), Refused> {
    let number = u32::try_from(number).map_err(|_| Refused)?;
    append(form, &number.to_le_bytes(), FORM_BYTES_MAX)
}
