//! The configuration file: any text is settings or an error that names its line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tpm11::config::{Config, Environment};

fuzz_target!(|text: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("room on the disk");
    let environment = Environment { config: Some(file.path().into()), ..Environment::default() };
    match Config::from_environment(&environment) {
        Ok(config) => assert!(!config.tpm.is_empty()),
        Err(error) => assert!(error.to_string().starts_with(&error.place)),
    }
});
