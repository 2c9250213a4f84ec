//! How things look on a terminal: tables, times, statuses. Colour is taken out again where there is no terminal, or where
//! `NO_COLOR` says so (`anstream` does both).

use std::{io::IsTerminal as _, time::Duration};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use segue_schemas::{
    api::JobView,
    status::{JobStatus, RolloutStatus, RunStatus, StepStatus},
    time::Timestamp,
};
use serde::Serialize;

use super::ending::{Explain as _, Failure};

use super::out::say;

/// Prints a value as one line of JSON, for scripts.
///
/// # Errors
/// The value has no form in JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).explain("cannot write JSON")?;
    say!("{text}");
    Ok(())
}

/// A table without lines; columns are as wide as they need.
pub fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().map(|text| Cell::new(text.to_uppercase())));
    table
}

/// Prints a table, or a line instead of an empty one.
pub fn print_table(table: &Table, empty: &str) {
    if table.row_count() == 0 {
        say!("{empty}");
        return;
    }
    for line in table.lines() {
        say!("{}", line.trim_end());
    }
}

/// What a status word means to whoever looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// It goes on.
    Busy,
    /// Somebody should look.
    Look,
    /// Nothing of interest.
    Quiet,
}

/// A word with its tone.
pub trait Toned: std::fmt::Display {
    /// The tone.
    fn tone(&self) -> Tone;
}

impl Toned for RunStatus {
    fn tone(&self) -> Tone {
        match self {
            Self::Succeeded => Tone::Good,
            Self::Failed => Tone::Bad,
            Self::Running => Tone::Busy,
            Self::Waiting => Tone::Look,
            Self::Queued | Self::Cancelled | Self::Skipped => Tone::Quiet,
        }
    }
}

impl Toned for JobStatus {
    fn tone(&self) -> Tone {
        match self {
            Self::Succeeded => Tone::Good,
            Self::Failed => Tone::Bad,
            Self::Leased | Self::Running => Tone::Busy,
            Self::Waiting | Self::Recovering => Tone::Look,
            Self::Pending | Self::Queued | Self::Cancelled | Self::Skipped => Tone::Quiet,
        }
    }
}

impl Toned for StepStatus {
    fn tone(&self) -> Tone {
        match self {
            Self::Succeeded => Tone::Good,
            Self::Failed => Tone::Bad,
            Self::Running => Tone::Busy,
            Self::Waiting => Tone::Look,
            Self::Pending | Self::Cancelled | Self::Skipped => Tone::Quiet,
        }
    }
}

impl Toned for RolloutStatus {
    fn tone(&self) -> Tone {
        match self {
            Self::Succeeded => Tone::Good,
            Self::RolledBack | Self::Failed => Tone::Bad,
            Self::Running => Tone::Busy,
            Self::Held | Self::RollingBack => Tone::Look,
            Self::Queued => Tone::Quiet,
        }
    }
}

/// A status as a cell of a table.
pub fn status_cell(status: &impl Toned) -> Cell {
    let cell = Cell::new(status);
    match status.tone() {
        Tone::Good => cell.fg(Color::Green),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Busy => cell.fg(Color::Cyan),
        Tone::Look => cell.fg(Color::Yellow),
        Tone::Quiet => cell,
    }
}

/// A status within a line, for `anstream`'s macros.
pub fn status_text(status: &impl Toned) -> String {
    let style = tone_style(status.tone());
    format!("{style}{status}{style:#}")
}

/// A job's status within a line. A failure that the job's `continue-on-error` allows says so.
pub fn job_status(job: &JobView) -> String {
    if job.may_fail && job.status == JobStatus::Failed {
        let style = tone_style(Tone::Look);
        return format!("{style}failed, allowed{style:#}");
    }
    status_text(&job.status)
}

/// The style of a tone.
pub fn tone_style(tone: Tone) -> Style {
    let color = match tone {
        Tone::Good => AnsiColor::Green,
        Tone::Bad => AnsiColor::Red,
        Tone::Busy => AnsiColor::Cyan,
        Tone::Look => AnsiColor::Yellow,
        Tone::Quiet => return Style::new(),
    };
    Style::new().fg_color(Some(color.into()))
}

/// Whether a person looks at standard error, so that what moves there is welcome.
pub fn is_moving_welcome() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("CI").is_none()
}

/// `350ms`, `12.4s`, `3m 20s`, `2h 5m`, `4d 3h`.
pub fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=59 => format!("{:.1}s", (duration.as_millis() / 100) as f64 / 10.0),
        60..=3_599 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long something has taken, or takes so far.
pub fn span(from: Option<Timestamp>, to: Option<Timestamp>) -> String {
    from.map_or_else(String::new, |from| length(to.unwrap_or_else(now).since(from)))
}

/// `3m 20s ago`.
pub fn ago(at: Timestamp) -> String {
    format!("{} ago", length(now().since(at)))
}

/// This machine's time.
pub fn now() -> Timestamp {
    Timestamp(chrono::Utc::now().timestamp_millis())
}

/// `main` for `refs/heads/main`.
pub fn short_ref(git_ref: &str) -> &str {
    git_ref.strip_prefix("refs/heads/").or_else(|| git_ref.strip_prefix("refs/tags/")).unwrap_or(git_ref)
}

/// The first line, cut to `width` characters.
pub fn one_line(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Who asks, for the record: the user's name on this machine.
pub fn me() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_like_a_person_says_them() {
        let cases = [(0, "0ms"), (999, "999ms"), (1_000, "1.0s"), (59_999, "59.9s"), (200_000, "3m 20s")];
        for (millis, expected) in cases {
            assert_eq!(length(Duration::from_millis(millis)), expected);
        }
        assert_eq!(length(Duration::from_secs(7_500)), "2h 5m");
        assert_eq!(length(Duration::from_secs(356_400)), "4d 3h");
    }

    #[test]
    fn a_line_is_cut_at_characters() {
        assert_eq!(one_line("äöü\nrest", 5), "äöü");
        assert_eq!(one_line("äöüß", 3), "äö…");
    }
}
