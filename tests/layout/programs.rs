//! Two programs that print where the fields of structures are, line by line the same fields: one in
//! C, one in Rust.
//!
//! A line is `STRUCTURE.FIELD OFFSET SIZE`, or for a bit field `STRUCTURE.FIELD` and the bytes of a
//! structure of zeroes in which every bit of the field was set, each as `OFFSET:BITS`.

use super::bindings::{Bindings, Structure};
use std::path::Path;
use std::process::Command;

/// What C says by the headers in `source`.
pub fn in_c(source: &Path, structures: &[Structure]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (text, program) = (folder.path().join("layout.c"), folder.path().join("layout"));
    std::fs::write(&text, c_text(structures)).unwrap();
    let mut compile = Command::new("cc");
    compile.arg("-w").arg("-o").arg(&program).arg(&text).args(includes(source));
    run(&mut compile);
    run(&mut Command::new(&program))
}

/// What Rust says by `bindings`.
pub fn in_rust(bindings: &Bindings, structures: &[Structure]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (text, program) = (folder.path().join("layout.rs"), folder.path().join("layout-rust"));
    std::fs::write(folder.path().join("bindings.rs"), &bindings.text).unwrap();
    std::fs::write(&text, rust_text(structures)).unwrap();
    let mut compile = Command::new("rustc");
    compile.args(["--edition", "2021", "--cap-lints", "allow", "-o"]).arg(&program).arg(&text);
    run(&mut compile);
    run(&mut Command::new(&program))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The folders that nginx's own Makefile includes.
fn includes(source: &Path) -> Vec<String> {
    let makefile = std::fs::read_to_string(source.join("objs/Makefile")).unwrap().replace("\\\n", " ");
    let line = makefile.lines().find_map(|line| line.strip_prefix("ALL_INCS =")).unwrap();
    let folders = line.split_whitespace().filter(|word| *word != "-I");
    folders.map(|folder| format!("-I{}", source.join(folder).display())).collect()
}

/// A structure's name in C.
fn c_name(name: &str) -> String {
    if name.ends_with("_s") { format!("struct {name}") } else { name.to_owned() }
}

/// bindgen adds the line to a name that is a word of Rust's.
fn c_field(name: &str) -> &str {
    name.trim_end_matches('_')
}

fn c_text(structures: &[Structure]) -> String {
    let mut text = String::from(
        "#include <ngx_config.h>\n#include <ngx_core.h>\n#include <ngx_http.h>\n#if __has_include(<ngx_stream.h>)\n#include <ngx_stream.h>\n#endif\n\
         #include <stdio.h>\n#include <string.h>\n\
         static void show(const char *name, const unsigned char *bytes, size_t size)\n\
         { printf(\"%s\", name); for (size_t at = 0; at < size; at++) if (bytes[at]) printf(\" %zu:%02x\", at, bytes[at]); printf(\"\\n\"); }\n",
    );
    let mut calls = String::new();
    for (number, structure) in structures.iter().enumerate() {
        let (name, shown) = (c_name(&structure.name), &structure.name);
        text += &format!("static void of_{number}(void) {{\n");
        for field in &structure.fields {
            let inner = c_field(field);
            text += &format!(
                "printf(\"{shown}.{field} %zu %zu\\n\", offsetof({name}, {inner}), sizeof((({name} *) 0)->{inner}));\n"
            );
        }
        for field in &structure.bits {
            let inner = c_field(field);
            text += &format!(
                "{{ {name} it; memset(&it, 0, sizeof(it)); it.{inner} = ~0; show(\"{shown}.{field}\", (void *) &it, sizeof(it)); }}\n"
            );
        }
        text += "}\n";
        calls += &format!("of_{number}();\n");
    }
    text + "int main(void) {\n" + &calls + "return 0; }\n"
}

fn rust_text(structures: &[Structure]) -> String {
    let mut text = String::from(
        "mod bindings { include!(\"bindings.rs\"); }\n\
         fn size<S, F>(_: fn(&S) -> &F) -> usize { size_of::<F>() }\n\
         fn show<S>(name: &str, set: fn(&mut S)) {\n\
         let mut it: S = unsafe { std::mem::zeroed() };\n\
         unsafe { std::ptr::write_bytes(&mut it as *mut S as *mut u8, 0, size_of::<S>()) };\n\
         set(&mut it);\n\
         let bytes = unsafe { std::slice::from_raw_parts(&it as *const S as *const u8, size_of::<S>()) };\n\
         print!(\"{name}\"); for (at, byte) in bytes.iter().enumerate() { if *byte != 0 { print!(\" {at}:{byte:02x}\"); } } println!();\n\
         std::mem::forget(it); }\n",
    );
    let mut calls = String::new();
    for (number, structure) in structures.iter().enumerate() {
        let name = &structure.name;
        text += &format!("fn of_{number}() {{ type It = bindings::{name};\n");
        for field in &structure.fields {
            text += &format!(
                "println!(\"{name}.{field} {{}} {{}}\", std::mem::offset_of!(It, {field}), size(|it: &It| &it.{field}));\n"
            );
        }
        for field in &structure.bits {
            text += &format!("show(\"{name}.{field}\", |it: &mut It| it.set_{field}(!0));\n");
        }
        text += "}\n";
        calls += &format!("of_{number}();\n");
    }
    text + "fn main() {\n" + &calls + "}\n"
}
