//! `on.schedule`: times that come again.

use crate::{
    diagnostic::Code,
    document::{Content, Entry, Node},
    pipeline::reader::{Keys, Reader},
    schedule::Schedule,
};

const ENTRY: Keys = Keys { known: &["cron", "timezone"], later: &[] };
/// The most schedules of a pipeline.
const MAX_SCHEDULES: usize = 20;

impl Reader<'_, '_> {
    /// A list of `{ cron, timezone }`.
    pub(super) fn schedules(&mut self, entry: &Entry) -> Vec<Schedule> {
        const HELP: &str = "write a list: `schedule: [{ cron: \"30 5 * * 1-5\" }]`";
        let items = match &entry.value.content {
            Content::Sequence(items) if !items.is_empty() => items,
            Content::Sequence(_) => {
                self.findings.error(Code::InvalidValue, &entry.key_span, "`schedule` is empty", Some(HELP.into()));
                return Vec::new();
            }
            Content::Mapping(_) | Content::Scalar(_) => {
                let message = format!("`schedule` is {}, where a list is expected", entry.value.kind());
                self.findings.error(Code::WrongType, &entry.value.span, message, Some(HELP.into()));
                return Vec::new();
            }
        };
        if items.len() > MAX_SCHEDULES {
            let message = format!("there are {} schedules, and {MAX_SCHEDULES} are the limit", items.len());
            self.findings.error(Code::TooMany, &entry.key_span, message, None);
            return Vec::new();
        }
        let mut schedules: Vec<Schedule> = Vec::new();
        for item in items {
            let Some(schedule) = self.schedule(item) else { continue };
            if schedules.contains(&schedule) {
                let message = format!("`{}` stands here twice", schedule.text());
                self.findings.error(Code::Conflict, &item.span, message, Some("remove one of them".into()));
            } else {
                schedules.push(schedule);
            }
        }
        schedules
    }

    fn schedule(&mut self, item: &Node) -> Option<Schedule> {
        if !self.keys(item, "an entry of `schedule`", &ENTRY) {
            return None;
        }
        let Some(node) = item.get("cron") else {
            self.missing("cron", "an entry of `schedule`", &item.span, "write `- cron: \"30 5 * * 1-5\"`");
            return None;
        };
        let text = self.plain(node, "cron")?;
        let schedule = match Schedule::parse(&text) {
            Ok(schedule) => schedule,
            Err(error) => {
                let span = self.within(node, &error.span);
                self.findings.error(Code::InvalidSchedule, &span, error.message, Some(error.help));
                return None;
            }
        };
        let Some(node) = item.get("timezone") else { return Some(schedule) };
        let name = self.plain(node, "timezone")?;
        match schedule.in_timezone(&name) {
            Ok(schedule) => Some(schedule),
            Err(help) => {
                let message = format!("there is no time zone `{name}`");
                self.findings.error(Code::InvalidSchedule, &node.span, message, Some(help));
                None
            }
        }
    }
}
