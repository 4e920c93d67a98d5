//! The zone under threads that stand for worker processes: slots, deaths, reclaims, live changes,
//! all at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod zone_support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use pincer_core::zone::{
    Claim, HeapZone, Overlay, PeerOverlay, PeerState, ProcessId, QueueClass, Ticket, UpstreamIdx, UpstreamOverlay,
    WorkerIdx, Zone,
};
use zone_support::*;

const THREADS: u32 = 4;
const ROUNDS: u32 = 20_000;

/// SplitMix64: a stream of its own for every thread.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn claim(zone: &Zone<'_>, u: UpstreamIdx, w: WorkerIdx, seed: &mut u64) -> Option<Ticket> {
    match zone.claim(u, w, &demand(random(seed), true), &PARAMS, NOW).claim {
        Claim::Taken(ticket) => Some(ticket),
        _ => None,
    }
}

#[test]
fn grants_never_exceed_the_slots_and_no_count_is_lost() {
    let slots = [1, 2, 3, 1];
    let (heap, u) = pool(&[spec("p0:1", 1), spec("p1:1", 2), spec("p2:1", 3), spec("p3:1", 1)]);
    let holders: [AtomicU32; 4] = Default::default();
    let granted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (zone, holders, granted) = (heap.zone(), &holders, &granted);
            scope.spawn(move || {
                let w = join(&zone, thread + 1);
                let mut seed = u64::from(thread);
                let mut held: Vec<Ticket> = Vec::new();
                for _ in 0..ROUNDS {
                    if random(&mut seed).is_multiple_of(2) {
                        if let Some(ticket) = claim(&zone, u, w, &mut seed) {
                            let index = usize::from(ticket.index);
                            assert!(holders[index].fetch_add(1, SeqCst) < slots[index], "peer {index} over its slots");
                            granted.fetch_add(1, SeqCst);
                            held.push(ticket);
                        }
                    } else if let Some(ticket) = held.pop() {
                        holders[usize::from(ticket.index)].fetch_sub(1, SeqCst);
                        zone.release(ticket, w, GOOD, &PARAMS, NOW, random(&mut seed));
                    }
                }
                for ticket in held {
                    holders[usize::from(ticket.index)].fetch_sub(1, SeqCst);
                    zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
                }
            });
        }
    });
    let peers = heap.zone().snapshot(NOW).upstreams.remove(0).peers;
    assert_eq!(peers.iter().map(|peer| peer.in_flight).sum::<u32>(), 0);
    assert_eq!(peers.iter().map(|peer| peer.requests()).sum::<u64>(), granted.load(SeqCst));
    assert_eq!(peers.iter().map(|peer| peer.service_times.count).sum::<u64>(), granted.load(SeqCst));
    assert_eq!(heap.zone().header.counters.unbalanced.load(SeqCst), 0);
}

/// The processes that live, as the system would know them.
#[derive(Default)]
struct System {
    live: Mutex<Vec<ProcessId>>,
    pids: AtomicU32,
}

impl System {
    fn spawn(&self) -> ProcessId {
        let me = process(self.pids.fetch_add(1, SeqCst) + 1);
        self.live.lock().unwrap().push(me);
        me
    }

    fn kill(&self, victim: ProcessId) {
        self.live.lock().unwrap().retain(|process| *process != victim);
    }

    fn is_alive(&self, process: ProcessId) -> bool {
        self.live.lock().unwrap().contains(&process)
    }
}

/// A life of a worker: claims, waits, releases, and either leaves in order or dies with what it
/// holds. Returns its last holdings.
fn live_and_end(zone: &Zone<'_>, u: UpstreamIdx, system: &System, seed: &mut u64) {
    let me = system.spawn();
    let w = loop {
        zone.reclaim_dead(me, |process| system.is_alive(process));
        if let Some(w) = zone.worker_join(me, 1) {
            break w;
        }
    };
    let mut held = Vec::new();
    let mut waiting: Vec<u64> = Vec::new();
    for _ in 0..random(seed) % 200 {
        match random(seed) % 4 {
            0 | 1 => held.extend(claim(zone, u, w, seed)),
            2 => {
                let place = zone.queue_enter(u, w, QueueClass::NONE, 50, &plain, NOW);
                waiting.extend(place.map(|place| place.sequence));
                if random(seed) % 8 < 6 && !waiting.is_empty() {
                    waiting.remove(0);
                    let ends = waiting.first().copied().zip(waiting.last().copied());
                    zone.queue_leave(u, w, 0, ends);
                }
            }
            _ => {
                if let Some(ticket) = held.pop() {
                    zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
                }
            }
        }
        if random(seed).is_multiple_of(16) {
            zone.reclaim_dead(me, |process| system.is_alive(process));
        }
    }
    if random(seed).is_multiple_of(2) {
        held.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
        zone.worker_leave(w);
    }
    system.kill(me);
}

#[test]
fn reclaiming_is_exact_when_workers_die_at_random_points() {
    let (heap, u) = pool(&[spec("p0:1", 3), spec("p1:1", 2), spec("p2:1", 0)]);
    let system = System::default();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (zone, system) = (heap.zone(), &system);
            scope.spawn(move || {
                let mut seed = u64::from(thread) + 77;
                for _ in 0..150 {
                    live_and_end(&zone, u, system, &mut seed);
                }
            });
        }
    });
    let zone = heap.zone();
    // One worker lives on with two requests: they must be all that is left.
    let me = system.spawn();
    zone.reclaim_dead(me, |process| system.is_alive(process));
    let w = zone.worker_join(me, 1).unwrap();
    let mut seed = 3;
    let held = [claim(&zone, u, w, &mut seed).unwrap(), claim(&zone, u, w, &mut seed).unwrap()];
    let snapshot = zone.snapshot(NOW);
    assert_eq!(snapshot.upstreams[0].peers.iter().map(|peer| peer.in_flight).sum::<u32>(), 2);
    assert_eq!((snapshot.workers.len(), snapshot.workers[0].in_flight, zone.waiting(u)), (1, 2, 0));
    assert_eq!(zone.header.counters.unbalanced.load(SeqCst), 0);
    held.into_iter().for_each(|ticket| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
}

#[test]
fn live_changes_never_show_a_claim_half_a_peer() {
    let heap = HeapZone::new(2, 24);
    let u = configure(&heap.zone(), &[spec("fixed:1", 0), spec("other:1", 2)]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..THREADS - 1 {
            let (zone, stop) = (heap.zone(), &stop);
            scope.spawn(move || claim_and_verify(&zone, u, thread, stop));
        }
        let zone = heap.zone();
        let mut seed = 99;
        for revision in 1..=3_000_u64 {
            change(&zone, u, revision, &mut seed);
        }
        stop.store(true, SeqCst);
    });
    let zone = heap.zone();
    zone.overlay_apply(&Overlay { revision: 3_001, ..Overlay::default() }, NOW).unwrap();
    assert_eq!(zone.room().peers, 22, "every record that is not linked is free again");
    assert_eq!(zone.header.counters.unbalanced.load(SeqCst), 0);
}

/// Claims, and checks that the peer stays the same peer from claim to release.
fn claim_and_verify(zone: &Zone<'_>, u: UpstreamIdx, thread: u32, stop: &AtomicBool) {
    let w = join(zone, thread + 1);
    let mut seed = u64::from(thread) + 5;
    let mut held: Vec<(Ticket, Vec<u8>)> = Vec::new();
    while !stop.load(SeqCst) {
        if let Some(ticket) = claim(zone, u, w, &mut seed) {
            let (mut name, mut sockaddr) = ([0; 128], [0; 112]);
            let peer = zone.peer(ticket.peer).expect("a record");
            let name = peer.name(&mut name);
            assert_eq!(name, peer.sockaddr(&mut sockaddr), "name and address of two lives");
            assert!(name.ends_with(b":1"), "{:?}", String::from_utf8_lossy(name));
            held.push((ticket, name.to_vec()));
        }
        if (held.len() > 3 || random(&mut seed).is_multiple_of(2))
            && let Some((ticket, name)) = held.pop()
        {
            let peer = zone.peer(ticket.peer).expect("a record");
            assert_eq!(peer.generation(), ticket.generation, "the record began another life under a ticket");
            assert_eq!(peer.name(&mut [0; 128]), name);
            zone.release(ticket, w, GOOD, &PARAMS, NOW, 0);
        }
    }
    held.into_iter().for_each(|(ticket, _)| zone.release(ticket, w, GOOD, &PARAMS, NOW, 0));
}

/// A random revision, and now and then a reload.
fn change(zone: &Zone<'_>, u: UpstreamIdx, revision: u64, seed: &mut u64) {
    let names: Vec<String> = (0..6).map(|i| format!("added{i}-{}:1", random(seed) % 3)).collect();
    let added = names.iter().filter(|_| random(seed).is_multiple_of(2)).collect::<Vec<_>>();
    let mut peers: Vec<PeerOverlay<'_>> = added
        .iter()
        .map(|name| PeerOverlay {
            name: name.as_bytes(),
            added: Some(name.as_bytes()),
            max_conns: Some((random(seed) % 4) as u32),
            ..PeerOverlay::default()
        })
        .collect();
    let state = [None, Some(PeerState::Draining), Some(PeerState::Down)][(random(seed) % 3) as usize];
    peers.push(PeerOverlay {
        name: b"other:1",
        state,
        weight: Some((random(seed) % 5) as u32),
        ..PeerOverlay::default()
    });
    let upstreams = [UpstreamOverlay { name: b"llm", peers: &peers }];
    let overlay = Overlay { revision, upstreams: &upstreams, ..Overlay::default() };
    // Records of peers that just went may still be held: then the revision is refused, and nothing
    // may have changed.
    let before = zone.header.revision();
    match zone.overlay_apply(&overlay, NOW) {
        Ok(()) => assert_eq!(zone.header.revision(), revision),
        Err(_) => assert_eq!(zone.header.revision(), before),
    }
    if random(seed).is_multiple_of(10) {
        let declared = [spec("fixed:1", 0), spec("other:1", 1 + (random(seed) % 3) as u32)];
        zone.upstream_configure(u, &SETTINGS, &declared, NOW).unwrap();
    }
}
