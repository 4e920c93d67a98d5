//! nginx's return values, as the numbers that its functions return and take.

use nginx_sys::ngx_int_t;
use ngx::core::Status;

pub(crate) const OK: ngx_int_t = Status::NGX_OK.0;
pub(crate) const ERROR: ngx_int_t = Status::NGX_ERROR.0;
pub(crate) const AGAIN: ngx_int_t = Status::NGX_AGAIN.0;
pub(crate) const BUSY: ngx_int_t = Status::NGX_BUSY.0;
pub(crate) const DECLINED: ngx_int_t = Status::NGX_DECLINED.0;
pub(crate) const DONE: ngx_int_t = Status::NGX_DONE.0;
