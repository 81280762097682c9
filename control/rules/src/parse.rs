//! Command line to [`Command`].

use postern_core::rules::model::ChainPolicy;
use postern_core::rules::{Count, Family, TableId};

use crate::command::{Action, Command, Format, NewRules};
use crate::error::{Error, visible};
use crate::options::{Item, Opt, Scanner, unknown};
use crate::spec::SpecBuilder;
use crate::values;

/// Where a command line comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Typed.
    Shell,
    /// A line of a dump.
    Dump,
}

/// Reads a command line, without the program's name; about `table` unless it says otherwise.
pub(crate) fn command(
    tokens: &[String],
    family: Family,
    source: Source,
    table: TableId,
) -> Result<Command, Error> {
    Parser {
        scanner: Scanner::new(tokens),
        family,
        source,
        table,
        command: None,
        spec: SpecBuilder::new(family),
        format: Format::default(),
        used: Vec::new(),
        count: None,
        other_family: false,
    }
    .parse()
}

/// A command's letter and what stood behind it.
struct Head {
    letter: char,
    at: usize,
    first: Option<String>,
    second: Option<String>,
    zero: bool,
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    family: Family,
    source: Source,
    table: TableId,
    command: Option<Head>,
    spec: SpecBuilder,
    format: Format,
    /// Options that only some commands take, as they were written.
    used: Vec<(Opt, String, usize)>,
    count: Option<Count>,
    other_family: bool,
}

impl Parser<'_> {
    fn parse(mut self) -> Result<Command, Error> {
        let mut not = None;
        while let Some(item) = self.scanner.item()? {
            let at = self.scanner.at();
            match item {
                Item::Not if not.is_some() => {
                    return Err(Error::usage("multiple consecutive ! not allowed").at(at));
                }
                Item::Not => not = Some(at),
                Item::Word(word) => {
                    let error = Error::usage(format!("Bad argument `{}'", visible(word)));
                    return Err(match not {
                        Some(_) => error.hint("write ! before the option: `! -s 192.0.2.1'"),
                        None => error,
                    }
                    .at(at));
                }
                Item::Option(opt) => {
                    let negated = not.take().is_some();
                    self.option(opt, negated).map_err(|e| e.at(self.scanner.at()))?;
                    if self.other_family && self.source == Source::Dump {
                        // A dump for both families: this line is nobody's here, whatever follows.
                        return Ok(self.done(Action::OtherFamily, false));
                    }
                }
            }
        }
        if let Some(at) = not {
            return Err(Error::usage("nothing follows the last !").at(at));
        }
        self.finish()
    }

    fn option(&mut self, opt: Opt, negated: bool) -> Result<(), Error> {
        let spelling = self.scanner.spelling().to_owned();
        if self.spec.option(opt, negated, &mut self.scanner)? {
            self.used.push((opt, spelling, self.scanner.at()));
            return Ok(());
        }
        if negated {
            let message = match opt {
                Opt::Jump | Opt::Goto => format!("cannot have ! before {spelling}"),
                _ => format!("unexpected ! flag before {spelling}"),
            };
            return Err(Error::usage(message));
        }
        match opt {
            Opt::Command(letter) => return self.head(letter),
            Opt::Table => return self.table(),
            Opt::Counters => self.count = Some(self.counters()?),
            Opt::Verbose => self.format.verbose = true,
            Opt::Numeric => self.format.numeric = true,
            Opt::Exact => self.format.exact = true,
            Opt::LineNumbers => self.format.line_numbers = true,
            Opt::Wait => {
                if self.scanner.optional_value().is_some_and(|n| n.parse::<u32>().is_err()) {
                    return Err(Error::usage("wait seconds not numeric"));
                }
                return Ok(());
            }
            Opt::WaitInterval | Opt::Modprobe => {
                self.scanner.value()?;
                return Ok(());
            }
            Opt::V4 => self.other_family |= self.family != Family::V4,
            Opt::V6 => self.other_family |= self.family != Family::V6,
            Opt::Help => return self.set_head('h', None, None),
            Opt::Version => return self.set_head('V', None, None),
            _ => return Err(unknown(&spelling)),
        }
        if !matches!(opt, Opt::V4 | Opt::V6 | Opt::Verbose) {
            self.used.push((opt, spelling, self.scanner.at()));
        }
        Ok(())
    }

    /// `-t`
    fn table(&mut self) -> Result<(), Error> {
        if self.source == Source::Dump {
            return Err(Error::usage("The -t option cannot be used in a dump"));
        }
        self.table = table_named(self.scanner.value()?)?;
        Ok(())
    }

    /// `-c packets bytes`
    fn counters(&mut self) -> Result<Count, Error> {
        let packets = self.scanner.value()?;
        let (packets, bytes) = match packets.split_once(',') {
            Some(both) => both,
            None => {
                let missing = || Error::usage("-c requires packet and byte counter");
                (packets, self.scanner.word().ok_or_else(missing)?)
            }
        };
        let numeric = |text, what| {
            values::counter(text)
                .ok_or_else(|| Error::usage(format!("-c {what} counter not numeric")))
        };
        Ok(Count { packets: numeric(packets, "packet")?, bytes: numeric(bytes, "byte")? })
    }

    /// A command with what stands behind it.
    fn head(&mut self, letter: char) -> Result<(), Error> {
        let (first, second) = match letter {
            'A' | 'C' | 'N' => (Some(self.scanner.value()?), None),
            'I' | 'D' | 'R' | 'E' | 'P' => (Some(self.scanner.value()?), self.scanner.word()),
            'F' | 'X' => (self.scanner.optional_value(), None),
            _ => {
                let first = self.scanner.optional_value();
                (first, first.and_then(|_| self.scanner.word()))
            }
        };
        let missing = match letter {
            'R' => "-R requires a rule number",
            'E' => "-E requires old-chain-name and new-chain-name",
            'P' => "-P requires a chain and a policy",
            _ => "",
        };
        if second.is_none() && !missing.is_empty() {
            return Err(Error::usage(missing));
        }
        self.set_head(letter, first.map(str::to_owned), second.map(str::to_owned))
    }

    fn set_head(
        &mut self,
        letter: char,
        first: Option<String>,
        second: Option<String>,
    ) -> Result<(), Error> {
        let at = self.scanner.at();
        let new = Head { letter, at, first, second, zero: false };
        let Some(head) = &mut self.command else {
            self.command = Some(new);
            return Ok(());
        };
        match (head.letter, letter) {
            ('L' | 'S', 'Z') => head.zero = true,
            ('Z', 'L' | 'S') => *head = Head { zero: true, ..new },
            ('h', _) => {}
            (_, 'h') => *head = new,
            (old, letter) => {
                return Err(Error::usage(format!("Cannot use -{letter} with -{old}")));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Command, Error> {
        let no_command = || Error::usage("no command specified");
        let head = self.command.take().ok_or_else(no_command)?;
        if self.other_family {
            let (program, own) = match self.family {
                Family::V4 => ("iptables", "-6"),
                Family::V6 => ("ip6tables", "-4"),
            };
            return Err(Error::usage(format!("{program} cannot be used with {own}")));
        }
        self.check_options(&head)?;
        let zero = head.zero;
        let at = head.at;
        let action = self.action(head).map_err(|e| e.at(at))?;
        Ok(self.done(action, zero))
    }

    fn done(self, action: Action, zero: bool) -> Command {
        Command { table: self.table, action, format: self.format, zero }
    }

    /// Refuses options that the command would ignore.
    fn check_options(&self, head: &Head) -> Result<(), Error> {
        let takes_rule = match head.letter {
            'A' | 'C' | 'I' | 'R' => true,
            'D' => head.second.is_none(),
            _ => false,
        };
        for (opt, spelling, at) in &self.used {
            let fits = match opt {
                Opt::Numeric | Opt::Exact | Opt::LineNumbers => {
                    matches!(head.letter, 'L' | 'S' | 'Z')
                }
                Opt::Counters => matches!(head.letter, 'A' | 'I' | 'R' | 'P'),
                _ => takes_rule,
            };
            if !fits && !matches!(head.letter, 'h' | 'V') {
                let message = format!("Illegal option `{spelling}' with this command");
                return Err(Error::usage(message).at(*at));
            }
        }
        Ok(())
    }

    fn action(&mut self, head: Head) -> Result<Action, Error> {
        let number = head.second.as_deref();
        let optional_number = || number.map(values::rule_number).transpose();
        let chain = head.first.clone();
        let named = || head.first.clone().unwrap_or_default();
        Ok(match head.letter {
            'A' => Action::Append { chain: named(), rules: self.rules(&named())? },
            'I' => Action::Insert {
                number: optional_number()?.unwrap_or(1),
                rules: self.rules(&named())?,
                chain: named(),
            },
            'R' => Action::Replace {
                number: optional_number()?.unwrap_or(1),
                rules: self.single_rule(&named())?,
                chain: named(),
            },
            'D' => match optional_number()? {
                Some(number) => Action::DeleteNumber { chain: named(), number },
                None => Action::Delete { chain: named(), rules: self.rules(&named())? },
            },
            'C' => Action::Check { chain: named(), rules: self.rules(&named())? },
            'L' => Action::List { chain, number: optional_number()? },
            'S' => Action::ListRules { chain, number: optional_number()? },
            'Z' => Action::Zero { chain, number: optional_number()? },
            'F' => Action::Flush { chain },
            'X' => Action::DeleteChain { chain },
            'N' => Action::NewChain { chain: values::new_chain_name(&named())?.to_owned() },
            'E' => {
                let to = values::new_chain_name(number.unwrap_or_default())?.to_owned();
                Action::RenameChain { from: named(), to }
            }
            'P' => {
                let policy = policy(number.unwrap_or_default());
                policy.map_or(Ok(()), |policy| check_policy(self.table, policy))?;
                Action::Policy { chain: named(), policy, count: self.count }
            }
            'V' => Action::Version,
            _ => Action::Help,
        })
    }

    fn rules(&mut self, chain: &str) -> Result<NewRules, Error> {
        let specs = std::mem::replace(&mut self.spec, SpecBuilder::new(self.family))
            .build(self.table, chain)?;
        Ok(NewRules { specs, count: self.count.unwrap_or_default() })
    }

    fn single_rule(&mut self, chain: &str) -> Result<NewRules, Error> {
        let rules = self.rules(chain)?;
        if rules.specs.len() == 1 {
            return Ok(rules);
        }
        Err(Error::usage("Replacement rule does not specify a unique address"))
    }
}

/// A base chain's policy.
pub(crate) fn policy(text: &str) -> Option<ChainPolicy> {
    match text {
        "ACCEPT" => Some(ChainPolicy::Accept),
        "DROP" => Some(ChainPolicy::Drop),
        _ => None,
    }
}

/// Refuses to drop in the table that is for translating.
pub(crate) fn check_policy(table: TableId, policy: ChainPolicy) -> Result<(), Error> {
    match (table, policy) {
        (TableId::Nat, ChainPolicy::Drop) => Err(no_drop_in_nat()),
        _ => Ok(()),
    }
}

/// iptables' words for it.
pub(crate) fn no_drop_in_nat() -> Error {
    Error::usage(
        "The \"nat\" table is not intended for filtering, the use of DROP is therefore inhibited.",
    )
}

/// The table of that name.
pub(crate) fn table_named(name: &str) -> Result<TableId, Error> {
    if let Some(table) = TableId::ALL.into_iter().find(|table| table.name() == name) {
        return Ok(table);
    }
    match name {
        "mangle" | "security" => Err(Error::usage(format!("table `{name}' is not supported yet"))
            .hint("filter, nat and raw are")),
        _ => Err(Error::usage(format!("table '{}' does not exist", visible(name)))),
    }
}
