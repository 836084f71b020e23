//! One lane: a TPM, a store, the workers on it, and their adversary.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use super::Plan;
use super::figures::{Figures, count};
use super::judge::Process;
use super::model::Model;
use super::weather::{Gust, Weather};
use super::worker;
use crate::bench::{Bench, LABEL, Setup, tool};
use crate::ck::{bytes, flag};
use crate::drive::{Driver, Kind, Pair, Random, advertised};
use crate::wire;

/// Processes at a time; the first is long-lived.
const PLACES: usize = 4;

/// What a command that is never answered may cost.
const LIMITS: &str =
    "short_timeout_s = 5\ncommand_timeout_s = 6\ncall_timeout_s = 30\nkeygen_timeout_s = 60";

/// A key that all workers use.
#[derive(Debug)]
pub struct Shared {
    pub label: String,
    pub pair: Pair,
}

/// What all workers of a lane share.
#[derive(Debug)]
pub struct Scene {
    pub name: &'static str,
    pub bench: RwLock<Bench>,
    pub figures: Arc<Figures>,
    pub weather: Arc<Weather>,
    pub model: Model,
    pub shared: Vec<Shared>,
    pub drivers: Vec<Driver>,
    pub slot: u64,
    pub places: Vec<Mutex<Option<Arc<Process>>>>,
    labels: AtomicU64,
    until: Instant,
}

/// Tortures one TPM and tells the figures.
pub fn torture(managed: bool, plan: Plan, name: &'static str) -> Arc<Figures> {
    let mut random = Random::new(plan.seed ^ u64::from(managed));
    let scene = match Scene::set(managed, plan, name, &mut random) {
        Ok(scene) => scene,
        Err(why) => return Figures::failed(&why),
    };
    let indices = scene.bench.read().expect("nobody panics here").shim.nv_indices().len();
    std::thread::scope(|scope| {
        for place in 0..PLACES {
            let (scene, random) = (&scene, Random::new(random.number()));
            scope.spawn(move || worker::serve(scene, place, random));
        }
        scene.harass(plan, &mut random);
    });
    scene.close(managed, indices, &mut random);
    if !scene.figures.are_good() {
        if let Some(place) = std::env::var_os("TPM11_KEEP") {
            scene.keep(std::path::Path::new(&place));
        }
    }
    scene.figures.clone()
}

impl Scene {
    fn set(
        managed: bool,
        plan: Plan,
        name: &'static str,
        random: &mut Random,
    ) -> Result<Scene, String> {
        let mut setup = Setup::default().tpm(LIMITS);
        if managed {
            setup = setup.managed();
        }
        let bench = setup.start();
        bench.token();
        let (app, session) = bench.logged_in();
        let slot = app.slot_of(LABEL).ok_or("no token")?;
        let drivers = advertised(&app, slot)?;
        let mut shared = Vec::new();
        for (index, kind) in [Kind::Ec, Kind::Ec, Kind::Ec, Kind::Rsa, Kind::Rsa].iter().enumerate()
        {
            let label = format!("shared {index}");
            let extra = [flag(CKA_TOKEN, true), bytes(CKA_LABEL, label.clone())];
            let pair = Pair::generate(&app, session, *kind, random, [&extra, &extra])
                .map_err(|failure| failure.to_string())?;
            shared.push(Shared { label, pair });
        }
        app.finalize().map_err(|rv| format!("C_Finalize: {rv:?}"))?;
        Ok(Scene {
            name,
            bench: RwLock::new(bench),
            figures: Arc::default(),
            weather: Arc::default(),
            model: Model::default(),
            shared,
            drivers,
            slot,
            places: (0..PLACES).map(|_| Mutex::default()).collect(),
            labels: AtomicU64::new(0),
            until: Instant::now() + plan.time,
        })
    }

    /// Whether the time is up.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Whether it is up for those, too, that cannot stop where they are.
    pub fn is_over_for_good(&self) -> bool {
        Instant::now() >= self.until + Duration::from_secs(30)
    }

    /// A label that no object has or had.
    pub fn new_label(&self) -> String {
        format!("thing {}", self.labels.fetch_add(1, Ordering::SeqCst))
    }

    // ---- the adversary

    /// Kills all the time; storms and calms of the TPM in turn; calm at the end.
    fn harass(&self, plan: Plan, random: &mut Random) {
        let last = self.until - Duration::from_secs(6).min(plan.time / 4);
        let mut stormy = false;
        let mut turn = Instant::now() + Duration::from_secs(3);
        while Instant::now() < last {
            if Instant::now() > turn {
                stormy = !stormy;
                turn += Duration::from_secs(if stormy { 8 } else { 6 });
            }
            if stormy {
                self.gust(random);
            } else {
                std::thread::sleep(Duration::from_millis(200));
            }
            self.kill_somebody(random);
            self.bench.read().expect("nobody panics here").shim.forget();
        }
    }

    /// kill -9 of any process but the long-lived one.
    fn kill_somebody(&self, random: &mut Random) {
        std::thread::sleep(Duration::from_millis(random.below(300) as u64));
        let place = 1 + random.below(PLACES - 1);
        let victim = self.places[place].lock().expect("nobody panics here").take();
        if let Some(victim) = victim {
            count(&self.figures.kills);
            victim.kill();
        }
    }

    /// One fault of the TPM, or of the way to it.
    fn gust(&self, random: &mut Random) {
        match random.below(10) {
            0 => {
                self.weather.begin("connections cut".to_owned(), None);
                self.bench.read().expect("nobody panics here").shim.cut_connections();
                count(&self.figures.cuts);
            }
            1 => {
                self.weather.begin("TPM killed".to_owned(), None);
                let mut bench = self.bench.write().expect("nobody panics here");
                bench.tpm.power_off();
                std::thread::sleep(Duration::from_millis(random.below(800) as u64));
                bench.tpm.power_on();
                count(&self.figures.restarts);
            }
            _ => {
                let bench = self.bench.read().expect("nobody panics here");
                let gust = Gust::random(random, &bench.shim.kinds());
                self.weather.begin(format!("{:?}", gust.fault), Some(&gust));
                bench.shim.inject(gust.fault);
                std::thread::sleep(Duration::from_millis(50 + random.below(300) as u64));
                self.figures.faults.fetch_add(bench.shim.heal() as u64, Ordering::SeqCst);
            }
        }
        self.weather.end();
    }

    // ---- watching

    /// Looks at the memory of a process until the time is up, and tells the trend.
    pub fn watch_memory(&self, process: &Process) {
        let began = Instant::now();
        let whole = self.until.saturating_duration_since(began);
        let mut samples = Vec::new();
        while !self.is_over() && !process.is_killed() {
            std::thread::sleep(Duration::from_millis(250));
            let Some(memory) = resident_kib(process.id) else { break };
            // Caches fill, threads and their arenas come first.
            if began.elapsed() > whole * 2 / 5 {
                samples.push((began.elapsed().as_secs_f64() / 60.0, memory));
            }
        }
        self.figures.memory.fetch_add(growth(&samples), Ordering::SeqCst);
    }

    /// After the last worker: what is left, and whether everything is there.
    fn close(&self, managed: bool, indices: usize, random: &mut Random) {
        let figures = &self.figures;
        {
            let bench = self.bench.read().expect("nobody panics here");
            if managed {
                self.nothing_left(&bench, "after the last worker");
            } else {
                // A killed process leaves in a bare TPM what it had there, for whoever needs the room.
                let left = bench.shim.settled(Duration::from_millis(500));
                for handle in left.objects.iter().chain(&left.sessions).chain(&left.saved) {
                    let flush = wire::command(wire::FLUSH_CONTEXT, &[*handle], None, &[]);
                    bench.shim.ask(&flush);
                }
            }
        }
        worker::audit(self, random);
        let bench = self.bench.read().expect("nobody panics here");
        self.nothing_left(&bench, "after the audit");
        let now = bench.shim.nv_indices().len();
        if now != indices {
            figures.complain(&figures.indices, format!("{now} NV indices, not {indices}"));
        }
        let counted = bench.shim.lockout_counter();
        if counted != 0 {
            let what = format!("the TPM's lockout counter is {counted}");
            figures.complain(&figures.tries, what);
        }
        self.status(&bench);
        for file in std::fs::read_dir(bench.store()).into_iter().flatten().flatten() {
            check_database(&file.path(), figures);
        }
    }

    fn nothing_left(&self, bench: &Bench, when: &str) {
        let left = bench.shim.settled(Duration::from_secs(3));
        if !left.is_nothing() {
            let figures = &self.figures;
            figures.complain(&figures.handles, format!("{}, {when}: {left:?}", self.name));
        }
    }

    /// `tpm11 status`: no problem, and all PIN tries.
    fn status(&self, bench: &Bench) {
        let mut command = bench.command(tool());
        command.args(["status", "--json"]);
        let output = bench.run(command, Duration::from_secs(60));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let token = &status["tpms"][0]["tokens"][0];
        let figures = &self.figures;
        for role in ["user_tries", "so_tries"] {
            let (left, limit) = (&token[role]["left"], &token[role]["limit"]);
            if left != limit || !limit.is_number() {
                let what = format!("{}: {role}: {left} of {limit} left", self.name);
                figures.complain(&figures.tries, what);
            }
        }
        if !output.status.success() {
            figures.complain(&figures.wrong, format!("tpm11 status: {text}"));
        }
    }

    /// Copies what a person may want to look at.
    fn keep(&self, place: &std::path::Path) {
        let bench = self.bench.read().expect("nobody panics here");
        let place = place.join(self.name.replace(' ', "-"));
        let _ = std::fs::create_dir_all(&place);
        let files = [bench.directory().to_owned(), bench.store()];
        for file in files.iter().flat_map(std::fs::read_dir).flatten().flatten() {
            if file.path().is_file() {
                let _ = std::fs::copy(file.path(), place.join(file.file_name()));
            }
        }
    }
}

/// VmRSS.
fn resident_kib(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Less than this over all samples is noise of the allocator [KiB].
const NOISE: f64 = 1024.0;

/// The trend of samples of (minutes, KiB) in KiB a minute; 0 if it is noise.
fn growth(samples: &[(f64, f64)]) -> u64 {
    let count = samples.len() as f64;
    if samples.len() < 8 {
        return 0;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (middle, average) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let covariance: f64 = samples.iter().map(|(x, y)| (x - middle) * (y - average)).sum();
    let variance: f64 = samples.iter().map(|(x, _)| (x - middle).powi(2)).sum();
    let slope = covariance / variance;
    let length = samples[samples.len() - 1].0 - samples[0].0;
    if slope * length > NOISE { slope as u64 } else { 0 }
}

/// PRAGMA integrity_check, if the file is a database.
fn check_database(path: &std::path::Path, figures: &Figures) {
    let Ok(content) = std::fs::read(path) else { return };
    if !content.starts_with(b"SQLite format 3\0") {
        return;
    }
    let answer = rusqlite::Connection::open(path).and_then(|database| {
        database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
    });
    if answer.as_deref() != Ok("ok") {
        figures.complain(&figures.half, format!("integrity_check: {answer:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_a_trend_and_ups_and_downs_are_none() {
        let samples = |of: fn(usize) -> f64| -> Vec<(f64, f64)> {
            (0..100).map(|at| (at as f64 / 100.0, of(at))).collect()
        };
        assert_eq!(growth(&samples(|at| 50_000.0 + (at % 10) as f64 * 200.0)), 0);
        let leak = growth(&samples(|at| 50_000.0 + at as f64 * 60.0 + (at % 10) as f64 * 200.0));
        assert!((5_900..=6_200).contains(&leak), "{leak}");
    }
}
