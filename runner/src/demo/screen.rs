//! What is shown while it goes on: on a terminal lines above two moving ones, elsewhere lines alone.

use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::{out::mention, show};

/// Where progress goes.
pub struct Screen {
    started: Instant,
    moving: Option<Moving>,
    is_json: bool,
}

struct Moving {
    is_coloured: bool,
    all: MultiProgress,
    run: ProgressBar,
    traffic: ProgressBar,
}

impl Screen {
    /// Progress on standard error where JSON is printed on standard output, else on standard output; moving on a terminal.
    pub fn new(is_json: bool) -> Self {
        let moving = (!is_json && show::is_moving_welcome()).then(Moving::new);
        Self { started: Instant::now(), moving, is_json }
    }

    /// How long it has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A line that stays.
    pub fn line(&self, text: impl std::fmt::Display) {
        let dim = Style::new().dimmed();
        let line = format!("{dim}{:>6.2}s{dim:#}  {text}", self.started.elapsed().as_secs_f64());
        match &self.moving {
            // a terminal that can't be written to shows nothing; there is nobody to tell
            Some(moving) => {
                drop(moving.all.println(if moving.is_coloured { line } else { strip_str(&line).to_string() }))
            }
            None if self.is_json => anstream::eprintln!("{line}"),
            None => mention!("{line}"),
        }
    }

    /// A line that begins a chapter.
    pub fn headline(&self, text: impl std::fmt::Display) {
        let style = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
        self.line(format_args!("{style}{text}{style:#}"));
    }

    /// What the run does now, on a terminal.
    pub fn run(&self, text: String) {
        if let Some(moving) = &self.moving {
            moving.run.set_message(text);
        }
    }

    /// What the traffic does now, on a terminal.
    pub fn traffic(&self, text: String) {
        if let Some(moving) = &self.moving {
            moving.traffic.set_message(text);
        }
    }

    /// Takes the moving lines away.
    pub fn finish(&self) {
        if let Some(moving) = &self.moving {
            moving.run.finish_and_clear();
            moving.traffic.finish_and_clear();
        }
    }
}

impl Moving {
    fn new() -> Self {
        let is_coloured = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{spinner:.cyan} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let run = all.add(ProgressBar::new_spinner().with_style(style.clone()));
        let traffic = all.add(ProgressBar::new_spinner().with_style(style));
        run.enable_steady_tick(Duration::from_millis(100));
        traffic.enable_steady_tick(Duration::from_millis(100));
        Self { is_coloured, all, run, traffic }
    }
}
