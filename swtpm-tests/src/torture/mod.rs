//! Torture: several processes with several threads do everything at random on one token, while an
//! adversary kills them, breaks the TPM's answers, its connections and the TPM itself. Afterwards
//! there is one table of figures, and those that must be zero are zero.
//!
//! Every call of every thread is judged by itself (`judge`), every result by what an independent
//! implementation says of it ([`crate::drive`]), and the store by a model of what was acknowledged
//! (`model`). What was injected when, and which return values that permits, `weather` knows.

mod figures;
mod judge;
mod model;
mod scene;
mod weather;
mod worker;

use std::sync::Arc;
use std::time::Duration;

pub use figures::{Figures, table};

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long workers work.
    pub time: Duration,
    /// What the random choices begin with.
    pub seed: u64,
}

/// Tortures a bare TPM and one behind the resource manager at once; the figures of each, and what
/// went wrong in sentences.
pub fn run(plan: Plan) -> Vec<(&'static str, Arc<Figures>)> {
    let lanes = [("bare TPM", false), ("resource manager", true)];
    std::thread::scope(|scope| {
        let running: Vec<_> = lanes
            .into_iter()
            .map(|(name, managed)| (name, scope.spawn(move || scene::torture(managed, plan, name))))
            .collect();
        let figures = running.into_iter().map(|(name, lane)| match lane.join() {
            Ok(figures) => (name, figures),
            Err(_) => (name, Figures::failed("the torture itself panicked")),
        });
        figures.collect()
    })
}
