//! Runs purges in worker 0's event loop, a little at a time: nginx's cache has no such command of
//! its own.
//!
//! A purge first raises a fence in every cache it means and waits until all workers have dropped
//! what they were about to keep (`cache_store`); only then it removes what is kept (`cache_nodes`),
//! file by file. So a response that was asked for before the purge is not served from the cache
//! after it, whether it was kept, or on its way, in whichever worker. One key: its entry, and with
//! `Vary` all variants, which are found by the key that stands in each file, since nginx derives
//! their names from what clients sent. All: the tree from end to end; what is stored behind the
//! walk's back was asked for after the fence. A cache that nginx has not read in from disk yet is
//! walked on disk first.
//!
//! Never blocks: works [`TURN`] at a time and rests [`REST_MS`] between, so requests have at least
//! half of the loop. Never logs a key. Bound: the feed's number of purges, one at a time; each has
//! a deadline, at which it says how far it came.

use super::conf::Main;
use super::nodes::{Cache, Taken};
use super::store;
use super::zones::{self, Refusal};
use crate::cache::Digest;
use crate::cache::file::{self, Layout};
use crate::cache::walk::Walk;
use crate::feed::PurgeCommand;
use crate::ffi::base::guard::guard;
use crate::ffi::base::statics::LoopStatic;
use crate::ffi::base::{bits, clock, log, nginx};
use crate::ffi::feed::part::Answer;
use crate::ffi::zone::{self, wake, worker};
use nginx_sys::{ngx_event_t, ngx_http_file_cache_header_t, ngx_msec_t};
use pincer_proto::google::rpc;
use pincer_proto::v1;
use pincer_proto::v1::purge::Entries;
use std::cell::{RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::io;
use std::mem::offset_of;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long one turn works: a small request beside it waits no longer.
const TURN: Duration = Duration::from_millis(1);

/// How long requests have the loop between two turns, in milliseconds.
const REST_MS: ngx_msec_t = 1;

/// How long workers have to apply a fence: twice what one needs that is found by its own clock
/// only.
const HEED_MAX: Duration = Duration::from_millis(2_500);

/// google.rpc.Code.
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;

/// Where the fields of nginx's files lie.
const LAYOUT: Layout = Layout {
    bytes: size_of::<ngx_http_file_cache_header_t>(),
    version_at: offset_of!(ngx_http_file_cache_header_t, version),
    version: nginx_sys::NGX_HTTP_CACHE_VERSION as usize,
    header_start_at: offset_of!(ngx_http_file_cache_header_t, header_start),
    vary_len_at: offset_of!(ngx_http_file_cache_header_t, vary_len),
};

/// What to do next.
enum Step {
    /// Raise the fences.
    Fence,
    /// Wait for the workers.
    Heed { fence: u64, until: Instant },
    /// Begin with the next cache.
    Next,
    /// Look at the files on disk.
    Disk(Walk),
    /// Go through the tree, on from this entry.
    Tree(Option<Digest>),
}

struct Job {
    memory: &'static zone::conf::Main,
    answer: Answer,
    id: u64,
    until: Instant,
    /// `None` = all.
    key: Option<Digest>,
    /// Those still to do, the current one last.
    caches: Vec<Cache>,
    step: Step,
    /// No response with `Vary` was found in the current cache, and each was looked at.
    uniform: bool,
    removed: u64,
    bytes: u64,
    files_left: u64,
    why_left: Option<io::ErrorKind>,
    workers_late: usize,
}

struct Purges {
    jobs: RefCell<VecDeque<Job>>,
    event: UnsafeCell<Option<Box<ngx_event_t>>>,
}

static PURGES: LoopStatic<Purges> =
    LoopStatic::new(Purges { jobs: RefCell::new(VecDeque::new()), event: UnsafeCell::new(None) });

/// Takes a purge in hand; what came of it goes to `answer`, later.
pub(super) fn submit(main: &'static Main, command: PurgeCommand, answer: Answer) -> Option<v1::Purged> {
    let PurgeCommand { purge, arrived, .. } = command;
    let (id, validate_only) = (purge.id, purge.validate_only);
    match Job::new(main, answer, purge, arrived) {
        Ok(job) if !validate_only => {
            PURGES.jobs.borrow_mut().push_back(job);
            schedule(REST_MS);
            None
        }
        Ok(_) => Some(v1::Purged { id, ..v1::Purged::default() }),
        Err(Refusal { code, message }) => {
            let error = Some(rpc::Status { code, message, details: Vec::new() });
            Some(v1::Purged { id, error, ..v1::Purged::default() })
        }
    }
}

/// Drops all purges: the stream that waits for them ends.
pub(crate) fn abandon() {
    PURGES.jobs.borrow_mut().clear();
}

fn schedule(ms: ngx_msec_t) {
    // SAFETY: only this thread has the cell, and no reference into it is kept. The box never moves
    // its event.
    unsafe {
        let event = (*PURGES.event.get()).get_or_insert_with(|| Box::new(std::mem::zeroed()));
        event.handler = Some(on_turn);
        event.log = log::cycle_log();
        bits::event::set_cancelable(&raw mut **event, 1);
        event.data = std::ptr::from_mut::<ngx_event_t>(event).cast();
        nginx::arm(&raw mut **event, ms);
    }
}

unsafe extern "C" fn on_turn(_: *mut ngx_event_t) {
    let done = guard("purge", None, turn);
    if let Some((answer, purged)) = done {
        guard("purge answer", (), || answer.send(purged));
    }
    if !PURGES.jobs.borrow().is_empty() {
        schedule(REST_MS);
    }
}

/// One turn of the first purge. It is out of the queue meanwhile: one that panics does not come
/// back.
fn turn() -> Option<(Answer, v1::Purged)> {
    let mut job = PURGES.jobs.borrow_mut().pop_front()?;
    let begin = Instant::now();
    loop {
        let now = Instant::now();
        if now >= job.until {
            return Some(job.finish(Some((DEADLINE_EXCEEDED, "the purge is not done in time".to_owned()))));
        }
        match job.advance(now) {
            Ok(Progress::More) if now.duration_since(begin) < TURN => {}
            Ok(Progress::More | Progress::Wait) => {
                PURGES.jobs.borrow_mut().push_front(job);
                return None;
            }
            Ok(Progress::Done) => return Some(job.finish(None)),
            Err(error) => {
                let message = format!("cannot read the cache's folder: {}", error.kind());
                return Some(job.finish(Some((INTERNAL, message))));
            }
        }
    }
}

enum Progress {
    More,
    Wait,
    Done,
}

impl Job {
    fn new(main: &'static Main, answer: Answer, purge: v1::Purge, arrived: Instant) -> Result<Self, Refusal> {
        let invalid = |message: &str| Refusal { code: INVALID_ARGUMENT, message: message.to_owned() };
        let scope = purge.scope.ok_or_else(|| invalid("the purge names no place"))?;
        let key = match purge.entries {
            Some(Entries::All(())) => None,
            Some(Entries::Key(digest)) => {
                Some(digest.md5.as_slice().try_into().map_err(|_| invalid("the key's digest has not 16 bytes"))?)
            }
            None => return Err(invalid("the purge names no entries")),
        };
        let timeout = purge.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        let timeout = timeout.ok_or_else(|| invalid("the purge has no timeout"))?;
        let timeout = timeout.min(Duration::from_millis(pincer_proto::limits::PURGE_MS_MAX));
        Ok(Self {
            memory: main.memory.get().ok_or_else(|| invalid("there is no zone"))?,
            answer,
            id: purge.id,
            until: arrived + timeout,
            key,
            caches: zones::resolve(&main.places, &scope)?,
            step: Step::Fence,
            uniform: false,
            removed: 0,
            bytes: 0,
            files_left: 0,
            why_left: None,
            workers_late: 0,
        })
    }

    /// Does one thing: some entries, or one file.
    fn advance(&mut self, now: Instant) -> io::Result<Progress> {
        match &mut self.step {
            Step::Fence => {
                self.step = Step::Heed { fence: self.raise(), until: now + HEED_MAX };
            }
            Step::Heed { fence, until } => {
                let late = self.memory.zone.get().map_or(0, |zone| zone.workers_behind(*fence).count());
                if late > 0 && now < *until {
                    return Ok(Progress::Wait);
                }
                self.workers_late = late;
                self.begin()?;
            }
            Step::Next => {
                self.caches.pop();
                self.begin()?;
            }
            Step::Disk(walk) => {
                if walk.is_done() {
                    self.step = Step::Tree(None);
                } else if let Some((digest, path)) = walk.step()? {
                    self.purge_file(digest, &path);
                }
            }
            Step::Tree(after) => {
                let after = *after;
                self.purge_batch(after);
            }
        }
        Ok(if self.caches.is_empty() { Progress::Done } else { Progress::More })
    }

    /// From here on no worker begins to keep a response that was asked for before; wakes them to
    /// drop what they have begun.
    fn raise(&self) -> u64 {
        let Some(zone) = self.memory.zone.get() else { return 0 };
        let key = self.key.as_ref().map(store::fence_key);
        // Rounded up: a response asked for in this very millisecond counts as before.
        let now_ms = clock::now().0.div_ceil(1_000_000).max(nginx::fresh_msec() as u64);
        let raise = || self.caches.iter().map(|cache| zone.header.fences.raise(cache.id(), key, now_ms)).max();
        let fence = self.memory.slab.get().locked(raise).unwrap_or(0);
        store::apply_fences();
        let own = worker::worker();
        for worker in zone.workers_behind(fence).filter(|worker| Some(*worker) != own) {
            wake::kick(worker);
        }
        fence
    }

    /// Begins with the last of the caches.
    fn begin(&mut self) -> io::Result<()> {
        let Some(&cache) = self.caches.last() else { return Ok(()) };
        if let Some(key) = self.key {
            let path = cache.path(&key);
            let may_vary = self.memory.zone.get().is_some_and(|zone| zone.header.fences.may_vary(cache.id()));
            // What cannot be read says nothing.
            let varies = file::read_head(&path, &LAYOUT).ok().flatten().is_some_and(|head| head.varies);
            self.purge_entry(cache, &key, &path);
            if !varies && !may_vary {
                self.step = Step::Next;
                return Ok(());
            }
            self.uniform = !varies;
        }
        self.step = if cache.is_cold() {
            let (directory, levels) = cache.directory();
            Step::Disk(Walk::new(directory, &levels)?)
        } else {
            Step::Tree(None)
        };
        Ok(())
    }

    /// Purges a file on disk, whether nginx knows it or not.
    fn purge_file(&mut self, digest: Digest, path: &Path) {
        let Some(&cache) = self.caches.last() else { return };
        if self.is_meant(path) {
            self.purge_entry(cache, &digest, path);
        }
    }

    /// Whether a file is a variant of the key, or all are meant.
    fn is_meant(&mut self, path: &Path) -> bool {
        let Some(key) = self.key else { return true };
        match file::read_head(path, &LAYOUT) {
            Ok(Some(head)) => {
                self.uniform &= !head.varies;
                head.key == key
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            _ => {
                self.uniform = false;
                false
            }
        }
    }

    /// Removes an entry and its file, if there are any.
    fn purge_entry(&mut self, cache: Cache, digest: &Digest, path: &Path) {
        let is_cold = cache.is_cold();
        match cache.take(digest) {
            Some(taken) if taken.has_file => self.remove(cache, &[taken]),
            // While the cache is cold, nginx may not know its own file, or have taken it for gone.
            _ if is_cold && path.symlink_metadata().is_ok() => {
                let bytes =
                    path.symlink_metadata().map_or(0, |file| std::os::unix::fs::MetadataExt::blocks(&file) * 512);
                self.remove(cache, &[Taken { key: *digest, has_file: true, bytes }]);
            }
            _ => {}
        }
    }

    /// Purges the next entries of the tree.
    fn purge_batch(&mut self, after: Option<Digest>) {
        let Some(&cache) = self.caches.last() else { return };
        let last = if self.key.is_none() {
            let batch = cache.take_after(after.as_ref());
            self.remove(cache, &batch.entries);
            batch.last
        } else {
            let batch = cache.look_after(after.as_ref());
            for entry in batch.entries.iter().filter(|entry| entry.has_file) {
                self.purge_file(entry.key, &cache.path(&entry.key));
            }
            batch.last
        };
        if let (Some(_), None, true, Some(zone)) = (self.key, last, self.uniform, self.memory.zone.get()) {
            zone.header.fences.note_uniform(cache.id());
        }
        self.step = if last.is_some() { Step::Tree(last) } else { Step::Next };
    }

    /// Removes the files of entries that were taken out.
    fn remove(&mut self, cache: Cache, entries: &[Taken]) {
        for entry in entries.iter().filter(|entry| entry.has_file) {
            match std::fs::remove_file(cache.path(&entry.key)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.files_left += 1;
                    self.why_left.get_or_insert(error.kind());
                }
                _ => {
                    self.removed += 1;
                    self.bytes += entry.bytes;
                }
            }
        }
        cache.settle(entries.iter().filter(|entry| entry.has_file).map(|entry| &entry.key));
    }

    /// Counts and tells.
    fn finish(self, error: Option<(i32, String)>) -> (Answer, v1::Purged) {
        let left = self.why_left.map(|why| {
            (
                INTERNAL,
                format!("{} files cannot be removed ({why}), they come back when nginx starts anew", self.files_left),
            )
        });
        let late = (self.workers_late > 0).then(|| {
            let late = self.workers_late;
            (UNAVAILABLE, format!("{late} workers do not answer, they may keep what they fetch now: purge again"))
        });
        let error = error.or(left).or(late);
        if let Some(zone) = self.memory.zone.get() {
            zone.header.counters.purges.fetch_add(1, Relaxed);
            zone.header.counters.purged_entries.fetch_add(self.removed, Relaxed);
        }
        let what = if self.key.is_some() { "one" } else { "all" };
        let (removed, bytes) = (self.removed, self.bytes);
        let message = match &error {
            None => format!("purges a cache, entries={what}, removed={removed}, bytes={bytes}"),
            Some((_, why)) => {
                format!("cannot purge all, entries={what}, removed={removed}, bytes={bytes}, reason={why}")
            }
        };
        log::write_cycle(if error.is_some() { log::NGX_LOG_ERR } else { log::NGX_LOG_INFO }, &message);
        let error = error.map(|(code, message)| rpc::Status { code, message, details: Vec::new() });
        (self.answer, v1::Purged { id: self.id, removed, bytes, error })
    }
}
