//! The grammar that the directives share: `key=value`, counts, sizes with `k m g`, times with
//! `ms s m h d`, as nginx spells them.

use super::error::{ConfError, Problem};

/// An argument as text; a configuration with other bytes is refused with the place of the first.
pub(crate) fn text<'a>(directive: &'static str, argument: &'a [u8]) -> Result<&'a str, ConfError> {
    std::str::from_utf8(argument)
        .map_err(|error| ConfError::new(directive, Problem::NotUtf8 { at: error.valid_up_to() }))
}

/// Stores a `key=value` once.
pub(crate) fn set_once<T>(
    slot: &mut Option<T>,
    value: T,
    directive: &'static str,
    key: &'static str,
) -> Result<(), ConfError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ConfError::new(directive, Problem::Repeated { key })),
    }
}

/// A count, digits only.
pub(crate) fn count(value: &str) -> Option<u64> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok()
}

/// A size in bytes: digits and `k`, `m` or `g`.
pub(crate) fn size_bytes(value: &str) -> Option<u64> {
    let (digits, shift) = match value.as_bytes().last()? {
        b'k' | b'K' => (&value[..value.len() - 1], 10),
        b'm' | b'M' => (&value[..value.len() - 1], 20),
        b'g' | b'G' => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    count(digits)?.checked_mul(1 << shift)
}

/// A time in milliseconds: `10s`, `500ms`, `1m30s`; digits alone are seconds, as in nginx.
pub(crate) fn time_ms(value: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let mut rest = value;
    let mut total = 0_u64;
    let mut smallest = u64::MAX;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let amount = count(&rest[..digits])?;
        rest = &rest[digits..];
        let (unit, unit_ms) = match UNITS.iter().find(|(name, _)| rest.starts_with(name)) {
            Some(&(name, ms)) => (name, ms),
            None if rest.is_empty() => ("", 1_000),
            None => return None,
        };
        if unit_ms >= smallest {
            return None;
        }
        smallest = unit_ms;
        rest = &rest[unit.len()..];
        total = total.checked_add(amount.checked_mul(unit_ms)?)?;
    }
    Some(total)
}
