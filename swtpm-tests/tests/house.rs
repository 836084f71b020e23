//! The floors of the house, and which words may stand in which room. The two tables below are the
//! architecture diagram; these tests read the sources and hold them to it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room and its floor. A room imports only from floors below its own, and from itself.
const FLOORS: &[(u8, &str)] = &[
    (6, "abi"),
    (5, "token"),
    (4, "mechanism"),
    (3, "object"),
    (2, "store"),
    (2, "tpm"),
    (1, "crypto"),
    (0, "sync"),
    (0, "fork"),
    (0, "log"),
    (0, "recorder"),
    (0, "config"),
    (0, "error"),
];

/// What floor 0 may import of itself: an error is known everywhere, the log is told where to write, locks
/// that are held for moments are not held at a fork.
const GROUND: &[(&str, &str)] = &[("log", "config"), ("sync", "fork")];

/// Words of the code (not of comments and texts), and the places that may say them: a room, a file,
/// or `bin` for the command-line tool. A word that ends in `_` stands for all that begin with it.
const WORDS: &[(&str, &[&str])] = &[
    ("unsafe", &["abi", "tpm/tcti.rs", "crypto/secret.rs"]),
    ("cryptoki_sys", &["abi", "token", "mechanism", "object", "bin"]),
    ("CK_", &["abi", "token", "mechanism", "object"]),
    ("CKA_", &["abi", "token", "mechanism", "object"]),
    ("CKC_", &["object"]),
    ("CKD_", &["abi", "mechanism"]),
    ("CKF_", &["abi", "token", "mechanism", "bin"]),
    ("CKK_", &["token", "mechanism", "object"]),
    ("CKM_", &["abi", "token", "mechanism", "object"]),
    ("CKO_", &["token", "mechanism", "object"]),
    ("CKS_", &["token"]),
    ("CKU_", &["token", "bin"]),
    ("CKR_", &["abi/rv.rs"]),
    ("C_", &["abi"]),
    ("rusqlite", &["store"]),
    ("tss_esapi", &["tpm"]),
    ("print", &["bin"]),
    ("println", &["bin"]),
    ("eprint", &["bin"]),
    ("eprintln", &["bin"]),
    ("dbg", &[]),
    ("todo", &[]),
    ("unimplemented", &[]),
    ("no_mangle", &["abi"]),
    // The wall clock may jump: it names moments to people and decides nothing but whether a key's dates
    // are over (`session`). (`waiting` takes some of its bits as chance.)
    (
        "SystemTime",
        &["log", "recorder", "store/backup.rs", "store/waiting.rs", "token/session.rs", "bin"],
    ),
];

/// A source file of the library or the tool, without its tests.
struct Source {
    /// Below `src/`, for instance `tpm/wire.rs`.
    path: String,
    /// As it stands.
    text: String,
    /// The same lines, with comments and the content of strings blanked.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        // From the module of tests on; `mod tests;` is a file of its own and declared anywhere.
        let tests = text
            .match_indices("\n#[cfg(test)]\nmod ")
            .find(|(at, found)| {
                let rest = &text[at + found.len()..];
                rest.lines().next().is_some_and(|line| line.ends_with('{') || line.contains("{ "))
            })
            .map_or(text.len(), |(at, _)| at);
        let text = &text[..tests];
        Self { path: path.into(), text: text.into(), code: blanked(text) }
    }

    /// `abi` for `abi/rv.rs`, `config` for `config.rs`, `bin` for the tool.
    fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// How many `super::` lead to the crate.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }
}

/// All of `src/`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 40, "the sources are not where they are looked for");
    let read = |file: &PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (path, fs::read_to_string(file).unwrap())
    };
    let texts: Vec<_> = files.iter().map(read).collect();
    let tests: Vec<String> = texts.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    let is_test = |path: &str| tests.iter().any(|test| path.starts_with(test));
    texts.iter().filter(|(path, _)| !is_test(path)).map(|(p, text)| Source::new(p, text)).collect()
}

/// How the paths of the files begin that a file declares as tests: `#[cfg(test)] mod vectors;`.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let directory = path
        .strip_suffix("mod.rs")
        .map_or_else(|| path.trim_end_matches(".rs").to_owned() + "/", str::to_owned);
    let marks = ["#[cfg(test)]\n", "#[cfg(all(test, feature = \"schedules\"))]\n"];
    let declared = marks.iter().flat_map(|mark| text.split(mark).skip(1));
    declared
        .filter_map(|rest| {
            let line = rest.lines().next()?.trim_start_matches("pub(crate) ");
            line.trim_start_matches("pub(super) ").strip_prefix("mod ")
        })
        .filter_map(|rest| rest.strip_suffix(';'))
        .flat_map(|name| [format!("{directory}{name}.rs"), format!("{directory}{name}/")])
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Rust without its comments and without what stands in strings and characters; same lines.
fn blanked(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hashes = rest.strip_prefix('r').map_or(0, |raw| {
            let hashes = raw.chars().take_while(|c| *c == '#').count();
            if raw[hashes..].starts_with('"') { hashes + 1 } else { 0 }
        });
        let word_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if hashes > 0 && !word_before {
            let end = format!("\"{}", "#".repeat(hashes - 1));
            let start = hashes + 1;
            rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if first == '\'' {
            // A character, or else a lifetime, which has no closing quote.
            let mut chars = rest.char_indices().skip(1);
            match (chars.next(), chars.next()) {
                (Some((_, '\\')), _) => rest[3..].find('\'').map_or(1, |end| end + 4),
                (Some(_), Some((end, '\''))) => end + 1,
                _ => 1,
            }
        } else {
            0
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// Every word (a Rust identifier) with the line it stands in and where in the code it begins.
fn words(code: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    code.lines().enumerate().flat_map(move |(number, line)| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (number + 1, word.as_ptr() as usize - code.as_ptr() as usize, word))
    })
}

/// The names that a path at `rest` (just behind `crate::` or enough `super::`) takes from the crate.
fn taken(rest: &str) -> Vec<&str> {
    let name = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let Some(group) = rest.strip_prefix('{') else {
        return vec![&rest[..name(rest).unwrap_or(rest.len())]];
    };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && (c.is_alphanumeric() || c == '_') => {
                let word = &group[at..];
                names.push(&word[..name(word).unwrap_or(word.len())]);
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, name)| *name == room).map(|(floor, _)| *floor)
}

/// Imports that go up, or sideways.
fn wrong_imports(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    // The library's root lists the rooms; the tool uses the library from outside.
    let (Some(own), prefix) = (match source.room() {
        "bin" => (Some(6), "tpm11::".to_owned()),
        room => (floor(room), "super::".repeat(source.depth())),
    }) else {
        return wrong;
    };
    let mut check = |line: usize, name: &str| {
        let Some(other) = floor(name) else { return };
        let room = source.room();
        let ground = own == 0 && GROUND.contains(&(room, name));
        if name != room && other >= own && !ground {
            wrong.push(format!("{}:{line} imports {name}", source.path));
        }
    };
    for prefix in ["crate::", prefix.as_str()] {
        for (at, _) in source.code.match_indices(prefix) {
            // `super::super::x` is not `super::x`.
            if source.code[..at].ends_with("super::") {
                continue;
            }
            let line = source.code[..at].matches('\n').count() + 1;
            for name in taken(&source.code[at + prefix.len()..]) {
                check(line, name);
            }
        }
    }
    wrong
}

/// Words that stand where they must not.
fn wrong_words(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, at, word) in words(&source.code) {
        for (rule, rooms) in WORDS {
            let said = match rule.strip_suffix('_') {
                Some(_) => word.starts_with(rule),
                None => word == *rule,
            };
            let is_macro = matches!(*rule, "print" | "dbg" | "todo" | "unimplemented");
            if !said || (is_macro && !source.code[at + word.len()..].starts_with('!')) {
                continue;
            }
            if !rooms.iter().any(|place| *place == source.room() || *place == source.path) {
                wrong.push(format!("{}:{line} says {word}", source.path));
            }
        }
    }
    wrong
}

/// `unsafe` blocks and implementations without a comment right above that says why they are sound.
fn undocumented(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    words(&source.code)
        .filter(|(_, at, word)| {
            let rest = source.code[at + word.len()..].trim_start();
            *word == "unsafe" && (rest.starts_with('{') || rest.starts_with("impl "))
        })
        .filter(|(number, ..)| {
            // The comment stands above the statement, which may have begun a few lines earlier.
            let above = lines[number.saturating_sub(7)..number - 1].iter().rev();
            !above
                .take_while(|line| !line.trim().is_empty())
                .any(|line| line.trim_start().starts_with("// SAFETY: "))
        })
        .map(|(number, ..)| format!("{}:{number} does not say why it is safe", source.path))
        .collect()
}

fn report(wrong: &[String]) {
    let mut text = String::new();
    for line in wrong {
        writeln!(text, "  {line}").unwrap();
    }
    assert!(wrong.is_empty(), "\n{text}");
}

#[test]
fn every_room_imports_from_below_alone() {
    report(&sources().iter().flat_map(wrong_imports).collect::<Vec<_>>());
}

#[test]
fn every_room_stands_on_a_floor() {
    let homeless: Vec<_> = sources()
        .iter()
        .filter(|source| !["lib", "bin"].contains(&source.room()) && floor(source.room()).is_none())
        .map(|source| format!("{} is in no room of the table", source.path))
        .collect();
    report(&homeless);
}

#[test]
fn words_stay_in_their_rooms() {
    report(&sources().iter().flat_map(wrong_words).collect::<Vec<_>>());
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    report(&sources().iter().flat_map(undocumented).collect::<Vec<_>>());
}

#[test]
fn every_exported_function_goes_through_the_guard() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for source in sources() {
        for function in source.code.split("#[unsafe(no_mangle)]").skip(1) {
            let body = function.split("\n}\n").next().unwrap_or_default();
            let name = body.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            let guards = ["enter(", "enter_early(", "unsupported(", "leave("];
            if !guards.iter().any(|guard| body.contains(guard)) {
                wrong.push(format!("{}: {}", source.path, name.unwrap_or("?")));
            }
            count += 1;
        }
    }
    report(&wrong);
    assert_eq!(count, 104, "PKCS#11 3.2 has 104 functions");
}

#[test]
fn the_rules_of_the_policy_stand_where_their_table_says() {
    let sources = sources();
    let mut wrong = Vec::new();
    for entry in &tpm11::object::policy::GUARDS {
        for place in entry.at.split(", ") {
            // `a::b::c`: the function c of a/b.rs or a/b/mod.rs, or of the type b; or one of the door's.
            let mut path: Vec<&str> = place.split("::").collect();
            let function = format!("fn {}", path.pop().expect("a name"));
            path.retain(|part| part.starts_with(char::is_lowercase));
            let room = path.join("/");
            let is_there = |source: &Source| {
                let mut rest = source.text.split(&function).skip(1);
                source.path.starts_with(&room) && rest.any(|rest| rest.starts_with(['(', '<']))
            };
            if !sources.iter().any(is_there) {
                wrong.push(format!("{}: {place}", entry.number));
            }
        }
    }
    report(&wrong);
}

#[test]
fn the_tool_has_no_unsafe_code_and_does_not_use_the_c_door() {
    for source in sources().iter().filter(|source| source.room() == "bin") {
        assert!(!source.code.contains("tpm11::abi"), "{} uses the C door", source.path);
        if source.path.ends_with("main.rs") {
            assert!(source.code.contains("#![forbid(unsafe_code)]"), "{}", source.path);
        }
    }
}

// ---- the tests above can fail -------------------------------------------------------------------

#[test]
fn an_import_from_above_or_beside_is_found() {
    let found = |path, text| wrong_imports(&Source::new(path, text));
    assert_eq!(found("tpm/mod.rs", "\n\n\nuse crate::token::x;"), ["tpm/mod.rs:4 imports token"]);
    assert_eq!(found("store/rows.rs", "crate::tpm::Name"), ["store/rows.rs:1 imports tpm"]);
    assert_eq!(
        found("object/rule.rs", "use crate::{\n error::Error, mechanism::{a, token},\n};"),
        ["object/rule.rs:1 imports mechanism"]
    );
    assert_eq!(
        found("tpm/command/sign.rs", "use super::super::super::abi;"),
        ["tpm/command/sign.rs:1 imports abi"]
    );
    assert_eq!(found("crypto/mod.rs", "// use crate::token;\nuse crate::error;"), [""; 0]);
    assert_eq!(found("bin/tpm11/main.rs", "use tpm11::abi;"), ["bin/tpm11/main.rs:1 imports abi"]);
}

#[test]
fn a_word_in_the_wrong_room_is_found_but_not_in_comments_and_texts() {
    let found = |path, text| wrong_words(&Source::new(path, text));
    assert_eq!(found("tpm/mod.rs", "\nlet x: CK_ULONG;"), ["tpm/mod.rs:2 says CK_ULONG"]);
    assert_eq!(found("token/mod.rs", "CKR_OK"), ["token/mod.rs:1 says CKR_OK"]);
    assert_eq!(found("token/mod.rs", "unsafe { }"), ["token/mod.rs:1 says unsafe"]);
    assert_eq!(found("token/mod.rs", "println!()"), ["token/mod.rs:1 says println"]);
    assert_eq!(found("token/mod.rs", "fn a() { todo!() }"), ["token/mod.rs:1 says todo"]);
    let silent = "/* CK_ */ // CK_\nlet a = \"CK_\\\"CK_\"; let b = r#\"CK_\"CK_\"#; let c = '\"';";
    assert_eq!(found("tpm/mod.rs", silent), [""; 0]);
    assert_eq!(found("tpm/mod.rs", "fn a<'a>(b: &'a u8) { CK_B }"), ["tpm/mod.rs:1 says CK_B"]);
    let test = "\n#[cfg(test)]\nmod tests { CK_ULONG }";
    assert_eq!(found("tpm/mod.rs", test), [""; 0]);
    let declared = "\n#[cfg(test)]\nmod tests;\nCK_ULONG";
    assert_eq!(found("tpm/mod.rs", declared), ["tpm/mod.rs:4 says CK_ULONG"]);
}

#[test]
fn an_unsafe_block_without_a_reason_is_found() {
    let found = |text| undocumented(&Source::new("abi/ptr.rs", text)).len();
    assert_eq!(found("let x = unsafe { f() };"), 1);
    assert_eq!(found("// SAFETY: reasons\n\nlet x = unsafe { f() };"), 1);
    assert_eq!(found("// SAFETY: reasons\nlet x = unsafe { f() };"), 0);
    assert_eq!(found("// SAFETY: reasons\nlet x =\n    g(unsafe { f() });"), 0);
    assert_eq!(found("unsafe fn f() {}"), 0);
    assert_eq!(found("unsafe impl Sync for X {}"), 1);
}
