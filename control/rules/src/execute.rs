//! The three programs: `iptables`, `iptables-save`, `iptables-restore`, and their IPv6 twins.

use postern_core::rules::{Family, TableId};

use crate::apply::Edit;
use crate::command::{Action, Command};
use crate::error::{Error, VERSION, check_spelling, visible};
use crate::list::Listing;
use crate::model::{Counts, Rulesets};
use crate::parse::{self, Source};
use crate::program;
use crate::save::{RestoreOptions, restore, save};

/// What a program printed, its exit code, and whether the rules are others now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Output {
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// 0; 2 for a command that cannot be understood, 1 for one that cannot be done.
    pub code: i32,
    /// Whether the rulesets are not what they were, so that they must be compiled and published.
    pub changed: bool,
}

impl Output {
    fn failed(error: &Error, program: &str) -> Self {
        Self { stderr: error.render(program), code: error.code(), ..Self::default() }
    }
}

/// Runs `iptables` (or `ip6tables`, by `family`) with these arguments, the program's name not among them.
///
/// `live` tells what all policies that were not settled yet have counted; it is asked only if counts are needed. On an error
/// nothing is changed.
pub fn execute(
    family: Family,
    args: &[String],
    rulesets: &mut Rulesets,
    live: impl Fn() -> Counts,
) -> Output {
    let program = program(family);
    let parsed = check_spelling(program, args)
        .and_then(|()| parse::command(args, family, Source::Shell, TableId::Filter))
        .and_then(|command| run(family, command, rulesets, live));
    parsed.unwrap_or_else(|error| Output::failed(&error, program))
}

fn run(
    family: Family,
    command: Command,
    rulesets: &mut Rulesets,
    live: impl Fn() -> Counts,
) -> Result<Output, Error> {
    let Command { table, action, format, zero } = command;
    let mut out = Output::default();
    let zeroes = zero || matches!(action, Action::Zero { .. });
    let counts = if zeroes || format.verbose || matches!(action, Action::Policy { .. }) {
        live()
    } else {
        Counts::default()
    };
    let shown = rulesets.family(family).table(table);
    let listing = Listing { table: shown, family, live: &counts, format };
    let chosen = match &action {
        Action::List { chain, number } => {
            out.stdout = listing.show(chain.as_deref(), *number);
            Some((chain, number))
        }
        Action::ListRules { chain, number } => {
            out.stdout = listing.commands(chain.as_deref(), *number);
            Some((chain, number))
        }
        Action::Version => {
            out.stdout = format!("{} {VERSION}\n", program(family));
            return Ok(out);
        }
        Action::Help => {
            out.stdout = help(program(family));
            return Ok(out);
        }
        _ => None,
    };
    if let Some((Some(chain), _)) = chosen
        && shown.chain(chain).is_none()
    {
        return Err(Error::no_chain());
    }
    let action = match (chosen, zero) {
        (Some(_), false) => return Ok(out),
        (Some((chain, number)), true) => Action::Zero { chain: chain.clone(), number: *number },
        (None, _) => action,
    };
    let zeroes = matches!(action, Action::Zero { .. });
    let mut new = rulesets.clone();
    Edit { rulesets: &mut new, family, table, live: &counts }.apply(action)?;
    // Ids of rules that came to nothing do not count as a change, nor do counters: the packets' way is the same.
    out.changed = !zeroes && new.families != rulesets.families;
    *rulesets = new;
    Ok(out)
}

/// Runs `iptables-save`: `-c` for counts, `-t nat` for one table.
pub fn execute_save(
    family: Family,
    args: &[String],
    rulesets: &Rulesets,
    live: impl Fn() -> Counts,
) -> Output {
    let program = format!("{}-save", program(family));
    let (mut with_counts, mut only) = (false, None);
    let mut args_left = args.iter();
    while let Some(arg) = args_left.next() {
        let done = match arg.as_str() {
            "-c" | "--counters" => {
                with_counts = true;
                Ok(())
            }
            "-t" | "--table" => parse::table_named(args_left.next().map_or("", String::as_str))
                .map(|table| only = Some(table)),
            other => Err(bad_argument(other)),
        };
        if let Err(error) = done {
            return Output::failed(&error, &program);
        }
    }
    let stdout = save(rulesets, family, only, &live(), with_counts);
    Output { stdout, ..Output::default() }
}

/// Runs `iptables-restore` over a dump: `-c` for counts, `-n` to keep what is there, `-t` to only look.
pub fn execute_restore(
    family: Family,
    args: &[String],
    dump: &str,
    rulesets: &mut Rulesets,
    live: impl Fn() -> Counts,
) -> Output {
    let program = format!("{}-restore", program(family));
    let mut options = RestoreOptions::default();
    let mut test = false;
    let mut args_left = args.iter().peekable();
    while let Some(arg) = args_left.next() {
        match arg.as_str() {
            "-c" | "--counters" => options.counters = true,
            "-n" | "--noflush" => options.noflush = true,
            "-t" | "--test" => test = true,
            "-v" | "--verbose" => {}
            "-w" | "--wait" => {
                args_left.next_if(|seconds| seconds.parse::<u32>().is_ok());
            }
            "-T" | "--table" => {
                let table = args_left.next().map_or("", String::as_str);
                match parse::table_named(table) {
                    Ok(table) => options.only = Some(table),
                    Err(error) => return Output::failed(&error, &program),
                }
            }
            other => return Output::failed(&bad_argument(other), &program),
        }
    }
    let mut new = rulesets.clone();
    match restore(dump, family, options, &mut new, &live()) {
        Err(error) => {
            Output { stderr: error.render(&program), code: error.error.code(), ..Output::default() }
        }
        Ok(restored) => {
            let stderr = restored.notes.iter().map(|note| format!("{program}: {note}\n")).collect();
            let changed = !test && new.families != rulesets.families;
            if !test {
                *rulesets = new;
            }
            Output { stderr, changed, ..Output::default() }
        }
    }
}

fn bad_argument(arg: &str) -> Error {
    Error::usage(format!("Bad argument `{}'", visible(arg)))
}

fn help(program: &str) -> String {
    format!(
        "{program} {VERSION}

Usage: {program} -[ACD] chain rule-specification [options]
       {program} -I chain [rulenum] rule-specification [options]
       {program} -R chain rulenum rule-specification [options]
       {program} -D chain rulenum [options]
       {program} -[LS] [chain [rulenum]] [options]
       {program} -[FZ] [chain] [options]
       {program} -[NX] chain
       {program} -E old-chain-name new-chain-name
       {program} -P chain target [options]

Options:   -t filter|nat|raw  -v  -n  -x  --line-numbers  -c packets bytes  -4  -6  -w [seconds]
Rules:     [!] -p proto  [!] -s address[/mask][,...]  [!] -d address[/mask][,...]
           [!] -i name[+]  [!] -o name[+]  -j target  -m match
Matches:   tcp: --sport --dport --syn --tcp-flags; udp, sctp, dccp: --sport --dport;
           icmp: --icmp-type; icmp6: --icmpv6-type; multiport: --sports --dports --ports;
           conntrack: --ctstate; state: --state; comment: --comment
           connlimit: --connlimit-above, --connlimit-upto, --connlimit-mask, --connlimit-saddr, --connlimit-daddr
Targets:   ACCEPT  DROP  REJECT [--reject-with type]  RETURN  user chains
nat:       DNAT --to-destination  REDIRECT [--to-ports]  SNAT --to-source  MASQUERADE [--to-ports]
           NETMAP --to; --random --random-fully --persistent
           --endpoint-independent mapping|filtering (Postern's own; SNAT, MASQUERADE)
           --port-blocks ports (Postern's own; SNAT): a block of a pool's ports for each host of -s
raw:       NOTRACK  CT --notrack | --zone[-orig|-reply] number  --helper name  --timeout policy
"
    )
}
