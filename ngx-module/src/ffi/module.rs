//! What nginx's loader finds in the shared object: the modules of all features, their names and
//! their places. The only file that knows them all.

use crate::ffi::base::statics::NginxStatic;
use crate::ffi::limit::bandwidth;
use nginx_sys::ngx_module_t;
use std::ffi::c_char;

/// The modules and, in the same order, their names; both lists end with null.
macro_rules! modules {
    ($(crate $(::$module:ident)+),* $(,)?) => {
        const COUNT: usize = [$(stringify!($($module)+)),*].len();

        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        static ngx_modules: NginxStatic<[*const ngx_module_t; COUNT + 1]> =
            NginxStatic::new([$(crate $(::$module)+::MODULE.get().cast_const(),)* std::ptr::null()]);

        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        static ngx_module_names: NginxStatic<[*const c_char; COUNT + 1]> =
            NginxStatic::new([$(crate $(::$module)+::NAME.as_ptr(),)* std::ptr::null()]);
    };
}

// In this order nginx calls them. The zone is first: others register their parts with it, and its
// end of a process ends theirs before the worker's slot is given back. Of two header filters the
// later module's runs first.
modules! {
    crate::ffi::zone,
    crate::ffi::status,
    crate::ffi::feed,
    crate::ffi::limit,
    crate::ffi::body,
    crate::ffi::balance,
    crate::ffi::cache,
    crate::ffi::limit::bandwidth,
}

/// The others are not in here: nginx appends them, so their header filters run first, while
/// `u->buffer` still is as the peer filled it. The one for the bandwidth's body filter stands
/// before the gzip and postpone filters: it runs after them, on all that goes out. nginx may lack
/// gzip.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static ngx_module_order: NginxStatic<[*const c_char; 4]> = NginxStatic::new([
    bandwidth::NAME.as_ptr(),
    c"ngx_http_gzip_filter_module".as_ptr(),
    c"ngx_http_postpone_filter_module".as_ptr(),
    std::ptr::null(),
]);
