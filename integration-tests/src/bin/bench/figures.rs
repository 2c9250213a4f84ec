//! A measured figure, beside the one that is wanted.

use std::time::Duration;

use serde::Serialize;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it is of.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What is wanted of it, where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Wanted>,
}

/// A bound.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Figure {
    /// A figure without a bound.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, wanted: None }
    }

    /// With an upper bound.
    pub fn at_most(self, bound: f64) -> Self {
        Self { wanted: Some(Wanted::AtMost(bound)), ..self }
    }

    /// With a lower bound.
    pub fn at_least(self, bound: f64) -> Self {
        Self { wanted: Some(Wanted::AtLeast(bound)), ..self }
    }

    fn is_met(&self) -> Option<bool> {
        self.wanted.map(|wanted| match wanted {
            Wanted::AtMost(bound) => self.value <= bound,
            Wanted::AtLeast(bound) => self.value >= bound,
        })
    }
}

/// A percentile by the nearest-rank method, in milliseconds; NaN of nothing.
pub fn percentile_ms(samples: &mut [Duration], percent: f64) -> f64 {
    samples.sort_unstable();
    let rank = (percent / 100.0 * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1).min(samples.len().saturating_sub(1))).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

/// Prints the figures: a table, or one JSON array.
pub fn print(figures: &[Figure], json: bool) {
    if json {
        println!("{}", serde_json::to_string(figures).unwrap_or_default());
        return;
    }
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    for figure in figures {
        let wanted = match figure.wanted {
            None => String::new(),
            Some(Wanted::AtMost(bound)) => format!("wanted <= {bound}"),
            Some(Wanted::AtLeast(bound)) => format!("wanted >= {bound}"),
        };
        let met = match figure.is_met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        println!("{:width$}  {:>12.2} {:<8} {wanted:<18} {met}", figure.name, figure.value, figure.unit);
    }
}
