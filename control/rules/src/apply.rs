//! Doing what a command says, to one family's table. Whoever calls works on a copy: an error half way through
//! leaves a half-edited copy behind, which is thrown away.

use std::sync::Arc;

use postern_core::rules::model::ChainPolicy;
use postern_core::rules::{Count, Family, Hook, TableId};

use crate::RESERVED_PREFIX;
use crate::command::{Action, NewRules};
use crate::compile;
use crate::error::{Error, visible};
use crate::model::{Chain, Counts, Rule, Rulesets, Spec, Table, Target, is_reserved};

/// One edit of one family's table.
pub(crate) struct Edit<'a> {
    pub(crate) rulesets: &'a mut Rulesets,
    pub(crate) family: Family,
    pub(crate) table: TableId,
    pub(crate) live: &'a Counts,
}

impl Edit<'_> {
    pub(crate) fn table(&mut self) -> &mut Table {
        self.rulesets.families[self.family.index()].table_mut(self.table)
    }

    /// Does what the command says.
    pub(crate) fn apply(&mut self, action: Action) -> Result<(), Error> {
        let leads_on = match &action {
            Action::Append { rules, .. }
            | Action::Insert { rules, .. }
            | Action::Replace { rules, .. } => rules.lead_on(),
            _ => false,
        };
        self.apply_unchecked(action)?;
        if leads_on { compile::check(self.rulesets, self.family) } else { Ok(()) }
    }

    /// The same, but nobody looks whether packets can leave all chains: that is for the end of many commands.
    pub(crate) fn apply_unchecked(&mut self, action: Action) -> Result<(), Error> {
        let looks = matches!(
            action,
            Action::Check { .. }
                | Action::List { .. }
                | Action::ListRules { .. }
                | Action::Version
                | Action::Help
                | Action::OtherFamily
        );
        self.table().present |= !looks;
        match action {
            Action::Append { chain, rules } => self.append(&chain, rules),
            Action::Insert { chain, number, rules } => self.insert(&chain, number, rules),
            Action::Replace { chain, number, rules } => self.replace(&chain, number, rules),
            Action::Delete { chain, rules } => self.delete(&chain, &rules),
            Action::DeleteNumber { chain, number } => {
                let chain = self.editable(&chain)?;
                let place = place(chain, number, "deletion")?;
                chain.rules.remove(place);
                Ok(())
            }
            Action::Check { chain, rules } => self.check(&chain, &rules),
            Action::Flush { chain } => self.flush(chain.as_deref()),
            Action::Zero { chain, number } => self.zero(chain.as_deref(), number),
            Action::NewChain { chain } => self.new_chain(&chain),
            Action::DeleteChain { chain: Some(chain) } => self.delete_chain(&chain),
            Action::DeleteChain { chain: None } => self.delete_all_chains(),
            Action::RenameChain { from, to } => self.rename_chain(&from, &to),
            Action::Policy { chain, policy, count } => self.policy(&chain, policy, count),
            Action::List { .. }
            | Action::ListRules { .. }
            | Action::Version
            | Action::Help
            | Action::OtherFamily => Ok(()),
        }
    }

    /// A chain that the user may edit.
    fn editable(&mut self, name: &str) -> Result<&mut Chain, Error> {
        not_reserved(name)?;
        self.table().chain_mut(name).ok_or_else(Error::no_chain)
    }

    fn rule(&mut self, spec: Spec, base: Count) -> Rule {
        Rule { id: self.rulesets.next_id(), base, spec: Arc::new(spec) }
    }

    /// Refuses a jump to a chain that does not exist, and timeouts that do not.
    fn check_target(&mut self, target: &Target) -> Result<(), Error> {
        if let Target::Ct(ct) = target
            && let Some(name) = ct.timeout()
            && self.rulesets.timeout_policy(name).is_none()
        {
            let hint = format!(
                "there is no timeout policy `{}': [timeouts.policy.NAME] in postern.toml makes one",
                visible(name)
            );
            return Err(Error::no_chain().hint(hint));
        }
        let Target::Jump(to) = target else { return Ok(()) };
        if self.table().hook_of(to).is_some() {
            let error = Error::refused("Invalid argument.");
            return Err(error.hint(format!("a rule cannot jump to the built-in chain {to}")));
        }
        if self.table().user.contains_key(to) {
            return Ok(());
        }
        let hint = format!("there is no target and no chain `{}'", visible(to));
        Err(Error::no_chain().hint(hint))
    }

    fn new_rules(&mut self, rules: NewRules) -> Result<Vec<Rule>, Error> {
        if let Some(spec) = rules.specs.first() {
            self.check_target(&spec.target)?;
        }
        Ok(rules.specs.into_iter().map(|spec| self.rule(spec, rules.count)).collect())
    }

    fn append(&mut self, chain: &str, rules: NewRules) -> Result<(), Error> {
        self.editable(chain)?;
        let made = self.new_rules(rules)?;
        self.editable(chain)?.rules.extend(made);
        Ok(())
    }

    fn insert(&mut self, chain: &str, number: usize, rules: NewRules) -> Result<(), Error> {
        self.editable(chain)?;
        let made = self.new_rules(rules)?;
        let chain = self.editable(chain)?;
        if number > chain.rules.len() + 1 {
            return Err(Error::refused("Index of insertion too big."));
        }
        // One after the other at the same place, as iptables does: the last comes first.
        for rule in made {
            chain.rules.insert(number - 1, rule);
        }
        Ok(())
    }

    fn replace(&mut self, chain: &str, number: usize, rules: NewRules) -> Result<(), Error> {
        self.editable(chain)?;
        let made = self.new_rules(rules)?;
        let chain = self.editable(chain)?;
        let place = place(chain, number, "replacement")?;
        chain.rules.splice(place..=place, made);
        Ok(())
    }

    fn delete(&mut self, chain: &str, rules: &NewRules) -> Result<(), Error> {
        self.editable(chain)?;
        for spec in &rules.specs {
            self.check_target(&spec.target)?;
            let chain = self.editable(chain)?;
            let found = chain.rules.iter().position(|rule| *rule.spec == *spec);
            chain.rules.remove(found.ok_or_else(bad_rule)?);
        }
        Ok(())
    }

    fn check(&mut self, chain: &str, rules: &NewRules) -> Result<(), Error> {
        for spec in &rules.specs {
            self.check_target(&spec.target)?;
            let chain = self.table().chain(chain).ok_or_else(Error::no_chain)?;
            if !chain.rules.iter().any(|rule| *rule.spec == *spec) {
                return Err(bad_rule());
            }
        }
        Ok(())
    }

    fn flush(&mut self, chain: Option<&str>) -> Result<(), Error> {
        match chain {
            Some(chain) => flush(self.editable(chain)?),
            None => self.table().flush_editable(),
        }
        Ok(())
    }

    fn zero(&mut self, chain: Option<&str>, number: Option<usize>) -> Result<(), Error> {
        let (family, live) = (self.family.index(), self.live);
        let table = self.table();
        let Some(name) = chain else {
            for (hook, chain) in table.base_mut() {
                zero_chain(chain, live, Some((family, hook)));
            }
            table.user.values_mut().for_each(|chain| zero_chain(chain, live, None));
            return Ok(());
        };
        let hook = table.hook_of(name);
        let chain = table.chain_mut(name).ok_or_else(Error::no_chain)?;
        match number {
            None => zero_chain(chain, live, hook.map(|hook| (family, hook))),
            Some(number) => {
                let rule = chain.rules.get_mut(number - 1);
                let rule = rule.ok_or_else(|| Error::refused("Index of zeroing too big."))?;
                rule.base = Count::default().minus(live.of(rule.id));
            }
        }
        Ok(())
    }

    fn new_chain(&mut self, name: &str) -> Result<(), Error> {
        not_reserved(name)?;
        if self.table().chain(name).is_some() {
            return Err(Error::refused("Chain already exists."));
        }
        self.table().user.insert(name.to_owned(), Chain::default());
        Ok(())
    }

    fn delete_chain(&mut self, name: &str) -> Result<(), Error> {
        not_reserved(name)?;
        if self.table().hook_of(name).is_some() {
            let error = Error::refused("Invalid argument.");
            return Err(error.hint(format!("{name} is a built-in chain and cannot be deleted")));
        }
        let table = self.table();
        let empty = table.chain(name).ok_or_else(Error::no_chain)?.rules.is_empty();
        if table.references(name) > 0 {
            let error = Error::refused("Too many links.");
            return Err(error.hint(format!("some rule still jumps to {name}")));
        }
        if !empty {
            let error = Error::refused("Directory not empty.");
            return Err(error.hint(format!("flush it first: -F {name}")));
        }
        table.user.remove(name);
        Ok(())
    }

    fn delete_all_chains(&mut self) -> Result<(), Error> {
        let names: Vec<_> =
            self.table().user.keys().filter(|name| !is_reserved(name)).cloned().collect();
        names.iter().try_for_each(|name| self.delete_chain(name))
    }

    fn rename_chain(&mut self, from: &str, to: &str) -> Result<(), Error> {
        not_reserved(from)?;
        not_reserved(to)?;
        let table = self.table();
        if table.chain(to).is_some() {
            return Err(Error::refused("File exists."));
        }
        let chain = table.user.remove(from).ok_or_else(Error::no_chain)?;
        table.user.insert(to.to_owned(), chain);
        for rule in table.chains_mut().flat_map(|chain| &mut chain.rules) {
            if matches!(&rule.spec.target, Target::Jump(name) if name == from) {
                Arc::make_mut(&mut rule.spec).target = Target::Jump(to.to_owned());
            }
        }
        Ok(())
    }

    fn policy(
        &mut self,
        chain: &str,
        policy: Option<ChainPolicy>,
        count: Option<Count>,
    ) -> Result<(), Error> {
        let hook = self.table().hook_of(chain);
        let hook = hook.ok_or_else(|| Error::refused("Bad built-in chain name."))?;
        let bad = || Error::refused("Bad policy name. Run `dmesg' for more information.");
        let policy = policy.ok_or_else(|| bad().hint("a policy is ACCEPT or DROP"))?;
        let live = self.live.policies[self.family.index()][hook.index()];
        let chain = self.table().chain_mut(chain).ok_or_else(Error::no_chain)?;
        chain.policy = policy;
        if let Some(count) = count {
            chain.base = count.minus(live);
        }
        Ok(())
    }
}

impl Table {
    /// Removes every rule that is not the daemon's.
    pub(crate) fn flush_editable(&mut self) {
        self.base.iter_mut().for_each(flush);
        self.user
            .iter_mut()
            .filter(|(name, _)| !is_reserved(name))
            .for_each(|(_, chain)| flush(chain));
    }
}

/// Removes a chain's rules, but for jumps to reserved chains.
fn flush(chain: &mut Chain) {
    chain.rules.retain(Rule::jumps_to_reserved);
}

fn zero_chain(chain: &mut Chain, live: &Counts, policy: Option<(usize, Hook)>) {
    if let Some((family, hook)) = policy {
        chain.base = Count::default().minus(live.policies[family][hook.index()]);
    }
    for rule in &mut chain.rules {
        rule.base = Count::default().minus(live.of(rule.id));
    }
}

fn place(chain: &Chain, number: usize, what: &str) -> Result<usize, Error> {
    let too_big = || Error::refused(format!("Index of {what} too big."));
    if number > chain.rules.len() { Err(too_big()) } else { Ok(number - 1) }
}

fn bad_rule() -> Error {
    Error::refused("Bad rule (does a matching rule exist in that chain?).")
}

/// Refuses chains that are the daemon's.
pub(crate) fn not_reserved(chain: &str) -> Result<(), Error> {
    if !is_reserved(chain) {
        return Ok(());
    }
    let error = Error::refused(format!("chain `{}' belongs to postern", visible(chain)));
    let hint = format!(
        "{RESERVED_PREFIX}* chains are written from postern.toml and by `postern forward'; put your rule into INPUT, FORWARD or OUTPUT, before the jump if need be"
    );
    Err(error.hint(hint))
}

impl Rulesets {
    /// Writes a chain of `filter` that belongs to the daemon: its name begins with [`RESERVED_PREFIX`]. `rules` are options as one would type
    /// them behind `-A CHAIN`. Rules that were there before keep their counters.
    ///
    /// When the chain is new, a jump to it is put first into the base chain `from`. Later calls leave the jump where the user
    /// has put it, even if that is nowhere.
    ///
    /// # Errors
    /// A rule that cannot be understood; nothing is changed then.
    pub fn set_reserved(
        &mut self,
        family: Family,
        chain: &str,
        from: Hook,
        rules: &[Vec<String>],
    ) -> Result<(), Error> {
        crate::values::new_chain_name(chain)?;
        if !is_reserved(chain) {
            return Err(Error::usage(format!("reserved chains begin with {RESERVED_PREFIX}")));
        }
        let mut specs = Vec::new();
        for (place, options) in rules.iter().enumerate() {
            let mut tokens = vec!["-A".to_owned(), chain.to_owned()];
            tokens.extend_from_slice(options);
            let source = crate::parse::Source::Shell;
            let command = crate::parse::command(&tokens, family, source, TableId::Filter)
                .map_err(|e| e.at(place))?;
            if let Action::Append { rules, .. } = command.action {
                specs.extend(rules.specs);
            }
        }
        let mut new = self.clone();
        let (table, live) = (TableId::Filter, &Counts::default());
        let mut edit = Edit { rulesets: &mut new, family, table, live };
        edit.replace_reserved(chain, from, specs)?;
        *self = new;
        Ok(())
    }

    /// Removes a chain that belongs to the daemon, and every jump to it.
    pub fn remove_reserved(&mut self, family: Family, chain: &str) {
        let table = self.families[family.index()].table_mut(TableId::Filter);
        if is_reserved(chain) && table.user.remove(chain).is_some() {
            let to = Target::Jump(chain.to_owned());
            table.chains_mut().for_each(|chain| chain.rules.retain(|rule| rule.spec.target != to));
        }
    }
}

impl Edit<'_> {
    fn replace_reserved(&mut self, chain: &str, from: Hook, specs: Vec<Spec>) -> Result<(), Error> {
        let mut old = match self.table().user.get_mut(chain) {
            Some(known) => std::mem::take(&mut known.rules),
            None => {
                self.table().user.insert(chain.to_owned(), Chain::default());
                let spec = Spec { target: Target::Jump(chain.to_owned()), ..Spec::default() };
                let jump = self.rule(spec, Count::default());
                let base = self.table().chain_mut(from.chain_name());
                base.ok_or_else(Error::no_chain)?.rules.insert(0, jump);
                Vec::new()
            }
        };
        for spec in specs {
            self.check_target(&spec.target)?;
            let kept =
                old.iter().position(|rule| *rule.spec == spec).map(|place| old.remove(place));
            let rule = kept.unwrap_or_else(|| self.rule(spec, Count::default()));
            if let Some(known) = self.table().user.get_mut(chain) {
                known.rules.push(rule);
            }
        }
        compile::check(self.rulesets, self.family)
    }
}
