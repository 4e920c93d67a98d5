//! The metrics of classes. Names are a contract with dashboards; the only label of a request is its
//! class and what became of it, never its key.

use core::fmt::{self, Write};

use super::families::{counter, gauge, seconds};
use super::writer::{Exposition, Family, Kind};
use crate::zone::{ClassSnapshot, ZoneSnapshot};

type Read = fn(&ClassSnapshot) -> u64;

/// What became of a class' requests.
const RESULTS: [(&str, Read); 5] = [
    ("passed", |class| class.passed),
    ("delayed", |class| class.delayed),
    ("rejected_rate", |class| class.rejected_rate),
    ("rejected_concurrency", |class| class.rejected_concurrency),
    ("rejected_dry_run", |class| class.rejected_dry_run),
];

/// Writes all families of classes; only their metadata when there is none.
pub(super) fn write<W: Write>(zone: &ZoneSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    let requests = counter("pincer_class_requests", "Requests held to the class, by what became of them.");
    out.family(&requests)?;
    for class in &zone.classes {
        for (result, read) in RESULTS {
            out.number(&requests, &[("class", &class.name), ("result", result)], read(class))?;
        }
    }
    let bytes = |name, kind, help| Family { name, kind, unit: "bytes", help };
    let numbers: [(Family, Read); 8] = [
        (bytes("pincer_class_sent_bytes", Kind::Counter, "Bytes of responses."), |class| class.bytes),
        (gauge("pincer_class_in_flight", "Requests that hold something of the class."), |class| class.in_flight.into()),
        (gauge("pincer_class_waiting", "Requests that wait in queues."), |class| class.waiting.into()),
        (counter("pincer_class_queue_timeouts", "Requests that waited too long."), |class| class.queue_timeouts),
        (counter("pincer_class_queue_overflows", "Requests that found or kept no place in a queue."), |class| {
            class.queue_overflows
        }),
        (gauge("pincer_class_concurrency", "Requests at once per key; 0 is unlimited."), |class| {
            class.effective.concurrency.into()
        }),
        (gauge("pincer_class_priority", "Place in the queue; the lower one goes first."), |class| {
            class.effective.priority.into()
        }),
        (bytes("pincer_class_bandwidth_bytes", Kind::Gauge, "Bytes per second and key; 0 is unlimited."), |class| {
            class.effective.bandwidth
        }),
    ];
    for (family, read) in numbers {
        out.family(&family)?;
        for class in &zone.classes {
            out.number(&family, &[("class", &class.name)], read(class))?;
        }
    }
    let waits = seconds("pincer_class_queue_wait_seconds", Kind::Histogram, "Time spent in queues.");
    out.family(&waits)?;
    for class in &zone.classes {
        out.histogram(&waits, &[("class", &class.name)], &class.queue_times)?;
    }
    Ok(())
}
