//! Bandwidths: the body filter that paces responses.

pub(crate) mod filter;
pub(crate) mod pacing;
pub(crate) mod pieces;

use crate::conf::ConfError;
use crate::ffi::base::feature::Feature;
use crate::ffi::base::module;
use nginx_sys::ngx_conf_t;

/// A module for the place of its body filter alone.
pub(crate) struct BandwidthModule;

module::module!(BandwidthModule, c"ngx_http_pincer_bandwidth_module", ((), (), ()), []);

impl Feature for BandwidthModule {
    fn configured(cf: *mut ngx_conf_t) -> Result<(), ConfError> {
        filter::configured(cf);
        Ok(())
    }
}
