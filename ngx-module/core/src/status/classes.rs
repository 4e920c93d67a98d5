//! The classes in `pincer_status`: each value as nginx.conf says it, as the control plane says it,
//! and as it is in force.

use core::fmt::{self, Write};

use super::json::{Json, write_layers};
use crate::limit::{DELAY_NONE, Per, Rate};
use crate::zone::{ClassSnapshot, ZoneSnapshot};

/// Writes the list of classes and how many records there are.
pub(super) fn write<W: Write>(zone: &ZoneSnapshot, json: &mut Json<'_, W>) -> fmt::Result {
    json.key("class_records")?;
    json.open('{')?;
    json.number("free", zone.classes_free.0 as u64)?;
    json.number("size", zone.classes_free.1 as u64)?;
    json.close('}')?;
    json.key("classes")?;
    json.open('[')?;
    for class in &zone.classes {
        write_class(class, json)?;
    }
    json.close(']')
}

fn write_class<W: Write>(class: &ClassSnapshot, json: &mut Json<'_, W>) -> fmt::Result {
    json.open('{')?;
    json.text("name", Some(&class.name))?;
    json.boolean("declared", class.declared)?;
    json.boolean("added", class.added)?;
    write_settings(class, json)?;
    json.number("in_flight", class.in_flight.into())?;
    json.number("waiting", class.waiting.into())?;
    json.key("requests")?;
    json.open('{')?;
    json.number("passed", class.passed)?;
    json.number("delayed", class.delayed)?;
    json.number("rejected_rate", class.rejected_rate)?;
    json.number("rejected_concurrency", class.rejected_concurrency)?;
    json.number("rejected_dry_run", class.rejected_dry_run)?;
    json.close('}')?;
    json.number("bytes", class.bytes)?;
    json.number("queue_timeouts", class.queue_timeouts)?;
    json.number("queue_overflows", class.queue_overflows)?;
    json.close('}')
}

fn write_settings<W: Write>(class: &ClassSnapshot, json: &mut Json<'_, W>) -> fmt::Result {
    let ClassSnapshot { configured, live, effective, .. } = class;
    write_texts(json, "rate", [configured.rate, live.rate, Some(effective.rate)].map(|rate| rate.map(rate_text)))?;
    write_numbers(json, "burst", configured.burst, live.burst, effective.burst)?;
    write_texts(
        json,
        "delay",
        [configured.delay, live.delay, Some(effective.delay)].map(|delay| delay.map(delay_text)),
    )?;
    write_numbers(json, "concurrency", configured.concurrency, live.concurrency, effective.concurrency)?;
    write_numbers(json, "bandwidth", configured.bandwidth, live.bandwidth, effective.bandwidth)?;
    write_numbers(json, "priority", configured.priority, live.priority, effective.priority)?;
    write_numbers(json, "share", configured.share, live.share, effective.share)?;
    write_numbers(json, "queue", configured.queue, live.queue, effective.queue)?;
    let (below, above) = (configured.queue_timeout_ms, live.queue_timeout_ms);
    write_numbers(json, "queue_timeout_ms", below, above, effective.queue_timeout_ms)
}

fn write_numbers<W: Write, N: Into<u64>>(
    json: &mut Json<'_, W>,
    key: &str,
    configured: Option<N>,
    live: Option<N>,
    effective: N,
) -> fmt::Result {
    write_layers(json, key, configured.map(Into::into), live.map(Into::into), effective.into())
}

fn write_texts<W: Write>(json: &mut Json<'_, W>, key: &str, layers: [Option<String>; 3]) -> fmt::Result {
    json.key(key)?;
    json.open('{')?;
    for (layer, text) in ["configured", "live", "effective"].iter().zip(&layers) {
        json.text(layer, text.as_deref())?;
    }
    json.close('}')
}

fn rate_text(rate: Rate) -> String {
    match (rate.requests, rate.per) {
        (0, _) => "unlimited".to_owned(),
        (requests, Per::Second) => format!("{requests}r/s"),
        (requests, Per::Minute) => format!("{requests}r/m"),
    }
}

fn delay_text(delay: u32) -> String {
    if delay == DELAY_NONE { "nodelay".to_owned() } else { delay.to_string() }
}
