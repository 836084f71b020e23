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
        // No code on the stack.
        "noexecstack",
    ] {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,{argument}");
    }
    // No symbol that is looked for and not found; a fuzzer's hooks and a sanitizer's are in the program.
    let is_set = |cfg| std::env::var_os(cfg).is_some();
    if !is_set("CARGO_CFG_FUZZING") && !is_set("CARGO_CFG_SANITIZE") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,defs");
    }
    // A library that is named but not used (libtss2-esys and with it libcrypto) is not loaded. GNU ld
    // judges that before it throws unused code away, LLVM's linker afterwards; since 1.90 Rust brings
    // the latter along and uses it by itself.
    println!("cargo::rustc-cdylib-link-arg=-Wl,--as-needed");
    println!("cargo::rerun-if-env-changed=PATH");
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join("ld.lld").exists()) {
        println!("cargo::rustc-cdylib-link-arg=-fuse-ld=lld");
    }
}
