//! nginx's macros and inline functions that bindgen cannot see, and the few casts that everything else would repeat.

use super::bits;
use crate::ffi::conf::MainConf;
use crate::ffi::module::context_index;
use nginx_sys::{
    ngx_array_t, ngx_connection_t, ngx_cycle_t, ngx_event_t, ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t,
    ngx_http_request_t, ngx_int_t, ngx_msec_t, ngx_pool_t, ngx_queue_t, ngx_str_t,
};
use std::borrow::Cow;
use std::ffi::c_void;

pub(crate) const OK: ngx_int_t = nginx_sys::NGX_OK as ngx_int_t;
pub(crate) const ERROR: ngx_int_t = nginx_sys::NGX_ERROR as ngx_int_t;
pub(crate) const AGAIN: ngx_int_t = nginx_sys::NGX_AGAIN as ngx_int_t;
pub(crate) const BUSY: ngx_int_t = nginx_sys::NGX_BUSY as ngx_int_t;
pub(crate) const DECLINED: ngx_int_t = nginx_sys::NGX_DECLINED as ngx_int_t;
pub(crate) const DONE: ngx_int_t = nginx_sys::NGX_DONE as ngx_int_t;

/// The bytes of an nginx string.
///
/// # Safety
/// `string` is null-free or empty, and what it points at outlives `'a`.
pub(crate) unsafe fn bytes<'a>(string: ngx_str_t) -> &'a [u8] {
    if string.len == 0 || string.data.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for `len` readable bytes at `data` for `'a`.
    unsafe { std::slice::from_raw_parts(string.data, string.len) }
}

/// The elements of an nginx array.
///
/// # Safety
/// `array` is null or a live array whose elements are `T`, unchanged during `'a`.
pub(crate) unsafe fn elements<'a, T>(array: *const ngx_array_t) -> &'a [T] {
    if array.is_null() {
        return &[];
    }
    // SAFETY: not null, so a live array as the caller vouches.
    let (elts, nelts) = unsafe { ((*array).elts, (*array).nelts) };
    if nelts == 0 || elts.is_null() {
        return &[];
    }
    // SAFETY: `elts` holds `nelts` elements of `T`, as the caller vouches.
    unsafe { std::slice::from_raw_parts(elts.cast(), nelts) }
}

/// Copies `source` into `pool`; `None` when memory is out.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn pool_copy(pool: *mut ngx_pool_t, source: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: `pool` is live; `ngx_pnalloc` answers null or `len` writable bytes.
    let data = unsafe { nginx_sys::ngx_pnalloc(pool, source.len().max(1)) }.cast::<u8>();
    if data.is_null() {
        return None;
    }
    // SAFETY: `data` has room for `source`, and fresh memory does not overlap it.
    unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), data, source.len()) };
    Some(ngx_str_t { len: source.len(), data })
}

/// Copies `text` into `pool` as an nginx string, and `bytes` beside it, aligned to a word; `None` when memory is out.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn pool_pair(pool: *mut ngx_pool_t, text: &[u8], bytes: &[u8]) -> Option<(*mut ngx_str_t, *mut u8)> {
    // SAFETY: `pool` is live; `ngx_palloc` answers null or memory aligned to a word, with room for the string and both contents.
    unsafe {
        let string = nginx_sys::ngx_palloc(pool, size_of::<ngx_str_t>() + bytes.len() + text.len()).cast::<ngx_str_t>();
        if string.is_null() {
            return None;
        }
        let copy = string.add(1).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
        let data = copy.add(bytes.len());
        std::ptr::copy_nonoverlapping(text.as_ptr(), data, text.len());
        string.write(ngx_str_t { len: text.len(), data });
        Some((string, copy))
    }
}

/// Hands `value` to `pool`, which drops it when it is destroyed. Null when memory is out.
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn pool_box<T>(pool: *mut ngx_pool_t, value: T) -> *mut T {
    unsafe extern "C" fn drop_box<T>(data: *mut c_void) {
        // SAFETY: nginx calls a cleanup once, with the data stored below: a pointer from `Box::into_raw`.
        drop(unsafe { Box::from_raw(data.cast::<T>()) });
    }
    // SAFETY: `pool` is live; a size of 0 asks for the cleanup record only.
    let cleanup = unsafe { nginx_sys::ngx_pool_cleanup_add(pool, 0) };
    if cleanup.is_null() {
        return std::ptr::null_mut();
    }
    let boxed = Box::into_raw(Box::new(value));
    // SAFETY: `cleanup` is the live record just added.
    unsafe {
        (*cleanup).handler = Some(drop_box::<T>);
        (*cleanup).data = boxed.cast();
    }
    boxed
}

/// The cleanup of a record that lives in a pool.
pub(crate) type CleanupHandler = unsafe extern "C" fn(*mut c_void);

/// Puts `record` into `pool`, whose end runs `handler` on it; `None` when memory is out. The handler also marks the record: see [`cleanup_find`].
///
/// # Safety
/// `pool` is live.
pub(crate) unsafe fn cleanup_add<T>(pool: *mut ngx_pool_t, handler: CleanupHandler, record: T) -> Option<*mut T> {
    const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) };
    // SAFETY: `pool` is live; the pool answers null or memory aligned to a word, which is written before anyone reads it.
    unsafe {
        let cleanup = nginx_sys::ngx_pool_cleanup_add(pool, size_of::<T>());
        if cleanup.is_null() {
            return None;
        }
        let data = (*cleanup).data.cast::<T>();
        data.write(record);
        (*cleanup).handler = Some(handler);
        Some(data)
    }
}

/// The record in `pool` that [`cleanup_add`] put there with `handler` and that `is_it`: how to find it again when nginx has zeroed the module's context.
///
/// # Safety
/// `pool` is live, and all records of `handler` are `T`.
pub(crate) unsafe fn cleanup_find<T>(
    pool: *const ngx_pool_t,
    handler: CleanupHandler,
    is_it: impl Fn(*const T) -> bool,
) -> Option<*mut T> {
    // SAFETY: the pool's cleanups are a list that only grows while the pool lives.
    unsafe {
        let mut cleanup = (*pool).cleanup;
        while !cleanup.is_null() {
            let record = (*cleanup).data.cast::<T>();
            if (*cleanup).handler.is_some_and(|other| std::ptr::fn_addr_eq(other, handler)) && is_it(record) {
                return Some(record);
            }
            cleanup = (*cleanup).next;
        }
    }
    None
}

/// The module called `name`; null when nginx was built without it and has not loaded it.
///
/// # Safety
/// `cycle` is live and its modules are known.
pub(crate) unsafe fn module_named(cycle: *const ngx_cycle_t, name: &str) -> *mut nginx_sys::ngx_module_t {
    // SAFETY: the cycle's modules end with null, each has its name.
    unsafe {
        let mut module = (*cycle).modules;
        while !module.is_null() && !(*module).is_null() {
            let known = (**module).name;
            if !known.is_null() && std::ffi::CStr::from_ptr(known).to_bytes() == name.as_bytes() {
                return *module;
            }
            module = module.add(1);
        }
    }
    std::ptr::null_mut()
}

/// What a buffer holds in memory; `None` if it holds nothing there.
///
/// # Safety
/// `buffer` is live and unchanged during `'a`.
pub(crate) unsafe fn buffered<'a>(buffer: *const nginx_sys::ngx_buf_t) -> Option<&'a [u8]> {
    // SAFETY: as the caller vouches; the flags say whether `pos` and `last` point at memory.
    unsafe {
        let in_memory = bits::buf::in_memory(buffer) != 0;
        let len =
            usize::try_from((*buffer).last.offset_from((*buffer).pos)).ok().filter(|&len| in_memory && len > 0)?;
        Some(std::slice::from_raw_parts((*buffer).pos, len))
    }
}

/// The values of the request's headers `names` (lower case), each as [`header_in`] answers it, in one walk.
///
/// # Safety
/// `request` is live; the bytes live as long as it.
pub(crate) unsafe fn headers_in<'a, const N: usize>(
    request: *const ngx_http_request_t,
    names: [&[u8]; N],
    between: &[u8],
) -> [Cow<'a, [u8]>; N] {
    let mut found = [const { None::<Cow<'a, [u8]>> }; N];
    // SAFETY: as the caller vouches; header lists are made of parts of table elements.
    unsafe {
        let mut part: *const nginx_sys::ngx_list_part_t = &raw const (*request).headers_in.headers.part;
        while !part.is_null() {
            for index in 0..(*part).nelts {
                let header = &*(*part).elts.cast::<nginx_sys::ngx_table_elt_t>().add(index);
                let key = bytes(header.key);
                let named = names.iter().zip(&mut found).find(|(name, _)| key.eq_ignore_ascii_case(name));
                let Some((_, found)) = named else { continue };
                match found {
                    None => *found = Some(Cow::Borrowed(bytes(header.value))),
                    Some(values) => {
                        let values = values.to_mut();
                        values.extend_from_slice(between);
                        values.extend_from_slice(bytes(header.value));
                    }
                }
            }
            part = (*part).next;
        }
    }
    found.map(Option::unwrap_or_default)
}

/// The values of the request's header `name` (lower case); those of several lines with `between` between them: a comma for who reads them as one, a line feed,
/// which no header has in it, for who has to tell them apart.
///
/// # Safety
/// `request` is live; the bytes live as long as it.
pub(crate) unsafe fn header_in<'a>(request: *const ngx_http_request_t, name: &[u8], between: &[u8]) -> Cow<'a, [u8]> {
    // SAFETY: as the caller vouches.
    let [values] = unsafe { headers_in(request, [name], between) };
    values
}

/// nginx's own configuration of the location that `request` is in.
///
/// # Safety
/// `request` is live; the configuration lives longer.
pub(crate) unsafe fn core_location<'a>(request: *const ngx_http_request_t) -> &'a ngx_http_core_loc_conf_t {
    // SAFETY: as the caller vouches; the core module has a configuration in every location.
    unsafe { &*(*(*request).loc_conf.add(nginx_sys::ngx_http_core_module.ctx_index)).cast() }
}

/// This module's `http {}` configuration in `cycle`; null if there is no `http {}`.
///
/// # Safety
/// `cycle` is live and its configuration has been read.
pub(crate) unsafe fn cycle_main_conf(cycle: *const ngx_cycle_t) -> *mut MainConf {
    // SAFETY: `conf_ctx` has a slot for every module's index; `ngx_http_module` is nginx's own.
    unsafe {
        let context = *(*cycle).conf_ctx.add(nginx_sys::ngx_http_module.index);
        if context.is_null() {
            return std::ptr::null_mut();
        }
        let context = context.cast::<ngx_http_conf_ctx_t>();
        (*(*context).main_conf.add(context_index())).cast()
    }
}

/// What stands outside of every block of nginx.conf: user, worker_processes.
///
/// # Safety
/// `cycle` is live and its configuration has been read.
pub(crate) unsafe fn core_conf<'a>(cycle: *const ngx_cycle_t) -> &'a nginx_sys::ngx_core_conf_t {
    // SAFETY: the core module's configuration exists in every cycle, as long as the cycle.
    unsafe { &*(*(*cycle).conf_ctx.add(nginx_sys::ngx_core_module.index)).cast() }
}

/// This module's context of `request`.
///
/// # Safety
/// `request` is live.
pub(crate) unsafe fn request_ctx(request: *const ngx_http_request_t) -> *mut c_void {
    // SAFETY: `ctx` has a slot for every http module.
    unsafe { *(*request).ctx.add(context_index()) }
}

/// Stores this module's context of `request`.
///
/// # Safety
/// `request` is live.
pub(crate) unsafe fn set_request_ctx(request: *mut ngx_http_request_t, ctx: *mut c_void) {
    // SAFETY: `ctx` has a slot for every http module.
    unsafe { *(*request).ctx.add(context_index()) = ctx };
}

/// Whether something in the configuration that was just read uses the variable `name`.
pub(crate) fn uses_variable(cf: *mut nginx_sys::ngx_conf_t, name: &str) -> bool {
    // SAFETY: nginx calls with a live `ngx_conf_t` inside `http {}`, where the core module's main configuration exists; what uses a variable has put it into
    // this array.
    unsafe {
        let context = (*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        let core = *(*context).main_conf.add(nginx_sys::ngx_http_core_module.ctx_index);
        let variables = &raw const (*core.cast::<nginx_sys::ngx_http_core_main_conf_t>()).variables;
        let used: &[nginx_sys::ngx_http_variable_t] = elements(variables);
        used.iter().any(|variable| bytes(variable.name) == name.as_bytes())
    }
}

/// Milliseconds of nginx's cached monotonic clock.
pub(crate) fn current_msec() -> ngx_msec_t {
    // SAFETY: a word that only this process's event loop writes, read on that loop.
    unsafe { nginx_sys::ngx_current_msec }
}

/// The same, brought up to date before: by this clock nginx times what it asks of upstreams.
pub(crate) fn fresh_msec() -> ngx_msec_t {
    // SAFETY: on the event loop, where nginx calls it itself; it only stores the time.
    unsafe { nginx_sys::ngx_time_update() };
    current_msec()
}

/// Runs `event`'s handler later in this turn of the event loop; once, however often it is posted.
///
/// # Safety
/// `event` stays where it is until it ran or was unposted.
pub(crate) unsafe fn post(event: *mut ngx_event_t) {
    // SAFETY: the queue is nginx's own and initialised in every worker; `event` as the caller vouches.
    unsafe { bits::event::post(event, &raw mut nginx_sys::ngx_posted_events) };
}

/// Takes `event` out of the posted events and out of the timers, if it is there.
///
/// # Safety
/// `event` is live.
pub(crate) unsafe fn cancel(event: *mut ngx_event_t) {
    // SAFETY: `posted` and `timer_set` say that the links are in place.
    unsafe {
        bits::event::unpost(event);
        if bits::event::timer_set(event) != 0 {
            bits::event::del_timer(event);
        }
    }
}

/// Arms `event` to run in `ms`, unless it is armed.
///
/// # Safety
/// `event` is live and stays where it is until it fired or was cancelled; its `log` is set.
pub(crate) unsafe fn arm(event: *mut ngx_event_t, ms: ngx_msec_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        if bits::event::timer_set(event) == 0 {
            bits::event::add_timer(event, ms);
        }
    }
}

/// Whether `queue` has no element.
///
/// # Safety
/// `queue` is an initialised head.
pub(crate) unsafe fn queue_is_empty(queue: *const ngx_queue_t) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { std::ptr::eq((*queue).next, queue) }
}

/// Closes a connection and its pool, as nginx closes an upstream connection.
///
/// # Safety
/// `connection` is open and nobody uses it afterwards.
pub(crate) unsafe fn close_connection(connection: *mut ngx_connection_t) {
    // SAFETY: as the caller vouches.
    unsafe {
        if !(*connection).pool.is_null() {
            nginx_sys::ngx_destroy_pool((*connection).pool);
            (*connection).pool = std::ptr::null_mut();
        }
        nginx_sys::ngx_close_connection(connection);
    }
}

/// nginx's number for what its cache did with the request of `upstream`; 0 = it was not asked.
///
/// # Safety
/// `upstream` is live.
pub(crate) unsafe fn cache_status(upstream: *const nginx_sys::ngx_http_upstream_t) -> usize {
    // SAFETY: as the caller vouches.
    unsafe { bits::upstream::cache_status(upstream) as usize }
}

/// The value of text with variables for `request`; `None` when memory is out or nginx reports an error.
///
/// # Safety
/// `request` is live and `compiled` of its configuration; the bytes live as long as the request.
pub(crate) unsafe fn complex_value<'a>(
    request: *mut ngx_http_request_t,
    compiled: &'static nginx_sys::ngx_http_complex_value_t,
) -> Option<&'a [u8]> {
    let mut value = ngx_str_t { len: 0, data: std::ptr::null_mut() };
    // SAFETY: as the caller vouches; nginx only reads the compiled value.
    unsafe {
        let compiled = std::ptr::from_ref(compiled).cast_mut();
        (nginx_sys::ngx_http_complex_value(request, compiled, &raw mut value) == OK).then(|| bytes(value))
    }
}

/// A buffer over text that lives in `pool` and is the last of an answer; null when memory is out.
///
/// # Safety
/// `pool` is live, and `text` lives in it.
pub(crate) unsafe fn memory_buffer(pool: *mut ngx_pool_t, text: ngx_str_t) -> *mut nginx_sys::ngx_buf_t {
    // SAFETY: as the caller vouches; zeroes are a value of a buffer.
    unsafe {
        let buffer = nginx_sys::ngx_pcalloc(pool, size_of::<nginx_sys::ngx_buf_t>()).cast::<nginx_sys::ngx_buf_t>();
        if !buffer.is_null() {
            (*buffer).pos = text.data;
            (*buffer).last = text.data.add(text.len);
            bits::buf::set_memory(buffer, 1);
            bits::buf::set_last_buf(buffer, 1);
            bits::buf::set_last_in_chain(buffer, 1);
        }
        buffer
    }
}

/// A handler of a phase of request processing.
pub(crate) type PhaseHandler = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;

/// Adds `handler` to a phase of request processing.
pub(crate) fn add_phase_handler(
    cf: *mut nginx_sys::ngx_conf_t,
    phase: nginx_sys::ngx_http_phases,
    handler: PhaseHandler,
) -> Result<(), String> {
    // SAFETY: `cf` is live, and its array of handlers too.
    unsafe {
        let slot = nginx_sys::ngx_array_push(phase_handlers(cf, phase)).cast::<nginx_sys::ngx_http_handler_pt>();
        if slot.is_null() {
            return Err("memory is out".to_owned());
        }
        slot.write(Some(handler));
    }
    Ok(())
}

/// Adds `handler` to `phase`, to run right behind the first handler that stands in the phase `also` too; first of all when there is none.
pub(crate) fn add_phase_handler_behind(
    cf: *mut nginx_sys::ngx_conf_t,
    phase: nginx_sys::ngx_http_phases,
    also: nginx_sys::ngx_http_phases,
    handler: PhaseHandler,
) -> Result<(), String> {
    add_phase_handler(cf, phase, handler)?;
    // SAFETY: `cf` is live, configuration is read by one thread, and the two arrays are different ones.
    let (present, others) = unsafe {
        let handlers: *const nginx_sys::ngx_array_t = phase_handlers(cf, phase);
        let present =
            std::slice::from_raw_parts_mut((*handlers).elts.cast::<Option<PhaseHandler>>(), (*handlers).nelts);
        (present, elements::<Option<PhaseHandler>>(phase_handlers(cf, also)))
    };
    let is_other = |present: &Option<PhaseHandler>| {
        others.iter().flatten().any(|other| present.is_some_and(|present| std::ptr::fn_addr_eq(present, *other)))
    };
    // nginx runs the last of the array first.
    if let Some(before) = present.iter().rposition(is_other) {
        present[before..].rotate_right(1);
    }
    Ok(())
}

/// The handlers of a phase, in the order in which modules added them.
fn phase_handlers(cf: *mut nginx_sys::ngx_conf_t, phase: nginx_sys::ngx_http_phases) -> *mut nginx_sys::ngx_array_t {
    // SAFETY: the core module's main configuration exists in every `http {}`; its phases are arrays of handlers, made before postconfiguration.
    unsafe {
        let context = (*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        let core = (*(*context).main_conf.add(nginx_sys::ngx_http_core_module.ctx_index))
            .cast::<nginx_sys::ngx_http_core_main_conf_t>();
        &raw mut (*core).phases[phase as usize].handlers
    }
}

/// Adds a header to the answer to `request`; none when memory is out.
///
/// # Safety
/// `request` is live and its header not sent.
pub(crate) unsafe fn add_header_out(request: *mut ngx_http_request_t, name: &'static str, value: &str) {
    // SAFETY: as the caller vouches; an element of zeroes is a value, and nginx does not write through `key`.
    unsafe {
        let Some(value) = pool_copy((*request).pool, value.as_bytes()) else { return };
        let headers = &raw mut (*request).headers_out.headers;
        let header = nginx_sys::ngx_list_push(headers).cast::<nginx_sys::ngx_table_elt_t>();
        if header.is_null() {
            return;
        }
        std::ptr::write_bytes(header, 0, 1);
        (*header).hash = 1;
        (*header).key = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
        (*header).value = value;
    }
}
