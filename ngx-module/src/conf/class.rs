//! `pincer_class NAME [rate=N r/s|r/m] [burst=N] [nodelay|delay=N] [concurrency=N] [bandwidth=SIZE]
//! [priority=N] [share=N] [queue=N] [queue_timeout=TIME]`.

use super::args;
use super::error::{ConfError, Problem};
use pincer_core::limit::{
    BANDWIDTH_MAX, COUNT_MAX, ClassSettings, DELAY_NONE, QUEUE_TIMEOUT_MS_MAX, RATE_MAX, Rate, SHARE_MAX,
};

const NAME: &str = "pincer_class";
const KNOWN: &str =
    "rate=, burst=, nodelay, delay=, concurrency=, bandwidth=, priority=, share=, queue= and queue_timeout=";

/// Longest name, which the control plane takes too.
const CLASS_NAME_BYTES_MAX: usize = 64;

/// A class as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassArgs {
    pub(crate) name: String,
    pub(crate) settings: ClassSettings,
}

pub(crate) fn parse(arguments: &[&[u8]]) -> Result<ClassArgs, ConfError> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(ConfError::new(NAME, Problem::Missing { what: "name", need: "a name" }));
    };
    let name = class_name(NAME, args::text(NAME, name)?)?.to_owned();
    let mut settings = ClassSettings::default();
    for argument in rest {
        parameter(args::text(NAME, argument)?, &mut settings)?;
    }
    if settings.rate.is_none() && (settings.burst.is_some() || settings.delay.is_some()) {
        return Err(ConfError::new(NAME, Problem::NoRate { class: name }));
    }
    Ok(ClassArgs { name, settings })
}

/// Checks a class' name.
pub(crate) fn class_name<'a>(directive: &'static str, name: &'a str) -> Result<&'a str, ConfError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=CLASS_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(known) {
        return Ok(name);
    }
    Err(ConfError::invalid(directive, "class name", name, "1 to 64 of A-Za-z0-9._-"))
}

fn parameter(argument: &str, settings: &mut ClassSettings) -> Result<(), ConfError> {
    let count = |key: &'static str, value: &str| {
        args::count(value)
            .and_then(|count| u32::try_from(count).ok())
            .filter(|&count| count <= COUNT_MAX)
            .ok_or_else(|| ConfError::invalid(NAME, key, value, "a count from 0 to 1000000"))
    };
    let small = |key: &'static str, value: &str, max: u8| {
        args::count(value.strip_suffix('%').filter(|_| key == "share").unwrap_or(value))
            .and_then(|count| u8::try_from(count).ok())
            .filter(|&count| count <= max)
            .ok_or_else(|| ConfError::invalid(NAME, key, value, format!("a number from 0 to {max}")))
    };
    match argument.split_once('=') {
        None if argument == "nodelay" => args::set_once(&mut settings.delay, DELAY_NONE, NAME, "nodelay"),
        Some(("rate", value)) => args::set_once(&mut settings.rate, rate(value)?, NAME, "rate"),
        Some(("burst", value)) => args::set_once(&mut settings.burst, count("burst", value)?, NAME, "burst"),
        Some(("delay", value)) => args::set_once(&mut settings.delay, count("delay", value)?, NAME, "delay"),
        Some(("concurrency", value)) => {
            args::set_once(&mut settings.concurrency, count("concurrency", value)?, NAME, "concurrency")
        }
        Some(("bandwidth", value)) => {
            let bytes = args::size_bytes(value).filter(|&bytes| bytes <= BANDWIDTH_MAX).ok_or_else(|| {
                ConfError::invalid(NAME, "bandwidth", value, "bytes a second up to 1024g, as in 512k")
            })?;
            args::set_once(&mut settings.bandwidth, bytes, NAME, "bandwidth")
        }
        Some(("priority", value)) => {
            args::set_once(&mut settings.priority, small("priority", value, u8::MAX)?, NAME, "priority")
        }
        Some(("share", value)) => args::set_once(&mut settings.share, small("share", value, SHARE_MAX)?, NAME, "share"),
        Some(("queue", value)) => args::set_once(&mut settings.queue, count("queue", value)?, NAME, "queue"),
        Some(("queue_timeout", value)) => {
            let ms = args::time_ms(value)
                .and_then(|ms| u32::try_from(ms).ok())
                .filter(|&ms| ms <= QUEUE_TIMEOUT_MS_MAX)
                .ok_or_else(|| ConfError::invalid(NAME, "queue_timeout", value, "a time up to 1d"))?;
            args::set_once(&mut settings.queue_timeout_ms, ms, NAME, "queue_timeout")
        }
        _ => Err(ConfError::unknown(NAME, argument, KNOWN)),
    }
}

/// `100r/s`, `30r/m`.
fn rate(value: &str) -> Result<Rate, ConfError> {
    let requests = |digits: &str| {
        args::count(digits).and_then(|count| u32::try_from(count).ok()).filter(|count| (1..=RATE_MAX).contains(count))
    };
    let rate = match (value.strip_suffix("r/s"), value.strip_suffix("r/m")) {
        (Some(digits), _) => requests(digits).map(Rate::per_second),
        (_, Some(digits)) => requests(digits).map(Rate::per_minute),
        _ => None,
    };
    rate.ok_or_else(|| ConfError::invalid(NAME, "rate", value, "a rate such as 10r/s or 30r/m, from 1 to 1000000000"))
}
