//! The options of the command line, and reading them the way getopt_long does: `-nvL`, `-j ACCEPT`,
//! `-jACCEPT`, `--jump ACCEPT`, `--jump=ACCEPT`, `--ju ACCEPT`.

use crate::error::{Error, visible};
use crate::names;

/// An option, whatever its spelling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opt {
    /// A command, by its letter.
    Command(char),
    Protocol,
    Source,
    Destination,
    In,
    Out,
    Jump,
    Goto,
    Match,
    Fragment,
    Counters,
    Table,
    Verbose,
    Numeric,
    Exact,
    LineNumbers,
    Wait,
    WaitInterval,
    Modprobe,
    V4,
    V6,
    Help,
    Version,
    SourcePort,
    DestinationPort,
    Port,
    SourcePorts,
    DestinationPorts,
    Ports,
    Syn,
    TcpFlags,
    IcmpType,
    Icmp6Type,
    CtState,
    State,
    Comment,
    RejectWith,
    To,
    ToSource,
    ToDestination,
    ToPorts,
    Random,
    RandomFully,
    Persistent,
    EndpointIndependent,
    PortBlocks,
    NoTrack,
    Zone,
    ZoneOrig,
    ZoneReply,
    Helper,
    Timeout,
    CtEvents,
    ExpEvents,
    ConnlimitAbove,
    ConnlimitUpto,
    ConnlimitMask,
    ConnlimitSaddr,
    ConnlimitDaddr,
}

use Opt::*;

const SHORT: &[(char, Opt)] = &[
    ('A', Command('A')),
    ('C', Command('C')),
    ('D', Command('D')),
    ('E', Command('E')),
    ('F', Command('F')),
    ('I', Command('I')),
    ('L', Command('L')),
    ('N', Command('N')),
    ('P', Command('P')),
    ('R', Command('R')),
    ('S', Command('S')),
    ('X', Command('X')),
    ('Z', Command('Z')),
    ('p', Protocol),
    ('s', Source),
    ('d', Destination),
    ('i', In),
    ('o', Out),
    ('j', Jump),
    ('g', Goto),
    ('m', Match),
    ('f', Fragment),
    ('c', Counters),
    ('t', Table),
    ('v', Verbose),
    ('n', Numeric),
    ('x', Exact),
    ('w', Wait),
    ('W', WaitInterval),
    ('M', Modprobe),
    ('4', V4),
    ('6', V6),
    ('h', Help),
    ('V', Version),
];

const LONG: &[(&str, Opt)] = &[
    ("append", Command('A')),
    ("check", Command('C')),
    ("delete", Command('D')),
    ("rename-chain", Command('E')),
    ("flush", Command('F')),
    ("insert", Command('I')),
    ("list", Command('L')),
    ("new-chain", Command('N')),
    ("policy", Command('P')),
    ("replace", Command('R')),
    ("list-rules", Command('S')),
    ("delete-chain", Command('X')),
    ("zero", Command('Z')),
    ("protocol", Protocol),
    ("proto", Protocol),
    ("source", Source),
    ("src", Source),
    ("destination", Destination),
    ("dst", Destination),
    ("in-interface", In),
    ("out-interface", Out),
    ("jump", Jump),
    ("goto", Goto),
    ("match", Match),
    ("fragments", Fragment),
    ("set-counters", Counters),
    ("table", Table),
    ("verbose", Verbose),
    ("numeric", Numeric),
    ("exact", Exact),
    ("line-numbers", LineNumbers),
    ("wait", Wait),
    ("wait-interval", WaitInterval),
    ("modprobe", Modprobe),
    ("ipv4", V4),
    ("ipv6", V6),
    ("help", Help),
    ("version", Version),
    ("source-port", SourcePort),
    ("sport", SourcePort),
    ("destination-port", DestinationPort),
    ("dport", DestinationPort),
    ("port", Port),
    ("source-ports", SourcePorts),
    ("sports", SourcePorts),
    ("destination-ports", DestinationPorts),
    ("dports", DestinationPorts),
    ("ports", Ports),
    ("syn", Syn),
    ("tcp-flags", TcpFlags),
    ("icmp-type", IcmpType),
    ("icmpv6-type", Icmp6Type),
    ("ctstate", CtState),
    ("state", State),
    ("comment", Comment),
    ("reject-with", RejectWith),
    ("to", To),
    ("to-source", ToSource),
    ("to-destination", ToDestination),
    ("to-ports", ToPorts),
    ("random", Random),
    ("random-fully", RandomFully),
    ("persistent", Persistent),
    ("endpoint-independent", EndpointIndependent),
    ("port-blocks", PortBlocks),
    ("notrack", NoTrack),
    ("zone", Zone),
    ("zone-orig", ZoneOrig),
    ("zone-reply", ZoneReply),
    ("helper", Helper),
    ("timeout", Timeout),
    ("ctevents", CtEvents),
    ("expevents", ExpEvents),
    ("connlimit-above", ConnlimitAbove),
    ("connlimit-upto", ConnlimitUpto),
    ("connlimit-mask", ConnlimitMask),
    ("connlimit-saddr", ConnlimitSaddr),
    ("connlimit-daddr", ConnlimitDaddr),
];

/// Whether this is a long option's name.
pub(crate) fn is_long(name: &str) -> bool {
    LONG.iter().any(|&(known, _)| known == name) || names::OTHER_OPTIONS.contains(&name)
}

/// The long option of this name, or of the only name that begins so.
fn long(name: &str) -> Result<Opt, Error> {
    if let Some(&(_, opt)) = LONG.iter().find(|&&(known, _)| known == name) {
        return Ok(opt);
    }
    let shown = visible(name);
    if names::OTHER_OPTIONS.contains(&name) {
        return Err(Error::usage(format!("option \"--{shown}\" is not supported yet")));
    }
    let mut begins = LONG.iter().filter(|(known, _)| name.len() > 1 && known.starts_with(name));
    match (begins.next(), begins.next()) {
        (Some(&(_, opt)), None) => Ok(opt),
        (Some(&(_, opt)), Some(&(_, other))) if opt == other => Ok(opt),
        (Some((one, _)), Some((other, _))) => {
            let hint = format!("--{one} or --{other}?");
            Err(Error::usage(format!("option \"--{shown}\" is ambiguous")).hint(hint))
        }
        (None, _) => Err(unknown(&format!("--{shown}"))),
    }
}

/// iptables' words for an option it does not know.
pub(crate) fn unknown(option: &str) -> Error {
    Error::usage(format!("unknown option \"{option}\""))
}

/// What stands next on the command line.
pub(crate) enum Item<'a> {
    /// An option as it was written.
    Option(Opt),
    /// `!`
    Not,
    /// Anything else.
    Word(&'a str),
}

/// Reads a command line from left to right.
pub(crate) struct Scanner<'a> {
    tokens: &'a [String],
    next: usize,
    /// What is left of `-nvL` or `--jump=ACCEPT`.
    rest: Option<Rest<'a>>,
    /// The token that the last item began in.
    at: usize,
    /// The last option as it was written.
    spelling: String,
}

enum Rest<'a> {
    Cluster(&'a str),
    Value(&'a str),
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(tokens: &'a [String]) -> Self {
        Self { tokens, next: 0, rest: None, at: 0, spelling: String::new() }
    }

    /// The token that was read last.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The last option as it was written.
    pub(crate) fn spelling(&self) -> &str {
        &self.spelling
    }

    pub(crate) fn item(&mut self) -> Result<Option<Item<'a>>, Error> {
        match self.rest.take() {
            Some(Rest::Cluster(letters)) => return self.letter(letters).map(Some),
            Some(Rest::Value(_)) => {
                let message = format!("option \"{}\" takes no value", self.spelling);
                return Err(Error::usage(message).at(self.at));
            }
            None => {}
        }
        let Some(token) = self.tokens.get(self.next) else { return Ok(None) };
        self.at = self.next;
        self.next += 1;
        if token == "!" {
            return Ok(Some(Item::Not));
        }
        if let Some(name) = token.strip_prefix("--") {
            let (name, value) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v)));
            self.spelling = format!("--{}", visible(name));
            self.rest = value.map(Rest::Value);
            return long(name).map(|opt| Some(Item::Option(opt))).map_err(|e| e.at(self.at));
        }
        match token.strip_prefix('-') {
            Some(letters) if !letters.is_empty() => self.letter(letters).map(Some),
            _ => Ok(Some(Item::Word(token))),
        }
    }

    fn letter(&mut self, letters: &'a str) -> Result<Item<'a>, Error> {
        let letter = letters.chars().next().unwrap_or_default();
        let rest = letters.get(letter.len_utf8()..).unwrap_or_default();
        self.rest = (!rest.is_empty()).then_some(Rest::Cluster(rest));
        self.spelling = format!("-{}", visible(letter.encode_utf8(&mut [0; 4])));
        let found = SHORT.iter().find(|&&(known, _)| known == letter);
        found.map(|&(_, opt)| Item::Option(opt)).ok_or_else(|| unknown(&self.spelling).at(self.at))
    }

    /// The value that the last option must have.
    pub(crate) fn value(&mut self) -> Result<&'a str, Error> {
        match self.rest.take() {
            Some(Rest::Cluster(value) | Rest::Value(value)) => Ok(value),
            None => self.more().ok_or_else(|| {
                let message = format!("option \"{}\" requires an argument", self.spelling);
                Error::usage(message).at(self.at)
            }),
        }
    }

    /// The value that the last option may have.
    pub(crate) fn optional_value(&mut self) -> Option<&'a str> {
        match self.rest.take() {
            Some(Rest::Cluster(value) | Rest::Value(value)) => Some(value),
            None => self.word(),
        }
    }

    /// The next token, if it is neither an option nor `!`.
    pub(crate) fn word(&mut self) -> Option<&'a str> {
        let token = self.tokens.get(self.next)?;
        if self.rest.is_some() || token.starts_with('-') || token == "!" {
            return None;
        }
        self.more()
    }

    /// The next token, whatever it is.
    fn more(&mut self) -> Option<&'a str> {
        let token = self.tokens.get(self.next)?;
        self.at = self.next;
        self.next += 1;
        Some(token)
    }
}
