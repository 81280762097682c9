//! `-m connlimit`: how many connections an address has.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_core::limits::Of;
use postern_core::rules::Family;
use postern_core::rules::model::Test;

use crate::error::{Error, visible};
use crate::options::{Opt, Scanner};

/// What the match says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connlimit {
    of: Of,
    /// Length of the mask; `None` is the whole address.
    length: Option<u8>,
    /// The number, and whether as many are not too many: `--connlimit-upto`.
    above: u32,
    upto: bool,
}

/// What its options said so far.
#[derive(Default)]
pub(crate) struct Builder {
    of: Option<Of>,
    length: Option<u8>,
    above: Option<(u32, bool)>,
}

const fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

impl Builder {
    /// Takes one of the match's options.
    pub(crate) fn option(
        &mut self,
        opt: Opt,
        negated: bool,
        family: Family,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Error> {
        let spelling = scanner.spelling().to_owned();
        let bad = |value: &str, most: u32| {
            let value = visible(value);
            let message = format!(
                "connlimit: Bad value for \"{spelling}\" option: \"{value}\", or out of range (0-{most})."
            );
            Error::usage(message)
        };
        let is_new = match opt {
            Opt::ConnlimitAbove | Opt::ConnlimitUpto => {
                let value = scanner.value()?;
                let number = value.parse().map_err(|_| bad(value, u32::MAX))?;
                // `! --connlimit-above` is how `--connlimit-upto` was said before there was such a word.
                let upto = (opt == Opt::ConnlimitUpto) != negated;
                self.above.replace((number, upto)).is_none()
            }
            Opt::ConnlimitMask if !negated => {
                let (value, most) = (scanner.value()?, bits(family));
                let length = value.parse().ok().filter(|length| *length <= most);
                self.length.replace(length.ok_or_else(|| bad(value, most.into()))?).is_none()
            }
            Opt::ConnlimitSaddr if !negated => self.of.replace(Of::Source).is_none(),
            Opt::ConnlimitDaddr if !negated => self.of.replace(Of::Destination).is_none(),
            _ => {
                let message = format!("connlimit: option \"{spelling}\" cannot be inverted.");
                return Err(Error::usage(message));
            }
        };
        if is_new {
            return Ok(());
        }
        Err(match opt {
            Opt::ConnlimitMask => {
                Error::usage(format!("connlimit: option \"{spelling}\" can only be used once."))
            }
            Opt::ConnlimitSaddr | Opt::ConnlimitDaddr => Error::usage(
                "connlimit: --connlimit-saddr and --connlimit-daddr exclude each other, and are said once",
            ),
            _ => Error::usage(
                "connlimit: --connlimit-above and --connlimit-upto exclude each other, and are said once",
            ),
        })
    }

    /// The match, when all was said.
    pub(crate) fn finish(self) -> Result<Connlimit, Error> {
        let missing = || {
            Error::usage(
                "connlimit: You must specify \"--connlimit-above\" or \"--connlimit-upto\".",
            )
        };
        let (above, upto) = self.above.ok_or_else(missing)?;
        let of = self.of.unwrap_or(Of::Source);
        Ok(Connlimit { of, length: self.length, above, upto })
    }
}

impl Connlimit {
    fn length(&self, family: Family) -> u8 {
        self.length.unwrap_or(bits(family))
    }

    /// As `-S` prints it.
    pub(crate) fn options(&self, family: Family) -> String {
        let word = if self.upto { "upto" } else { "above" };
        let side = if self.of == Of::Source { "saddr" } else { "daddr" };
        let (number, length) = (self.above, self.length(family));
        format!("--connlimit-{word} {number} --connlimit-mask {length} --connlimit-{side}")
    }

    /// As `-L` prints it.
    pub(crate) fn list(&self, out: &mut String, family: Family) -> std::fmt::Result {
        let side = if self.of == Of::Source { "src" } else { "dst" };
        let sign = if self.upto { "<=" } else { ">" };
        write!(out, " #conn {side}/{} {sign} {}", self.length(family), self.above)
    }

    /// In the core's words: the test, and whether it is negated.
    pub(crate) fn test(&self, family: Family) -> (bool, Test) {
        let host = u32::from(bits(family) - self.length(family));
        let mask = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::MAX.checked_shl(host).unwrap_or(0))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(u128::MAX.checked_shl(host).unwrap_or(0))),
        };
        (self.upto, Test::Connections { of: self.of, mask, above: self.above })
    }
}
