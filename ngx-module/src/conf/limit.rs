//! `pincer_limit off|class=NAME|VAR [key=VAR] [dry_run]`, `pincer_limit_status CODE`,
//! `pincer_key VAR|off`, `pincer_key_required on|off`.

use super::args;
use super::class::class_name;
use super::error::{ConfError, Problem};

const LIMIT: &str = "pincer_limit";

/// One limit as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitArgs {
    /// A class' name, or text with variables that yields one.
    pub(crate) class: String,
    /// Text with variables: requests of one value share the limit. `None` = all requests of the
    /// class.
    pub(crate) key: Option<String>,
    /// Counts and does not refuse.
    pub(crate) dry_run: bool,
}

impl LimitArgs {
    /// The class' name, if it is one and no variable.
    pub(crate) fn literal_class(&self) -> Option<&str> {
        (!self.class.contains('$')).then_some(&self.class)
    }
}

/// `None` = off.
pub(crate) fn parse_limit(arguments: &[&[u8]]) -> Result<Option<LimitArgs>, ConfError> {
    if let [b"off"] = arguments {
        return Ok(None);
    }
    let (mut class, mut key, mut dry_run) = (None, None, None);
    for argument in arguments {
        let argument = args::text(LIMIT, argument)?;
        match argument.split_once('=') {
            None if argument == "dry_run" => args::set_once(&mut dry_run, true, LIMIT, "dry_run")?,
            Some(("class", value)) => {
                if !value.contains('$') {
                    class_name(LIMIT, value)?;
                }
                args::set_once(&mut class, value.to_owned(), LIMIT, "class")?;
            }
            Some(("key", value)) if value.contains('$') => {
                args::set_once(&mut key, value.to_owned(), LIMIT, "key")?;
            }
            Some(("key", value)) => {
                return Err(ConfError::invalid(LIMIT, "key", value, "a variable such as $binary_remote_addr"));
            }
            _ => return Err(ConfError::unknown(LIMIT, argument, "off, class=, key= and dry_run")),
        }
    }
    let missing = Problem::Missing { what: "\"class=\"", need: "a class' name or a variable" };
    let class = class.ok_or_else(|| ConfError::new(LIMIT, missing))?;
    Ok(Some(LimitArgs { class, key, dry_run: dry_run.unwrap_or(false) }))
}

/// Statuses that nginx answers as a 400, and tells apart only in its log and in `error_page`.
const NGINX_OWN: std::ops::RangeInclusive<u16> = 494..=497;

/// The status of a refused request.
pub(crate) fn parse_status(arguments: &[&[u8]]) -> Result<u16, ConfError> {
    const STATUS: &str = "pincer_limit_status";
    let value = args::text(STATUS, arguments.first().copied().unwrap_or_default())?;
    args::count(value)
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (400..=599).contains(code) && !NGINX_OWN.contains(code))
        .ok_or_else(|| {
            let need = "a status from 400 to 599, but none of 494 to 497, which nginx keeps for itself,";
            ConfError::invalid(STATUS, "code", value, need)
        })
}

/// Where a request's API key stands; `None` = off.
pub(crate) fn parse_key(arguments: &[&[u8]]) -> Result<Option<String>, ConfError> {
    const KEY: &str = "pincer_key";
    match args::text(KEY, arguments.first().copied().unwrap_or_default())? {
        "off" => Ok(None),
        value if asks_for_caller(value) => Err(ConfError::invalid(
            KEY,
            "source",
            value,
            "a variable that tells where the key stands, not what it gives,",
        )),
        value if value.contains('$') => Ok(Some(value.to_owned())),
        value => Err(ConfError::invalid(KEY, "source", value, "off or a variable such as $http_authorization")),
    }
}

/// Whether text with variables has one that only a key gives.
fn asks_for_caller(source: &str) -> bool {
    source.split('$').skip(1).any(|rest| {
        let rest = rest.trim_start_matches('{');
        let end = rest.find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').unwrap_or(rest.len());
        ["pincer_class", "pincer_tenant"].iter().any(|own| rest[..end].eq_ignore_ascii_case(own))
    })
}

pub(crate) fn parse_switch(directive: &'static str, arguments: &[&[u8]]) -> Result<bool, ConfError> {
    match args::text(directive, arguments.first().copied().unwrap_or_default())? {
        "on" => Ok(true),
        "off" => Ok(false),
        value => Err(ConfError::invalid(directive, "value", value, "on or off")),
    }
}
