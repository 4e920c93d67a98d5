//! The text of `pincer_metrics`: Prometheus' exposition format 0.0.4, or OpenMetrics 1.0 for who
//! asks for it.
//!
//! Names end in their base unit, counters in `_total`; every family has its lines together,
//! metadata first. Labels are upstreams, peers, classes and words of our own: all from
//! configuration, so their number is bounded by the zone. Decides nothing, reads only a snapshot.
//! Cost: linear in peers × families.

mod bodies;
mod classes;
mod families;
mod writer;

use core::fmt::{self, Write};

use crate::status::Context;
use crate::zone::ZoneSnapshot;
use writer::Exposition;

/// The two dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`: units, exact counter names, an end mark.
    OpenMetrics,
}

impl Format {
    /// The dialect for a request's `Accept` header: OpenMetrics when it is named, else Prometheus.
    pub fn of_accept(accept: &[u8]) -> Self {
        let wanted = b"application/openmetrics-text";
        let named = accept.windows(wanted.len()).any(|window| window.eq_ignore_ascii_case(wanted));
        if named { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The response's `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes the whole zone. Fails only when `out` does.
pub fn write(zone: &ZoneSnapshot, context: &Context<'_>, format: Format, out: &mut impl Write) -> fmt::Result {
    let mut exposition = Exposition::new(format, out);
    families::zone(zone, context, &mut exposition)?;
    families::workers(zone, &mut exposition)?;
    families::upstreams(zone, &mut exposition)?;
    families::peers(zone, &mut exposition)?;
    classes::write(zone, &mut exposition)?;
    bodies::write(&zone.bodies, &mut exposition)?;
    exposition.end()
}
