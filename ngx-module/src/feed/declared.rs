//! What nginx.conf declares, as the control plane reads it in Hello.

use pincer_core::limit::{ClassSettings, Per, Rate};
use pincer_proto::v1;

/// A class of nginx.conf.
pub(crate) fn class(name: &str, settings: &ClassSettings) -> v1::DeclaredClass {
    v1::DeclaredClass { name: name.to_owned(), settings: Some(class_settings(settings)) }
}

/// A class' settings, as the wire has them.
pub(super) fn class_settings(settings: &ClassSettings) -> v1::ClassSettings {
    v1::ClassSettings {
        rate: settings.rate.map(rate),
        burst: settings.burst,
        delay: settings.delay,
        concurrency: settings.concurrency,
        bandwidth: settings.bandwidth,
        priority: settings.priority.map(u32::from),
        share: settings.share.map(u32::from),
        queue: settings.queue,
        queue_timeout: settings.queue_timeout_ms.map(duration),
    }
}

fn rate(rate: Rate) -> v1::Rate {
    let period = match rate.per {
        Per::Second => v1::RatePeriod::Second,
        Per::Minute => v1::RatePeriod::Minute,
    };
    v1::Rate { requests: rate.requests, period: period.into() }
}

fn duration(ms: u32) -> prost_types::Duration {
    // Below a thousand million: it fits.
    let nanos = i32::try_from(ms % 1_000 * 1_000_000).unwrap_or(0);
    prost_types::Duration { seconds: i64::from(ms / 1_000), nanos }
}
