//! `-j CT`: what a packet's connection gets before it is looked for.

use std::fmt::Write;

use postern_core::conntrack::timeouts::TimeoutPolicyId;
use postern_core::helper::Kind as Helper;
use postern_core::rules::{Assignment, Family, Zoned};

use crate::error::{Error, visible};
use crate::names;
use crate::options::{Opt, Scanner};

/// What the target says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Ct {
    /// `--notrack`: the rest counts for nothing then.
    pub(crate) notrack: bool,
    helper: Option<Helper>,
    timeout: Option<String>,
    zone: Zoned,
}

/// What its options said so far.
#[derive(Default)]
pub(crate) struct Builder {
    notrack: bool,
    helper: Option<Helper>,
    timeout: Option<String>,
    zone: u16,
    /// Which of `--zone`, `--zone-orig` and `--zone-reply` were said.
    said: [bool; 3],
}

impl Builder {
    /// Takes one of the target's options.
    pub(crate) fn option(&mut self, opt: Opt, scanner: &mut Scanner<'_>) -> Result<(), Error> {
        let spelling = scanner.spelling().to_owned();
        let place = match opt {
            Opt::Zone => 0,
            Opt::ZoneOrig => 1,
            Opt::ZoneReply => 2,
            Opt::Helper => {
                let helper = helper(scanner.value()?)?;
                return once(self.helper.replace(helper).is_some(), &spelling);
            }
            Opt::Timeout => {
                let name = scanner.value()?.to_owned();
                return once(self.timeout.replace(name).is_some(), &spelling);
            }
            Opt::NoTrack => {
                return once(std::mem::replace(&mut self.notrack, true), &spelling);
            }
            _ => return Err(refused(opt)),
        };
        self.zone = zone(scanner.value()?)?;
        once(std::mem::replace(&mut self.said[place], true), &spelling)
    }

    /// The target, when all was said. `demanded` is the protocol that the rule demands.
    pub(crate) fn finish(self, demanded: Option<u8>, family: Family) -> Result<Ct, Error> {
        let Self { notrack, helper, timeout, zone, said: [_, original, reply] } = self;
        // As xt_CT has it: the number that was said last, for the directions that were said; 0 is none.
        let zone = match (zone, original, reply) {
            (0, ..) => Zoned::Unsaid,
            (_, true, false) => Zoned::Original(zone),
            (_, false, true) => Zoned::Reply(zone),
            _ => Zoned::Both(zone),
        };
        if let Some(helper) = helper
            && !demanded.is_some_and(|demanded| helper.protocols().contains(&demanded))
        {
            let known = helper.protocols().iter().filter_map(|p| names::protocol_name(*p));
            let protocols = known.collect::<Vec<_>>().join(" or -p ");
            let error = Error::no_chain();
            return Err(error.hint(format!("the helper {} needs -p {protocols}", helper.name())));
        }
        if helper == Some(Helper::Irc) && family == Family::V6 {
            return Err(Error::no_chain().hint("DCC names IPv4 addresses only"));
        }
        Ok(Ct { notrack, helper, timeout, zone })
    }
}

impl Ct {
    /// Its options as `-S` prints them.
    pub(crate) fn options(&self) -> String {
        self.words(" --")
    }

    /// As `-L` prints it.
    pub(crate) fn shown(&self) -> String {
        format!(" CT{}", self.words(" "))
    }

    fn words(&self, lead: &str) -> String {
        let mut out = String::new();
        if self.notrack {
            let _ = write!(out, "{lead}notrack");
        }
        if let Some(helper) = self.helper {
            let _ = write!(out, "{lead}helper {}", helper.name());
        }
        if let Some(name) = &self.timeout {
            let _ = write!(out, "{lead}timeout {}", visible(name));
        }
        let _ = match self.zone {
            Zoned::Unsaid => Ok(()),
            Zoned::Both(zone) => write!(out, "{lead}zone {zone}"),
            Zoned::Original(zone) => write!(out, "{lead}zone-orig {zone}"),
            Zoned::Reply(zone) => write!(out, "{lead}zone-reply {zone}"),
        };
        out
    }

    /// The timeout policy it names.
    pub(crate) fn timeout(&self) -> Option<&str> {
        self.timeout.as_deref()
    }

    /// In the core's words; `timeouts` is the number of the policy it names.
    pub(crate) fn assignment(&self, timeouts: TimeoutPolicyId) -> Assignment {
        Assignment { zone: self.zone, helper: self.helper, timeouts }
    }
}

fn once(again: bool, spelling: &str) -> Result<(), Error> {
    if again {
        return Err(Error::usage(format!("CT: option \"{spelling}\" can only be used once.")));
    }
    Ok(())
}

fn zone(text: &str) -> Result<u16, Error> {
    if text == "mark" {
        let error = Error::usage("CT: a zone by the packet's mark is not supported");
        return Err(error.hint("packets have no mark here: a number, by -i or other matches"));
    }
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let unread = || Error::usage(format!("Cannot parse {} as a zone ID", visible(text)));
    number.map_err(|_| unread())
}

fn helper(text: &str) -> Result<Helper, Error> {
    Helper::from_name(text).ok_or_else(|| {
        let known: Vec<_> = Helper::ALL.into_iter().map(Helper::name).collect();
        Error::no_chain().hint(format!("no helper `{}': {}", visible(text), known.join(", ")))
    })
}

/// What of `CT` there is not.
fn refused(opt: Opt) -> Error {
    match opt {
        Opt::CtEvents => Error::usage("CT: option \"--ctevents\" is not supported")
            .hint("whoever follows events says which it wants: postern conntrack events -e"),
        _ => Error::usage("CT: option \"--expevents\" is not supported")
            .hint("expectations have no events; they are listed: postern conntrack list expect"),
    }
}
