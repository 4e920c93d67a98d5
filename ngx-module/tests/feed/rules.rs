//! What a snapshot must keep to before it may reach the zone.

use pincer_core::zone::PeerState as Wanted;
use pincer_proto::limits;
use pincer_proto::v1::{DeclaredPeer, DeclaredUpstream, PeerConfig, PeerState, Snapshot, UpstreamConfig};

use crate::callers::now;
use crate::conf::control::parse_allow_peers;
use crate::feed::translate::{Fault, Rules};

/// `chat` has 10.0.0.1:80 and a Unix socket; 10.1.0.0/16 and fd00::/8 may be added.
fn rules() -> Rules {
    let declare = |address: &str| DeclaredPeer { address: address.to_owned(), ..DeclaredPeer::default() };
    let peers = vec![declare("10.0.0.1:80"), declare("unix:/run/a.sock")];
    let declared = [DeclaredUpstream { name: "chat".to_owned(), peers }];
    Rules::new(&declared, parse_allow_peers(&[b"10.1.0.0/16", b"fd00::/8"]).unwrap())
}

fn peer(address: &str) -> PeerConfig {
    PeerConfig { address: address.to_owned(), ..PeerConfig::default() }
}

fn added(address: &str) -> PeerConfig {
    PeerConfig { added: true, ..peer(address) }
}

fn of(upstream: &str, peers: Vec<PeerConfig>) -> Snapshot {
    let upstreams = vec![UpstreamConfig { name: upstream.to_owned(), peers }];
    Snapshot { revision: 3, upstreams, ..Snapshot::default() }
}

fn refused(snapshot: &Snapshot) -> String {
    rules().check(snapshot).expect_err("it passed").to_string()
}

#[test]
fn a_sound_snapshot_becomes_an_overlay_word_for_word() {
    let set = PeerConfig {
        weight: Some(0),
        max_conns: Some(65_535),
        state: PeerState::Draining.into(),
        ..peer("10.0.0.1:80")
    };
    let more = PeerConfig { state: PeerState::Active.into(), ..added("[fd00::1]:81") };
    let snapshot = of("chat", vec![set, more, peer("unix:/run/a.sock"), peer("10.9.9.9:1")]);
    let rules = rules();
    let checked = rules.check(&snapshot).unwrap();
    checked.with_overlay(now(), |overlay| {
        assert_eq!((overlay.revision, overlay.upstreams.len()), (3, 1));
        assert_eq!(overlay.upstreams[0].name, b"chat");
        let [set, more, socket, unknown] = overlay.upstreams[0].peers else { panic!("{overlay:?}") };
        assert_eq!((set.name, set.weight, set.max_conns), (&b"10.0.0.1:80"[..], Some(0), Some(65_535)));
        assert_eq!((set.state, set.added), (Some(Wanted::Draining), None));
        assert_eq!((more.weight, more.max_conns, more.state), (None, None, Some(Wanted::Active)));
        let sockaddr = more.added.unwrap();
        assert_eq!((sockaddr.len(), sockaddr[8], sockaddr[23]), (28, 0xfd, 1));
        assert_eq!((socket.state, socket.added, unknown.added), (None, None, None));
    });
}

#[test]
fn a_peer_may_be_added_inside_the_allowed_blocks_only() {
    let rules = rules();
    for address in ["10.1.0.0:1", "10.1.255.255:65535", "[fd12::3]:80", "[::ffff:10.1.2.3]:80"] {
        let snapshot = of("chat", vec![added(address)]);
        assert!(rules.check(&snapshot).is_ok(), "{address}");
    }
    for address in ["10.2.0.0:1", "10.0.255.255:1", "127.0.0.1:80", "[fe80::1]:80", "[::ffff:10.2.2.3]:80"] {
        let text = refused(&of("chat", vec![added(address)]));
        assert!(text.contains("pincer_allow_peers") && text.contains(address) && text.contains("chat"), "{text}");
    }
    assert!(refused(&of("chat", vec![added("unix:/run/b.sock")])).contains("Unix socket"));
}

#[test]
fn what_nginx_conf_declares_needs_no_permission_to_be_added() {
    for address in ["10.0.0.1:80", "unix:/run/a.sock"] {
        let snapshot = of("chat", vec![added(address)]);
        rules().check(&snapshot).unwrap().with_overlay(now(), |overlay| {
            assert_eq!(overlay.upstreams[0].peers[0].added, None, "settings of our own peer");
        });
    }
}

#[test]
fn an_upstream_of_another_node_is_checked_for_its_form_only() {
    let snapshot = of("elsewhere", vec![added("192.0.2.1:80"), added("unix:/run/b.sock")]);
    assert!(rules().check(&snapshot).is_ok());
    assert!(refused(&of("elsewhere", vec![added("host:80")])).contains("IPv4:port"));
}

#[test]
fn numbers_states_names_and_addresses_out_of_range_are_refused_with_value_need_and_place() {
    let with = |change: fn(&mut PeerConfig)| {
        let mut config = peer("10.0.0.1:80");
        change(&mut config);
        refused(&of("chat", vec![config]))
    };
    let weight = with(|peer| peer.weight = Some(65_536));
    assert_eq!(
        weight,
        "weight 65536 is out of range, 0 to 65535 is needed: the weight of peer \"10.0.0.1:80\" in upstream \"chat\""
    );
    assert!(with(|peer| peer.max_conns = Some(u32::MAX)).contains("max_conns 4294967295"));
    for state in [-1, 4, i32::MAX] {
        assert!(with(|peer| peer.state = 77).contains("state 77"), "{state}");
    }
    for address in ["", "10.0.0.1", "10.0.0.1:0", "010.0.0.1:80", "unix:relative", "x\0y:1", "10.0.0.1:80\n"] {
        assert!(refused(&of("chat", vec![peer(address)])).contains("is needed"), "{address:?}");
    }
    for name in ["", "a/b", "a b", "a\n", &"x".repeat(256)] {
        assert!(refused(&of(name, Vec::new())).contains("upstream name"), "{name:?}");
    }
    for revision in [0, limits::REVISION_MAX + 1, u64::MAX] {
        assert_eq!(
            rules().check(&Snapshot { revision, ..Snapshot::default() }).unwrap_err(),
            Fault::Revision(revision)
        );
    }
}

#[test]
fn one_fault_refuses_the_whole_revision() {
    let mut peers: Vec<_> = (1..100).map(|port| added(&format!("10.1.0.1:{port}"))).collect();
    assert!(rules().check(&of("chat", peers.clone())).is_ok());
    peers.push(added("10.3.0.1:1"));
    assert!(rules().check(&of("chat", peers)).is_err());
}

#[test]
fn counts_are_bounded() {
    let peers = |count: usize| (1..=count).map(|port| added(&format!("10.1.0.1:{port}"))).collect::<Vec<_>>();
    assert!(rules().check(&of("chat", peers(limits::PEERS_PER_UPSTREAM_MAX))).is_ok());
    assert!(refused(&of("chat", peers(limits::PEERS_PER_UPSTREAM_MAX + 1))).contains("129 peers"));
    let upstreams = |count: usize| {
        let upstreams = (0..count).map(|n| UpstreamConfig { name: format!("u{n}"), peers: Vec::new() }).collect();
        Snapshot { revision: 1, upstreams, ..Snapshot::default() }
    };
    assert!(rules().check(&upstreams(limits::UPSTREAMS_MAX)).is_ok());
    assert!(refused(&upstreams(limits::UPSTREAMS_MAX + 1)).contains("257 upstreams"));
}
