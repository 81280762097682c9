//! Postern against Linux: the same packets through both, compared one by one.
//!
//! - `script` and `flow`: what is played, written without the external ports that NAT chooses. `generate`, `life`,
//!   `association` and `pieces` draw scripts from seeds; `text` writes them to regression files.
//! - `linux` and `wires`: Linux's conntrack and NAT in namespaces, hundreds of scripts side by side.
//!   `ours`: Postern's core in memory.
//! - `fate`: what became of a packet, and whether two systems agree. `known`: where they need not.
//! - `shrink` and [`run`]: failures made short, and shown.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use self::fate::{Chosen, Fate, signature};
use self::flow::Slot;
pub use self::generate::Kind;
use self::known::{Known, judge};
use self::linux::Linux;
use self::script::Script;

mod association;
mod fate;
mod flow;
mod generate;
mod known;
mod life;
mod linux;
mod ours;
mod pieces;
mod script;
mod shrink;
mod text;
mod wires;

/// Scripts that are played side by side. Seeds of one batch have the same conditions, whichever are played.
const BATCH: u64 = 125;

/// Of a hundred packets so many are compared at least: the rest stands behind wanted differences.
const COMPARED_PERCENT_MIN: usize = 70;
/// Of a thousand sequences so many may differ once and not again: a machine that is busy makes some of a timeout.
const UNREPEATED_PER_MILLE_MAX: usize = 5;
/// Of the seeds from 1 on so many show every class of wanted differences.
const SHOW_ALL: usize = 2000;

/// What to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many sequences.
    pub sequences: usize,
    /// The seed of the first.
    pub seed: u64,
    /// Postern's workers; 1, 2 and 4 in turn if not given.
    pub workers: Option<u8>,
    /// Nothing but this kind.
    pub kind: Option<Kind>,
    /// Only the regression files.
    pub regressions_only: bool,
    /// How many laboratories play at the same time.
    pub labs: usize,
    /// How many failures are shrunk and shown.
    pub show: usize,
    /// Write the first failure, shrunk, to a regression file of this name.
    pub save: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sequences: 2000,
            seed: 1,
            workers: None,
            kind: None,
            regressions_only: false,
            labs: 8,
            show: 3,
            save: None,
        }
    }
}

impl Options {
    /// Whether the seeds are among those that are known to show every class.
    fn shows_all(&self) -> bool {
        let is_drawn = !self.regressions_only && self.kind.is_none() && self.workers.is_none();
        is_drawn && self.seed == 1 && self.sequences >= SHOW_ALL
    }
}

/// What all laboratories together found.
#[derive(Debug, Default)]
struct Sum {
    sequences: usize,
    shots: usize,
    compared: usize,
    crossed: usize,
    repeated: usize,
    failures: usize,
    /// What differed once, and not when it was played again.
    unrepeated: Vec<String>,
    shown: usize,
    listed: BTreeMap<&'static str, usize>,
    /// What the others look like: how many, and an example.
    kinds: BTreeMap<String, (usize, String)>,
}

impl Sum {
    /// Why this is no proof that there is no other difference.
    fn faults(&self, known: &Known, options: &Options) -> Vec<String> {
        let mut faults = Vec::new();
        if self.failures > 0 {
            let failures = self.failures;
            faults.push(format!("{failures} sequences with a difference that is not listed"));
        }
        // A regression is as short as it can be, and may be all difference.
        let percent = if options.regressions_only { 1 } else { COMPARED_PERCENT_MIN };
        if self.compared * 100 < self.shots * percent || self.compared == 0 {
            let (compared, shots) = (self.compared, self.shots);
            faults.push(format!("only {compared} of {shots} packets were compared"));
        }
        if self.unrepeated.len() * 1000 > self.sequences.max(1000) * UNREPEATED_PER_MILLE_MAX {
            faults.push(format!("{} sequences differed once and not again", self.unrepeated.len()));
        }
        let unseen = known.reasons.keys().filter(|name| !self.listed.contains_key(name.as_str()));
        if options.shows_all() {
            faults.extend(unseen.map(|name| format!("{name} was never seen: it is not tested")));
        }
        faults
    }
}

/// Plays everything and prints what was found; whether enough was compared and no difference seen but the listed ones.
///
/// # Errors
/// If a laboratory fails.
pub fn run(options: &Options) -> io::Result<bool> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("differential");
    let known = Known::read(&folder.join("differences.toml")).map_err(io::Error::other)?;
    let started = Instant::now();
    let sum = Mutex::new(Sum::default());
    let regressions = regressions(&folder.join("regressions"))?;
    let mut batches: Vec<Batch> = grouped(&regressions);
    if !options.regressions_only {
        let (mut seed, end) = (options.seed, options.seed + options.sequences as u64);
        while seed < end {
            let next = (seed / BATCH * BATCH + BATCH).min(end);
            batches.push(Batch::Drawn { seeds: seed..next });
            seed = next;
        }
    }
    let next = AtomicUsize::new(0);
    let outcome: Vec<io::Result<()>> = std::thread::scope(|scope| {
        let labs = options.labs.clamp(1, batches.len().max(1));
        let lab = |core| {
            let (next, batches, sum) = (&next, &batches, &sum);
            scope.spawn(move || {
                let mut lab = Linux::new(core)?;
                while let Some(batch) = batches.get(next.fetch_add(1, Relaxed)) {
                    play(&mut lab, &batch.scripts(options), options, &folder_of(), sum)?;
                }
                sum.lock().expect("no lab panics").repeated += lab.repeated;
                Ok(())
            })
        };
        let labs: Vec<_> = (0..labs).map(lab).collect();
        let join = |lab: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
            lab.join().unwrap_or_else(|_| Err(io::Error::other("a laboratory panicked")))
        };
        labs.into_iter().map(join).collect()
    });
    outcome.into_iter().collect::<io::Result<()>>()?;
    let sum = sum.into_inner().map_err(|_| io::Error::other("a laboratory panicked"))?;
    report(&sum, &known, options, started);
    Ok(sum.faults(&known, options).is_empty())
}

fn folder_of() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("differential/regressions")
}

/// Scripts that are played side by side.
enum Batch {
    /// To be drawn from these seeds, which have the same conditions.
    Drawn { seeds: Range<u64> },
    /// Regressions of the same conditions.
    Named(Vec<(String, Script)>),
}

impl Batch {
    fn scripts(&self, options: &Options) -> Vec<(String, Script)> {
        match self {
            Batch::Named(scripts) => scripts.clone(),
            Batch::Drawn { seeds } => {
                let conditions = generate::conditions(seeds.start / BATCH, options.kind);
                let script = |seed: u64| {
                    let workers = options.workers.unwrap_or([1, 2, 4][(seed % 3) as usize]);
                    let script = generate::script(seed, workers, &conditions, options.kind);
                    (format!("seed {seed}"), script)
                };
                seeds.clone().map(script).collect()
            }
        }
    }
}

/// Every regression file: its name and script.
fn regressions(folder: &Path) -> io::Result<Vec<(String, Script)>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|file| file.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let script = text::read(&fs::read_to_string(path)?);
        script.map(|s| (name.clone(), s)).map_err(|e| io::Error::other(format!("{name}: {e}")))
    };
    files.iter().map(read).collect()
}

/// Regressions of the same conditions together.
fn grouped(regressions: &[(String, Script)]) -> Vec<Batch> {
    let mut groups: Vec<Vec<(String, Script)>> = Vec::new();
    for named in regressions {
        let same = |group: &&mut Vec<(String, Script)>| {
            group[0].1.conditions == named.1.conditions && (group.len() as u64) < BATCH
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(named.clone()),
            None => groups.push(vec![named.clone()]),
        }
    }
    groups.into_iter().map(Batch::Named).collect()
}

/// Plays a batch, and shows what failed.
fn play(
    lab: &mut Linux,
    scripts: &[(String, Script)],
    options: &Options,
    folder: &Path,
    sum: &Mutex<Sum>,
) -> io::Result<()> {
    let linux = lab.play(&scripts.iter().map(|(_, script)| script).collect::<Vec<_>>())?;
    let mut suspects = Vec::new();
    for (slot, ((_, script), linux)) in scripts.iter().zip(&linux).enumerate() {
        let verdict = ours::play(script, Slot(slot as u16));
        let judgement = verdict.as_ref().ok().map(|(ours, _)| judge(script, linux, ours));
        let mut sum = sum.lock().expect("no lab panics");
        sum.sequences += 1;
        sum.shots += script.len();
        sum.crossed += linux.iter().filter(|fate| !fate.seen.is_empty()).count();
        for class in judgement.iter().flat_map(|j| &j.listed) {
            *sum.listed.entry(class).or_default() += 1;
        }
        sum.compared += judgement.as_ref().map_or(0, |j| j.compared);
        if judgement.as_ref().is_none_or(|j| j.unlisted.is_some()) {
            let unlisted = judgement.and_then(|j| j.unlisted).zip(verdict.ok());
            let kind = match unlisted {
                Some(((at, what), (ours, _))) => {
                    let shot = script.shots().nth(at).expect("it was compared");
                    let flow = &script.flows[shot.flow];
                    signature(what, shot, flow, &linux[at], &ours[at])
                }
                None => "Postern panicked".to_string(),
            };
            suspects.push((slot, kind));
        }
    }
    let repeats = repeats(lab, scripts, &suspects)?;
    let mut failed = Vec::new();
    for ((slot, kind), repeats) in suspects.into_iter().zip(repeats) {
        let (name, script) = &scripts[slot];
        let mut sum = sum.lock().expect("no lab panics");
        if !repeats {
            sum.unrepeated.push(format!("{kind} ({name})"));
            continue;
        }
        sum.failures += 1;
        sum.kinds.entry(kind).or_insert_with(|| (0, name.clone())).0 += 1;
        if sum.shown < options.show {
            sum.shown += 1;
            failed.push((name, script));
        }
    }
    for (name, script) in failed {
        let short = shrink::shrink(lab, script, still_fails)?;
        let text = show(lab, name, &short)?;
        println!("{text}");
        if let Some(save) = &options.save {
            let path = folder.join(format!("{save}.toml"));
            if !path.exists() {
                fs::write(path, text::write(&short, name))?;
            }
        }
    }
    Ok(())
}

/// Which of the scripts that failed, named by their slots, fail once more, where they were. Linux has a real clock: what a
/// machine that was busy made of a timeout does not come again.
fn repeats(
    lab: &mut Linux,
    scripts: &[(String, Script)],
    suspects: &[(usize, String)],
) -> io::Result<Vec<bool>> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let is_suspect = |slot: usize| suspects.iter().any(|(suspect, _)| *suspect == slot);
    let silent =
        |(slot, (_, script)): (usize, &(String, Script))| script.without(|_| !is_suspect(slot));
    let again: Vec<Script> = scripts.iter().enumerate().map(silent).collect();
    let linux = lab.play(&again.iter().collect::<Vec<_>>())?;
    let fails = |slot: usize| still_fails(&again[slot], &linux[slot], Slot(slot as u16));
    Ok(suspects.iter().map(|(slot, _)| fails(*slot)).collect())
}

fn still_fails(script: &Script, linux: &[Fate], slot: Slot) -> bool {
    let ours = ours::play(script, slot);
    ours.map_or(true, |(ours, _)| judge(script, linux, &ours).unlisted.is_some())
}

/// A failure, decoded: every shot with both fates up to the one that differs, and both tables.
fn show(lab: &mut Linux, name: &str, script: &Script) -> io::Result<String> {
    use std::fmt::Write;
    let linux = lab.play(&[script])?.swap_remove(0);
    let table = lab.table();
    let mut out =
        format!("\n=== {name}, {} workers, {}\n", script.workers, script.conditions.describe());
    for (number, flow) in script.flows.iter().enumerate() {
        let _ = writeln!(out, "flow {number}: {}", text::flow(flow));
    }
    let (ours, our_table, panic) = match ours::play(script, Slot(0)) {
        Ok((ours, table)) => (ours, table, None),
        Err(panic) => (Vec::new(), String::new(), Some(panic)),
    };
    let unlisted = judge(script, &linux, &ours).unlisted;
    let (mut place, mut chosen) = (0, Chosen::new(script));
    for (section, shots) in script.sections.iter().enumerate() {
        if section > 0 {
            let _ = writeln!(out, "    ... {:?} pass", script::PAUSE);
        }
        for shot in shots {
            let flow = &script.flows[shot.flow];
            let known = chosen.of(shot.flow);
            chosen.learn(script, shot, &linux[place]);
            let l3 = shot.build(flow, Slot(0), known);
            let _ = writeln!(out, "{}", text::shot(shot));
            let _ = writeln!(
                out,
                "    in at the {:?}: {}",
                flow.enters(shot.back),
                fate::describe(&l3)
            );
            let _ = writeln!(out, "    linux:   {}", linux[place].describe());
            if let Some(ours) = ours.get(place) {
                let before = ours.before.map_or("no connection".to_string(), |(state, flags)| {
                    let state = match flow.protocol {
                        132 => postern_core::conntrack::sctp::State::from_number(state).name(),
                        _ => postern_core::conntrack::tcp::State::from_number(state).name(),
                    };
                    format!("{state} {flags:#x}")
                });
                let _ = writeln!(out, "    postern: {} ({before} before)", ours.describe());
            }
            if let Some((_, what)) = unlisted.filter(|(at, _)| *at == place) {
                let _ = writeln!(out, "    ^^^ they differ: {what:?}");
            }
            place += 1;
        }
    }
    if let Some(panic) = panic {
        let _ = writeln!(out, "Postern panicked: {panic}");
    }
    let _ = write!(out, "--- conntrack -L\n{table}--- Postern's table\n{our_table}");
    Ok(out)
}

fn report(sum: &Sum, known: &Known, options: &Options, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "differential: {} sequences, {} packets ({} crossed Linux, {} compared), seed {}, in {seconds:.1} s \
         ({:.0} sequences/s; {} batches played again; {} sequences differed once and not again)",
        sum.sequences,
        sum.shots,
        sum.crossed,
        sum.compared,
        options.seed,
        sum.sequences as f64 / seconds,
        sum.repeated,
        sum.unrepeated.len(),
    );
    for (name, reason) in &known.reasons {
        let seen = sum.listed.get(name.as_str()).copied().unwrap_or(0);
        let note = if seen == 0 && !options.regressions_only { "  NEVER SEEN" } else { "" };
        println!("{seen:>8} {name} ({}){note}", reason.requirement);
    }
    let mut kinds: Vec<_> = sum.kinds.iter().collect();
    kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    for (kind, (count, example)) in kinds {
        println!("{count:>8} {kind} ({example})");
    }
    for once in &sum.unrepeated {
        println!("  not repeated: {once}");
    }
    match sum.faults(known, options).as_slice() {
        [] => println!("differential: no other difference"),
        faults => faults.iter().for_each(|fault| println!("differential: {fault}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tree says of the differences, without root.
    #[test]
    fn every_wanted_difference_has_a_reason_and_a_requirement() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let known = Known::read(&root.join("differential/differences.toml")).expect("it reads");
        let table = crate::requirements::Table::read(&root.join(".."));
        for (name, reason) in &known.reasons {
            assert!(table.requirements.contains_key(&reason.requirement), "{name}");
        }
        regressions(&folder_of()).expect("every regression reads");
    }

    #[test]
    fn a_run_that_compared_too_little_proves_nothing() {
        let folder = folder_of().join("..");
        let known = Known::read(&folder.join("differences.toml")).expect("it reads");
        let options = Options { seed: 2, ..Options::default() };
        let enough = |sum: &Sum, options: &Options| sum.faults(&known, options).is_empty();
        let sum = |compared| Sum { sequences: 2000, shots: 1000, compared, ..Sum::default() };
        assert!(enough(&sum(700), &options));
        assert!(!enough(&sum(699), &options));
        assert!(!enough(&Sum::default(), &options));
        assert!(!enough(&Sum { failures: 1, ..sum(1000) }, &options));
        let differed = |times: usize| Sum { unrepeated: vec![String::new(); times], ..sum(1000) };
        assert!(enough(&differed(10), &options));
        assert!(!enough(&differed(11), &options));
        assert!(!enough(&sum(1000), &Options::default()), "no class was seen");
    }
}
