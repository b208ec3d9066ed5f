//! What every benchmark says: medians, spreads and ratios, as a table or as JSON. Refuses to measure.

use std::collections::BTreeMap;

use serde::Serialize;

/// One thing that was measured, ours beside the others', all in one run.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub figure: String,
    pub unit: &'static str,
    pub ours: Option<f64>,
    pub peers: BTreeMap<String, f64>,
    /// Ours divided by the peer's.
    pub ratios: BTreeMap<String, f64>,
    pub rounds: usize,
    /// (largest − smallest) / median of ours, or, where there is no ours, the widest of the peers.
    pub spread: f64,
    /// How each peer was set up, so that the comparison can be judged.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub setup: BTreeMap<String, String>,
}

pub const OURS: &str = "cc";

impl Figure {
    /// `samples`: per name, one value per round; the name `OURS` is ours.
    pub fn from_samples(figure: &str, unit: &'static str, quantile: f64, samples: &BTreeMap<String, Vec<f64>>) -> Self {
        let mut peers: BTreeMap<String, f64> =
            samples.iter().map(|(name, values)| (name.clone(), at(values, quantile))).collect();
        let ours = peers.remove(OURS);
        let ratio = |ours: f64| peers.iter().map(|(name, value)| (name.clone(), ours / value)).collect();
        let spread = match samples.get(OURS) {
            Some(values) => spread(values),
            None => samples.values().map(|values| spread(values)).fold(0.0, f64::max),
        };
        Figure {
            figure: figure.to_owned(),
            unit,
            ours,
            ratios: ours.map(ratio).unwrap_or_default(),
            peers,
            rounds: samples.values().map(Vec::len).min().unwrap_or(0),
            spread,
            setup: BTreeMap::new(),
        }
    }
}

impl Figure {
    /// What was measured once, and has no peer.
    pub fn alone(figure: &str, unit: &'static str, value: f64, setup: &str) -> Self {
        let samples = BTreeMap::from([(OURS.to_owned(), vec![value])]);
        let setup = BTreeMap::from([(OURS.to_owned(), setup.to_owned())]);
        Figure { setup, ..Figure::from_samples(figure, unit, 0.5, &samples) }
    }
}

/// The value at a quantile, 0.5 being the median; the mean of the two in the middle when the median falls between.
pub fn at(values: &[f64], quantile: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = quantile * last as f64;
    (sorted[place.floor() as usize] + sorted[place.ceil() as usize]) / 2.0
}

fn spread(values: &[f64]) -> f64 {
    (at(values, 1.0) - at(values, 0.0)) / at(values, 0.5)
}

pub fn print(figures: &[Figure], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(figures)?);
    } else {
        print!("{}", table(figures));
    }
    Ok(())
}

fn table(figures: &[Figure]) -> String {
    let mut rows = vec![["figure", "unit", "who", "median", "cc / it", "spread", "rounds"].map(str::to_owned)];
    for Figure { figure, unit, ours, peers, ratios, rounds, spread, .. } in figures {
        let ours = ours.map(|value| (OURS.to_owned(), value));
        for (index, (name, value)) in ours.into_iter().chain(peers.clone()).enumerate() {
            rows.push([
                if index == 0 { figure.clone() } else { String::new() },
                (*unit).to_owned(),
                name.clone(),
                human(value),
                ratios.get(&name).map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                if index == 0 { format!("{:.0} %", spread * 100.0) } else { String::new() },
                if index == 0 { rounds.to_string() } else { String::new() },
            ]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut text: String = rows.iter().map(line).collect();
    let setups: BTreeMap<&String, &String> = figures.iter().flat_map(|figure| &figure.setup).collect();
    for (name, setup) in setups {
        text.push_str(&format!("{name}: {setup}\n"));
    }
    text
}

fn human(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_compared_with_each_peer() {
        let samples =
            BTreeMap::from([(OURS.to_owned(), vec![9.0, 10.0, 11.0]), ("veth".to_owned(), vec![20.0, 19.0, 21.0])]);
        let figure = Figure::from_samples("tcp", "Gb/s", 0.5, &samples);
        assert_eq!((figure.ours, figure.peers["veth"], figure.ratios["veth"]), (Some(10.0), 20.0, 0.5));
        assert_eq!((figure.rounds, figure.spread), (3, 0.2));
        assert!(table(&[figure]).lines().nth(1).unwrap().contains("10.00"));
    }

    #[test]
    fn quantiles_fall_between() {
        assert_eq!(at(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(at(&[1.0], 0.9), 1.0);
    }
}
