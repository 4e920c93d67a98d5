//! What a Content-Type says about the form of a body, and headers with parameters (RFC 9110,
//! section 5.6.6; RFC 2045, section 5.1).
//!
//! Strict: what two programs could read differently is not read at all. Never allocates. Cost:
//! linear in the header.

use super::{Form, Hashed};

/// Characters of the longest boundary (RFC 2046, section 5.1.1).
pub(super) const BOUNDARY_BYTES_MAX: usize = 70;

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading<'a> {
    Raw,
    Json,
    /// With that boundary.
    Multipart(&'a [u8]),
    /// Should be multipart, but has no boundary.
    Unparsed,
}

/// How `form` reads a body of that Content-Type.
pub(super) fn reading(form: Form, content_type: &[u8]) -> Reading<'_> {
    match form {
        Form::Raw => Reading::Raw,
        Form::Json => Reading::Json,
        Form::Multipart => multipart(content_type),
        Form::Auto if is_json(content_type) => Reading::Json,
        Form::Auto if media_type(content_type).eq_ignore_ascii_case(b"multipart/form-data") => multipart(content_type),
        Form::Auto => Reading::Raw,
    }
}

fn multipart(content_type: &[u8]) -> Reading<'_> {
    boundary(content_type).map_or(Reading::Unparsed, |boundary| Reading::Multipart(boundary.text()))
}

/// What stands before the parameters.
fn media_type(content_type: &[u8]) -> &[u8] {
    content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// `application/json` and `application/…+json` (RFC 6839), whatever the parameters.
fn is_json(content_type: &[u8]) -> bool {
    let Some((kind, subtype)) = media_type(content_type).split_at_checked("application/".len()) else { return false };
    let has_suffix = subtype.len() > 5 && subtype[subtype.len() - 5..].eq_ignore_ascii_case(b"+json");
    let is_json = has_suffix || subtype.eq_ignore_ascii_case(b"json");
    kind.eq_ignore_ascii_case(b"application/") && is_json && subtype.iter().copied().all(is_token_byte)
}

/// The boundary of a well-formed `multipart/form-data` that has exactly one.
fn boundary(content_type: &[u8]) -> Option<Parameter<'_>> {
    if !media_type(content_type).eq_ignore_ascii_case(b"multipart/form-data") {
        return None;
    }
    let mut found = None;
    for parameter in Parameters::of(content_type) {
        let parameter = parameter.ok()?;
        if parameter.name.eq_ignore_ascii_case(b"boundary") && found.replace(parameter).is_some() {
            return None;
        }
    }
    found.filter(|parameter| is_boundary(parameter.text()))
}

/// 1 to 70 of the characters that RFC 2046 allows, the last no space.
fn is_boundary(text: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(byte);
    (1..=BOUNDARY_BYTES_MAX).contains(&text.len()) && text.iter().all(is_allowed) && !text.ends_with(b" ")
}

/// The Content-Type as a part of a cache key: two fields, which stand side by side.
///
/// Verbatim (and an empty second field), but for a body that was hashed by its parts: there the
/// boundary, which clients make up anew for every upload, is left out, and what stands before and
/// after it are the two fields. Without it two uploads of one form by two clients agree.
#[must_use]
pub fn normal_content_type(content_type: &[u8], hashed: Hashed) -> [&[u8]; 2] {
    match boundary(content_type) {
        Some(boundary) if hashed == Hashed::Multipart => {
            let after = content_type[boundary.end..].trim_ascii();
            [content_type[..boundary.start].trim_ascii(), after.strip_prefix(b";").unwrap_or(after).trim_ascii()]
        }
        _ => [content_type, b""],
    }
}

/// `name=value` behind a semicolon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameter<'a> {
    /// As it came: names are told apart without regard to case.
    pub(super) name: &'a [u8],
    /// As it came, with quotes if it has them.
    value: &'a [u8],
    /// Where in the header its semicolon stands, and its end.
    start: usize,
    end: usize,
}

impl<'a> Parameter<'a> {
    /// Without quotes, so that `a` and `"a"` agree. But a text with a backslash keeps its quotes
    /// and all: programs differ in what they make of it.
    pub(super) fn text(&self) -> &'a [u8] {
        let inner = self.value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        inner.filter(|inner| !inner.contains(&b'\\')).unwrap_or(self.value)
    }
}

/// A header that is not well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The parameters of a header's value, in their order. Ends after the first that is malformed.
pub(super) struct Parameters<'a> {
    header: &'a [u8],
    at: usize,
}

impl<'a> Parameters<'a> {
    /// What stands before the first semicolon is left out.
    pub(super) fn of(header: &'a [u8]) -> Self {
        let at = header.iter().position(|&byte| byte == b';').unwrap_or(header.len());
        Self { header, at }
    }

    fn read(&mut self) -> Result<Parameter<'a>, Malformed> {
        let start = self.at;
        if self.header[start] != b';' {
            return Err(Malformed);
        }
        let name_start = self.skip_blank(start + 1);
        let name_end = self.skip_token(name_start);
        if name_end == name_start || self.header.get(name_end) != Some(&b'=') {
            return Err(Malformed);
        }
        let end = self.value_end(name_end + 1).ok_or(Malformed)?;
        self.at = self.skip_blank(end);
        let value = &self.header[name_end + 1..end];
        Ok(Parameter { name: &self.header[name_start..name_end], value, start, end })
    }

    fn skip_blank(&self, from: usize) -> usize {
        self.skip(from, |byte| byte == b' ' || byte == b'\t')
    }

    fn skip_token(&self, from: usize) -> usize {
        self.skip(from, is_token_byte)
    }

    fn skip(&self, from: usize, is_skipped: impl Fn(u8) -> bool) -> usize {
        from + self.header[from..].iter().take_while(|&&byte| is_skipped(byte)).count()
    }

    /// Of a token, which is not empty, or of a quoted text.
    fn value_end(&self, start: usize) -> Option<usize> {
        if self.header.get(start) != Some(&b'"') {
            return Some(self.skip_token(start)).filter(|&end| end > start);
        }
        let mut at = start + 1;
        loop {
            match self.header.get(at)? {
                b'"' => return Some(at + 1),
                b'\\' => at += 2,
                b'\t' | b' '..=b'~' | 0x80.. => at += 1,
                _ => return None,
            }
        }
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<Parameter<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.header.len() {
            return None;
        }
        let parameter = self.read();
        if parameter.is_err() {
            self.at = self.header.len();
        }
        Some(parameter)
    }
}

/// A character of names and unquoted values (RFC 9110, section 5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
