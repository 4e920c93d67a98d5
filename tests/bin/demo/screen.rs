//! Steps and progress on the terminal; without a terminal a line every few seconds.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Shortest time between two updates on a terminal, and elsewhere.
const UPDATE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A headline.
pub fn step(text: &str) {
    println!("\n== {text}");
}

/// How far something is that takes a while.
pub struct Progress {
    total: usize,
    done: AtomicUsize,
    about: Duration,
    start: Instant,
    shown: Mutex<Instant>,
    terminal: bool,
}

impl Progress {
    /// `total` pieces, in `about` this time.
    pub fn new(total: usize, about: Duration) -> Self {
        let start = Instant::now();
        let terminal = std::io::stdout().is_terminal();
        Self { total, done: AtomicUsize::new(0), about, start, shown: Mutex::new(start), terminal }
    }

    /// One more piece is done.
    pub fn one(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if shown.elapsed() >= if self.terminal { UPDATE.0 } else { UPDATE.1 } {
            *shown = Instant::now();
            self.show(done);
        }
    }

    fn show(&self, done: usize) {
        let (elapsed, about) = (self.start.elapsed().as_secs(), self.about.as_secs());
        let line = format!("  {done} of {} answers, {elapsed} of at most {about} s", self.total);
        if self.terminal {
            print!("\r{line}   ");
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }

    /// Leaves the line.
    pub fn end(&self) {
        if self.terminal {
            print!("\r{:60}\r", "");
            let _ = std::io::stdout().flush();
        }
    }
}
