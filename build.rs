//! How the module is linked. What the linker made of it, `swtpm-tests/tests/binary.rs` checks.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in [
        // dlclose leaves the module where it is: a thread may still be on its way out of it, and
        // the standard library's own thread-local destructors point into it.
        "nodelete",
        // Every symbol is resolved at loading, then the tables are read-only.
        "now",
        "relro",
        // No code on the stack, and no symbol that is looked for and not found.
        "noexecstack",
        "defs",
    ] {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,{argument}");
    }
    // A library that is named but not used (libtss2-esys and with it libcrypto) is not loaded.
    println!("cargo::rustc-cdylib-link-arg=-Wl,--as-needed");
}
