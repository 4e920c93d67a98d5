//! Plays the event loop: sleeps on the eventfd, takes, answers.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pincer_core::trust::Trusted;
use pincer_proto::v1::Hello;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::conf::control::Endpoint;
use crate::feed::state::StateFile;
use crate::feed::{Config, Event, Feed, Received, TlsMaterial};
use crate::server::PATIENCE;

/// How long a stop may take: nginx's exit waits for it.
pub(crate) const STOP_MAX: Duration = Duration::from_millis(500);

pub(crate) struct EventLoop {
    pub(crate) feed: Feed,
    wake: OwnedFd,
    events: RefCell<Vec<Event>>,
}

pub(crate) fn tcp(address: SocketAddr) -> Endpoint {
    Endpoint::Tcp { host: address.ip().to_string(), port: address.port() }
}

/// A state file at `path`, of whoever runs the test.
pub(crate) fn state_file(path: &Path) -> StateFile {
    StateFile { path: path.to_owned(), trusted: Trusted { user: rustix::process::geteuid().as_raw() } }
}

impl EventLoop {
    pub(crate) fn start(endpoints: Vec<Endpoint>) -> Self {
        Self::start_with(endpoints, None, None)
    }

    pub(crate) fn start_with(endpoints: Vec<Endpoint>, tls: Option<TlsMaterial>, state_path: Option<PathBuf>) -> Self {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let config = Config {
            endpoints,
            tls,
            hello: Hello { node: "n1".to_owned(), instance_id: "i1".to_owned(), ..Hello::default() },
            state: state_path.map(|path| state_file(&path)),
            wake: wake.try_clone().unwrap(),
            seed: u64::from(std::process::id()),
            applied_revision: 0,
        };
        Self { feed: Feed::start(config).unwrap(), wake, events: RefCell::default() }
    }

    /// Sleeps until the feed wakes the loop and `look` finds what it looks for.
    pub(crate) fn until<T>(&self, mut look: impl FnMut(&Feed) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&self.feed) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not seen in time; {:?}, events {:?}", self.feed.status(), self.events);
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&left)).unwrap();
            rustix::io::read(&self.wake, &mut [0; 8]).ok();
        }
    }

    pub(crate) fn take(&self) -> Received {
        self.until(Feed::take)
    }

    /// Takes the next snapshot and says that it is applied.
    pub(crate) fn apply(&self) -> u64 {
        let received = self.take();
        self.feed.applied(received.snapshot.revision, received.arrived.elapsed());
        received.snapshot.revision
    }

    /// Waits for an event whose text has all the `parts`; events before it are kept for
    /// [`EventLoop::events`].
    pub(crate) fn event(&self, parts: &[&str]) -> Event {
        self.until(|feed| {
            let mut events = self.events.borrow_mut();
            events.extend(feed.drain_events());
            let at = events.iter().position(|event| parts.iter().all(|part| event.text.contains(part)))?;
            Some(events.remove(at))
        })
    }

    /// Events so far that nobody waited for.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.borrow_mut().extend(self.feed.drain_events());
        self.events.take()
    }

    pub(crate) fn connected(&self) {
        self.until(|feed| feed.status().connected.then_some(()));
    }

    pub(crate) fn disconnected(&self) {
        self.until(|feed| (!feed.status().connected).then_some(()));
    }

    /// Stops the feed, in time.
    pub(crate) fn stop(self) {
        assert!(self.feed.stop(STOP_MAX), "the thread has not ended in time");
    }
}
