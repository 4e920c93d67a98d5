//! Who may hold a connection: places for nodes, for operators, and for those who have not said who
//! they are.
//!
//! A connection waits from its accept until its first call with a certificate that has a role, at
//! most `CALL_TIMEOUT`. Where too many wait, of one address or in all, the longest waiting one of
//! the address with the most ends: so whoever connects and says nothing shuts out nobody else, and
//! a caller who speaks at once gets in even beside silent ones of the same address. Nodes and
//! operators have places of their own, so neither can take those of the other.
//! Cost: a lock for each accept, first call and end. Bound: `Places`.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::fleet;

/// How long a connection may stand before its first call. The handshake of TLS counts.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Of nodes: each may reload, with two streams meanwhile.
    pub nodes: usize,
    /// Of operators.
    pub operators: usize,
    /// Of those who have not called yet. One address may hold half of them.
    pub waiting: usize,
    /// Of the HTTP port.
    pub http: usize,
}

/// Descriptors for the store, the listeners and the runtime.
const OWN_DESCRIPTORS: usize = 64;

impl Places {
    const MAX: Self = Self { nodes: 2 * fleet::NODES_MAX, operators: 128, waiting: 512, http: 64 };

    /// The descriptors that all places take.
    pub const fn descriptors_max() -> usize {
        Self::MAX.nodes + Self::MAX.operators + Self::MAX.waiting + Self::MAX.http + OWN_DESCRIPTORS
    }

    /// As many as this number of descriptors allows, with those of operators kept.
    pub fn within(descriptors: usize) -> Self {
        let part = |share: usize, max: usize| (descriptors / share).clamp(4, max);
        let (operators, waiting, http) =
            (part(16, Self::MAX.operators), part(8, Self::MAX.waiting), part(16, Self::MAX.http));
        let nodes = descriptors.saturating_sub(operators + waiting + http + OWN_DESCRIPTORS);
        Self { nodes: nodes.clamp(4, Self::MAX.nodes), operators, waiting, http }
    }
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Nobody's yet.
    Waiting,
    /// A node's.
    Node,
    /// An operator's.
    Operator,
}

/// One connection's entry.
#[derive(Debug)]
pub struct Entry {
    /// The address of the other side.
    pub address: IpAddr,
    is_waiting: AtomicBool,
    is_evicted: AtomicBool,
    waker: AtomicWaker,
}

impl Entry {
    /// Ready once the connection has to make room. Never for one that has called.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_evicted.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether no call has come yet.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }

    fn evict(&self) {
        self.is_evicted.store(true, Ordering::Release);
        self.waker.wake();
    }
}

#[derive(Debug, Default)]
struct Inside {
    /// Oldest first.
    waiting: HashMap<IpAddr, VecDeque<Arc<Entry>>>,
    waiting_count: usize,
    nodes: usize,
    operators: usize,
}

/// A listener's door.
#[derive(Debug)]
pub struct Door {
    places: Places,
    inside: Mutex<Inside>,
}

/// All of an IPv6 network of 64 bits are one: a single machine may have it.
fn place_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

/// No place of this kind is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{max} connections of {whose} are open, no more are allowed")]
pub struct NoPlace {
    whose: &'static str,
    max: usize,
}

impl Door {
    /// With these places.
    pub fn new(places: Places) -> Arc<Self> {
        Arc::new(Self { places, inside: Mutex::default() })
    }

    /// A connection was accepted. Returns its entry, and whether another one has to go for it.
    pub fn enter(&self, address: IpAddr) -> (Arc<Entry>, bool) {
        let address = place_of(address);
        let entry = Arc::new(Entry {
            address,
            is_waiting: AtomicBool::new(true),
            is_evicted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let mut inside = self.inside.lock();
        let queue = inside.waiting.entry(address).or_default();
        queue.push_back(Arc::clone(&entry));
        let is_full = queue.len() > (self.places.waiting / 2).max(1);
        inside.waiting_count += 1;
        let loser = if is_full {
            Some(address)
        } else if inside.waiting_count > self.places.waiting {
            inside.waiting.iter().max_by_key(|(_, queue)| queue.len()).map(|(address, _)| *address)
        } else {
            None
        };
        let evicted = loser.and_then(|loser| inside.waiting.get_mut(&loser)?.pop_front());
        if let Some(evicted) = &evicted {
            inside.waiting_count -= 1;
            inside.tidy(evicted.address);
            evicted.evict();
        }
        (entry, evicted.is_some())
    }

    /// The connection called for the first time, as `guest`. An entry that waits no more stays what
    /// it is.
    pub fn admit(&self, entry: &Arc<Entry>, guest: Guest) -> Result<bool, NoPlace> {
        let mut inside = self.inside.lock();
        if !entry.is_waiting() || entry.is_evicted.load(Ordering::Acquire) {
            return Ok(false);
        }
        let (held, max, whose) = match guest {
            Guest::Waiting => return Ok(false),
            Guest::Node => (&mut inside.nodes, self.places.nodes, "nodes"),
            Guest::Operator => (&mut inside.operators, self.places.operators, "operators"),
        };
        if *held >= max {
            return Err(NoPlace { whose, max });
        }
        *held += 1;
        entry.is_waiting.store(false, Ordering::Release);
        inside.remove(entry);
        Ok(true)
    }

    /// The connection ended. `guest` is what it was admitted as.
    pub fn leave(&self, entry: &Arc<Entry>, guest: Guest) {
        let mut inside = self.inside.lock();
        match guest {
            Guest::Waiting => inside.remove(entry),
            Guest::Node => inside.nodes -= 1,
            Guest::Operator => inside.operators -= 1,
        }
    }

    /// Ends all connections that have not called.
    pub fn close_waiting(&self) {
        let waiting = std::mem::take(&mut self.inside.lock().waiting);
        waiting.into_values().flatten().for_each(|entry| entry.evict());
    }
}

impl Inside {
    fn remove(&mut self, entry: &Arc<Entry>) {
        let Some(queue) = self.waiting.get_mut(&entry.address) else { return };
        let before = queue.len();
        queue.retain(|other| !Arc::ptr_eq(other, entry));
        self.waiting_count -= before - queue.len();
        self.tidy(entry.address);
    }

    fn tidy(&mut self, address: IpAddr) {
        if self.waiting.get(&address).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: Places = Places { nodes: 2, operators: 1, waiting: 4, http: 4 };

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn who_is_silent_makes_room_and_who_calls_stays() {
        let door = Door::new(PLACES);
        let (first, _) = door.enter(ip(1));
        let (second, _) = door.enter(ip(1));
        assert!(door.admit(&first, Guest::Operator).unwrap());
        let (_third, evicts) = door.enter(ip(1));
        assert!(!evicts && !second.is_evicted.load(Ordering::Acquire));
        let (fourth, evicts) = door.enter(ip(1));
        assert!(evicts, "one address holds half of the places");
        assert!(second.is_evicted.load(Ordering::Acquire), "the longest waiting one goes");
        assert!(!first.is_evicted.load(Ordering::Acquire));
        door.leave(&second, Guest::Waiting);
        assert!(door.admit(&fourth, Guest::Node).unwrap(), "who comes last gets in");
    }

    #[test]
    fn the_address_that_holds_most_makes_room() {
        let door = Door::new(Places { waiting: 6, ..PLACES });
        let many: Vec<_> = (0..3).map(|_| door.enter(ip(1)).0).collect();
        let few: Vec<_> = (2..5).map(|n| door.enter(ip(n)).0).collect();
        assert!(door.enter(ip(5)).1);
        assert!(many[0].is_evicted.load(Ordering::Acquire));
        assert!(!few.iter().any(|entry| entry.is_evicted.load(Ordering::Acquire)));
    }

    #[test]
    fn nodes_and_operators_have_places_of_their_own() {
        let door = Door::new(PLACES);
        let come = |n| door.enter(ip(n)).0;
        let nodes: Vec<_> = (1..4).map(come).collect();
        assert!(door.admit(&nodes[0], Guest::Node).unwrap() && door.admit(&nodes[1], Guest::Node).unwrap());
        let said = door.admit(&nodes[2], Guest::Node).unwrap_err().to_string();
        assert_eq!(said, "2 connections of nodes are open, no more are allowed");
        assert!(door.admit(&come(9), Guest::Operator).unwrap());
        door.leave(&nodes[0], Guest::Node);
        assert!(door.admit(&nodes[2], Guest::Node).unwrap());
        assert!(!door.admit(&nodes[2], Guest::Operator).unwrap(), "counted once");
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        let v6 = |text: &str| place_of(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::2:1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:10.0.0.1"), ip(1));
    }

    #[test]
    fn places_fit_the_descriptors() {
        assert_eq!(Places::within(1 << 20), Places::MAX);
        for descriptors in [256, 1024, 2048, 4096] {
            let Places { nodes, operators, waiting, http } = Places::within(descriptors);
            assert!(nodes + operators + waiting + http + OWN_DESCRIPTORS <= descriptors && operators >= 16);
        }
    }
}
