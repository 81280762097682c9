//! A command line as it was understood: what to do, with which rules.

use postern_core::rules::model::ChainPolicy;
use postern_core::rules::{Count, TableId};

use crate::model::{Spec, Target};

/// A command.
#[derive(Debug, PartialEq)]
pub(crate) struct Command {
    /// `-t`
    pub(crate) table: TableId,
    pub(crate) action: Action,
    pub(crate) format: Format,
    /// `-Z` beside `-L` or `-S`.
    pub(crate) zero: bool,
}

/// How to print a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Format {
    pub(crate) verbose: bool,
    pub(crate) numeric: bool,
    pub(crate) exact: bool,
    pub(crate) line_numbers: bool,
}

/// What to do. Rules are numbered from 1.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Append {
        chain: String,
        rules: NewRules,
    },
    Insert {
        chain: String,
        number: usize,
        rules: NewRules,
    },
    Replace {
        chain: String,
        number: usize,
        rules: NewRules,
    },
    Delete {
        chain: String,
        rules: NewRules,
    },
    DeleteNumber {
        chain: String,
        number: usize,
    },
    Check {
        chain: String,
        rules: NewRules,
    },
    List {
        chain: Option<String>,
        number: Option<usize>,
    },
    ListRules {
        chain: Option<String>,
        number: Option<usize>,
    },
    Flush {
        chain: Option<String>,
    },
    Zero {
        chain: Option<String>,
        number: Option<usize>,
    },
    NewChain {
        chain: String,
    },
    DeleteChain {
        chain: Option<String>,
    },
    RenameChain {
        from: String,
        to: String,
    },
    Policy {
        chain: String,
        policy: Option<ChainPolicy>,
        count: Option<Count>,
    },
    Version,
    Help,
    /// `-4` or `-6` said that the line is for the other family.
    OtherFamily,
}

/// The rules that one command line makes: several if it lists several addresses.
#[derive(Debug, PartialEq)]
pub(crate) struct NewRules {
    pub(crate) specs: Vec<Spec>,
    pub(crate) count: Count,
}

impl NewRules {
    /// Whether it matters to others where they stand: they jump to a chain, or have a target that only some hooks may lead to.
    pub(crate) fn lead_on(&self) -> bool {
        let plain = |target: &Target| {
            matches!(target, Target::None | Target::Accept | Target::Return | Target::Drop)
        };
        self.specs.first().is_some_and(|spec| !plain(&spec.target))
    }
}
