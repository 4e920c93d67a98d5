//! Rate classes in the control plane: the declarations of nodes, the settings of operators, and the
//! settings in force.
//!
//! Pure: no I/O, no clock. An unset field of a class has the value of nginx.conf, or for an added
//! class the default. Bound: `limits::CLASSES_MAX` classes.

pub mod plan;

use std::time::Duration;

use pincer_proto::{limits, v1};
use serde::{Deserialize, Serialize};

use crate::times;

/// The priority of a class without `priority`.
const PRIORITY_DEFAULT: u8 = 100;
/// The share of a class without `share`, in percent. The sum of shares, which may not exceed 100,
/// does not include it.
const SHARE_DEFAULT: u8 = 5;

/// The time that a rate counts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// `r/s`.
    Second,
    /// `r/m`.
    Minute,
}

/// Requests per time, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// 0 = unlimited.
    pub requests: u32,
    /// The period.
    pub per: Period,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { requests: 0, per: Period::Second };
}

/// The fields of a class; `None` = unset. The store's format: fields may be added, never given
/// another meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The rate of requests that are admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Requests above the rate that are not refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Requests of the burst that are not delayed; `limits::DELAY_NONE` = no request is delayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<u32>,
    /// Requests at once; 0 = unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Bytes per second; 0 = unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// The lower goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Percent of the slots, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<u8>,
    /// Requests that may wait in one queue; 0 = as many as the queue holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// How long a request may wait, in milliseconds; 0 = as long as the queue's own timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout_ms: Option<u32>,
}

/// A field of `Settings`, by its name on the wire.
pub const FIELDS: [&str; 9] =
    ["rate", "burst", "delay", "concurrency", "bandwidth", "priority", "share", "queue", "queue_timeout"];

/// A set of fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mask(u16);

impl Mask {
    /// All fields.
    pub const ALL: Self = Self((1 << FIELDS.len()) - 1);

    /// Adds a field; `false` if there is no such field.
    pub fn add(&mut self, field: &str) -> bool {
        let at = FIELDS.iter().position(|known| *known == field);
        self.0 |= at.map_or(0, |at| 1 << at);
        at.is_some()
    }

    fn has(self, at: usize) -> bool {
        self.0 >> at & 1 == 1
    }

    /// The fields that `settings` sets.
    pub fn of(settings: &Settings) -> Self {
        let set = settings.is_set().into_iter().enumerate().filter(|(_, is_set)| *is_set);
        Self(set.fold(0, |mask, (at, _)| mask | 1 << at))
    }
}

/// A value of a class that is out of range. The fault of whoever set it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given} is not {need}")]
pub struct Fault {
    /// As in `FIELDS`.
    pub field: &'static str,
    given: String,
    need: String,
}

impl Settings {
    fn is_set(&self) -> [bool; FIELDS.len()] {
        let Self { rate, burst, delay, concurrency, bandwidth, priority, share, queue, queue_timeout_ms } = self;
        [
            rate.is_some(),
            burst.is_some(),
            delay.is_some(),
            concurrency.is_some(),
            bandwidth.is_some(),
            priority.is_some(),
            share.is_some(),
            queue.is_some(),
            queue_timeout_ms.is_some(),
        ]
    }

    /// These settings with the fields in `mask` taken from `new`.
    #[must_use]
    pub fn with(self, new: Self, mask: Mask) -> Self {
        fn pick<T>(is_new: bool, new: T, old: T) -> T {
            if is_new { new } else { old }
        }
        Self {
            rate: pick(mask.has(0), new.rate, self.rate),
            burst: pick(mask.has(1), new.burst, self.burst),
            delay: pick(mask.has(2), new.delay, self.delay),
            concurrency: pick(mask.has(3), new.concurrency, self.concurrency),
            bandwidth: pick(mask.has(4), new.bandwidth, self.bandwidth),
            priority: pick(mask.has(5), new.priority, self.priority),
            share: pick(mask.has(6), new.share, self.share),
            queue: pick(mask.has(7), new.queue, self.queue),
            queue_timeout_ms: pick(mask.has(8), new.queue_timeout_ms, self.queue_timeout_ms),
        }
    }

    /// The settings in force: these, and for the unset fields those of nginx.conf.
    #[must_use]
    pub fn over(self, declared: Option<Self>) -> Self {
        let defaults = Self {
            rate: Some(Rate::UNLIMITED),
            burst: Some(0),
            delay: Some(0),
            concurrency: Some(0),
            bandwidth: Some(0),
            priority: Some(PRIORITY_DEFAULT),
            share: Some(SHARE_DEFAULT),
            queue: Some(0),
            queue_timeout_ms: Some(0),
        };
        let declared = declared.unwrap_or_default();
        defaults.with(declared, Mask::of(&declared)).with(self, Mask::of(&self))
    }

    /// Reads and checks the wire's fields.
    pub fn from_proto(given: Option<v1::ClassSettings>) -> Result<Self, Fault> {
        let given = given.unwrap_or_default();
        let count = |field, value: Option<u32>| bounded(field, value, limits::CLASS_COUNT_MAX);
        let delay = match given.delay {
            Some(limits::DELAY_NONE) => Some(limits::DELAY_NONE),
            other => count("delay", other)?,
        };
        Ok(Self {
            rate: given.rate.map(rate).transpose()?,
            burst: count("burst", given.burst)?,
            delay,
            concurrency: count("concurrency", given.concurrency)?,
            bandwidth: bounded("bandwidth", given.bandwidth, limits::BANDWIDTH_MAX)?,
            priority: bounded("priority", given.priority, limits::PRIORITY_MAX)?.and_then(|n| u8::try_from(n).ok()),
            share: bounded("share", given.share, limits::SHARE_MAX)?.and_then(|n| u8::try_from(n).ok()),
            queue: count("queue", given.queue)?,
            queue_timeout_ms: given.queue_timeout.map(timeout_ms).transpose()?,
        })
    }

    /// The same, for the wire.
    pub fn to_proto(self) -> v1::ClassSettings {
        let rate = |rate: Rate| v1::Rate {
            requests: rate.requests,
            period: match rate.per {
                Period::Second => v1::RatePeriod::Second,
                Period::Minute => v1::RatePeriod::Minute,
            }
            .into(),
        };
        let timeout = |ms: u32| Duration::from_millis(ms.into()).try_into().ok();
        v1::ClassSettings {
            rate: self.rate.map(rate),
            burst: self.burst,
            delay: self.delay,
            concurrency: self.concurrency,
            bandwidth: self.bandwidth,
            priority: self.priority.map(u32::from),
            share: self.share.map(u32::from),
            queue: self.queue,
            queue_timeout: self.queue_timeout_ms.and_then(timeout),
        }
    }
}

fn bounded<T: PartialOrd + std::fmt::Display>(
    field: &'static str,
    value: Option<T>,
    max: T,
) -> Result<Option<T>, Fault> {
    match value {
        Some(value) if value > max => Err(Fault { field, given: value.to_string(), need: format!("in 0 to {max}") }),
        fine => Ok(fine),
    }
}

fn rate(given: v1::Rate) -> Result<Rate, Fault> {
    let per = match v1::RatePeriod::try_from(given.period) {
        Ok(v1::RatePeriod::Second) => Period::Second,
        Ok(v1::RatePeriod::Minute) => Period::Minute,
        Ok(v1::RatePeriod::Unspecified) | Err(_) => {
            let given = format!("a period of {}", given.period);
            return Err(Fault { field: "rate", given, need: "one of second and minute".to_owned() });
        }
    };
    bounded("rate", Some(given.requests), limits::RATE_MAX)?;
    Ok(Rate { requests: given.requests, per })
}

fn timeout_ms(given: prost_types::Duration) -> Result<u32, Fault> {
    let time = times::span(given).filter(|time| time.subsec_nanos() % 1_000_000 == 0);
    let ms = time.map(|time| time.as_millis()).filter(|ms| *ms <= limits::QUEUE_TIMEOUT_MS_MAX.into());
    ms.and_then(|ms| u32::try_from(ms).ok()).ok_or_else(|| Fault {
        field: "queue_timeout",
        given: given.to_string(),
        need: "0 to 1 day in whole milliseconds".to_owned(),
    })
}

/// The stored record of a class. The store's format: fields may be added, never given another
/// meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The settings that operators made.
    #[serde(default)]
    pub settings: Settings,
    /// An operator added the class.
    #[serde(default)]
    pub added: bool,
    /// The last revision that changed it.
    pub revision: u64,
}

impl Record {
    /// The message for nodes; `None` if there is nothing to send.
    pub fn config(&self, name: &str) -> Option<v1::ClassConfig> {
        let says_anything = self.added || self.settings != Settings::default();
        says_anything.then(|| v1::ClassConfig {
            name: name.to_owned(),
            settings: Some(self.settings.to_proto()),
            added: self.added,
        })
    }
}

/// A class as a node declares it. It is stored with the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// What nginx.conf says.
    #[serde(default)]
    pub settings: Settings,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> v1::ClassSettings {
        v1::ClassSettings {
            rate: Some(v1::Rate { requests: 30, period: v1::RatePeriod::Minute.into() }),
            burst: Some(1_000_000),
            delay: Some(limits::DELAY_NONE),
            concurrency: Some(0),
            bandwidth: Some(1 << 40),
            priority: Some(255),
            share: Some(100),
            queue: Some(1),
            queue_timeout: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        }
    }

    #[test]
    fn settings_come_back_from_the_wire_and_the_store_as_they_were() {
        let settings = Settings::from_proto(Some(all())).unwrap();
        assert_eq!(settings.to_proto(), all());
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
        assert_eq!(serde_json::to_string(&Settings::default()).unwrap(), "{}");
        assert_eq!(Settings::from_proto(None), Ok(Settings::default()));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        type Spoil = fn(&mut v1::ClassSettings);
        let spoil: [(&str, Spoil); 12] = [
            ("rate", |s| s.rate = Some(v1::Rate { requests: 1, period: 0 })),
            ("rate", |s| s.rate = Some(v1::Rate { requests: 1, period: 9 })),
            ("rate", |s| s.rate = Some(v1::Rate { requests: 1_000_000_001, period: 1 })),
            ("burst", |s| s.burst = Some(1_000_001)),
            ("delay", |s| s.delay = Some(u32::MAX - 1)),
            ("concurrency", |s| s.concurrency = Some(u32::MAX)),
            ("bandwidth", |s| s.bandwidth = Some(u64::MAX)),
            ("priority", |s| s.priority = Some(256)),
            ("share", |s| s.share = Some(101)),
            ("queue", |s| s.queue = Some(1_000_001)),
            ("queue_timeout", |s| s.queue_timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
            ("queue_timeout", |s| s.queue_timeout = Some(prost_types::Duration { seconds: 86_401, nanos: 0 })),
        ];
        for (field, spoil) in spoil {
            let mut given = all();
            spoil(&mut given);
            assert_eq!(Settings::from_proto(Some(given)).map_err(|fault| fault.field), Err(field));
        }
    }

    #[test]
    fn an_override_lies_over_nginx_conf_and_that_over_the_defaults() {
        let declared = Settings { burst: Some(20), priority: Some(200), ..Settings::default() };
        let set = Settings { burst: Some(0), share: Some(50), ..Settings::default() };
        let force = set.over(Some(declared));
        assert_eq!((force.burst, force.priority, force.share), (Some(0), Some(200), Some(50)));
        assert_eq!((force.rate, force.concurrency), (Some(Rate::UNLIMITED), Some(0)));
        assert_eq!(Mask::of(&force), Mask::ALL);
        assert_eq!(force.with(Settings::default(), Mask::ALL), Settings::default());
    }
}
