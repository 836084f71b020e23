//! The policy: rules that keep a sensitive key from leaving by a sequence of calls of which each is
//! allowed. One table of named values. Whoever makes, changes, wraps, unwraps or derives a key asks
//! [`Policy::has`] for the rule by its name; what the rule *does* stands in one place, named in its row.
//!
//! They bind a caller who can only make PKCS#11 calls. What the specification itself demands (once
//! sensitive for ever sensitive, CKA_WRAP_WITH_TRUSTED, the three nested templates,
//! CKA_ALLOWED_MECHANISMS, what a derived key inherits, CKA_TRUSTED by the SO alone, checked private
//! keys) is no rule of this table and cannot be switched off.

use std::fmt;

/// One rule. Its number in the documentation (P1 to P15) is its place here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// P1: the value of a key that is not readable is neither shown nor kept.
    ValuesStay,
    /// P2: what protects a key only rises, what opens it only falls.
    OneWay,
    /// P3: what a key is for is fixed when it is made.
    RolesAreFixed,
    /// P4: a secret key that is not readable works on data, derives, or wraps: one of the three.
    RolesApart,
    /// P5: a key pair wraps, or does anything else.
    PairsApart,
    /// P6: a key that wraps, unwraps or derives stays in the token.
    ToolsStay,
    /// P7: what wraps a sensitive key was made in the token, or is trusted.
    KnownKeysDoNotWrap,
    /// P8: a sensitive key whose limits a wrap would lose is wrapped by trusted keys alone; trust is for
    /// public keys and certificates.
    LimitsTravel,
    /// P9: sensitive keys are wrapped by mechanisms that authenticate, and by keys as strong as they.
    SoundWrapping,
    /// P10: what is unwrapped is sensitive, stays, and wraps, unwraps and derives nothing.
    UnwrappedStay,
    /// P11: what comes from a key is as protected as the key, and no shorter than 16 bytes.
    DerivedStay,
    /// P12: only readable keys are digested.
    Indigestible,
    /// P13: keys of the token, and what is private, need a login.
    LoginNeeded,
    /// P14: no state of an operation leaves the token.
    StateStays,
    /// P15: no checksum of a short or generic secret.
    NoCheckValue,
}

/// A row of the table.
#[derive(Debug)]
pub struct Entry {
    /// The rule.
    pub guard: Guard,
    /// Its number in the documentation and in the configuration.
    pub number: &'static str,
    /// Whether `api_attacks = "standard"` has it too: it costs no client anything.
    pub standard: bool,
    /// Whether it can be left out: P14 holds because nothing is there that could save a state.
    pub optional: bool,
    /// Where it is applied.
    pub at: &'static str,
}

const fn entry(guard: Guard, number: &'static str, at: &'static str) -> Entry {
    Entry { guard, number, standard: false, optional: true, at }
}

impl Entry {
    const fn in_both(self) -> Self {
        Self { standard: true, ..self }
    }

    const fn inherent(self) -> Self {
        Self { standard: true, optional: false, ..self }
    }
}

/// All rules, in the order of their numbers.
pub static GUARDS: [Entry; 15] = [
    entry(Guard::ValuesStay, "P1", "object::rule::shown").in_both(),
    entry(Guard::OneWay, "P2", "object::rule::may_change").in_both(),
    entry(Guard::RolesAreFixed, "P3", "object::rule::may_change, object::rule::upon"),
    entry(Guard::RolesApart, "P4", "object::roles::apart, object::rule::change"),
    entry(Guard::PairsApart, "P5", "object::roles::pair"),
    entry(Guard::ToolsStay, "P6", "object::roles::tools_stay"),
    entry(
        Guard::KnownKeysDoNotWrap,
        "P7",
        "object::keyspec::Secret::create, object::wrapping::may_wrap",
    ),
    entry(
        Guard::LimitsTravel,
        "P8",
        "object::rule::limits_travel, object::rule::trusted, object::rule::copy",
    ),
    entry(
        Guard::SoundWrapping,
        "P9",
        "object::wrapping::may_wrap, object::wrapping::guards_by_counter, Mechanism::operations, Session::wrap_message, \
         Session::unwrap_message",
    ),
    entry(Guard::UnwrappedStay, "P10", "object::keyspec::unwrapped"),
    entry(
        Guard::DerivedStay,
        "P11",
        "object::keyspec::Secret::derive, object::keyspec::Derivation::may_tell, object::keyspec::may_sign",
    ),
    entry(Guard::Indigestible, "P12", "C_DigestKey").in_both(),
    entry(
        Guard::LoginNeeded,
        "P13",
        "object::rule::private_where_it_must_be, object::rule::copy, object::keyspec::as_private_as, \
         object::wrapping::may_wrap",
    ),
    entry(Guard::StateStays, "P14", "C_GetOperationState").inherent(),
    entry(Guard::NoCheckValue, "P15", "object::keyspec::secret::check_value").in_both(),
];

impl Guard {
    /// Its row.
    #[expect(clippy::indexing_slicing, reason = "a row for each, in their order, as a test knows")]
    pub fn entry(self) -> &'static Entry {
        &GUARDS[self as usize]
    }

    /// The rule with this number, "P1" to "P15".
    pub fn of_number(number: &str) -> Option<Self> {
        GUARDS.iter().find(|entry| entry.number == number).map(|entry| entry.guard)
    }
}

/// Which rules hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Policy(u16);

impl Policy {
    /// `api_attacks = "prevent"`: all.
    pub const PREVENT: Policy = Policy((1 << GUARDS.len()) - 1);

    /// `api_attacks = "standard"`: the specification's own, and those that cost no client anything.
    pub fn standard() -> Policy {
        GUARDS
            .iter()
            .filter(|entry| !entry.standard)
            .fold(Policy::PREVENT, |policy, entry| policy.without(entry.guard))
    }

    /// The same without one rule.
    #[must_use]
    pub fn without(self, guard: Guard) -> Policy {
        Policy(self.0 & !(1 << guard as u16))
    }

    /// Whether a rule holds.
    pub fn has(self, guard: Guard) -> bool {
        self.0 & (1 << guard as u16) != 0
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::PREVENT
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = GUARDS.iter().filter(|entry| self.has(entry.guard)).map(|entry| entry.number);
        f.debug_list().entries(held).finish()
    }
}

/// What CKA_START_DATE and CKA_END_DATE of a private or secret key do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dates {
    /// They say something.
    #[default]
    Inform,
    /// A key is not used before its start nor after its end, by the host's clock, and neither date moves
    /// outward. Verification with public keys goes on: what was signed in time stays signed.
    Enforce,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_stands_at_its_number() {
        for (at, entry) in GUARDS.iter().enumerate() {
            assert_eq!(entry.guard as usize, at);
            assert_eq!(entry.number, format!("P{}", at + 1));
            assert_eq!(entry.guard.entry().number, entry.number);
            assert_eq!(Guard::of_number(entry.number), Some(entry.guard));
            assert!(entry.standard || entry.optional);
        }
        assert_eq!(Guard::of_number("P16"), None);
    }

    #[test]
    fn a_rule_is_left_out_alone() {
        for entry in &GUARDS {
            let policy = Policy::PREVENT.without(entry.guard);
            for other in &GUARDS {
                assert_eq!(policy.has(other.guard), other.guard != entry.guard);
            }
        }
    }

    #[test]
    fn standard_is_the_rules_that_cost_nothing() {
        assert_eq!(format!("{:?}", Policy::standard()), r#"["P1", "P2", "P12", "P14", "P15"]"#);
    }
}
