//! The shared zone: asks nginx for the memory, lays the core's records out in it, and puts nginx.conf's peers there.
//!
//! The zone is one slab allocation that is never freed, so records need no allocator. Reserving happens while a reload can still fail;
//! peers are configured in `init_module`, when it no longer can, so a reload that fails changes no traffic.

use crate::ffi::base::feature::Feature;
use crate::ffi::base::guard::guard;
use crate::ffi::base::{clock, log, nginx};
use crate::ffi::conf::{DeclaredPeer, MainConf, PincerModule, UpstreamConf};
use nginx_sys::{ngx_conf_t, ngx_int_t, ngx_shm_zone_t, ngx_slab_pool_t};
use pincer_core::zone::{CLASSES_MAX, Header, Layout, PeerSpec, Settings, Zone};
use std::ffi::c_void;

/// A cache line: the alignment of the records.
const LINE: usize = 64;

/// nginx's slab page, in bytes.
const PAGE: usize = 4096;

/// Asks for the zone's memory; nginx calls `init_zone` once it is there.
pub(crate) fn declare(cf: *mut ngx_conf_t, main: &mut MainConf) -> Result<(), String> {
    let Some(args) = &main.zone_args else { return Ok(()) };
    // SAFETY: `cf` is live; the name's copy lives in the configuration's pool; `ngx_shared_memory_add` answers null or a live zone.
    unsafe {
        let mut name = nginx::pool_copy((*cf).pool, args.name.as_bytes()).ok_or("memory is out")?;
        let zone = nginx_sys::ngx_shared_memory_add(cf, &raw mut name, args.size_bytes, PincerModule::module().cast());
        if zone.is_null() {
            return Err(format!("\"pincer_zone\" \"{}\" cannot be added", args.name));
        }
        if !(*zone).data.is_null() {
            return Err(format!("\"pincer_zone\" \"{}\" is duplicate, one is needed", args.name));
        }
        (*zone).init = Some(init_zone);
        (*zone).data = std::ptr::from_mut(main).cast();
        main.shm_zone.set(Some(&*zone));
    }
    Ok(())
}

/// nginx has mapped the memory: new, or the running one at a reload (then `old` is the running configuration).
unsafe extern "C" fn init_zone(shm_zone: *mut ngx_shm_zone_t, old: *mut c_void) -> ngx_int_t {
    guard("zone init", nginx::ERROR, || {
        // SAFETY: nginx passes the zone of `declare`, whose data is the new configuration; one thread.
        let (pool, main) =
            unsafe { ((*shm_zone).shm.addr.cast::<ngx_slab_pool_t>(), &*(*shm_zone).data.cast::<MainConf>()) };
        // SAFETY: as above.
        let zone = unsafe { if old.is_null() { make(pool, main) } else { reuse(pool) } };
        match zone.and_then(|zone| adopt(zone, main).map(|()| zone)) {
            Ok(_) => nginx::OK,
            Err(message) => {
                log::write_cycle(log::NGX_LOG_EMERG, &format!("{message} {}", main.zone_place));
                nginx::ERROR
            }
        }
    })
}

/// Lays a new zone out.
///
/// # Safety
/// `pool` is the head of a fresh shared zone, mapped for its whole size.
unsafe fn make(pool: *mut ngx_slab_pool_t, main: &MainConf) -> Result<&'static Zone<'static>, String> {
    // SAFETY: as the caller vouches; a pool counts its free pages.
    let usable = unsafe { (*pool).pfree }.saturating_sub(1) * PAGE;
    let layout = Layout::for_bytes(usable.saturating_sub(LINE))
        .map_err(|small| too_small(main, declared_bytes(main).max(small.need)))?;
    // SAFETY: the slab allocator answers null or zeroed memory that nobody else gets; its size was just computed.
    unsafe {
        let memory = nginx_sys::ngx_slab_calloc(pool, layout.bytes + LINE).cast::<u8>();
        if memory.is_null() {
            return Err(format!("\"pincer_zone\" cannot use {} bytes of its own memory", layout.bytes));
        }
        // Pages are aligned beyond a line: the first line is the zone's name, the core's records follow.
        memory.cast::<[u64; 2]>().write([clock::entropy(), clock::entropy()]);
        let memory = memory.add(LINE);
        (*memory.cast::<Header>()).init(&layout, [clock::entropy(), clock::entropy()]);
        (*pool).data = memory.cast();
        Ok(map(memory, &layout))
    }
}

/// Finds the running zone in its memory.
///
/// # Safety
/// `pool` is the head of a zone that [`make`] has laid out.
unsafe fn reuse(pool: *mut ngx_slab_pool_t) -> Result<&'static Zone<'static>, String> {
    // SAFETY: as the caller vouches: `data` is what `make` stored.
    unsafe {
        let memory = (*pool).data.cast::<u8>();
        let layout = if memory.is_null() { None } else { (*memory.cast::<Header>()).layout() };
        let layout = layout
            .ok_or("\"pincer_zone\" was made by another version of the module, restart nginx or rename the zone")?;
        Ok(map(memory, &layout))
    }
}

/// # Safety
/// `memory` is aligned to a cache line and has `layout.bytes` bytes, zeroed or written by the core, mapped as long as the process lives.
unsafe fn map(memory: *mut u8, layout: &Layout) -> &'static Zone<'static> {
    // SAFETY: as the caller vouches; every record is a struct of atomics, for which any bytes are a value, so sharing them is sound.
    let zone = unsafe {
        Zone {
            header: &*memory.cast(),
            workers: std::slice::from_raw_parts(memory.add(layout.workers_at).cast(), pincer_core::zone::WORKERS_MAX),
            upstreams: std::slice::from_raw_parts(memory.add(layout.upstreams_at).cast(), layout.upstreams),
            peers: std::slice::from_raw_parts(memory.add(layout.peers_at).cast(), layout.peers),
            keys: std::slice::from_raw_parts(memory.add(layout.keys_at).cast(), layout.key_words()),
            classes: std::slice::from_raw_parts(memory.add(layout.classes_at).cast(), layout.classes),
            rates: std::slice::from_raw_parts(memory.add(layout.rates_at).cast(), layout.rate_sets),
            seats: std::slice::from_raw_parts(memory.add(layout.seats_at).cast(), layout.seat_sets),
        }
    };
    // A few words for each configuration that was ever loaded: not worth an owner.
    Box::leak(Box::new(zone))
}

/// Bytes of records for what nginx.conf declares.
fn declared_bytes(main: &MainConf) -> usize {
    let upstreams = main.upstreams.borrow();
    let peers = upstreams.iter().map(|upstream| upstream.peers.borrow().len()).sum();
    Layout::bytes_for(upstreams.len(), peers, main.classes.len())
}

fn too_small(main: &MainConf, need_bytes: usize) -> String {
    let size_kib = main.zone_args.as_ref().map_or(0, |args| args.size_bytes) / 1024;
    let need_kib = Layout::size_kib(need_bytes);
    let upstreams = main.upstreams.borrow();
    let peers: usize = upstreams.iter().map(|upstream| upstream.peers.borrow().len()).sum();
    let (count, classes) = (upstreams.len(), main.classes.len());
    format!(
        "\"pincer_zone\" size {size_kib}k is too small, {need_kib}k needed for {peers} peers in {count} upstreams and {classes} classes"
    )
}

/// The zone's random name: the same over a reload, another after a restart.
fn instance_id(zone: &Zone<'_>) -> String {
    // SAFETY: `make` wrote the name into the line before the header; both only in configuration, on one thread.
    let [high, low] = unsafe { std::ptr::from_ref(zone.header).byte_sub(LINE).cast::<[u64; 2]>().read() };
    format!("{high:016x}{low:016x}")
}

/// Tells the configuration where its zone is, if there is room for it. Changes nothing in the zone: the reload may fail yet.
fn adopt(zone: &'static Zone<'static>, main: &MainConf) -> Result<(), String> {
    main.zone.set(Some(zone));
    main.instance_id.replace(instance_id(zone));
    let (mut upstreams, mut peers) = (0, 0);
    for &upstream in main.upstreams.borrow().iter() {
        let index = zone.upstream_find(&upstream.name.borrow());
        upstreams += usize::from(index.is_none());
        let declared = upstream.peers.borrow();
        let is_fresh = |peer: &&DeclaredPeer| index.is_none_or(|index| zone.peer_find(index, &peer.sockaddr).is_none());
        peers += declared.iter().filter(is_fresh).count();
    }
    let known = |name: &str| zone.class_find(name.as_bytes(), 0).is_some();
    let classes = main.classes.iter().filter(|class| !known(&class.name)).count();
    let room = zone.room();
    if upstreams <= room.upstreams && peers <= room.peers && classes <= room.classes {
        return Ok(());
    }
    let upstreams_needed = zone.upstreams.len() + upstreams.saturating_sub(room.upstreams);
    let peers_needed = zone.peers.len() + peers.saturating_sub(room.peers);
    let classes_needed = zone.classes.len() + classes.saturating_sub(room.classes);
    if classes_needed > CLASSES_MAX {
        let have = main.classes.len();
        return Err(format!(
            "\"pincer_class\": {have} classes are declared and others added at run time, {classes_needed} in all, at most {CLASSES_MAX} are allowed"
        ));
    }
    let need = declared_bytes(main);
    if main.zone_args.as_ref().is_some_and(|args| Layout::size_kib(need) * 1024 > args.size_bytes) {
        return Err(too_small(main, need));
    }
    // What other configurations had in it takes the room, and more of that may come.
    Err(too_small(main, Layout::bytes_for(upstreams_needed, peers_needed, classes_needed)))
}

/// Makes nginx.conf's peers those of the zone. In the master, once the configuration is in force.
pub(crate) fn configure(main: &MainConf) -> Result<(), String> {
    let Some(zone) = main.zone.get() else { return Ok(()) };
    main.generation.set(zone.header.generation_begin());
    let place = |upstream: &UpstreamConf, error| format!("upstream {}: {error}", upstream.place.borrow());
    for &upstream in main.upstreams.borrow().iter() {
        let index = locked(main, || zone.upstream_reserve(&upstream.name.borrow()));
        upstream.index.set(Some(index.map_err(|error| place(upstream, error))?));
        upstream.zone.set(Some(zone));
    }
    let place_of_classes = |error| format!("\"pincer_class\": {error} {}", main.classes_place);
    let mut classes = Vec::new();
    for class in &main.classes {
        let index = locked(main, || zone.class_reserve(class.name.as_bytes())).map_err(place_of_classes)?;
        classes.push((index, class));
    }
    locked(main, || zone.retire(clock::now()));
    for (index, class) in classes {
        locked(main, || zone.class_configure(index, &class.settings, clock::now())).map_err(place_of_classes)?;
    }
    for &upstream in main.upstreams.borrow().iter() {
        let Some(index) = upstream.index.get() else { continue };
        let declared = upstream.peers.borrow();
        let specs: Vec<PeerSpec<'_>> = declared.iter().map(DeclaredPeer::spec).collect();
        let settings =
            Settings { queue_size: upstream.queue.map_or(0, |queue| queue.size), signal: upstream.params().signal };
        locked(main, || zone.upstream_configure(index, &settings, &specs, clock::now()))
            .map_err(|error| place(upstream, error))?;
    }
    Ok(())
}

/// Runs a structural change under the slab mutex, which nginx's master frees when its holder dies.
pub(crate) fn locked<T>(main: &MainConf, change: impl FnOnce() -> T) -> T {
    let Some(shm_zone) = main.shm_zone.get() else { return change() };
    let pool = shm_zone.shm.addr.cast::<ngx_slab_pool_t>();
    // SAFETY: the zone's memory starts with its slab pool, whose mutex nginx has made.
    unsafe { nginx_sys::ngx_shmtx_lock(&raw mut (*pool).mutex) };
    // A panic in between must not keep the mutex: this process would go on and never give it back.
    let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
    // SAFETY: locked above.
    unsafe { nginx_sys::ngx_shmtx_unlock(&raw mut (*pool).mutex) };
    match changed {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
