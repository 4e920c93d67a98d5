//! Makes a feature's module out of what it says of itself.

/// Makes a feature's module: `NAME` and `MODULE`, for the list of all modules, and the traits by
/// which `ngx` finds its configurations. Their types stand in parentheses: that of `http {}`, of a
/// server or upstream, and of a location. A directive is a function of
/// [`directive`](crate::ffi::base::directive) with its arguments.
macro_rules! module {
    (
        $feature:ident, $name:literal, ($main:ty, $server:ty, $location:ty), [$($level:ident($($argument:expr),* $(,)?)),* $(,)?]
    ) => {
        /// What nginx calls the module.
        pub(crate) const NAME: &std::ffi::CStr = $name;

        static DIRECTIVES: $crate::ffi::base::statics::NginxStatic<
            [nginx_sys::ngx_command_t; [$(stringify!($level),)* ""].len()],
        > = $crate::ffi::base::statics::NginxStatic::new([
            $($crate::ffi::base::directive::$level::<$feature>($($argument),*),)*
            nginx_sys::ngx_command_t::empty(),
        ]);

        static CONTEXT: $crate::ffi::base::statics::NginxStatic<nginx_sys::ngx_http_module_t> =
            $crate::ffi::base::statics::NginxStatic::new($crate::ffi::base::feature::context::<$feature>());

        pub(crate) static MODULE: $crate::ffi::base::statics::NginxStatic<nginx_sys::ngx_module_t> =
            $crate::ffi::base::statics::NginxStatic::new($crate::ffi::base::feature::module::<$feature>(
                &CONTEXT,
                DIRECTIVES.get().cast(),
            ));

        impl ngx::http::HttpModule for $feature {
            fn module() -> &'static nginx_sys::ngx_module_t {
                // SAFETY: nginx writes into it when it loads the module and when it reads
                // `http {}`, on its one thread, and nobody keeps the reference.
                unsafe { &*MODULE.get() }
            }
        }

        // SAFETY: `context` has nginx make exactly this type, or none.
        unsafe impl ngx::http::HttpModuleMainConf for $feature {
            type MainConf = $main;
        }

        // SAFETY: as above.
        unsafe impl ngx::http::HttpModuleServerConf for $feature {
            type ServerConf = $server;
        }

        // SAFETY: as above.
        unsafe impl ngx::http::HttpModuleLocationConf for $feature {
            type LocationConf = $location;
        }
    };
}
pub(crate) use module;
