//! One of nginx's caches, as its workers share it: looks entries up and takes them out, as nginx's
//! own cache manager would.
//!
//! Source: `ngx_http_file_cache.c` of 1.22 and 1.28 (lookup, exists, delete, free, add). Everything
//! here runs under the cache's slab mutex, which nginx's master frees when its holder dies, for
//! microseconds: no system call but one `lstat` in a rare case. Each change leaves what nginx can
//! work with:
//! - An entry that somebody uses (`count`) stays in the tree as one that does not exist: readers
//!   keep their open file, whoever ends last removes it.
//! - The lock of a fetch from before is given up, so the next request fetches anew instead of
//!   waiting for a response that is not kept.
//! - While nginx has not read the cache in from disk (`cold`), it opens files that it has no entry
//!   of. So then an entry that does not exist stays, or is made: it keeps nginx from opening, and
//!   the loader from adding, a file that is about to go.
//!
//! Files are removed by the caller, outside of the mutex, after their entry is taken out. Cost: one
//! tree lookup each. Bound: [`BATCH`] a call.

use crate::cache::{Digest, file};
use crate::ffi::base::{bits, nginx};
use nginx_sys::{
    ngx_http_file_cache_node_t, ngx_http_file_cache_sh_t, ngx_http_file_cache_t, ngx_queue_t, ngx_rbtree_key_t,
    ngx_rbtree_node_t, time_t,
};
use ngx::core::SlabPool;
use std::ffi::OsString;
use std::mem::offset_of;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::ptr::NonNull;
use xxhash_rust::xxh3::xxh3_64;

/// Entries looked at while the mutex is held: some microseconds.
pub(crate) const BATCH: usize = 8;

/// Bytes of a key that are the tree's own.
const WORD: usize = size_of::<ngx_rbtree_key_t>();

/// A cache of the running configuration. Lives as long as that, which is as long as the worker.
#[derive(Clone, Copy)]
pub(crate) struct Cache {
    cache: NonNull<ngx_http_file_cache_t>,
    name: &'static [u8],
}

/// What taking an entry out found.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// The entry.
    pub(crate) key: Digest,
    /// It has a file, which nobody else removes.
    pub(crate) has_file: bool,
    /// What the file takes on disk, if nginx knows it.
    pub(crate) bytes: u64,
}

/// Entries of one batch, and where the next begins.
pub(crate) struct Batch {
    /// In the tree's order.
    pub(crate) entries: Vec<Taken>,
    /// The last entry looked at; `None` when there are no more.
    pub(crate) last: Option<Digest>,
}

/// The moment until which an entry that nobody asks for stays.
fn now() -> time_t {
    // SAFETY: nginx keeps its cached time in place for as long as it runs.
    unsafe { (*nginx_sys::ngx_cached_time).sec }
}

/// The 16 bytes of a node's key.
///
/// # Safety
/// `node` is in the tree and the mutex is held.
unsafe fn key_of(node: *const ngx_http_file_cache_node_t) -> Digest {
    let mut key = [0; 16];
    // SAFETY: as the caller vouches.
    unsafe {
        key[..WORD].copy_from_slice(&(*node).node.key.to_ne_bytes());
        key[WORD..].copy_from_slice(&(*node).key);
    }
    key
}

/// What the tree orders by: the first word as a number, then the rest.
fn rank(key: &Digest) -> (usize, [u8; 16 - WORD]) {
    let (mut word, mut rest) = ([0; WORD], [0; 16 - WORD]);
    word.copy_from_slice(&key[..WORD]);
    rest.copy_from_slice(&key[WORD..]);
    (usize::from_ne_bytes(word), rest)
}

/// The entry that a node of the tree begins.
fn entry(node: *mut ngx_rbtree_node_t) -> *mut ngx_http_file_cache_node_t {
    const { assert!(offset_of!(ngx_http_file_cache_node_t, node) == 0) };
    node.cast()
}

impl Cache {
    /// # Safety
    /// `cache` is null or a cache of the running configuration, whose memory nginx has mapped;
    /// `name` its zone's.
    pub(crate) unsafe fn new(cache: *mut ngx_http_file_cache_t, name: &'static [u8]) -> Option<Self> {
        let cache = NonNull::new(cache)?;
        // SAFETY: as the caller vouches.
        let is_mapped = unsafe { !(*cache.as_ptr()).sh.is_null() && !(*cache.as_ptr()).shpool.is_null() };
        is_mapped.then_some(Self { cache, name })
    }

    /// The name of its zone.
    pub(crate) fn name(&self) -> &'static [u8] {
        self.name
    }

    /// The same in all processes and configurations.
    pub(crate) fn id(&self) -> u64 {
        xxh3_64(self.name)
    }

    fn shared(&self) -> *mut ngx_http_file_cache_sh_t {
        // SAFETY: `new` has seen to it.
        unsafe { (*self.cache.as_ptr()).sh }
    }

    /// nginx has not read all of it in from disk yet, which it does from a minute after its start
    /// on.
    pub(crate) fn is_cold(&self) -> bool {
        // SAFETY: a word of shared memory that other processes store to.
        unsafe { std::ptr::read_volatile(&raw const (*self.shared()).cold) != 0 }
    }

    /// Its folder, and how many digits each level of folders below has.
    pub(crate) fn directory(&self) -> (&'static [u8], [usize; 3]) {
        // SAFETY: the path lives as long as the configuration.
        unsafe {
            let path = (*self.cache.as_ptr()).path;
            (nginx::bytes((*path).name), (*path).level)
        }
    }

    /// Where an entry's file lies.
    pub(crate) fn path(&self, key: &Digest) -> PathBuf {
        let (directory, levels) = self.directory();
        PathBuf::from(OsString::from_vec(file::path_of(directory, &levels, key)))
    }

    /// Bytes of a block, as the cache counts.
    fn block(&self) -> u64 {
        // SAFETY: as in `shared`.
        unsafe { (*self.cache.as_ptr()).bsize as u64 }
    }

    /// Runs `task` under the mutex. It must not call nginx's own functions that lock.
    fn locked<T>(&self, task: impl FnOnce() -> T) -> T {
        // SAFETY: the cache's memory is mapped, and starts with its slab pool.
        let pool = unsafe { (*self.cache.as_ptr()).shm_zone.as_ref().and_then(|zone| SlabPool::from_shm_zone(zone)) };
        // Given back at the end, and by a panic too.
        let _locked = pool.as_ref().map(SlabPool::lock);
        task()
    }

    /// The first entry whose key is not below `key`, or is above it. Under the mutex.
    fn first(&self, key: Option<&Digest>, or_equal: bool) -> *mut ngx_http_file_cache_node_t {
        let mut found = std::ptr::null_mut();
        // SAFETY: under the mutex the tree is whole, and its leaves are the sentinel.
        unsafe {
            let tree = &raw mut (*self.shared()).rbtree;
            let mut node = (*tree).root;
            while node != (*tree).sentinel {
                let here = rank(&key_of(entry(node)));
                if key.is_none_or(|key| rank(key) < here || (or_equal && rank(key) == here)) {
                    found = node;
                    node = (*node).left;
                } else {
                    node = (*node).right;
                }
            }
        }
        entry(found)
    }

    fn lookup(&self, key: &Digest) -> Option<*mut ngx_http_file_cache_node_t> {
        let node = self.first(Some(key), true);
        // SAFETY: not null, so in the tree, under the mutex.
        (!node.is_null() && unsafe { key_of(node) } == *key).then_some(node)
    }

    /// Takes the entry of `key` out, if there is one.
    pub(crate) fn take(&self, key: &Digest) -> Option<Taken> {
        self.locked(|| {
            let found = self.lookup(key);
            if let Some(node) = found {
                // SAFETY: in the tree, under the mutex.
                return Some(unsafe { self.take_out(node) });
            }
            if self.is_cold() {
                self.insert_tombstone(key);
            }
            None
        })
    }

    /// Takes the next [`BATCH`] entries after `after` out.
    pub(crate) fn take_after(&self, after: Option<&Digest>) -> Batch {
        self.walk(after, |node| {
            // SAFETY: `walk` gives entries of the tree, under the mutex.
            unsafe { self.take_out(node) }
        })
    }

    /// The next [`BATCH`] entries after `after`, left as they are.
    pub(crate) fn look_after(&self, after: Option<&Digest>) -> Batch {
        self.walk(after, |node| {
            // SAFETY: as above.
            unsafe { Taken { key: key_of(node), has_file: bits::cache_node::exists(node) != 0, bytes: 0 } }
        })
    }

    fn walk(&self, after: Option<&Digest>, mut look: impl FnMut(*mut ngx_http_file_cache_node_t) -> Taken) -> Batch {
        // Room for all of them first: no allocation under the mutex.
        let mut batch = Batch { entries: Vec::with_capacity(BATCH), last: None };
        self.locked(|| {
            let mut node = self.first(after, false);
            while !node.is_null() && batch.entries.len() < BATCH {
                // SAFETY: in the tree, under the mutex. Taking a node out moves no other.
                let next = unsafe { nginx_sys::ngx_rbtree_next(&raw mut (*self.shared()).rbtree, node.cast()) };
                let taken = look(node);
                batch.last = Some(taken.key);
                batch.entries.push(taken);
                node = entry(next);
            }
            if node.is_null() {
                batch.last = None;
            }
        });
        batch
    }

    /// # Safety
    /// `node` is in this cache's tree, and the mutex is held.
    unsafe fn take_out(&self, node: *mut ngx_http_file_cache_node_t) -> Taken {
        // SAFETY: as the caller vouches. Of an entry that is `deleting` the cache manager is just
        // removing the file, and has subtracted its size.
        let has_file = unsafe { bits::cache_node::exists(node) != 0 && bits::cache_node::deleting(node) == 0 };
        // SAFETY: as the caller vouches.
        let (key, size) = unsafe { (key_of(node), (*node).fs_size) };
        let blocks = if has_file { size } else { 0 };
        // SAFETY: as the caller vouches.
        unsafe {
            (*self.shared()).size -= blocks;
            forget_file(node);
            if bits::cache_node::count(node) == 0 && !self.is_cold() {
                self.free(node);
            }
        }
        Taken { key, has_file, bytes: u64::try_from(blocks).unwrap_or(0) * self.block() }
    }

    /// # Safety
    /// `node` is in this cache's tree, nobody uses it, and the mutex is held.
    unsafe fn free(&self, node: *mut ngx_http_file_cache_node_t) {
        // SAFETY: as the caller vouches.
        unsafe {
            let shared = self.shared();
            remove(&raw mut (*node).queue);
            nginx_sys::ngx_rbtree_delete(&raw mut (*shared).rbtree, &raw mut (*node).node);
            nginx_sys::ngx_slab_free_locked((*self.cache.as_ptr()).shpool, node.cast());
            (*shared).count -= 1;
        }
    }

    /// Makes an entry that does not exist, so that nginx does not open the file of `key`. Under the
    /// mutex, and only when there is no entry. A full zone has no room for it: then nginx may still
    /// open the file, until it is gone.
    fn insert_tombstone(&self, key: &Digest) {
        // SAFETY: under the mutex; the allocator answers null or zeroed memory; what is stored is
        // what nginx's own `add` stores, but for `exists`.
        unsafe {
            let (cache, shared) = (self.cache.as_ptr(), self.shared());
            let size = size_of::<ngx_http_file_cache_node_t>();
            let node = nginx_sys::ngx_slab_calloc_locked((*cache).shpool, size).cast::<ngx_http_file_cache_node_t>();
            if node.is_null() {
                return;
            }
            (*shared).count += 1;
            let (word, rest) = rank(key);
            (*node).node.key = word;
            (*node).key = rest;
            nginx_sys::ngx_rbtree_insert(&raw mut (*shared).rbtree, &raw mut (*node).node);
            (*node).expire = now() + (*cache).inactive;
            insert(&raw mut (*shared).queue, &raw mut (*node).queue);
        }
    }

    /// After files were removed: a response that was stored meanwhile may have lost its new file to
    /// that. Then its entry says so.
    pub(crate) fn settle<'k>(&self, keys: impl Iterator<Item = &'k Digest>) {
        self.locked(|| {
            for key in keys {
                let Some(node) = self.lookup(key) else { continue };
                // SAFETY: in the tree, under the mutex.
                let is_stored_again = unsafe { bits::cache_node::exists(node) != 0 };
                if is_stored_again && self.path(key).symlink_metadata().is_err() {
                    // SAFETY: as above.
                    unsafe { self.take_out(node) };
                }
            }
        });
    }
}

/// Makes an entry one that has no file.
///
/// # Safety
/// `node` is in the tree of a cache whose mutex is held.
unsafe fn forget_file(node: *mut ngx_http_file_cache_node_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        (*node).fs_size = 0;
        (*node).uniq = 0;
        (*node).body_start = 0;
        (*node).valid_sec = 0;
        bits::cache_node::set_valid_msec(node, 0);
        bits::cache_node::set_error(node, 0);
        bits::cache_node::set_exists(node, 0);
        bits::cache_node::set_updating(node, 0);
    }
}

/// Takes a link out of its queue.
///
/// # Safety
/// `link` is in a queue, and nobody else uses that queue now.
unsafe fn remove(link: *mut ngx_queue_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        (*(*link).next).prev = (*link).prev;
        (*(*link).prev).next = (*link).next;
    }
}

/// Puts a link at the head of a queue.
///
/// # Safety
/// `head` is an initialised queue that nobody else uses now, `link` in none.
unsafe fn insert(head: *mut ngx_queue_t, link: *mut ngx_queue_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        (*link).next = (*head).next;
        (*(*link).next).prev = link;
        (*link).prev = head;
        (*head).next = link;
    }
}
