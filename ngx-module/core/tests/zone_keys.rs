//! The table of API keys: what a secret is worth, what is refused, and that nobody ever sees half
//! of a change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use pincer_core::time::MonoNs;
use pincer_core::zone::{
    Cidr, HeapZone, KEY_CIDRS_MAX, KEY_NAME_MAX, KeyExpiry, KeySpec, KeyVerdict, KeysError, Overlay, OverlayError, Zone,
};

const NOW: MonoNs = MonoNs(1_000);
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The hash number `n`: spread as SHA-256 spreads.
fn hash(n: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    for (at, bytes) in (0..).zip(hash.chunks_mut(8)) {
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at * 13);
        bytes.copy_from_slice(&mixed.to_be_bytes());
    }
    hash
}

fn key(n: u64) -> KeySpec<'static> {
    KeySpec { sha256: hash(n), tenant: b"acme", class: b"vip", cidrs: &[], expires: None }
}

fn found(tenant: &str, class: &str) -> KeyVerdict {
    KeyVerdict::Found { tenant: tenant.bytes().collect(), class: class.bytes().collect() }
}

fn find(zone: &Zone<'_>, n: u64) -> KeyVerdict {
    zone.key_find(&hash(n), HOME, NOW)
}

#[test]
fn each_of_a_thousand_keys_is_found_with_its_own_tenant_and_class_and_no_other() {
    let heap = HeapZone::new(52, 208);
    let zone = heap.zone();
    assert!(zone.keys_capacity() >= 1_000, "{}", zone.keys_capacity());
    let tenants: Vec<String> = (0..1_000).map(|n| format!("tenant-{n}")).collect();
    let spec = |n: usize| {
        let class: &[u8] = if n.is_multiple_of(2) { b"vip" } else { b"a-class-of-more-than-eight-bytes" };
        KeySpec { tenant: tenants[n].as_bytes(), class, ..key(n as u64) }
    };
    zone.keys_publish(&(0..1_000).map(spec).collect::<Vec<_>>()).unwrap();
    assert_eq!(zone.keys_count(), 1_000);
    for (n, tenant) in tenants.iter().enumerate() {
        let class = if n.is_multiple_of(2) { "vip" } else { "a-class-of-more-than-eight-bytes" };
        assert_eq!(find(&zone, n as u64), found(tenant, class));
    }
    for n in 1_000..3_000 {
        assert_eq!(find(&zone, n), KeyVerdict::Unknown);
    }
    for bit in 0..256 {
        let mut near = hash(7);
        near[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(zone.key_find(&near, HOME, NOW), KeyVerdict::Unknown, "bit {bit}");
    }
}

#[test]
fn a_key_is_good_until_its_deadline_and_only_from_its_blocks() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    assert_eq!(find(&zone, 1), KeyVerdict::Unknown, "an empty table");
    let block = |text: &str, bits| Cidr::new(text.parse().unwrap(), bits).unwrap();
    let cidrs = [block("10.0.0.0", 8), block("fd00::", 8)];
    let expires = Some(KeyExpiry { wall_s: 5, deadline: MonoNs(2_000) });
    zone.keys_publish(&[KeySpec { cidrs: &cidrs, ..key(1) }, KeySpec { expires, ..key(2) }]).unwrap();
    let from = |addr: &str| zone.key_find(&hash(1), addr.parse().unwrap(), NOW);
    for addr in ["10.9.8.7", "::ffff:10.1.1.1", "fd12::1"] {
        assert_eq!(from(addr), found("acme", "vip"), "{addr}");
    }
    for addr in ["11.0.0.1", "127.0.0.1", "fe80::1", "::1", "::ffff:11.0.0.1"] {
        assert_eq!(from(addr), KeyVerdict::Forbidden, "{addr}");
    }
    let at = |now| zone.key_find(&hash(2), HOME, MonoNs(now));
    assert_eq!((at(1_999), at(2_000), at(u64::MAX)), (found("acme", "vip"), KeyVerdict::Expired, KeyVerdict::Expired));
}

#[test]
fn a_step_of_the_wall_clock_between_two_revisions_moves_no_deadline() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    let until =
        |wall_s, deadline| KeySpec { expires: Some(KeyExpiry { wall_s, deadline: MonoNs(deadline) }), ..key(1) };
    let ends = |now| zone.key_find(&hash(1), HOME, MonoNs(now)) == KeyVerdict::Expired;
    zone.keys_publish(&[until(100, 2_000)]).unwrap();
    zone.keys_publish(&[until(100, 9_000), key(2)]).unwrap();
    assert!(ends(2_000) && !ends(1_999), "the same end as before");
    zone.keys_publish(&[until(101, 9_000)]).unwrap();
    assert!(!ends(8_999) && ends(9_000), "an operator moved it");
    zone.keys_publish(&[until(0, 0)]).unwrap();
    assert!(ends(1), "a deadline of 0 is no key without end");
}

#[test]
fn what_is_wrong_with_keys_is_said_and_changes_nothing() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    zone.keys_publish(&[key(1)]).unwrap();
    let refused = |keys: &[KeySpec<'_>]| {
        let error = zone.keys_publish(keys).unwrap_err();
        assert_eq!(zone.keys_check(keys), Err(error.clone()));
        assert_eq!((find(&zone, 1), find(&zone, 2)), (found("acme", "vip"), KeyVerdict::Unknown));
        error
    };
    let long = [b'a'; KEY_NAME_MAX + 1];
    for (tenant, class) in [(&b""[..], &b"c"[..]), (b"t", b""), (&long, b"c"), (b"t", &long)] {
        assert!(matches!(refused(&[key(2), KeySpec { tenant, class, ..key(3) }]), KeysError::Name { .. }));
    }
    let cidrs = [Cidr::new(HOME, 32).unwrap(); KEY_CIDRS_MAX + 1];
    assert!(matches!(refused(&[KeySpec { cidrs: &cidrs, ..key(2) }]), KeysError::Cidrs { have: 17, .. }));
    assert_eq!(refused(&[key(2), key(2)]).to_string(), "key daa66d2c is given twice");
    let many: Vec<_> = (2..3 + zone.keys_capacity() as u64).map(key).collect();
    assert!(refused(&many).is_room());
    let names: Vec<[u8; KEY_NAME_MAX]> = (0_u8..).take(zone.keys_capacity()).map(|n| [n; KEY_NAME_MAX]).collect();
    let wide: Vec<_> = names.iter().zip(2..).map(|(tenant, n)| KeySpec { tenant, ..key(n) }).collect();
    assert!(matches!(refused(&wide), KeysError::TooLong { .. }));
}

#[test]
fn one_key_of_the_largest_size_fits_into_the_smallest_zone() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    let (tenant, class) = ([b't'; KEY_NAME_MAX], [b'c'; KEY_NAME_MAX]);
    let block = |n| Cidr::new(IpAddr::from([n; 16]), 128).unwrap();
    let cidrs: Vec<_> = (0..16).map(block).collect();
    zone.keys_publish(&[KeySpec { tenant: &tenant, class: &class, cidrs: &cidrs, ..key(1) }]).unwrap();
    let verdict = zone.key_find(&hash(1), IpAddr::from([15; 16]), NOW);
    assert_eq!(verdict, KeyVerdict::Found { tenant: tenant.into(), class: class.into() });
}

#[test]
fn keys_go_with_the_revision_that_no_longer_names_them_and_a_refused_one_leaves_them() {
    let heap = HeapZone::new(1, 4);
    let zone = heap.zone();
    let apply =
        |revision, keys: &[KeySpec<'_>]| zone.overlay_apply(&Overlay { revision, keys, ..Overlay::default() }, NOW);
    apply(1, &[key(1), key(2)]).unwrap();
    assert_eq!(apply(2, &[key(3), key(3)]).map_err(|error| error.is_invalid()), Err(true));
    let lower = zone.overlay_apply(&Overlay { revision: 0, keys: &[], ..Overlay::default() }, NOW);
    assert!(matches!(lower, Err(OverlayError::Revision { .. })));
    assert_eq!((zone.header.revision(), find(&zone, 2)), (1, found("acme", "vip")));
    apply(2, &[key(1)]).unwrap();
    assert_eq!((find(&zone, 1), find(&zone, 2)), (found("acme", "vip"), KeyVerdict::Unknown));
    apply(3, &[]).unwrap();
    assert_eq!((zone.keys_count(), find(&zone, 1)), (0, KeyVerdict::Unknown));
}

#[test]
fn a_reader_in_the_middle_of_a_change_sees_the_old_keys_or_the_new_ones() {
    let heap = HeapZone::new(2, 8);
    let zone = heap.zone();
    // In even tables every key belongs to `even`, in odd ones to `odd`; key 0 is in all, key 1 +
    // parity in one.
    let tables = [0_u64, 1].map(|parity| {
        let (tenant, class): (&[u8], &[u8]) =
            if parity == 0 { (b"even-tenant", b"even-class") } else { (b"odd-tenant", b"odd-class") };
        let all = (0..40).filter(move |n| *n != 2 - parity);
        all.map(|n| KeySpec { tenant, class, ..key(n) }).collect::<Vec<_>>()
    });
    zone.keys_publish(&tables[0]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (even, odd) = (found("even-tenant", "even-class"), found("odd-tenant", "odd-class"));
                    let (mut evens, mut odds) = (0, 0);
                    while !done.load(Ordering::Relaxed) || evens == 0 || odds == 0 {
                        let verdict = find(&zone, 20);
                        assert!(verdict == even || verdict == odd, "{verdict:?}");
                        evens += u64::from(verdict == even);
                        odds += u64::from(verdict == odd);
                        for (n, only) in [(1, &even), (2, &odd)] {
                            let verdict = find(&zone, n);
                            assert!(verdict == *only || verdict == KeyVerdict::Unknown, "{n} {verdict:?}");
                        }
                        assert_eq!(find(&zone, 99), KeyVerdict::Unknown);
                    }
                })
            })
            .collect();
        for n in 1..20_000 {
            zone.keys_publish(&tables[n % 2]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let mut n = 0;
        while readers.iter().any(|reader| !reader.is_finished()) {
            zone.keys_publish(&tables[n % 2]).unwrap();
            n += 1;
        }
    });
}
