//! Reads typed values out of a TOML table, noting a fault for each that is wrong and for each key
//! that nobody asked for.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml_edit::{Item, TableLike, Value};

use super::fault::{At, Faults, did_you_mean};
use super::value;

/// A value with its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// A table being read. Whoever reads it calls [`Section::finish`] at the end.
pub(super) struct Section<'a> {
    table: &'a dyn TableLike,
    faults: &'a Faults<'a>,
    /// How the table is called in messages: `[interface.wan]`, or empty for the top of the file.
    name: String,
    at: At,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        table: &'a dyn TableLike,
        faults: &'a Faults<'a>,
        name: impl Into<String>,
        at: At,
    ) -> Self {
        Self { table, faults, name: name.into(), at, known: Vec::new() }
    }

    pub(super) fn faults(&self) -> &'a Faults<'a> {
        self.faults
    }

    /// Where the section begins.
    pub(super) fn at(&self) -> At {
        self.at
    }

    /// The item of `key`, which is thereby a known key.
    pub(super) fn item(&mut self, key: &'static str) -> Option<Placed<&'a Item>> {
        self.known.push(key);
        let item = self.table.get(key).filter(|item| !item.is_none())?;
        Some(Placed { value: item, at: self.place_of(item, key) })
    }

    /// The item of a key that must be there.
    pub(super) fn require<T>(&self, value: Option<T>, key: &str, example: &str) -> Option<T> {
        if value.is_none() && self.table.get(key).is_none() {
            let message = format!("{} has no `{key}`", self.name);
            self.faults.push_hint(self.at, message, Some(format!("for example {example}")));
        }
        value
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<Placed<&'a str>> {
        let item = self.item(key)?;
        self.typed(key, item, "a string", item.value.as_str())
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<Placed<bool>> {
        let item = self.item(key)?;
        self.typed(key, item, "true or false", item.value.as_bool())
    }

    pub(super) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<Placed<i64>> {
        let item = self.item(key)?;
        let placed = self.typed(key, item, "a whole number", item.value.as_integer())?;
        self.within(key, placed, range)
    }

    /// `placed` if it lies in `range`, else a fault.
    pub(super) fn within(
        &self,
        key: &str,
        placed: Placed<i64>,
        range: RangeInclusive<i64>,
    ) -> Option<Placed<i64>> {
        if range.contains(&placed.value) {
            return Some(placed);
        }
        let (low, high) = (range.start(), range.end());
        self.faults
            .push(placed.at, format!("`{key}` must be {low} to {high}, not {}", placed.value));
        None
    }

    /// One of the given words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<Placed<T>> {
        let Placed { value: given, at } = self.string(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
            return Some(Placed { value: *value, at });
        }
        let all: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let message = format!("`{key}` must be {}, not \"{given}\"", all.join(" or "));
        self.faults.push_hint(at, message, did_you_mean(given, words.iter().map(|(w, _)| *w)));
        None
    }

    /// One of `words`, or a number within `range`.
    pub(super) fn word_or_integer<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        range: RangeInclusive<i64>,
        number: impl Fn(i64) -> T,
    ) -> Option<Placed<T>> {
        if self.table.get(key)?.is_integer() {
            let Placed { value, at } = self.integer(key, range)?;
            Some(Placed { value: number(value), at })
        } else {
            self.word(key, words)
        }
    }

    /// A list of whole numbers; empty if the key is absent. Faulty elements are left out.
    pub(super) fn integers(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
    ) -> Vec<Placed<i64>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let Some(array) = item.value.as_array() else {
            let hint = item.value.as_integer().map(|n| format!("write {key} = [{n}]"));
            let message = format!("`{key}` must be a list of numbers, not {}", kind(item.value));
            self.faults.push_hint(item.at, message, hint);
            return Vec::new();
        };
        let element = |value: &'a Value| {
            let at = self.faults.at(value.span());
            let Some(value) = value.as_integer() else {
                let found = kind_of_value(value);
                let message = format!("`{key}` must be a list of numbers; this is {found}");
                self.faults.push(at, message);
                return None;
            };
            self.within(key, Placed { value, at }, range.clone())
        };
        array.iter().filter_map(element).collect()
    }

    /// A list of strings; empty if the key is absent. Faulty elements are left out.
    pub(super) fn strings(&mut self, key: &'static str) -> Vec<Placed<&'a str>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let Some(array) = item.value.as_array() else {
            let hint = item.value.as_str().map(|s| format!("write {key} = [\"{s}\"]"));
            let message = format!("`{key}` must be a list of strings, not {}", kind(item.value));
            self.faults.push_hint(item.at, message, hint);
            return Vec::new();
        };
        let element = |value: &'a Value| {
            let at = self.faults.at(value.span());
            let text = value.as_str();
            if text.is_none() {
                let message =
                    format!("`{key}` must be a list of strings; this is {}", kind_of_value(value));
                self.faults.push(at, message);
            }
            text.map(|value| Placed { value, at })
        };
        array.iter().filter_map(element).collect()
    }

    /// A list of at least one and at most `most` ports.
    pub(super) fn ports(&mut self, key: &'static str, most: usize) -> Option<Vec<u16>> {
        let item = self.item(key)?;
        let ports: Option<Vec<u16>> = item.value.as_array().and_then(|array| {
            let port =
                |value: &Value| u16::try_from(value.as_integer()?).ok().filter(|port| *port > 0);
            array.iter().map(port).collect()
        });
        let ports = ports.filter(|ports| (1..=most).contains(&ports.len()));
        if ports.is_none() {
            let message = format!("`{key}` must be a list of one to {most} ports (1 to 65535)");
            self.faults.push(item.at, message);
        }
        ports
    }

    /// A duration: `"30s"` or whole seconds, within `range`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Placed<Duration>> {
        let item = self.item(key)?;
        let parsed = match (item.value.as_str(), item.value.as_integer()) {
            (Some(text), _) => value::duration(text),
            (_, Some(seconds)) => u64::try_from(seconds)
                .map(Duration::from_secs)
                .map_err(|_| format!("`{key}` cannot be negative")),
            _ => Err(format!(
                "`{key}` must be a duration such as \"30s\" or a number of seconds, not {}",
                kind(item.value)
            )),
        };
        match parsed {
            Ok(value) if range.contains(&value) => Some(Placed { value, at: item.at }),
            Ok(value) => {
                let [low, high, given] =
                    [*range.start(), *range.end(), value].map(value::show_duration);
                self.faults.push(item.at, format!("`{key}` must be {low} to {high}, not {given}"));
                None
            }
            Err(message) => {
                self.faults.push(item.at, message);
                None
            }
        }
    }

    /// A table under `key`, as a section of its own.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let item = self.item(key)?;
        let table = self.typed(key, item, "a table", item.value.as_table_like())?;
        Some(Section::new(table.value, self.faults, format!("[{key}]"), table.at))
    }

    /// The tables of `[[key]]`, as sections of their own.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let make = |table: &'a dyn TableLike, at| {
            Section::new(table, self.faults, format!("[[{key}]]"), at)
        };
        if let Some(tables) = item.value.as_array_of_tables() {
            return tables.iter().map(|t| make(t, self.faults.at(t.span()))).collect();
        }
        let inline = item.value.as_array().map(|a| {
            a.iter().map(|v| Some(make(v.as_inline_table()?, self.faults.at(v.span())))).collect()
        });
        if let Some(Some(sections)) = inline {
            return sections;
        }
        let message = format!("`{key}` must be a list of tables, not {}", kind(item.value));
        self.faults.push_hint(item.at, message, Some(format!("begin each with [[{key}]]")));
        Vec::new()
    }

    /// The sub-tables of a table of named tables, in the order of the file: key, place of the key,
    /// section. The place of each is that of its header.
    pub(super) fn named(&self, prefix: &str) -> Vec<(Placed<&'a str>, Section<'a>)> {
        let mut all: Vec<_> = self
            .table
            .iter()
            .filter_map(|(key, item)| {
                let at = self.place_of_key(key, item);
                let placed = Placed { value: key, at };
                if let Some(table) = item.as_table_like() {
                    let name = format!("[{prefix}.{key}]");
                    return Some((placed, Section::new(table, self.faults, name, at)));
                }
                let message = format!("`{prefix}.{key}` must be a table, not {}", kind(item));
                let hint = format!("write [{prefix}.NAME] and its settings below");
                self.faults.push_hint(at, message, Some(hint));
                None
            })
            .collect();
        all.sort_by_key(|(key, _)| key.at.0);
        all
    }

    /// Notes a fault for every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, item) in self.table.iter() {
            if self.known.contains(&key) || item.is_none() {
                continue;
            }
            let of =
                if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
            let message = format!("unknown key `{}`{of}", key.escape_debug());
            let hint = did_you_mean(key, self.known.iter().copied());
            self.faults.push_hint(self.place_of_key(key, item), message, hint);
        }
    }

    /// `value` if it is there, else a fault about the type.
    fn typed<T>(
        &self,
        key: &str,
        item: Placed<&'a Item>,
        wanted: &str,
        value: Option<T>,
    ) -> Option<Placed<T>> {
        if value.is_none() {
            let message = format!("`{key}` must be {wanted}, not {}", kind(item.value));
            self.faults.push(item.at, message);
        }
        value.map(|value| Placed { value, at: item.at })
    }

    fn place_of(&self, item: &Item, key: &str) -> At {
        match item.span() {
            Some(span) => self.faults.at(Some(span)),
            None => self.place_of_key(key, item),
        }
    }

    fn place_of_key(&self, key: &str, item: &Item) -> At {
        match self.table.key(key).and_then(|k| k.span()).or_else(|| item.span()) {
            Some(span) => self.faults.at(Some(span)),
            None => self.at,
        }
    }
}

/// What an item is, for "must be a string, not ...".
pub(super) fn kind(item: &Item) -> &'static str {
    match item {
        Item::None => "nothing",
        Item::Table(_) => "a table",
        Item::ArrayOfTables(_) => "a list of tables",
        Item::Value(value) => kind_of_value(value),
    }
}

pub(super) fn kind_of_value(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::InlineTable(_) => "a table",
    }
}
