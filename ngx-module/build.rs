//! Compiles `src/ffi/bits.c` against the headers of the nginx that the module is built for.
//!
//! `nginx-sys` says which headers these are. Fails when the C compiler does.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/ffi/bits.c");
    let mut bits = nginx_c();
    bits.file("src/ffi/bits.c").compile("ngx_http_pincer_bits");
}

/// A compiler that sees nginx's headers as nginx's own build does.
fn nginx_c() -> cc::Build {
    let told = |name: &str| std::env::var(name).unwrap_or_default();
    let mut build = cc::Build::new();
    build.includes(std::env::split_paths(&told("DEP_NGINX_INCLUDE")));
    for define in told("DEP_NGINX_CFLAGS").split_whitespace().filter_map(|flag| flag.strip_prefix("-D")) {
        let (name, value) = define.split_once('=').map_or((define, None), |(name, value)| (name, Some(value)));
        build.define(name, value);
    }
    build
}
