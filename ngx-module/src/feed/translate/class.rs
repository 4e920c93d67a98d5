//! Checks the classes of a snapshot. Whether a class is this nginx's, and whether shares and room
//! suffice, is the zone's to say.

use pincer_core::limit::{ClassSettings, Per, Rate};
use pincer_core::zone::ClassOverlay;
use pincer_proto::limits;
use pincer_proto::v1::{self, ClassConfig, RatePeriod};

use super::shown::shown;

/// Why a class is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClassFault {
    /// Too many.
    #[error("{0} classes are too many, at most {max} are allowed", max = limits::CLASSES_MAX)]
    Count(usize),
    /// No name that a class can have.
    #[error("class name {given:?} of {bytes} bytes is invalid, 1 to {max} of A-Z a-z 0-9 . _ - are needed", max = limits::CLASS_NAME_BYTES_MAX)]
    Name {
        /// The name, cut.
        given: String,
        /// Its length.
        bytes: usize,
    },
    /// A number is out of range.
    #[error("{field} {value} is out of range, 0 to {max} is needed: the {field} of class {class:?}")]
    Value {
        /// As on the wire.
        field: &'static str,
        /// What was given.
        value: u64,
        /// The most allowed.
        max: u64,
        /// The class.
        class: String,
    },
    /// The rate counts over no known time.
    #[error("period {period} is unknown, 1 to 2 is needed: the rate of class {class:?}")]
    Period {
        /// What was given.
        period: i32,
        /// The class.
        class: String,
    },
    /// The time is negative, too long, or finer than milliseconds.
    #[error(
        "queue_timeout of {seconds} s and {nanos} ns is out of range, 0 to 1 day in whole milliseconds is needed: the queue_timeout of class {class:?}"
    )]
    Timeout {
        /// As given.
        seconds: i64,
        /// As given.
        nanos: i32,
        /// The class.
        class: String,
    },
}

/// Whether `name` is one to `bytes_max` plain characters; `more` are allowed too.
pub(super) fn is_plain(name: &str, bytes_max: usize, more: &[u8]) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || more.contains(&byte);
    !name.is_empty() && name.len() <= bytes_max && name.bytes().all(fine)
}

/// Checks all classes; the zone finds what is given twice.
pub(super) fn check(classes: &[ClassConfig]) -> Result<Vec<ClassOverlay<'_>>, ClassFault> {
    if classes.len() > limits::CLASSES_MAX {
        return Err(ClassFault::Count(classes.len()));
    }
    classes.iter().map(check_one).collect()
}

fn check_one(config: &ClassConfig) -> Result<ClassOverlay<'_>, ClassFault> {
    let name = config.name.as_str();
    if !is_plain(name, limits::CLASS_NAME_BYTES_MAX, b"") {
        return Err(ClassFault::Name { given: shown(name), bytes: name.len() });
    }
    let settings = config.settings.as_ref().map_or(Ok(ClassSettings::default()), |given| settings(name, given))?;
    Ok(ClassOverlay { name: name.as_bytes(), settings, added: config.added })
}

fn settings(class: &str, given: &v1::ClassSettings) -> Result<ClassSettings, ClassFault> {
    let bounded = |field, value: Option<u64>, max: u64| match value.filter(|&value| value > max) {
        Some(value) => Err(ClassFault::Value { field, value, max, class: class.to_owned() }),
        None => Ok(value),
    };
    // What passes its bound fits its type.
    let count = |field, value: Option<u32>, max: u32| {
        bounded(field, value.map(u64::from), max.into())?;
        Ok(value)
    };
    let small = |field, value, max| Ok(count(field, value, max)?.and_then(|value| u8::try_from(value).ok()));
    let delay = given.delay.filter(|&delay| delay != limits::DELAY_NONE);
    count("delay", delay, limits::CLASS_COUNT_MAX)?;
    Ok(ClassSettings {
        rate: given.rate.as_ref().map(|given| rate(class, given)).transpose()?,
        burst: count("burst", given.burst, limits::CLASS_COUNT_MAX)?,
        delay: given.delay,
        concurrency: count("concurrency", given.concurrency, limits::CLASS_COUNT_MAX)?,
        bandwidth: bounded("bandwidth", given.bandwidth, limits::BANDWIDTH_MAX)?,
        priority: small("priority", given.priority, limits::PRIORITY_MAX)?,
        share: small("share", given.share, limits::SHARE_MAX)?,
        queue: count("queue", given.queue, limits::CLASS_COUNT_MAX)?,
        queue_timeout_ms: given.queue_timeout.as_ref().map(|given| timeout_ms(class, given)).transpose()?,
    })
}

fn rate(class: &str, given: &v1::Rate) -> Result<Rate, ClassFault> {
    if given.requests > limits::RATE_MAX {
        let (value, max) = (given.requests.into(), limits::RATE_MAX.into());
        return Err(ClassFault::Value { field: "rate", value, max, class: class.to_owned() });
    }
    let per = match RatePeriod::try_from(given.period) {
        Ok(RatePeriod::Second) => Per::Second,
        Ok(RatePeriod::Minute) => Per::Minute,
        Ok(RatePeriod::Unspecified) | Err(_) => {
            return Err(ClassFault::Period { period: given.period, class: class.to_owned() });
        }
    };
    Ok(Rate { requests: given.requests, per })
}

fn timeout_ms(class: &str, given: &prost_types::Duration) -> Result<u32, ClassFault> {
    const MS_NS: i32 = 1_000_000;
    let refused = || ClassFault::Timeout { seconds: given.seconds, nanos: given.nanos, class: class.to_owned() };
    let in_range = given.seconds >= 0 && (0..1_000 * MS_NS).contains(&given.nanos) && given.nanos % MS_NS == 0;
    let parts = (u64::try_from(given.seconds).ok(), u64::try_from(given.nanos / MS_NS).ok());
    let (Some(seconds), Some(ms)) = parts else { return Err(refused()) };
    let ms = seconds.checked_mul(1_000).and_then(|whole| whole.checked_add(ms));
    let ms = ms.filter(|&ms| in_range && ms <= limits::QUEUE_TIMEOUT_MS_MAX);
    ms.and_then(|ms| u32::try_from(ms).ok()).ok_or_else(refused)
}
