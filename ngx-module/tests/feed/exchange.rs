//! What is said between a node and a control plane that behaves.

use std::time::{Duration, Instant};

use pincer_proto::v1::{Snapshot, Stats, UpstreamStats, node_message};
use tonic::Status;

use crate::feed::Level;
use crate::feed::state::Loaded;
use crate::server::{ControlPlane, Place, ping, snapshot};
use crate::user::{EventLoop, state_file, tcp};

#[test]
fn a_snapshot_is_handed_over_acknowledged_and_kept_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let plane = ControlPlane::start(vec![snapshot(7)]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], None, Some(path.clone()));
    assert_eq!(plane.hear_hello().applied_revision, 0);
    let received = user.take();
    assert!(user.feed.status().connected, "the stream is open before anything is handed over");
    user.feed.applied(received.snapshot.revision, received.arrived.elapsed());
    let ack = plane.hear_ack();
    assert_eq!(ack.revision, 7);
    assert!(ack.apply_duration.is_some());
    wait_for_file(&path, 7);
    plane.say(&snapshot(8));
    user.apply();
    assert_eq!(plane.hear_ack().revision, 8);
    wait_for_file(&path, 8);
    user.stop();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

fn wait_for_file(path: &std::path::Path, revision: u64) {
    let deadline = Instant::now() + crate::server::PATIENCE;
    loop {
        match state_file(path).load() {
            Loaded::Good(snapshot) if snapshot.revision == revision => return,
            Loaded::Good(_) | Loaded::Missing => assert!(Instant::now() < deadline, "not written"),
            wrong => panic!("{wrong:?}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn what_was_applied_just_before_the_stop_is_on_disk_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let plane = ControlPlane::start(vec![snapshot(7)]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], None, Some(path.clone()));
    user.apply();
    user.stop();
    assert!(matches!(state_file(&path).load(), Loaded::Good(Snapshot { revision: 7, .. })));
}

#[test]
fn a_disk_that_cannot_be_written_is_said_once_and_tried_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let path = missing.join("state");
    let plane = ControlPlane::start(vec![snapshot(7)]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], None, Some(path.clone()));
    plane.hear_hello();
    user.apply();
    assert_eq!(plane.hear_ack().revision, 7, "the disk has no say in what is acknowledged");
    let event = user.event(&["cannot write state file", path.to_str().unwrap()]);
    assert_eq!(event.level, Level::Error);
    plane.say(&snapshot(8));
    user.apply();
    std::fs::create_dir(&missing).unwrap();
    user.event(&["wrote state file again"]);
    assert!(matches!(state_file(&path).load(), Loaded::Good(Snapshot { revision: 8, .. })));
    assert!(user.events().iter().all(|event| !event.text.contains("state file")));
    user.stop();
}

#[test]
fn a_refusal_reaches_the_control_plane_in_one_line_and_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let plane = ControlPlane::start(vec![snapshot(7)]);
    let user = EventLoop::start_with(vec![tcp(plane.address)], None, Some(path.clone()));
    plane.hear_hello();
    user.take();
    user.feed.refused(7, &format!("weight 70000\nis {}", "too high ".repeat(1_000)));
    let nack = plane.hear_nack();
    assert_eq!(nack.revision, 7);
    let message = nack.error.unwrap().message;
    assert!(message.starts_with("weight 70000 is too high") && message.len() <= pincer_proto::limits::ERROR_BYTES_MAX);
    // The stream goes on, and a word about a revision that was not taken changes nothing on disk.
    plane.say(&snapshot(8));
    user.apply();
    assert_eq!(plane.hear_ack().revision, 8);
    user.stop();
    assert!(matches!(state_file(&path).load(), Loaded::Good(Snapshot { revision: 8, .. })));
}

#[test]
fn of_many_snapshots_only_the_newest_is_handed_over() {
    let plane = ControlPlane::start((1..=100).map(snapshot).collect());
    let user = EventLoop::start(vec![tcp(plane.address)]);
    plane.hear_hello();
    let mut seen = 0;
    while seen < 100 {
        let revision = user.apply();
        assert!(revision > seen);
        seen = revision;
    }
    assert!(user.feed.take().is_none());
    let mut acknowledged = 0;
    while acknowledged < 100 {
        let revision = plane.hear_ack().revision;
        assert!(revision > acknowledged, "each is acknowledged once");
        acknowledged = revision;
    }
    user.stop();
}

#[test]
fn a_lower_revision_never_replaces_a_higher_one_that_waits() {
    let plane = ControlPlane::start(vec![snapshot(5), snapshot(4)]);
    let user = EventLoop::start(vec![tcp(plane.address)]);
    plane.hear_hello();
    let nack = plane.hear_nack();
    assert_eq!(nack.revision, 4);
    assert_eq!(user.apply(), 5);
    user.stop();
}

#[test]
fn after_a_lost_stream_the_hello_names_what_was_applied_and_the_state_comes_again() {
    let plane = ControlPlane::start(vec![snapshot(7)]);
    let user = EventLoop::start(vec![tcp(plane.address)]);
    plane.hear_hello();
    user.apply();
    assert_eq!(plane.hear_ack().revision, 7);
    plane.hang_up(&Status::unavailable("going\nhome"));
    assert_eq!(plane.hear_hello().applied_revision, 7);
    assert_eq!(user.apply(), 7, "the same revision again");
    assert_eq!(plane.hear_ack().revision, 7);
    let lost = user.event(&["lost control plane", "Unavailable: going home"]);
    assert_eq!(lost.level, Level::Error);
    assert_eq!(user.feed.status().reconnects, 1);
    user.stop();
}

#[test]
fn a_word_about_an_earlier_streams_revision_is_not_said_on_a_new_one() {
    let plane = ControlPlane::start(vec![snapshot(7)]);
    let user = EventLoop::start(vec![tcp(plane.address)]);
    plane.hear_hello();
    let received = user.take();
    plane.greet_with(vec![snapshot(9)]);
    plane.hang_up(&Status::unavailable("bye"));
    user.until(|feed| feed.status().last_error.filter(|error| error.contains("bye")));
    user.feed.applied(7, received.arrived.elapsed());
    plane.hear_hello();
    assert_eq!(user.apply(), 9);
    assert_eq!(plane.hear_ack().revision, 9);
    user.stop();
}

#[test]
fn statistics_go_up_at_once_and_only_the_latest_wait_for_a_stream() {
    let plane = ControlPlane::start(vec![ping()]);
    let (address, user) = (plane.address, EventLoop::start(vec![tcp(plane.address)]));
    plane.hear_hello();
    user.feed.stats(stats("first"));
    assert_eq!(plane.hear(), node_message::Message::Stats(stats("first")));
    user.connected();
    drop(plane);
    user.disconnected();
    user.feed.stats(stats("old"));
    user.feed.stats(stats("new"));
    let plane = ControlPlane::start_at(&Place::Port(address.port()), None, vec![ping()]);
    plane.hear_hello();
    assert_eq!(plane.hear(), node_message::Message::Stats(stats("new")));
    user.stop();
}

fn stats(name: &str) -> Stats {
    Stats { upstreams: vec![UpstreamStats { name: name.to_owned(), ..UpstreamStats::default() }], ..Stats::default() }
}

#[test]
fn a_restarted_control_plane_is_found_within_two_seconds() {
    let plane = ControlPlane::start(vec![snapshot(1)]);
    let address = plane.address;
    let user = EventLoop::start(vec![tcp(address)]);
    user.apply();
    user.event(&["connected to control plane", &address.to_string()]);
    drop(plane);
    user.event(&["lost control plane", &address.to_string()]);
    user.event(&["cannot reach control plane", "refused"]);
    // The absence is the subject here, not a wait: long enough for the pause to grow as far as it
    // does.
    std::thread::sleep(Duration::from_secs(3));
    let back = Instant::now();
    let plane = ControlPlane::start_at(&Place::Port(address.port()), None, vec![snapshot(2)]);
    plane.hear_hello();
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    assert_eq!(user.apply(), 2);
    user.event(&["connected to control plane"]);
    let repeated = user.events();
    assert!(repeated.is_empty(), "each change is said once: {repeated:?}");
    user.stop();
}

#[test]
fn the_age_of_the_last_message_starts_anew_with_each_sign_of_life() {
    let plane = ControlPlane::start(vec![snapshot(1)]);
    let user = EventLoop::start(vec![tcp(plane.address)]);
    user.take();
    let first = user.feed.status().last_message.unwrap();
    plane.say(&ping());
    let deadline = Instant::now() + crate::server::PATIENCE;
    while user.feed.status().last_message.unwrap() == first {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    user.stop();
}
