//! What of the module only a C compiler knows, asked of the headers of the nginx that it is built
//! for.
//!
//! Compiles `src/ffi/base/bits.c`. Has C say where each field of `src/ffi/base/layout.txt` is and
//! how large, and writes that as assertions for `src/ffi/base/layout.rs`: the build fails where
//! Rust's structures are not C's. `nginx-sys` says which headers these are. The program that says
//! it is run, so host and target are one machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const BITS: &str = "src/ffi/base/bits.c";
const FIELDS: &str = "src/ffi/base/layout.txt";

fn main() {
    for file in ["build.rs", BITS, FIELDS] {
        println!("cargo::rerun-if-changed={file}");
    }
    let compiler = nginx_c();
    compiler.clone().file(BITS).compile("ngx_http_pincer_bits");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let assertions = said_by_c(&compiler, &out, &read(Path::new(FIELDS)));
    write(&out.join("layout.rs"), &assertions);
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

/// What a program in C prints that knows `fields`: an assertion in Rust for each.
fn said_by_c(compiler: &cc::Build, out: &Path, fields: &str) -> String {
    let (source, program) = (out.join("layout.c"), out.join("layout"));
    write(&source, &asking(fields));
    let mut compile = compiler.get_compiler().to_command();
    compile.arg(&source).arg("-o").arg(&program);
    run(&mut compile);
    run(&mut Command::new(&program))
}

/// A program in C that prints the assertions.
fn asking(fields: &str) -> String {
    let mut text = String::from(
        "#include <ngx_config.h>\n#include <ngx_core.h>\n#include <ngx_event.h>\n#include <ngx_http.h>\n#include <stdio.h>\n\
         #define FIELD(type, field, rust) printf(\"const _: () = assert!(core::mem::offset_of!(nginx_sys::\" #type \", \" rust \") == %zu \
         && size_of_field(|it: &nginx_sys::\" #type \"| &it.\" rust \") == %zu, \\\"C has \" #type \".\" #field \" at byte %zu, %zu bytes long, \
         Rust elsewhere: nginx-sys does not fit these headers\\\");\\n\", \
         offsetof(type, field), sizeof(((type *) 0)->field), offsetof(type, field), sizeof(((type *) 0)->field));\n\
         int main(void) {\n",
    );
    let lines = fields.lines().filter(|line| !line.starts_with('#'));
    for (name, fields) in lines.filter_map(|line| line.split_once(": ")) {
        for field in fields.split_whitespace() {
            // bindgen adds the line to a name that is a word of Rust's.
            let _ = writeln!(text, "FIELD({name}, {}, \"{field}\")", field.trim_end_matches('_'));
        }
    }
    text + "return 0; }\n"
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| fail(&format!("{command:?}: {error}")));
    if !output.status.success() {
        fail(&format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())))
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())));
}

fn fail(why: &str) -> ! {
    eprintln!("build.rs: {why}");
    std::process::exit(1)
}
