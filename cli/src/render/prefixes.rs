//! How a prefix list and a change of it look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct ListView {
    pub id: String,
    pub name: String,
    pub prefixes: u64,
    pub created: String,
    pub changed: String,
}

impl From<v1::PrefixList> for ListView {
    fn from(list: v1::PrefixList) -> Self {
        let v1::PrefixList { id, name, prefixes, created_ms, changed_ms } = list;
        ListView { id, name, prefixes, created: rfc3339_ms(created_ms), changed: rfc3339_ms(changed_ms) }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Lists(pub Vec<ListView>);

impl View for Lists {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row =
            |list: &ListView| vec![list.id.clone(), list.name.clone(), list.prefixes.to_string(), list.changed.clone()];
        let rows: Vec<_> = self.0.iter().map(row).collect();
        table::print_into(out, &["ID", "NAME", "PREFIXES", "CHANGED"], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|list| list.id.as_str()).collect()
    }
}

/// A new list prints its id only, so that a shell can keep it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ListCreated(pub ListView);

impl View for ListCreated {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.0.id)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.0.id]
    }
}

/// What a change came to, and how long its parts took.
#[derive(Debug, Serialize)]
pub struct Edited {
    #[serde(flatten)]
    pub list: ListView,
    pub parse_ms: u64,
    pub store_ms: u64,
    pub force_ms: u64,
    pub prefixes_loaded: u64,
}

impl From<v1::EditPrefixesResponse> for Edited {
    fn from(done: v1::EditPrefixesResponse) -> Self {
        let v1::EditPrefixesResponse { list, parse_ms, store_ms, force_ms, prefixes_loaded } = done;
        Edited { list: list.unwrap_or_default().into(), parse_ms, store_ms, force_ms, prefixes_loaded }
    }
}

impl View for Edited {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let Edited { list, parse_ms, store_ms, force_ms, prefixes_loaded } = self;
        writeln!(
            out,
            "{}: {} prefixes, read in {parse_ms} ms, stored in {store_ms} ms, in force {force_ms} ms later ({prefixes_loaded} loaded)",
            super::clean(&list.name),
            list.prefixes
        )
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.list.id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn table_and_change() {
        let list = || v1::PrefixList {
            id: "pfx-1".into(),
            name: "office".into(),
            prefixes: 12,
            created_ms: 1_700_000_000_000,
            changed_ms: 1_700_000_001_000,
        };
        let edited =
            v1::EditPrefixesResponse { list: Some(list()), parse_ms: 3, store_ms: 2, force_ms: 4, prefixes_loaded: 12 };
        let edited = Edited::from(edited);
        let mut out = Vec::new();
        Ui { json: false, quiet: false }.show_into(&mut out, &Lists(vec![list().into()])).unwrap();
        Ui { json: false, quiet: false }.show_into(&mut out, &edited).unwrap();
        Ui { json: true, quiet: false }.show_into(&mut out, &edited).unwrap();
        insta::assert_snapshot!("prefixes", String::from_utf8(out).unwrap());
    }
}
