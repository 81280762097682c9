//! A failing script, made as short as it still fails: every attempt at once, side by side, against Linux itself.

use std::io;

use super::flow::Slot;
use super::linux::Linux;
use super::script::Script;

/// Whether scripts fail, each played anew.
pub(super) fn failing(
    lab: &mut Linux,
    scripts: &[Script],
    fails: impl Fn(&Script, &[super::fate::Fate], Slot) -> bool,
) -> io::Result<Vec<bool>> {
    let fates = lab.play(&scripts.iter().collect::<Vec<_>>())?;
    let each = scripts.iter().zip(&fates).enumerate();
    Ok(each.map(|(slot, (script, fates))| fails(script, fates, Slot(slot as u16))).collect())
}

/// The shortest script found that still fails.
///
/// # Errors
/// If the laboratory does.
pub(super) fn shrink(
    lab: &mut Linux,
    script: &Script,
    fails: impl Fn(&Script, &[super::fate::Fate], Slot) -> bool,
) -> io::Result<Script> {
    let mut best = script.clone();
    // Without any pause everything is faster.
    let mut at_once = best.clone();
    at_once.sections = vec![at_once.shots().cloned().collect()];
    at_once.conditions.pauses = 0;
    if best.sections.len() > 1 && failing(lab, std::slice::from_ref(&at_once), &fails)?[0] {
        best = at_once;
    }
    let mut chunk = (best.len() / 2).max(1);
    loop {
        let starts: Vec<usize> = (0..best.len()).step_by(chunk).collect();
        let within = |start: usize| move |place: usize| (start..start + chunk).contains(&place);
        let attempts: Vec<Script> = starts.iter().map(|&s| best.without(within(s))).collect();
        let outcome = failing(lab, &attempts, &fails)?;
        let can_go: Vec<usize> =
            starts.iter().zip(&outcome).filter(|(_, fails)| **fails).map(|(s, _)| *s).collect();
        if can_go.is_empty() {
            if chunk == 1 {
                break;
            }
            chunk = (chunk / 2).max(1);
            continue;
        }
        // What can go alone may not be able to go together: all of it, else half of it, else one.
        let mut some = can_go.len();
        let together = |some: usize| {
            let gone = can_go[..some].to_vec();
            best.without(move |place| gone.iter().any(|&start| within(start)(place)))
        };
        while some > 1 && !failing(lab, &[together(some)], &fails)?[0] {
            some /= 2;
        }
        best = together(some);
        chunk = chunk.min(best.len().max(1));
    }
    // Pauses, one by one.
    for pause in (1..best.sections.len()).rev() {
        let mut attempt = best.clone();
        let behind = attempt.sections.remove(pause);
        attempt.sections[pause - 1].extend(behind);
        attempt.conditions.pauses -= 1;
        if failing(lab, std::slice::from_ref(&attempt), &fails)?[0] {
            best = attempt;
        }
    }
    Ok(best)
}
