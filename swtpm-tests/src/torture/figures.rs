//! What is counted, and how it is shown.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Whether a figure must be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    Happen,
    BeZero,
}

macro_rules! figures {
    ($($name:ident, $must:ident, $text:literal;)*) => {
        /// The figures of one lane.
        #[derive(Debug, Default)]
        pub struct Figures {
            $(#[doc = $text] pub $name: AtomicU64,)*
            complaints: Mutex<Vec<String>>,
        }

        impl Figures {
            fn rows(&self) -> Vec<(&'static str, Must, u64)> {
                vec![$(($text, Must::$must, self.$name.load(Ordering::SeqCst)),)*]
            }
        }
    };
}

figures! {
    calls, Happen, "calls made";
    operations, Happen, "operations checked";
    forks, Happen, "processes forked";
    disruptions, Happen, "C_Finalize or C_Logout amid others' calls";
    faults, Happen, "faults injected";
    cuts, Happen, "connections cut at once";
    kills, Happen, "processes killed (kill -9)";
    restarts, Happen, "TPM restarts (kill -9)";
    writes, Happen, "store writes acknowledged";
    doubts, Happen, "writes that a kill left without an answer";
    lost, BeZero, "acknowledged writes lost";
    half, BeZero, "half-written objects";
    wrong, BeZero, "wrong results";
    codes, BeZero, "wrong return values";
    hangs, BeZero, "hangs";
    crashes, BeZero, "crashes";
    noise, BeZero, "processes that wrote to standard output or error";
    tries, BeZero, "PIN tries spent wrongly";
    handles, BeZero, "TPM handles left";
    indices, BeZero, "NV indices left";
    descriptors, BeZero, "file descriptors more in long-lived workers";
    memory, BeZero, "KiB more per minute in long-lived workers, beyond noise";
}

/// How many sentences about what went wrong are kept.
const COMPLAINTS: usize = 40;

impl Figures {
    /// Figures of a lane that did not get to its end.
    pub fn failed(why: &str) -> Arc<Figures> {
        let figures = Figures::default();
        figures.complain(&figures.wrong, why.to_owned());
        Arc::new(figures)
    }

    /// One more of something that must not be, and a sentence about it.
    pub fn complain(&self, figure: &AtomicU64, what: String) {
        count(figure);
        let mut complaints = self.complaints.lock().expect("nobody panics here");
        if complaints.len() < COMPLAINTS {
            complaints.push(what);
        }
    }

    /// The sentences about what went wrong.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().expect("nobody panics here").clone()
    }

    /// Whether everything that must be zero is, and something happened at all.
    pub fn are_good(&self) -> bool {
        self.rows().iter().all(|(_, must, value)| *must == Must::Happen || *value == 0)
            && self.calls.load(Ordering::SeqCst) > 0
    }
}

/// One more.
pub fn count(figure: &AtomicU64) {
    figure.fetch_add(1, Ordering::SeqCst);
}

/// All figures, a column for each lane.
pub fn table(lanes: &[(&str, Arc<Figures>)]) -> String {
    let mut text = format!("{:<58}", "");
    for (name, _) in lanes {
        let _ = write!(text, "{name:>18}");
    }
    text.push('\n');
    let rows: Vec<_> = lanes.iter().map(|(_, figures)| figures.rows()).collect();
    let first = rows.first().map(Vec::as_slice).unwrap_or_default();
    for (index, (name, must, _)) in first.iter().enumerate() {
        let name = if *must == Must::BeZero { format!("{name} (0)") } else { (*name).to_owned() };
        let _ = write!(text, "{name:<58}");
        for lane in &rows {
            let _ = write!(text, "{:>18}", lane[index].2);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_figure_that_must_be_zero_and_is_not_spoils_a_lane() {
        let figures = Figures::default();
        assert!(!figures.are_good(), "nothing happened");
        count(&figures.calls);
        assert!(figures.are_good());
        figures.complain(&figures.lost, "a write".to_owned());
        assert!(!figures.are_good());
        assert_eq!(figures.complaints(), ["a write"]);
    }
}
