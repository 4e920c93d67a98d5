//! Our metrics: which there are, and what each of them counts. Names are a contract with
//! dashboards.

use core::fmt::{self, Write};

use super::writer::{Exposition, Family, Kind};
use crate::breaker::State;
use crate::pick::WHY_NAMES;
use crate::status::{Context, breaker_name, state_name};
use crate::zone::{ConnectionState, Counter, PeerSnapshot, PeerState, UpstreamSnapshot, ZoneSnapshot};

pub(super) const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, unit: "", help }
}

pub(super) const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, unit: "", help }
}

pub(super) const fn seconds(name: &'static str, kind: Kind, help: &'static str) -> Family {
    Family { name, kind, unit: "seconds", help }
}

/// The zone and its link to the control plane.
pub(super) fn zone<W: Write>(zone: &ZoneSnapshot, context: &Context<'_>, out: &mut Exposition<'_, W>) -> fmt::Result {
    let link = &zone.connection;
    single(out, gauge("pincer_revision", "Revision of the control plane in force."), zone.revision)?;
    let generation = gauge("pincer_configuration_generation", "Configurations loaded since the zone was made.");
    single(out, generation, zone.generation.into())?;
    let unknown = gauge("pincer_unknown_names", "Upstreams and peers of the revision that this node does not have.");
    single(out, unknown, zone.unknown)?;
    if !context.addresses.is_empty() {
        control_plane(link, context, out)?;
    }
    if context.state_path.is_some() {
        let refused =
            gauge("pincer_state_file_refused", "Whether the state file is refused, since others can write it.");
        single(out, refused, u64::from(zone.state_file_refused.is_some()))?;
    }
    single(out, counter("pincer_revisions_applied", "Revisions put into force."), link.applied)?;
    single(out, counter("pincer_revisions_refused", "Revisions refused."), link.refused)?;
    for Counter { metric, help, value, .. } in &zone.counters {
        single(out, counter(metric, help), *value)?;
    }
    let free = gauge("pincer_zone_free_peers", "Peer records that are free in the zone.");
    single(out, free, zone.peers_free.0 as u64)?;
    single(out, gauge("pincer_zone_peers", "Peer records in the zone."), zone.peers_free.1 as u64)?;
    single(
        out,
        gauge("pincer_zone_free_classes", "Class records that are free in the zone."),
        zone.classes_free.0 as u64,
    )?;
    single(out, gauge("pincer_zone_classes", "Class records in the zone."), zone.classes_free.1 as u64)
}

/// The workers, without their pids: those are no labels.
pub(super) fn workers<W: Write>(zone: &ZoneSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    let family = gauge("pincer_workers", "Worker processes that share the zone.");
    out.family(&family)?;
    out.number(&family, &[], zone.workers.len() as u64)
}

/// Per upstream.
pub(super) fn upstreams<W: Write>(zone: &ZoneSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    type Read = fn(&UpstreamSnapshot) -> u64;
    let numbers: [(Family, Read); 6] = [
        (gauge("pincer_queue_waiting", "Requests that wait for a slot."), |upstream| upstream.waiting.into()),
        (gauge("pincer_queue_size", "Requests that may wait."), |upstream| upstream.queue_size.into()),
        (counter("pincer_queue_timeouts", "Requests that waited too long."), |upstream| upstream.timeouts),
        (counter("pincer_queue_overflows", "Requests that found the queue full."), |upstream| upstream.overflows),
        (counter("pincer_upstream_no_peer", "Claims that found no eligible peer."), |upstream| upstream.no_peer),
        (counter("pincer_upstream_full", "Claims that found all peers full and could not wait."), |upstream| {
            upstream.full
        }),
    ];
    for (family, read) in numbers {
        out.family(&family)?;
        for upstream in &zone.upstreams {
            out.number(&family, &[("upstream", &upstream.name)], read(upstream))?;
        }
    }
    let picks = counter("pincer_picks", "Requests sent to peers, by the reason of the pick.");
    out.family(&picks)?;
    for upstream in &zone.upstreams {
        for (why, count) in WHY_NAMES.iter().zip(upstream.picks) {
            out.number(&picks, &[("upstream", &upstream.name), ("reason", why)], count)?;
        }
    }
    let waits = seconds("pincer_queue_wait_seconds", Kind::Histogram, "Time spent in the queue.");
    out.family(&waits)?;
    for upstream in &zone.upstreams {
        out.histogram(&waits, &[("upstream", &upstream.name)], &upstream.queue_times)?;
    }
    Ok(())
}

/// Per peer.
pub(super) fn peers<W: Write>(zone: &ZoneSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    type Read = fn(&PeerSnapshot) -> u64;
    let numbers: [(Family, Read); 7] = [
        (gauge("pincer_peer_weight", "Weight in force."), |peer| peer.weight.into()),
        (gauge("pincer_peer_slots", "Requests it may have in flight now; 0 is unlimited."), |peer| peer.slots.into()),
        (gauge("pincer_peer_in_flight", "Requests that are under way."), |peer| peer.in_flight.into()),
        (gauge("pincer_peer_without_slot", "Requests that are under way and hold no slot."), |peer| {
            peer.without_slot.into()
        }),
        (counter("pincer_peer_failures", "Requests that failed."), |peer| peer.failures),
        (counter("pincer_peer_neutral", "Requests whose end says nothing about the peer."), |peer| peer.neutral),
        (counter("pincer_peer_breaker_openings", "Times the breaker opened."), |peer| peer.breaker_openings),
    ];
    for (family, read) in numbers {
        out.family(&family)?;
        each_peer(zone, |labels, peer| out.number(&family, labels, read(peer)))?;
    }
    let picks = counter("pincer_peer_requests", "Requests sent to the peer, by the reason of the pick.");
    out.family(&picks)?;
    each_peer(zone, |labels, peer| {
        let by_reason = WHY_NAMES.iter().zip(peer.picks);
        by_reason
            .into_iter()
            .try_for_each(|(why, count)| out.number(&picks, &[labels[0], labels[1], ("reason", why)], count))
    })?;
    states(zone, out)?;
    means(zone, out)?;
    histograms(zone, out)
}

fn states<W: Write>(zone: &ZoneSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    let family = gauge("pincer_peer_state", "1 for the state that the peer is in.");
    out.family(&family)?;
    each_peer(zone, |labels, peer| {
        [PeerState::Active, PeerState::Draining, PeerState::Down].into_iter().try_for_each(|state| {
            let labels = [labels[0], labels[1], ("state", state_name(state))];
            out.number(&family, &labels, u64::from(state == peer.state))
        })
    })?;
    let family = gauge("pincer_peer_breaker", "1 for the state that the breaker is in.");
    out.family(&family)?;
    each_peer(zone, |labels, peer| {
        [State::Closed, State::Open, State::HalfOpen].into_iter().try_for_each(|state| {
            let labels = [labels[0], labels[1], ("state", breaker_name(state))];
            out.number(&family, &labels, u64::from(state == peer.breaker))
        })
    })
}

fn means<W: Write>(zone: &ZoneSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    type Read = fn(&PeerSnapshot) -> u64;
    let means: [(&str, &str, Read); 3] = [
        ("pincer_peer_service_mean_seconds", "Learned mean of the upstream's signal.", |peer| peer.service_ns),
        ("pincer_peer_first_byte_mean_seconds", "Learned mean time to the first byte.", |peer| peer.first_byte_ns),
        ("pincer_peer_hold_mean_seconds", "Learned mean time that a slot is held.", |peer| peer.hold_ns),
    ];
    for (name, help, read) in means {
        let family = seconds(name, Kind::Gauge, help);
        out.family(&family)?;
        each_peer(zone, |labels, peer| match read(peer) {
            0 => Ok(()),
            mean_ns => out.seconds(&family, labels, mean_ns),
        })?;
    }
    Ok(())
}

fn histograms<W: Write>(zone: &ZoneSnapshot, out: &mut Exposition<'_, W>) -> fmt::Result {
    let first_byte =
        seconds("pincer_first_byte_seconds", Kind::Histogram, "Time from the pick to the body's first byte.");
    out.family(&first_byte)?;
    each_peer(zone, |labels, peer| out.histogram(&first_byte, labels, &peer.first_byte_times))?;
    let service =
        seconds("pincer_service_seconds", Kind::Histogram, "Time that a request which succeeded held its slot.");
    out.family(&service)?;
    each_peer(zone, |labels, peer| out.histogram(&service, labels, &peer.service_times))
}

/// Calls `write` with the two labels of every peer.
fn each_peer(
    zone: &ZoneSnapshot,
    mut write: impl FnMut(&[(&'static str, &str); 2], &PeerSnapshot) -> fmt::Result,
) -> fmt::Result {
    for upstream in &zone.upstreams {
        for peer in &upstream.peers {
            write(&[("upstream", &upstream.name), ("peer", &peer.name)], peer)?;
        }
    }
    Ok(())
}

/// The link to the control plane; left out where none is configured, so that nobody is alerted of
/// it.
fn control_plane<W: Write>(link: &ConnectionState, context: &Context<'_>, out: &mut Exposition<'_, W>) -> fmt::Result {
    let connected = gauge("pincer_control_plane_connected", "Whether the stream to the control plane stands.");
    single(out, connected, u64::from(link.connected))?;
    if link.message.0 != 0 {
        let age = seconds("pincer_control_plane_age_seconds", Kind::Gauge, "Time since the control plane was heard.");
        out.family(&age)?;
        out.seconds(&age, &[], context.now.since(link.message))?;
    }
    let reconnects = counter("pincer_control_plane_reconnects", "Connections to the control plane after the first.");
    single(out, reconnects, link.reconnects())
}

/// A family of one number without labels.
pub(super) fn single<W: Write>(out: &mut Exposition<'_, W>, family: Family, value: u64) -> fmt::Result {
    out.family(&family)?;
    out.number(&family, &[], value)
}
