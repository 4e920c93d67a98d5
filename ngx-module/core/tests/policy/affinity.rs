//! The consistent hash with bounded loads.

use crate::rules::view;
use pincer_core::affinity::choose;
use pincer_core::pick::{PeerSet, PeerView};

fn pool(count: u64) -> Vec<PeerView> {
    (0..count)
        .map(|i| PeerView { identity: i.wrapping_mul(0x1234_5678_9abc_def1) + 1, slots: 0, max_conns: 0, ..view() })
        .collect()
}

fn all(peers: &[PeerView]) -> PeerSet {
    (1 << peers.len()) - 1
}

#[test]
fn a_key_always_goes_to_the_same_peer() {
    let peers = pool(8);
    for key in 0..1_000 {
        assert_eq!(choose(&peers, all(&peers), key), choose(&peers, all(&peers), key));
    }
}

#[test]
fn keys_spread_by_weight() {
    let mut peers = pool(4);
    peers[0].weight = 3;
    let mut counts = [0; 4];
    for key in 0..60_000 {
        counts[choose(&peers, all(&peers), key).unwrap()] += 1;
    }
    assert!(
        (29_000..31_000).contains(&counts[0]) && counts[1..].iter().all(|n| (9_400..10_600).contains(n)),
        "{counts:?}"
    );
}

#[test]
fn a_peer_that_leaves_moves_only_its_own_keys_wherever_it_stood() {
    let peers = pool(8);
    let mut without = peers.clone();
    without.remove(2);
    for key in 0..2_000 {
        let before = peers[choose(&peers, all(&peers), key).unwrap()].identity;
        let after = without[choose(&without, all(&without), key).unwrap()].identity;
        assert!(before == after || before == peers[2].identity);
    }
}

#[test]
fn no_peer_goes_beyond_five_quarters_of_the_mean_even_for_one_key() {
    let mut peers = pool(5);
    for n in 1..=1_000_u32 {
        let peer = choose(&peers, all(&peers), 42).unwrap();
        peers[peer].in_flight += 1;
        let bound = (1.25 * f64::from(n) / 5.0).ceil();
        assert!(f64::from(peers[peer].in_flight) <= bound, "{n} in all, {} on one", peers[peer].in_flight);
    }
}

#[test]
fn a_full_peer_is_passed_over_and_if_all_are_full_there_is_none() {
    let mut peers = pool(3);
    let home = choose(&peers, all(&peers), 7).unwrap();
    (peers[home].slots, peers[home].in_flight) = (1, 1);
    assert_ne!(choose(&peers, all(&peers), 7).unwrap(), home);
    for peer in &mut peers {
        (peer.slots, peer.in_flight) = (1, 1);
    }
    assert_eq!(choose(&peers, all(&peers), 7), None);
}
