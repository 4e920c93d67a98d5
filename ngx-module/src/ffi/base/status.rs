//! nginx's return values.

use nginx_sys::ngx_int_t;

pub(crate) const OK: ngx_int_t = nginx_sys::NGX_OK as ngx_int_t;
pub(crate) const ERROR: ngx_int_t = nginx_sys::NGX_ERROR as ngx_int_t;
pub(crate) const AGAIN: ngx_int_t = nginx_sys::NGX_AGAIN as ngx_int_t;
pub(crate) const BUSY: ngx_int_t = nginx_sys::NGX_BUSY as ngx_int_t;
pub(crate) const DECLINED: ngx_int_t = nginx_sys::NGX_DECLINED as ngx_int_t;
pub(crate) const DONE: ngx_int_t = nginx_sys::NGX_DONE as ngx_int_t;
