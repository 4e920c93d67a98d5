//! What goes up to the control plane once a second: a copy of the zone in the wire's words. Names,
//! numbers and states only, never anything of a request.

use pincer_core::breaker::State;
use pincer_core::limit::{ClassSettings, Effective};
use pincer_core::zone::{ClassSnapshot, PeerSnapshot, PeerState, UpstreamSnapshot, ZoneSnapshot};
use pincer_proto::v1;

use super::declared::class_settings;

/// The snapshot as the control plane reads it.
pub(crate) fn of(zone: &ZoneSnapshot) -> v1::Stats {
    v1::Stats {
        upstreams: zone.upstreams.iter().map(upstream).collect(),
        classes: zone.classes.iter().map(class).collect(),
    }
}

fn upstream(upstream: &UpstreamSnapshot) -> v1::UpstreamStats {
    v1::UpstreamStats {
        name: upstream.name.clone(),
        waiting: upstream.waiting,
        peers: upstream.peers.iter().map(peer).collect(),
    }
}

fn peer(peer: &PeerSnapshot) -> v1::PeerStats {
    let state = match peer.state {
        PeerState::Active => v1::PeerState::Active,
        PeerState::Draining => v1::PeerState::Draining,
        PeerState::Down => v1::PeerState::Down,
    };
    let breaker = match peer.breaker {
        State::Closed => v1::BreakerState::Closed,
        State::Open => v1::BreakerState::Open,
        State::HalfOpen => v1::BreakerState::HalfOpen,
    };
    v1::PeerStats {
        address: peer.name.clone(),
        in_flight: peer.in_flight,
        requests: peer.requests(),
        failures: peer.failures,
        service_time: duration(peer.hold_ns),
        first_byte: duration(peer.first_byte_ns),
        breaker: breaker.into(),
        weight: peer.weight,
        max_conns: peer.max_conns,
        state: state.into(),
    }
}

fn class(class: &ClassSnapshot) -> v1::ClassStats {
    v1::ClassStats {
        name: class.name.clone(),
        in_flight: class.in_flight.into(),
        waiting: class.waiting.into(),
        passed: class.passed,
        delayed: class.delayed,
        rejected: class.rejected_rate.saturating_add(class.rejected_concurrency),
        rejected_dry_run: class.rejected_dry_run,
        bytes: class.bytes,
        queued: class.queue_times.count,
        queue_time: duration(class.queue_times.sum_ns),
        settings: Some(class_settings(&said(&class.effective))),
    }
}

/// What is in force, with each field said.
fn said(effective: &Effective) -> ClassSettings {
    let Effective { rate, burst, delay, concurrency, bandwidth, priority, share, queue, queue_timeout_ms } = *effective;
    ClassSettings {
        rate: Some(rate),
        burst: Some(burst),
        delay: Some(delay),
        concurrency: Some(concurrency),
        bandwidth: Some(bandwidth),
        priority: Some(priority),
        share: Some(share),
        queue: Some(queue),
        queue_timeout_ms: Some(queue_timeout_ms),
    }
}

/// 0 is "no sample yet".
fn duration(ns: u64) -> Option<prost_types::Duration> {
    (ns != 0).then(|| prost_types::Duration::try_from(std::time::Duration::from_nanos(ns)).ok()).flatten()
}
