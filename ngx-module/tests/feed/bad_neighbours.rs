//! Endpoints that refuse, say nothing, say rubbish, say too much or freeze: the feed goes on, stays
//! quiet and stops in time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pincer_proto::limits::MESSAGE_BYTES_MAX;
use pincer_proto::v1::{Snapshot, UpstreamConfig};

use tonic::Status;

use crate::conf::control::Endpoint;
use crate::server::{ControlPlane, PATIENCE, ping, said, snapshot};
use crate::user::{EventLoop, STOP_MAX, tcp};

/// An endpoint that accepts and does with each connection what it is told; ends with the test
/// process.
struct Stranger {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Stranger {
    fn start(behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stranger = Self { address: listener.local_addr().unwrap(), accepted: Arc::default() };
        let accepted = Arc::clone(&stranger.accepted);
        let behave = Arc::new(behave);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.fetch_add(1, SeqCst);
                let behave = Arc::clone(&behave);
                thread::spawn(move || behave(stream));
            }
        });
        stranger
    }

    fn silent() -> Self {
        let kept = Mutex::new(Vec::new());
        Self::start(move |stream| kept.lock().unwrap().push(stream))
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn an_endpoint_that_accepts_and_says_nothing_costs_one_deadline() {
    let (plane, stranger) = (ControlPlane::start(vec![snapshot(1)]), Stranger::silent());
    let user = EventLoop::start(vec![tcp(stranger.address), tcp(plane.address)]);
    user.apply();
    plane.hear_hello();
    assert!(user.feed.status().endpoint == 1);
    drop(plane);
    user.event(&["cannot reach control plane", &stranger.address.to_string(), "no answer within 3 s"]);
    user.stop();
}

#[test]
fn rubbish_is_said_once_and_the_next_endpoint_is_tried() {
    let rubbish = Stranger::start(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n\x1b[31mred");
        let _ = stream.read(&mut [0; 1_024]);
    });
    let user = EventLoop::start(vec![tcp(rubbish.address)]);
    user.event(&["cannot reach control plane", &rubbish.address.to_string()]);
    wait_until(|| rubbish.accepted.load(SeqCst) >= 4);
    let events = user.events();
    assert!(events.len() <= 2, "not once for each attempt: {events:?}");
    assert!(events.iter().all(|event| !event.text.contains(char::is_control)));
    user.stop();
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_control_plane_that_refuses_the_hello_counts_as_not_reached_and_is_said_once() {
    let plane = ControlPlane::start(Vec::new());
    plane.refuse_with(&Status::resource_exhausted("too many streams"));
    let user = EventLoop::start(vec![tcp(plane.address)]);
    for _ in 0..4 {
        plane.hear_hello();
        assert!(!user.feed.status().connected);
    }
    user.event(&["cannot reach control plane", "ResourceExhausted: too many streams"]);
    assert!(user.events().is_empty());
    plane.refuse_with_nothing();
    user.connected();
    user.event(&["connected to control plane"]);
    user.stop();
}

#[test]
fn a_message_past_the_bound_ends_the_stream_and_makes_no_tight_loop() {
    let upstream = UpstreamConfig { name: "x".repeat(MESSAGE_BYTES_MAX), peers: Vec::new() };
    let huge = said(Snapshot { revision: 1, upstreams: vec![upstream], ..Snapshot::default() });
    let plane = ControlPlane::start(vec![huge]);
    let user = EventLoop::start(vec![tcp(plane.address)]);
    plane.hear_hello();
    let first = Instant::now();
    for _ in 0..5 {
        plane.hear_hello();
    }
    // At least 25 + 50 + 100 + 200 + 400 ms of pauses, by the backoff's lower half.
    assert!(first.elapsed() >= Duration::from_millis(775), "{:?}", first.elapsed());
    user.event(&["cannot reach control plane", "OutOfRange"]);
    assert!(user.feed.take().is_none());
    user.stop();
}

#[test]
fn every_one_of_many_endpoints_is_tried_and_a_host_name_is_resolved() {
    let plane = ControlPlane::start(vec![snapshot(1)]);
    let named = Endpoint::Tcp { host: "localhost".to_owned(), port: plane.address.port() };
    let mut endpoints: Vec<_> = (0..9).map(|_| tcp(nobody())).collect();
    endpoints.push(named);
    let begin = Instant::now();
    let user = EventLoop::start(endpoints);
    user.connected();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(user.feed.status().endpoint, 9);
    user.stop();
}

#[test]
fn a_unix_socket_is_reached_and_its_absence_is_no_more_than_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pincerd.sock");
    let user = EventLoop::start(vec![Endpoint::Unix(path.to_str().unwrap().to_owned())]);
    user.event(&["cannot reach control plane, address=unix:/"]);
    let plane = ControlPlane::start_at(&crate::server::Place::Socket(&path), None, vec![snapshot(1)]);
    plane.hear_hello();
    assert_eq!(user.apply(), 1);
    user.stop();
}

/// Forwards to `plane` until frozen; then it keeps the connections and forwards nothing, like a
/// host that lost power.
fn freezer(plane: SocketAddr) -> (Stranger, Arc<AtomicBool>) {
    let frozen = Arc::new(AtomicBool::new(false));
    let is_frozen = Arc::clone(&frozen);
    let stranger = Stranger::start(move |client| {
        let server = TcpStream::connect(plane).unwrap();
        let ways = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
        let pumps = ways.map(|(mut from, mut to)| {
            let is_frozen = Arc::clone(&is_frozen);
            thread::spawn(move || {
                let mut bytes = [0; 4_096];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    if !is_frozen.load(SeqCst) && to.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            })
        });
        for pump in pumps {
            let _ = pump.join();
        }
    });
    (stranger, frozen)
}

#[test]
fn a_connection_that_freezes_while_idle_is_given_up() {
    let plane = ControlPlane::start(vec![snapshot(1)]);
    let (stranger, frozen) = freezer(plane.address);
    let user = EventLoop::start(vec![tcp(stranger.address)]);
    user.apply();
    frozen.store(true, SeqCst);
    user.event(&["lost control plane"]);
    frozen.store(false, SeqCst);
    user.connected();
    user.stop();
}

#[test]
fn the_feed_stops_in_time_whatever_it_is_doing() {
    let plane = ControlPlane::start(vec![ping()]);
    let silent = Stranger::silent();
    let blackhole = SocketAddr::from(([192, 0, 2, 1], 9_443));
    let unresolvable = Endpoint::Tcp { host: "pincer.invalid".to_owned(), port: 1 };
    for endpoint in [tcp(plane.address), tcp(silent.address), tcp(nobody()), tcp(blackhole), unresolvable] {
        let user = EventLoop::start(vec![endpoint.clone()]);
        if endpoint == tcp(plane.address) {
            user.connected();
        }
        let begin = Instant::now();
        assert!(user.feed.stop(STOP_MAX), "{endpoint}");
        assert!(begin.elapsed() < STOP_MAX);
    }
    // At once, before it does anything, too.
    EventLoop::start(vec![tcp(plane.address)]).stop();
}

#[test]
fn dropping_the_feed_ends_its_stream() {
    let plane = ControlPlane::start(vec![ping()]);
    let user = EventLoop::start(vec![tcp(plane.address)]);
    plane.hear_hello();
    drop(user);
    // Nothing keeps the port's connection: the next feed is heard, and only that.
    let user = EventLoop::start(vec![tcp(plane.address)]);
    plane.hear_hello();
    user.stop();
}
