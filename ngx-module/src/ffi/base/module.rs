//! Makes a feature's module out of what it says of itself.

/// Makes a feature's module: `NAME` and `MODULE`, for the list of all modules. A directive is a
/// function of [`directive`](crate::ffi::base::directive) with its arguments.
macro_rules! module {
    ($feature:ident, $name:literal, [$($level:ident($($argument:expr),* $(,)?)),* $(,)?]) => {
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
    };
}
pub(crate) use module;
