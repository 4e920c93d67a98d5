//! The shared zone: asks nginx for the memory, lays the core's records out in it, and puts
//! nginx.conf's peers there.
//!
//! The zone is one slab allocation that is never freed, so records need no allocator. Reserving
//! happens while a reload can still fail; peers are configured in `init_module`, when it no longer
//! can, so a reload that fails changes no traffic.

use super::conf::{Main, ZoneModule};
use super::part::Counts;
use super::slab::Slab;
use crate::conf::{ConfError, Problem};
use crate::ffi::base::guard::guard;
use crate::ffi::base::{clock, log, nginx};
use nginx_sys::{ngx_conf_t, ngx_int_t, ngx_shm_zone_t, ngx_slab_pool_t};
use ngx::http::HttpModule as _;
use pincer_core::zone::{CLASSES_MAX, Extent, Header, Layout, Memory, Zone};
use std::ffi::c_void;

/// A cache line: the alignment of the records.
const LINE: usize = 64;

/// nginx's slab page, in bytes.
const PAGE: usize = 4096;

/// Asks for the zone's memory; nginx calls `init_zone` once it is there.
pub(crate) fn declare(cf: *mut ngx_conf_t, main: &Main) -> Result<(), ConfError> {
    let Some(args) = &main.args else { return Ok(()) };
    // SAFETY: `cf` is live; the name's copy lives in the configuration's pool;
    // `ngx_shared_memory_add` answers null or a live zone.
    unsafe {
        let mut name =
            nginx::pool_copy((*cf).pool, args.name.as_bytes()).ok_or_else(|| main.conf_error(Problem::Memory))?;
        let zone = nginx_sys::ngx_shared_memory_add(cf, &raw mut name, args.size_bytes, tag());
        if zone.is_null() {
            return Err(main.conf_error(Problem::NotAdded { name: args.name.clone() }));
        }
        if !(*zone).data.is_null() {
            return Err(main.conf_error(Problem::DuplicateOf { argument: args.name.clone() }));
        }
        (*zone).init = Some(init_zone);
        (*zone).data = std::ptr::from_ref(main).cast_mut().cast();
        main.slab.set(Slab::of(&*zone));
    }
    Ok(())
}

/// What tells nginx that the memory is this module's.
fn tag() -> *mut c_void {
    std::ptr::from_ref(ZoneModule::module()).cast_mut().cast()
}

/// nginx has mapped the memory: new, or the running one at a reload (then `old` is the running
/// configuration).
unsafe extern "C" fn init_zone(shm_zone: *mut ngx_shm_zone_t, old: *mut c_void) -> ngx_int_t {
    guard("zone init", nginx::ERROR, || {
        // SAFETY: nginx passes the zone of `declare`, whose data is the new configuration; one
        // thread.
        let (pool, main) =
            unsafe { ((*shm_zone).shm.addr.cast::<ngx_slab_pool_t>(), &*(*shm_zone).data.cast::<Main>()) };
        // SAFETY: as above.
        let zone = unsafe { if old.is_null() { make(pool, main) } else { reuse(pool, main) } };
        match zone.and_then(|zone| adopt(zone, main).map(|()| zone)) {
            Ok(_) => nginx::OK,
            Err(error) => {
                log::write_cycle(log::NGX_LOG_EMERG, &error.to_string());
                nginx::ERROR
            }
        }
    })
}

/// Lays a new zone out.
///
/// # Safety
/// `pool` is the head of a fresh shared zone, mapped for its whole size.
unsafe fn make(pool: *mut ngx_slab_pool_t, main: &Main) -> Result<&'static Zone<'static>, ConfError> {
    // SAFETY: as the caller vouches; a pool counts its free pages.
    let usable = unsafe { (*pool).pfree }.saturating_sub(1) * PAGE;
    let layout = Layout::for_bytes(usable.saturating_sub(LINE))
        .map_err(|small| too_small(main, declared_bytes(main).max(small.need)))?;
    // SAFETY: the slab allocator answers null or zeroed memory that nobody else gets; its size was
    // just computed.
    unsafe {
        let memory = nginx_sys::ngx_slab_calloc(pool, layout.bytes + LINE).cast::<u8>();
        if memory.is_null() {
            return Err(main.conf_error(Problem::OwnMemory { bytes: layout.bytes }));
        }
        // Pages are aligned beyond a line: the first line is the zone's name, the core's records
        // follow.
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
unsafe fn reuse(pool: *mut ngx_slab_pool_t, main: &Main) -> Result<&'static Zone<'static>, ConfError> {
    // SAFETY: as the caller vouches: `data` is what `make` stored.
    unsafe {
        let memory = (*pool).data.cast::<u8>();
        let layout = if memory.is_null() { None } else { (*memory.cast::<Header>()).layout() };
        let layout = layout.ok_or_else(|| main.conf_error(Problem::OtherVersion))?;
        Ok(map(memory, &layout))
    }
}

/// A zone's memory, from its header on.
struct Mapped(*mut u8);

impl Memory<'static> for Mapped {
    fn header(&self) -> &'static Header {
        // SAFETY: `map` vouches for the memory.
        unsafe { &*self.0.cast() }
    }

    fn records<T>(&self, extent: Extent) -> &'static [T] {
        // SAFETY: `map` vouches for the memory and that the extent is one of its layout. Every
        // record is a struct of atomics, for which any bytes are a value, so sharing them is sound.
        unsafe { std::slice::from_raw_parts(self.0.add(extent.at).cast(), extent.count) }
    }
}

/// # Safety
/// `memory` is aligned to a cache line and has `layout.bytes` bytes, zeroed or written by the core,
/// mapped as long as the process lives.
unsafe fn map(memory: *mut u8, layout: &Layout) -> &'static Zone<'static> {
    let zone = Zone::map(layout, &Mapped(memory));
    // A few words for each configuration that was ever loaded: not worth an owner.
    Box::leak(Box::new(zone))
}

/// Bytes of records for what nginx.conf declares.
fn declared_bytes(main: &Main) -> usize {
    let Counts { upstreams, peers, classes } = main.sum(|part| part.declared());
    Layout::bytes_for(upstreams, peers, classes)
}

fn too_small(main: &Main, need_bytes: usize) -> ConfError {
    let size_kib = main.args.as_ref().map_or(0, |args| args.size_bytes) / 1024;
    let need_kib = Layout::size_kib(need_bytes);
    let Counts { upstreams, peers, classes } = main.sum(|part| part.declared());
    main.conf_error(Problem::NoRoom { size_kib, need_kib, peers, upstreams, classes })
}

/// The zone's random name: the same over a reload, another after a restart.
fn instance_id(zone: &Zone<'_>) -> String {
    // SAFETY: `make` wrote the name into the line before the header; both only in configuration, on
    // one thread.
    let [high, low] = unsafe { std::ptr::from_ref(zone.header).byte_sub(LINE).cast::<[u64; 2]>().read() };
    format!("{high:016x}{low:016x}")
}

/// Tells the configuration where its zone is, if there is room for it. Changes nothing in the zone:
/// the reload may fail yet.
fn adopt(zone: &'static Zone<'static>, main: &Main) -> Result<(), ConfError> {
    main.zone.set(Some(zone));
    main.instance_id.replace(instance_id(zone));
    let Counts { upstreams, peers, classes } = main.sum(|part| part.missing(zone));
    let room = zone.room();
    if upstreams <= room.upstreams && peers <= room.peers && classes <= room.classes {
        return Ok(());
    }
    let upstreams_needed = zone.upstreams.len() + upstreams.saturating_sub(room.upstreams);
    let peers_needed = zone.peers.len() + peers.saturating_sub(room.peers);
    let classes_needed = zone.classes.len() + classes.saturating_sub(room.classes);
    if classes_needed > CLASSES_MAX {
        let have = main.sum(|part| part.declared()).classes;
        let problem = Problem::ClassesAdded { have, all: classes_needed, max: CLASSES_MAX };
        return Err(ConfError::at("pincer_class", problem, &main.place));
    }
    let need = declared_bytes(main);
    if main.args.as_ref().is_some_and(|args| Layout::size_kib(need) * 1024 > args.size_bytes) {
        return Err(too_small(main, need));
    }
    // What other configurations had in it takes the room, and more of that may come.
    Err(too_small(main, Layout::bytes_for(upstreams_needed, peers_needed, classes_needed)))
}

/// Makes what nginx.conf declares that of the zone. In the master, once the configuration is in
/// force.
pub(crate) fn configure(main: &Main) -> Result<(), ConfError> {
    let Some(zone) = main.zone.get() else { return Ok(()) };
    let slab = main.slab.get();
    main.generation.set(zone.header.generation_begin());
    for part in main.parts.borrow().iter() {
        part.reserve(zone, slab)?;
    }
    slab.locked(|| zone.retire(clock::now()));
    for part in main.parts.borrow().iter() {
        part.configure(zone, slab)?;
    }
    Ok(())
}
