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
mod format;
mod writer;

use core::fmt::{self, Write};

pub use format::Format;

use crate::status::Context;
use crate::zone::ZoneSnapshot;
use writer::Exposition;

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
