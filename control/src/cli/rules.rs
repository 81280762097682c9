//! `iptables` and its kin: arguments and text go to the daemon, what it printed comes back. Files named
//! on the command line are read and written here, with the caller's rights: the daemon opens none.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use postern_rules::{Counts, RestoreOptions, Rulesets, restore, whose_block};

use super::args::RulesCommand;
use super::client::{Client, Method, NO_BODY, with_query};
use super::text::{escaped_lines, print_json};
use super::{CliError, Output};
use crate::api::model::{
    Family, RESTORE_TEXT_MAX, RulesOutcome, RulesProgram, RulesQuery, RulesRequest,
};

/// Runs the command; the exit code is the one the tool would have.
///
/// # Errors
/// If the daemon cannot be asked, or a file not read or written.
pub fn run(
    client: &Client,
    command: RulesCommand,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    let (family, program, mut args) = command.into_parts();
    if let Some(words) = own_words(family, program, &args) {
        output.out.write_all(words.as_bytes())?;
        return Ok(0);
    }
    let (mut stdin, mut save_to) = (None, None);
    match program {
        RulesProgram::Iptables => {}
        RulesProgram::Save => save_to = take_output_file(&mut args)?,
        RulesProgram::Restore if wants_words_only(&args) => {}
        RulesProgram::Restore => stdin = Some(read_text(take_input_file(&mut args).as_deref())?),
    }
    let plain = args.iter().all(|arg| matches!(arg.as_str(), "-c" | "--counters"));
    let outcome: RulesOutcome = if program == RulesProgram::Save && plain {
        // As a GET, which those who may only look may send.
        let query = RulesQuery { family, counters: !args.is_empty() };
        client.call(Method::GET, &with_query("/v1/rules", &query), NO_BODY)?
    } else {
        let request = RulesRequest { family, program, args, stdin };
        client.call(Method::POST, "/v1/rules", Some(&request))?
    };
    if let Some(path) = save_to.filter(|_| outcome.code == 0) {
        fs::write(&path, &outcome.stdout)
            .map_err(|error| CliError::Failed(format!("{path}: {error}")))?;
        print_stderr(&outcome, output)?;
        return Ok(outcome.code);
    }
    if output.json {
        print_json(&outcome, output.out)?;
        return Ok(outcome.code);
    }
    // A file gets the text as it is, so that a restore finds what was saved; a terminal does not.
    if output.terminal {
        output.out.write_all(escaped_lines(&outcome.stdout).as_bytes())?;
    } else {
        output.out.write_all(outcome.stdout.as_bytes())?;
    }
    output.out.flush()?;
    print_stderr(&outcome, output)?;
    Ok(outcome.code)
}

/// Says which host has the block of ports that an external endpoint is of; 1 if nobody has.
///
/// # Errors
/// If the daemon cannot be asked.
pub fn whose(
    client: &Client,
    address: Ipv4Addr,
    port: u16,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    let query = RulesQuery { family: Family::Ipv4, counters: false };
    let outcome: RulesOutcome =
        client.call(Method::GET, &with_query("/v1/rules", &query), NO_BODY)?;
    let mut rulesets = Rulesets::new();
    restore(
        table(&outcome.stdout, "nat"),
        postern_core::rules::Family::V4,
        RestoreOptions::default(),
        &mut rulesets,
        &Counts::default(),
    )
    .map_err(|error| CliError::Failed(format!("the rules in force: {error}")))?;
    let hosts = whose_block(&rulesets, address, port);
    if output.json {
        print_json(&hosts, output.out)?;
    } else if hosts.is_empty() {
        writeln!(output.err, "no host has port {port} of {address} in a block")?;
    } else {
        hosts.iter().try_for_each(|host| writeln!(output.out, "{host}"))?;
    }
    Ok(u8::from(hosts.is_empty()))
}

/// A table's part of a dump, from its name to its COMMIT.
fn table<'t>(dump: &'t str, name: &str) -> &'t str {
    let begin = format!("*{name}\n");
    let Some(at) = dump.find(&begin) else { return "" };
    let part = &dump[at..];
    let end = part.find("COMMIT\n").map_or(part.len(), |at| at + "COMMIT\n".len());
    &part[..end]
}

fn print_stderr(outcome: &RulesOutcome, output: &mut Output<'_>) -> io::Result<()> {
    output.err.write_all(escaped_lines(&outcome.stderr).as_bytes())
}

/// Help and version, which need no appliance: the same text it would give.
fn own_words(family: Family, program: RulesProgram, args: &[String]) -> Option<String> {
    if args.len() != 1 || !wants_words_only(args) {
        return None;
    }
    let family = match family {
        Family::Ipv4 => postern_core::rules::Family::V4,
        Family::Ipv6 => postern_core::rules::Family::V6,
    };
    let version = |kin: &str| {
        let asked = matches!(args[0].as_str(), "-V" | "--version");
        asked.then(|| {
            format!("{}-{kin} {}\n", postern_rules::program(family), postern_rules::VERSION)
        })
    };
    match program {
        RulesProgram::Iptables => {
            let mut none = Rulesets::new();
            let said = postern_rules::execute(family, args, &mut none, Counts::default);
            (said.code == 0).then_some(said.stdout)
        }
        RulesProgram::Save => version("save"),
        RulesProgram::Restore => version("restore"),
    }
}

/// Whether the arguments ask for help or the version: then no text is read.
fn wants_words_only(args: &[String]) -> bool {
    args.iter().any(|arg| matches!(arg.as_str(), "-h" | "--help" | "-V" | "--version"))
}

/// Takes the file out of `iptables-restore [options] [FILE]`.
fn take_input_file(args: &mut Vec<String>) -> Option<String> {
    let mut value_follows = false;
    let at = args.iter().position(|arg| {
        let is_value = std::mem::replace(
            &mut value_follows,
            matches!(arg.as_str(), "-T" | "--table" | "-M" | "--modprobe"),
        );
        // -w and -W may be followed by seconds.
        let is_seconds = arg.bytes().all(|byte| byte.is_ascii_digit());
        !is_value && !is_seconds && !arg.starts_with('-')
    })?;
    Some(args.remove(at))
}

/// Takes the file out of `iptables-save [-f FILE]`.
fn take_output_file(args: &mut Vec<String>) -> Result<Option<String>, CliError> {
    if let Some(at) = args.iter().position(|arg| arg.starts_with("--file=")) {
        return Ok(args.remove(at).strip_prefix("--file=").map(str::to_owned));
    }
    let Some(at) = args.iter().position(|arg| arg == "-f" || arg == "--file") else {
        return Ok(None);
    };
    if at + 1 == args.len() {
        return Err(CliError::Usage(format!("{} needs the name of a file", args[at])));
    }
    args.remove(at);
    Ok(Some(args.remove(at)))
}

/// The text to restore, from the file or standard input, up to the limit.
fn read_text(file: Option<&str>) -> Result<String, CliError> {
    let name = file.unwrap_or("standard input");
    let failed = |error: io::Error| CliError::Failed(format!("{name}: {error}"));
    let mut text = Vec::new();
    let most = RESTORE_TEXT_MAX as u64 + 1;
    match file {
        Some(path) => {
            fs::File::open(Path::new(path)).map_err(failed)?.take(most).read_to_end(&mut text)
        }
        None => {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                let _ =
                    writeln!(io::stderr(), "postern: reading rules from the terminal, end with ^D");
            }
            stdin.lock().take(most).read_to_end(&mut text)
        }
    }
    .map_err(failed)?;
    if text.len() > RESTORE_TEXT_MAX {
        return Err(CliError::Failed(format!("{name}: more than 16 MiB")));
    }
    String::from_utf8(text).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        CliError::Failed(format!("{name}: line {}: not UTF-8 text", line + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn help_and_version_are_ours_to_give() {
        use RulesProgram::{Iptables, Restore, Save};
        for (program, line, first) in [
            (Iptables, "-h", "iptables v"),
            (Iptables, "--help", "iptables v"),
            (Iptables, "-V", "iptables v"),
            (Iptables, "--version", "iptables v"),
            (Save, "-V", "iptables-save v"),
            (Restore, "-V", "iptables-restore v"),
        ] {
            let words = own_words(Family::Ipv4, program, &words(line)).unwrap_or_default();
            assert!(words.starts_with(first), "{program:?} {line}: {words}");
        }
        let six = own_words(Family::Ipv6, Iptables, &words("-V")).unwrap();
        assert!(six.starts_with("ip6tables v"), "{six}");
        // What stands beside it may be a rule: the appliance is to judge.
        for line in ["", "-L", "-A INPUT -m comment --comment -h", "-V -L"] {
            assert_eq!(own_words(Family::Ipv4, Iptables, &words(line)), None, "{line}");
        }
    }

    #[test]
    fn the_file_to_restore_is_the_argument_that_is_no_option() {
        for (line, file, rest) in [
            ("", None, ""),
            ("-n --test", None, "-n --test"),
            ("rules.v4", Some("rules.v4"), ""),
            ("-T filter rules.v4 -c", Some("rules.v4"), "-T filter -c"),
            ("-w 5 rules.v4", Some("rules.v4"), "-w 5"),
            ("--table filter", None, "--table filter"),
        ] {
            let mut args = words(line);
            assert_eq!(take_input_file(&mut args).as_deref(), file, "{line}");
            assert_eq!(args, words(rest), "{line}");
        }
    }

    #[test]
    fn the_file_to_save_to_is_ours() {
        for (line, file, rest) in [
            ("-c -t filter", None, "-c -t filter"),
            ("-f out -c", Some("out"), "-c"),
            ("-c --file=out", Some("out"), "-c"),
            ("--file out", Some("out"), ""),
        ] {
            let mut args = words(line);
            assert_eq!(take_output_file(&mut args).unwrap().as_deref(), file, "{line}");
            assert_eq!(args, words(rest), "{line}");
        }
        assert!(matches!(take_output_file(&mut words("-c -f")), Err(CliError::Usage(_))));
    }
}
