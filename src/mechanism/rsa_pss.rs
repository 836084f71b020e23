pub(super) static ROWS: &[super::Mechanism] = &[];
