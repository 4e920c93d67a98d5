//! What of the module only a C compiler knows, asked of the headers of the nginx that it is built
//! for.
//!
//! Compiles `src/ffi/base/bits.c`. Has bindgen make `src/ffi/base/wrapper.rs` of the structures in
//! `wrapper.h`, which `nginx-sys` lacks. Has C say where each field of `layout.txt` and
//! `wrapper.txt` is and how large, and writes that as assertions for `layout.rs`: the build fails
//! where Rust's structures are not C's. `nginx-sys` says which headers these are. The program that
//! says it is run, so host and target are one machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const BITS: &str = "src/ffi/base/bits.c";
const WRAPPER: &str = "src/ffi/base/wrapper.h";

/// Lists of fields, and the Rust that has their structures.
const FIELDS: [(&str, &str); 2] =
    [("src/ffi/base/layout.txt", "nginx_sys"), ("src/ffi/base/wrapper.txt", "super::wrapper")];

/// What is taken of the wrapper: no more than nginx-sys lacks, and all that it is made of.
const TYPES: &str = "ngx_http_v2_.*|ngx_http_proxy_(ctx|vars)_t|ngx_http_(rewrite|try_files)_loc_conf_t";

fn main() {
    for file in ["build.rs", BITS, WRAPPER].into_iter().chain(FIELDS.map(|(list, _)| list)) {
        println!("cargo::rerun-if-changed={file}");
    }
    let headers = Headers::of_nginx();
    headers.compiler().file(BITS).compile("ngx_http_pincer_bits");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    headers.bind(&out.join("wrapper.rs"));
    write(&out.join("layout.rs"), &said_by_c(&headers.compiler(), &out));
}

/// nginx's headers, seen as nginx's own build sees them.
struct Headers {
    folders: Vec<PathBuf>,
    /// `NAME` or `NAME=VALUE`.
    defines: Vec<String>,
}

impl Headers {
    fn of_nginx() -> Self {
        let told = |name: &str| std::env::var(name).unwrap_or_default();
        let flags = told("DEP_NGINX_CFLAGS");
        let defines = flags.split_whitespace().filter_map(|flag| flag.strip_prefix("-D")).map(str::to_owned).collect();
        Self { folders: std::env::split_paths(&told("DEP_NGINX_INCLUDE")).collect(), defines }
    }

    /// A C compiler that sees them.
    fn compiler(&self) -> cc::Build {
        let mut build = cc::Build::new();
        build.includes(&self.folders);
        for define in &self.defines {
            let (name, value) = define.split_once('=').map_or((&**define, None), |(name, value)| (name, Some(value)));
            build.define(name, value);
        }
        build
    }

    /// Writes what bindgen makes of the wrapper to `path`.
    fn bind(&self, path: &Path) {
        let folders = self.folders.iter().map(|folder| format!("-I{}", folder.display()));
        let defines = self.defines.iter().map(|define| format!("-D{define}"));
        let made = bindgen::Builder::default()
            .header(WRAPPER)
            .clang_args(folders.chain(defines))
            .allowlist_recursively(false)
            .allowlist_type(TYPES)
            // What they hold by value is nginx-sys's, and may be neither.
            .derive_copy(false)
            .derive_debug(false)
            .use_core()
            .generate();
        let made = made.unwrap_or_else(|error| fail(&format!("{WRAPPER}: {error}")));
        write(path, &made.to_string());
    }
}

/// What a program in C prints that knows all [`FIELDS`]: an assertion in Rust for each.
fn said_by_c(compiler: &cc::Build, out: &Path) -> String {
    let (source, program) = (out.join("layout.c"), out.join("layout"));
    write(&source, &asking());
    let mut compile = compiler.get_compiler().to_command();
    compile.arg("-I.").arg(&source).arg("-o").arg(&program);
    run(&mut compile);
    run(&mut Command::new(&program))
}

/// A program in C that prints the assertions.
fn asking() -> String {
    let mut text = format!(
        "#include \"{WRAPPER}\"\n#include <stdio.h>\n\
         #define FIELD(in, type, field, rust) printf(\"const _: () = assert!(core::mem::offset_of!(\" in \"::\" #type \", \" rust \") == %zu \
         && size_of_field(|it: &\" in \"::\" #type \"| &it.\" rust \") == %zu, \\\"C has \" #type \".\" #field \" at byte %zu, %zu bytes long, \
         Rust elsewhere: \" in \" does not fit these headers\\\");\\n\", \
         offsetof(type, field), sizeof(((type *) 0)->field), offsetof(type, field), sizeof(((type *) 0)->field));\n\
         int main(void) {{\n",
    );
    for (list, module) in FIELDS {
        for line in read(Path::new(list)).lines().filter(|line| !line.starts_with('#')) {
            let Some((name, fields)) = line.split_once(": ") else { continue };
            for field in fields.split_whitespace() {
                // bindgen adds the line to a name that is a word of Rust's.
                let _ = writeln!(text, "FIELD(\"{module}\", {name}, {}, \"{field}\")", field.trim_end_matches('_'));
            }
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
