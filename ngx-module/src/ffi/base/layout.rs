//! Holds that Rust's view of nginx's structures is C's, field by field; checked when the module is
//! built.
//!
//! `layout.txt` and `wrapper.txt` name the fields, build.rs asks C. `tests/layout.rs` does the same
//! for every field of every structure of `nginx-sys`.

/// The size of what `field` finds in a structure.
const fn size_of_field<S, F>(_field: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

include!(concat!(env!("OUT_DIR"), "/layout.rs"));
