//! Free loopback ports, below the range from which the kernel takes the ports of outgoing
//! connections.
//!
//! A port from `bind(0)` may, once released, become the source port of any connection; one of ours
//! stays free until it is bound, so a replica can close its listener and take the same port again.
//! Starts at a place that depends on the process, and holds a lock for each port, so that tests
//! that run side by side in processes of their own do not meet. Bound: `PORTS` probes, then a
//! panic.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Lowest port handed out.
const FIRST: u32 = 10_000;
/// How many ports from there; stays below 32,768, where Linux' ephemeral range starts.
const PORTS: u32 = 22_000;

/// A port that nobody listens on at any loopback address, not handed out by this process before.
///
/// # Panics
/// When every port is taken.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(2_654_435_761) % PORTS));
    for _ in 0..PORTS {
        let offset = next.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = u16::try_from(FIRST + offset).expect("FIRST + PORTS is below 65,536");
        if reserve(port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + PORTS);
}

/// Takes the lock of a port until this process ends. False when another process has it. True where
/// locks cannot be had, since `bind` tells most of what they tell.
fn reserve(port: u16) -> bool {
    let folder = std::env::temp_dir().join("pincer-test-ports");
    let file = std::fs::create_dir_all(&folder).and_then(|()| File::create(folder.join(port.to_string())));
    let Ok(file) = file else { return true };
    let is_ours = file.try_lock().is_ok();
    if is_ours {
        std::mem::forget(file);
    }
    is_ours
}

/// A free address at `ip`.
#[must_use]
pub fn free_addr(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), free_port())
}

/// A loopback address on which nothing listens: connecting is refused.
#[must_use]
pub fn refusing_addr() -> SocketAddr {
    free_addr(Ipv4Addr::LOCALHOST)
}
