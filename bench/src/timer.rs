//! Timers finer than tokio's millisecond: one thread that sleeps on a condition variable and wakes
//! tasks through channels.
//!
//! A replica of 100 ms whose sleeps end up to 1 ms late would lose 1 % of its capacity, and
//! policies that wait for a free slot would pay for it. These timers are late by the kernel's timer
//! slack and a wake-up, some 0.1 ms. The lateness is recorded at every wake-up and printed with
//! each scenario. Never spins. Cost: one wake-up of the thread and one of the runtime per deadline.
//! Bound: the deadlines that callers await; records of lateness stop at `RECORDS_MAX`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Lateness records kept until they are taken.
const RECORDS_MAX: usize = 1 << 20;

struct Deadline {
    at: Instant,
    wake: oneshot::Sender<()>,
}

/// The earliest deadline is the greatest, for `BinaryHeap` is a max-heap.
impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Deadline {}

#[derive(Default)]
struct Pending {
    deadlines: BinaryHeap<Deadline>,
    stopping: bool,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
    late: Mutex<Vec<Duration>>,
}

/// Handle to the timer thread; clones share it.
#[derive(Clone)]
pub struct Timers {
    shared: Arc<Shared>,
}

/// Owns the timer thread. Dropping it stops the thread; all waiting tasks then wake up at once.
pub struct TimerThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TimerThread {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("timers".into()).spawn(move || own.run());
        Ok(TimerThread { shared, thread: Some(thread.context("starting the timer thread")?) })
    }

    /// A handle for tasks.
    pub fn timers(&self) -> Timers {
        Timers { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        self.shared.pending.lock().stopping = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Timers {
    /// Returns at `deadline` or shortly after; at once when it has passed.
    pub async fn until(&self, deadline: Instant) {
        if deadline <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        let is_first = {
            let mut pending = self.shared.pending.lock();
            let is_first = pending.deadlines.peek().is_none_or(|first| deadline < first.at);
            pending.deadlines.push(Deadline { at: deadline, wake });
            is_first
        };
        if is_first {
            self.shared.changed.notify_one();
        }
        // An error means that the thread has stopped: the round is over, and waking early harms
        // nobody.
        let _ = woken.await;
        let mut late = self.shared.late.lock();
        if late.len() < RECORDS_MAX {
            late.push(deadline.elapsed());
        }
    }

    /// The lateness of each wake-up since the last call.
    pub fn take_lateness(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.shared.late.lock())
    }
}

impl Shared {
    fn run(&self) {
        let mut pending = self.pending.lock();
        while !pending.stopping {
            let now = Instant::now();
            match pending.deadlines.peek().map(|first| first.at) {
                Some(at) if at <= now => {
                    if let Some(due) = pending.deadlines.pop() {
                        let _ = due.wake.send(());
                    }
                }
                Some(at) => drop(self.changed.wait_until(&mut pending, at)),
                None => self.changed.wait(&mut pending),
            }
        }
        pending.deadlines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timer_never_fires_early_and_earlier_ones_overtake() {
        let thread = TimerThread::start().unwrap();
        let timers = thread.timers();
        let start = Instant::now();
        let other = timers.clone();
        let long = tokio::spawn(async move { other.until(start + Duration::from_millis(60)).await });
        timers.until(start + Duration::from_millis(5)).await;
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert!(!long.is_finished());
        long.await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(60));
        assert_eq!(timers.take_lateness().len(), 2);
    }

    #[tokio::test]
    async fn stopping_wakes_what_waits() {
        let thread = TimerThread::start().unwrap();
        let timers = thread.timers();
        let waiting = tokio::spawn(async move { timers.until(Instant::now() + Duration::from_secs(3_600)).await });
        tokio::task::yield_now().await;
        drop(thread);
        waiting.await.unwrap();
    }
}
