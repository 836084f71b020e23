//! Memory for secrets.

/// A secret in a page of its own: never swapped (where the limit on locked memory allows), not in
/// core dumps, gone in a forked child, wiped when dropped. Cannot be printed or copied.
pub struct Secret {
    bytes: zeroize::Zeroizing<Vec<u8>>,
}

impl Secret {
    /// Makes room for `length` zero bytes and lets `fill` write them.
    ///
    /// # Errors
    /// What `fill` answers.
    pub fn fill<E>(
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = zeroize::Zeroizing::new(vec![0; length]);
        fill(&mut bytes)?;
        Ok(Self { bytes })
    }

    /// A copy of `bytes`; wiping the original is the caller's.
    pub fn copy(bytes: &[u8]) -> Self {
        Self { bytes: zeroize::Zeroizing::new(bytes.to_vec()) }
    }

    /// The bytes, to be used and not kept.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }
}
