//! Columns that line up. Refuses to wrap or cut: a script that reads a table must find whole cells.

use std::io::{self, Write};

use super::clean;

/// Two spaces between columns, none after the last; an empty cell is `-`.
pub fn print_into(out: &mut impl Write, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { clean(text).into_owned() };
    let mut lines = vec![header.iter().map(|&title| title.to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// What a thing has of each IP family, in one cell without a space; one that has no IPv6 shows IPv4 alone.
pub fn both(ipv4: &str, ipv6: &str) -> String {
    [ipv4, ipv6].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(",")
}

/// `name: value` lines with the values in one column.
pub fn print_pairs_into(out: &mut impl Write, pairs: &[(&str, String)]) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    for (name, value) in pairs {
        let value = if value.is_empty() { "-".into() } else { clean(value) };
        writeln!(out, "{:<width$} {value}", format!("{name}:"))?;
    }
    Ok(())
}
