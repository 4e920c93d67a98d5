//! The JSON of `pincer_status`: our own format, written straight into a string.
//!
//! Keys never change their meaning; new ones may be added. Durations are in milliseconds with three
//! decimals, absent ones `null`. Names come from configuration and are escaped all the same.
//! Decides nothing, reads only a snapshot. Cost: linear in peers.

mod classes;
mod json;

use core::fmt::{self, Write};

use json::{Json, write_layers};

use crate::breaker::State;
use crate::digest::{Algorithm, Hashed};
use crate::pick::WHY_NAMES;
use crate::time::MonoNs;
use crate::zone::{
    BodiesSnapshot, CACHE_STATUSES, PeerSnapshot, PeerState, Signal, UpstreamSnapshot, WHYS, ZoneSnapshot,
};

/// What the writer knows besides the zone.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The addresses of `pincer_control_plane`, in their order; empty without one.
    pub addresses: &'a [&'a str],
    /// The configuration generation that has these addresses.
    pub generation: u32,
    /// The path in `state=`; `None` without one.
    pub state_path: Option<&'a str>,
    /// The moment of the snapshot.
    pub now: MonoNs,
}

/// A peer's state as it is shown.
pub const fn state_name(state: PeerState) -> &'static str {
    match state {
        PeerState::Active => "active",
        PeerState::Draining => "draining",
        PeerState::Down => "down",
    }
}

/// A breaker's state as it is shown.
pub const fn breaker_name(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half_open",
    }
}

const fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::FirstByte => "first_byte",
        Signal::Header => "header",
        Signal::LastByte => "last_byte",
    }
}

/// Writes the whole zone as one JSON object and a line feed. Fails only when `out` does.
pub fn write_json(zone: &ZoneSnapshot, context: &Context<'_>, out: &mut impl Write) -> fmt::Result {
    let mut json = Json::new(out);
    json.open('{')?;
    json.number("revision", zone.revision)?;
    json.number("generation", zone.generation.into())?;
    json.number("unknown", zone.unknown)?;
    write_control_plane(zone, context, &mut json)?;
    write_state_file(zone, context, &mut json)?;
    write_workers(zone, &mut json)?;
    json.key("counters")?;
    json.open('{')?;
    for counter in &zone.counters {
        json.number(counter.name, counter.value)?;
    }
    json.close('}')?;
    write_bodies(&zone.bodies, &mut json)?;
    json.key("peer_records")?;
    json.open('{')?;
    json.number("free", zone.peers_free.0 as u64)?;
    json.number("size", zone.peers_free.1 as u64)?;
    json.close('}')?;
    json.key("upstreams")?;
    json.open('[')?;
    for upstream in &zone.upstreams {
        write_upstream(upstream, &mut json)?;
    }
    json.close(']')?;
    classes::write(zone, &mut json)?;
    json.close('}')?;
    json.line_feed()
}

fn write_bodies<W: Write>(bodies: &BodiesSnapshot, json: &mut Json<'_, W>) -> fmt::Result {
    json.key("bodies")?;
    json.open('{')?;
    for (algorithm, (forms, bytes)) in Algorithm::ALL.iter().zip(bodies.digests.iter().zip(bodies.bytes)) {
        json.key(algorithm.name())?;
        json.open('{')?;
        for (form, count) in Hashed::ALL.iter().zip(forms) {
            json.number(form.name(), *count)?;
        }
        json.number("bytes", bytes)?;
        json.close('}')?;
    }
    json.number("uncacheable", bodies.uncacheable)?;
    json.close('}')?;
    json.key("cache")?;
    json.open('{')?;
    for (status, count) in CACHE_STATUSES.iter().zip(bodies.cache) {
        json.number(status, count)?;
    }
    json.close('}')
}

fn write_control_plane<W: Write>(zone: &ZoneSnapshot, context: &Context<'_>, json: &mut Json<'_, W>) -> fmt::Result {
    let link = &zone.connection;
    // An old worker may answer while the link is a newer configuration's, which has other
    // addresses.
    let tried = link.address.filter(|_| link.generation == context.generation);
    let address = tried.and_then(|tried| context.addresses.get(tried as usize));
    // Without a control plane there is no link that could be down.
    if context.addresses.is_empty() {
        return json.optional("control_plane", None);
    }
    json.key("control_plane")?;
    json.open('{')?;
    json.boolean("connected", link.connected)?;
    json.text("address", address.copied())?;
    json.text("error", Some(&link.error))?;
    json.millis("age_ms", (link.message.0 != 0).then(|| context.now.since(link.message)))?;
    json.number("reconnects", link.reconnects())?;
    json.number("applied", link.applied)?;
    json.number("refused", link.refused)?;
    json.optional("feed_pid", zone.feed.map(|process| process.pid.into()))?;
    json.close('}')
}

fn write_state_file<W: Write>(zone: &ZoneSnapshot, context: &Context<'_>, json: &mut Json<'_, W>) -> fmt::Result {
    let Some(path) = context.state_path else { return json.optional("state_file", None) };
    json.key("state_file")?;
    json.open('{')?;
    json.text("path", Some(path))?;
    json.text("refused", zone.state_file_refused.map(|refused| refused.to_string()).as_deref())?;
    json.close('}')
}

fn write_workers<W: Write>(zone: &ZoneSnapshot, json: &mut Json<'_, W>) -> fmt::Result {
    json.key("workers")?;
    json.open('[')?;
    for worker in &zone.workers {
        json.open('{')?;
        json.number("pid", worker.process.pid.into())?;
        json.number("generation", worker.generation.into())?;
        json.number("in_flight", worker.in_flight.into())?;
        json.number("waiting", worker.waiting.into())?;
        json.close('}')?;
    }
    json.close(']')
}

fn write_upstream<W: Write>(upstream: &UpstreamSnapshot, json: &mut Json<'_, W>) -> fmt::Result {
    json.open('{')?;
    json.text("name", Some(&upstream.name))?;
    json.text("signal", Some(signal_name(upstream.signal)))?;
    json.key("queue")?;
    json.open('{')?;
    json.number("waiting", upstream.waiting.into())?;
    json.number("size", upstream.queue_size.into())?;
    json.number("timeouts", upstream.timeouts)?;
    json.number("overflows", upstream.overflows)?;
    json.close('}')?;
    json.number("no_peer", upstream.no_peer)?;
    json.number("full", upstream.full)?;
    write_picks(upstream.picks, json)?;
    json.key("peers")?;
    json.open('[')?;
    for peer in &upstream.peers {
        write_peer(peer, json)?;
    }
    json.close(']')?;
    json.close('}')
}

fn write_peer<W: Write>(peer: &PeerSnapshot, json: &mut Json<'_, W>) -> fmt::Result {
    let known = |ns: u64| (ns != 0).then_some(ns);
    json.open('{')?;
    json.text("name", Some(&peer.name))?;
    json.text("server", Some(&peer.server))?;
    json.text("state", Some(state_name(peer.state)))?;
    json.boolean("declared", peer.declared)?;
    json.boolean("added", peer.added)?;
    json.boolean("backup", peer.backup)?;
    let layers = |value: u32| Some(u64::from(value));
    let (below, above) = (layers(peer.weight_configured), peer.weight_live.map(u64::from));
    write_layers(json, "weight", below, above, peer.weight.into())?;
    let (below, above) = (layers(peer.max_conns_configured), peer.max_conns_live.map(u64::from));
    write_layers(json, "max_conns", below, above, peer.max_conns.into())?;
    json.number("slots", peer.slots.into())?;
    json.number("in_flight", peer.in_flight.into())?;
    json.number("without_slot", peer.without_slot.into())?;
    json.millis("service_ms", known(peer.service_ns))?;
    json.millis("first_byte_ms", known(peer.first_byte_ns))?;
    json.millis("hold_ms", known(peer.hold_ns))?;
    json.text("breaker", Some(breaker_name(peer.breaker)))?;
    json.number("breaker_openings", peer.breaker_openings)?;
    json.number("requests", peer.requests())?;
    json.number("failures", peer.failures)?;
    json.number("neutral", peer.neutral)?;
    write_picks(peer.picks, json)?;
    json.close('}')
}

fn write_picks<W: Write>(picks: [u64; WHYS], json: &mut Json<'_, W>) -> fmt::Result {
    json.key("picks")?;
    json.open('{')?;
    for (name, count) in WHY_NAMES.iter().zip(picks) {
        json.number(name, count)?;
    }
    json.close('}')
}
