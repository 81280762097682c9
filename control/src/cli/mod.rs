//! The `postern` command: arguments in, requests out, answers printed.
//!
//! * [`args`]: what can be typed.
//! * [`client`]: HTTP over the control socket.
//! * [`text`]: how answers are printed; nothing of a user's or a packet's making reaches a terminal raw.
//! * [`conntrack`], [`status`], [`rules`]: the commands with more to them.
//! * [`replay`]: the packet path over capture files.
//!
//! Exit codes: 0 done, 1 not done, 2 not understood; `iptables` and its kin end as the tool would.

pub mod args;
pub mod client;
pub mod conntrack;
mod local_time;
pub mod replay;
pub mod rules;
pub mod status;
pub mod text;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::api::model::{
    ConfigFault, Drops, Forward, ForwardKey, ForwardRequest, Forwards, ReloadOutcome, Status,
    Version,
};
use crate::api::trigger::{Trigger, TriggerKey, TriggerRequest, Triggers};
use crate::appliance;
use crate::config;
use args::{Cli, Command, ForwardCommand, TriggerCommand, TriggerRemove};
use client::{Client, ClientError, Method, NO_BODY};
use text::{escaped, print_json};

/// Not done.
pub const FAILURE: u8 = 1;
/// Not understood.
pub const USAGE: u8 = 2;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The daemon said no, or could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Reading or printing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The arguments do not make sense together.
    #[error("{0}")]
    Usage(String),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

/// Where answers go, and how.
pub struct Output<'o> {
    /// Standard output.
    pub out: &'o mut dyn Write,
    /// Standard error.
    pub err: &'o mut dyn Write,
    /// JSON rather than text.
    pub json: bool,
    /// Standard output is a terminal.
    pub terminal: bool,
}

/// Runs the command line and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help goes to stdout with 0, the rest to stderr with 2.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let terminal = io::IsTerminal::is_terminal(&stdout);
    let mut out = io::BufWriter::new(stdout.lock());
    let mut err = stderr.lock();
    let mut output = Output { out: &mut out, err: &mut err, json: cli.json, terminal };
    let outcome = run(cli, &mut output).and_then(|code| Ok((code, out.flush()?).0));
    match outcome {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(CliError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            drop(out);
            report(&error, &mut err);
            ExitCode::from(if matches!(error, CliError::Usage(_)) { USAGE } else { FAILURE })
        }
    }
}

fn report(error: &CliError, err: &mut dyn Write) {
    let _ = writeln!(err, "postern: {}", escaped(&error.to_string()));
    if let CliError::Client(ClientError::Refused { body, .. }) = error {
        let _ = write_faults(&body.faults, err);
    }
}

/// Does what the command line says; the exit code.
///
/// # Errors
/// If it could not be done; nothing has been printed about that yet.
pub fn run(cli: Cli, output: &mut Output<'_>) -> Result<u8, CliError> {
    let client = Client::new(cli.control.clone())?;
    match cli.command {
        Command::Run { config } => appliance::run(&config).map_err(failed)?,
        Command::Guard { config } => appliance::guard(&config).map_err(failed)?,
        Command::Release { config } => appliance::release(&config).map_err(failed)?,
        Command::Check { config } => return check(&config, output),
        Command::Status => {
            let status: Status = client.call(Method::GET, "/v1/status", NO_BODY)?;
            print(output, &status, |out| status::write_status(&status, out))?;
        }
        Command::Drops { all } => {
            let drops: Drops = client.call(Method::GET, "/v1/drops", NO_BODY)?;
            print(output, &drops, |out| status::write_drops(&drops, all, out))?;
        }
        Command::Whose { address, port } => return rules::whose(&client, address, port, output),
        Command::Rules(command) => return rules::run(&client, command, output),
        Command::Forward(command) => forward(&client, command, output)?,
        Command::Trigger(command) => trigger(&client, command, output)?,
        Command::Conntrack(command) => return conntrack::run(&client, *command, output),
        Command::Reload => {
            let done: ReloadOutcome = client.call(Method::POST, "/v1/config/reload", NO_BODY)?;
            print(output, &done, |out| write_reload(&done, out))?;
        }
        Command::Replay(arguments) => return replay::run(&arguments, output),
        Command::Api => {
            let document = crate::api::routes::document();
            writeln!(output.out, "{}", document.to_pretty_json().map_err(io::Error::other)?)?;
        }
        Command::Version => {
            let version = Version {
                name: "postern".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                api: "v1".to_owned(),
            };
            let line = format!("{} {}", version.name, version.version);
            print(output, &version, |out| writeln!(out, "{line}"))?;
        }
    }
    Ok(0)
}

fn failed(error: appliance::ApplianceError) -> CliError {
    CliError::Failed(error.to_string())
}

/// Prints as JSON if that was asked for, else as text.
fn print<T: serde::Serialize>(
    output: &mut Output<'_>,
    value: &T,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if output.json { print_json(value, output.out) } else { text(output.out) }
}

/// `check`: needs no daemon and no privileges.
fn check(path: &Path, output: &mut Output<'_>) -> Result<u8, CliError> {
    let faults: Vec<ConfigFault> = match appliance::policy::load_config(path, &config::ThisHost) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ConfigFault::from).collect(),
    };
    if output.json {
        print_json(&crate::api::model::CheckOutcome { faults: faults.clone() }, output.out)?;
    } else {
        write_faults(&faults, output.err)?;
    }
    if !faults.is_empty() {
        return Ok(FAILURE);
    }
    if !output.json {
        writeln!(output.out, "{}: no faults", escaped(&path.to_string_lossy()))?;
    }
    Ok(0)
}

/// `file:line:column: text`, as compilers do.
fn write_faults(faults: &[ConfigFault], err: &mut dyn Write) -> io::Result<()> {
    for fault in faults {
        let file = escaped(fault.file.as_deref().unwrap_or("configuration"));
        writeln!(err, "{file}:{}:{}: {}", fault.line, fault.column, escaped(&fault.text))?;
        if let Some(hint) = &fault.hint {
            writeln!(err, "    hint: {}", escaped(hint))?;
        }
    }
    Ok(())
}

fn write_reload(done: &ReloadOutcome, out: &mut dyn Write) -> io::Result<()> {
    if done.changes.is_empty() {
        return writeln!(out, "nothing changed (generation {})", done.generation);
    }
    for change in &done.changes {
        writeln!(out, "{}", escaped(change))?;
    }
    writeln!(out, "in effect, generation {}", done.generation)
}

fn forward(
    client: &Client,
    command: ForwardCommand,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    match command {
        ForwardCommand::List => {
            let Forwards { forwards } = client.call(Method::GET, "/v1/forwards", NO_BODY)?;
            print(output, &forwards, |out| status::write_forwards(&forwards, out))?;
        }
        ForwardCommand::Add(what) => {
            let [protocol, port, to] = what.parts()?;
            let request = ForwardRequest { interface: what.interface, protocol, port, to };
            let added: Forward = client.call(Method::POST, "/v1/forwards", Some(&request))?;
            print(output, &added, |out| writeln!(out, "added {}", status::forward_line(&added)))?;
        }
        ForwardCommand::Remove(what) => {
            let [protocol, port] = what.parts()?;
            let key = ForwardKey { interface: what.interface, protocol, port };
            let path = client::with_query("/v1/forwards", &key);
            let gone: Forward = client.call(Method::DELETE, &path, NO_BODY)?;
            print(output, &gone, |out| writeln!(out, "removed {}", status::forward_line(&gone)))?;
        }
    }
    Ok(())
}

fn trigger(
    client: &Client,
    command: TriggerCommand,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    match command {
        TriggerCommand::List => {
            let Triggers { triggers } = client.call(Method::GET, "/v1/triggers", NO_BODY)?;
            print(output, &triggers, |out| status::write_triggers(&triggers, out))?;
        }
        TriggerCommand::Add(what) => {
            let request = TriggerRequest {
                interface: what.interface,
                protocol: what.protocol,
                outbound: what.outbound,
                inbound: what.inbound,
                timeout_s: what.timeout.map(whole_seconds).transpose()?,
            };
            let added: Trigger = client.call(Method::POST, "/v1/triggers", Some(&request))?;
            print(output, &added, |out| writeln!(out, "added {}", status::trigger_line(&added)))?;
        }
        TriggerCommand::Remove(what) => {
            let TriggerRemove { interface, protocol, inbound } = what;
            let key = TriggerKey { interface, protocol, inbound };
            let path = client::with_query("/v1/triggers", &key);
            let gone: Trigger = client.call(Method::DELETE, &path, NO_BODY)?;
            print(output, &gone, |out| writeln!(out, "removed {}", status::trigger_line(&gone)))?;
        }
    }
    Ok(())
}

fn whole_seconds(time: Duration) -> Result<u32, CliError> {
    let whole = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    whole.ok_or_else(|| CliError::Usage("a trigger's timeout is whole seconds".to_owned()))
}
