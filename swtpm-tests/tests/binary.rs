//! The module as a file: what it exports, what it needs, and how it is mapped. An application loads
//! exactly this, so it is read with readelf and nm, not through Rust.

use std::collections::BTreeSet;
use std::process::Command;

use swtpm_tests::bench::module;
use swtpm_tests::door::specified;

/// Everything that may be loaded with us. No libtss2-esys, no libcrypto: an application that uses
/// OpenSSL with us as its provider must not meet OpenSSL again inside us.
const NEEDED: &[&str] = &["libc.so.6", "libgcc_s.so.1", "libtss2-mu.so.0", "libtss2-tctildr.so.0"];

/// What libc itself may pull in, depending on the linker, and its own mathematical half, which the
/// standard library of Rust 1.85 asks for one logarithm.
const ALLOWED: &[&str] = &["ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libm.so.6"];

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .arg(module())
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program} (package binutils): {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Names of the symbols that a program can find, each with its type letter.
fn exported() -> Vec<(String, String)> {
    run("nm", &["--dynamic", "--defined-only"])
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().rev();
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        })
        .collect()
}

#[test]
fn exported_are_the_functions_of_the_specification_and_nothing_else() {
    let specified = specified();
    assert_eq!(specified.len(), 104);
    let found: BTreeSet<_> = exported().into_iter().map(|(name, _)| name).collect();
    let missing: Vec<_> = specified.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&specified).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
    assert!(exported().iter().all(|(_, kind)| kind == "T"), "all are functions");
}

#[test]
fn needed_are_the_tpm_types_the_tcti_loader_and_the_c_library() {
    let dynamic = run("readelf", &["--dynamic", "--wide"]);
    let needed: BTreeSet<_> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1))
        .filter(|name| !ALLOWED.contains(name))
        .collect();
    assert_eq!(needed, NEEDED.iter().copied().collect());
}

#[test]
fn the_module_stays_where_it_is_and_is_bound_at_once() {
    let dynamic = run("readelf", &["--dynamic", "--wide"]);
    let flags: Vec<_> = dynamic.lines().filter(|line| line.contains("FLAGS")).collect();
    let flags = flags.join("\n");
    assert!(flags.contains("NODELETE"), "dlclose would unmap code that a thread runs: {flags}");
    assert!(flags.contains("NOW"), "{flags}");
    assert!(!dynamic.contains("TEXTREL"), "the code is written to at loading");
    assert!(!dynamic.contains("RUNPATH") && !dynamic.contains("RPATH"), "a path of the builder's");
}

#[test]
fn no_memory_is_both_written_and_run() {
    let segments = run("readelf", &["--segments", "--wide"]);
    assert!(segments.contains("GNU_RELRO"));
    let stack = segments.lines().find(|line| line.contains("GNU_STACK")).expect("a stack segment");
    assert!(!stack.contains('E'), "{stack}");
    for line in segments.lines().filter(|line| line.trim_start().starts_with("LOAD")) {
        assert!(!line.contains("RWE"), "{line}");
    }
}

#[test]
fn loading_runs_no_code_of_ours() {
    // .init_array holds what the standard library needs to know argc and argv, and the compiler's
    // own frame_dummy: eight bytes each. There is no .init_array entry of ours, and .fini_array
    // holds the compiler's entry alone.
    let sections = run("readelf", &["--sections", "--wide"]);
    let entries = |name: &str| {
        sections.lines().find(|line| line.contains(name)).map_or(0, |line| {
            let size = line.split_whitespace().rev().nth(5).unwrap();
            u64::from_str_radix(size, 16).unwrap() / size_of::<usize>() as u64
        })
    };
    assert!(entries(".init_array") <= 2, "{sections}");
    assert!(entries(".fini_array") <= 1, "{sections}");
}
