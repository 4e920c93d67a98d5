//! The metrics of request bodies and of nginx's cache where `pincer_body_hash` is on. Names are a
//! contract with dashboards.

use core::fmt::{self, Write};

use super::families::{counter, single};
use super::writer::{Exposition, Family, Kind};
use crate::digest::{Algorithm, Hashed};
use crate::zone::{BodiesSnapshot, CACHE_STATUSES};

pub(super) fn write<W: Write>(bodies: &BodiesSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    let digests = counter("pincer_body_digests", "Request bodies hashed, by algorithm and by what was hashed.");
    out.family(&digests)?;
    for (algorithm, forms) in Algorithm::ALL.iter().zip(bodies.digests) {
        for (form, count) in Hashed::ALL.iter().zip(forms) {
            out.number(&digests, &[("algorithm", algorithm.name()), ("form", form.name())], count)?;
        }
    }
    let help = "Bytes of request bodies hashed.";
    let bytes = Family { name: "pincer_body_hashed_bytes", kind: Kind::Counter, unit: "bytes", help };
    out.family(&bytes)?;
    for (algorithm, count) in Algorithm::ALL.iter().zip(bodies.bytes) {
        out.number(&bytes, &[("algorithm", algorithm.name())], count)?;
    }
    single(out, counter("pincer_body_uncacheable", "Requests with a body that has no digest."), bodies.uncacheable)?;
    let cache = counter("pincer_cache_requests", "Requests where bodies are hashed, by what nginx's cache did.");
    out.family(&cache)?;
    for (status, count) in CACHE_STATUSES.iter().zip(bodies.cache) {
        out.number(&cache, &[("status", status)], count)?;
    }
    Ok(())
}
