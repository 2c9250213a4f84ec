//! What the store wrote of each job, in the order of its transactions: triggers that the test puts into the database keep it, so
//! that it is known whoever is killed, and whatever the API says afterwards.

use anyhow::{Context as _, Result};
use segue_schemas::status::JobStatus;

use super::{Write, Written};

/// For both databases: one row for each change of a job's state or lease, and one for each change of a step, with the job's state as
/// it stood then.
const TABLE: &str =
    "CREATE TABLE test_trail (n {number}, run BIGINT, job TEXT, epoch BIGINT, status TEXT, is_step BIGINT);";
const CHANGED: &str = "OLD.status <> NEW.status OR OLD.epoch <> NEW.epoch";
const OF_JOB: &str = "INSERT INTO test_trail (run, job, epoch, status, is_step) VALUES (NEW.run_id, NEW.job_key, NEW.epoch, NEW.status, 0);";
const OF_STEP: &str = "INSERT INTO test_trail (run, job, epoch, status, is_step) \
                       SELECT run_id, job_key, epoch, status, 1 FROM jobs WHERE id = NEW.job_id;";

/// What makes SQLite keep it.
#[must_use]
pub fn for_sqlite() -> String {
    let table = TABLE.replace("{number}", "INTEGER PRIMARY KEY AUTOINCREMENT");
    format!(
        "{table}
         CREATE TRIGGER test_trail_job AFTER UPDATE ON jobs WHEN {CHANGED} BEGIN {OF_JOB} END;
         CREATE TRIGGER test_trail_step AFTER INSERT ON steps BEGIN {OF_STEP} END;
         CREATE TRIGGER test_trail_step_again AFTER UPDATE ON steps BEGIN {OF_STEP} END;"
    )
}

/// What makes PostgreSQL keep it. Its writers take turns, so that the numbers are in the order of the commits.
#[must_use]
pub fn for_postgres() -> String {
    let table = TABLE.replace("{number}", "BIGSERIAL PRIMARY KEY");
    let function = |name: &str, body: &str| {
        format!("CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$;")
    };
    let (of_job, of_step) = (function("test_trail_of_job", OF_JOB), function("test_trail_of_step", OF_STEP));
    format!(
        "{table} {of_job} {of_step}
         CREATE TRIGGER test_trail_job AFTER UPDATE ON jobs FOR EACH ROW WHEN ({CHANGED}) EXECUTE FUNCTION test_trail_of_job();
         CREATE TRIGGER test_trail_step AFTER INSERT OR UPDATE ON steps FOR EACH ROW EXECUTE FUNCTION test_trail_of_step();"
    )
}

/// Gives it, a row a line.
pub const READ: &str =
    "SELECT run || ' ' || job || ' ' || epoch || ' ' || status || ' ' || is_step FROM test_trail ORDER BY n";

/// Reads those lines.
///
/// # Errors
/// One is none.
pub fn read(lines: &str) -> Result<Vec<Written>> {
    lines.lines().map(|line| written(line).with_context(|| format!("`{line}` is no line of the trail"))).collect()
}

fn written(line: &str) -> Option<Written> {
    let mut words = line.split(' ');
    let (run, job, epoch) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.parse().ok()?);
    let status: JobStatus = serde_json::from_value(words.next()?.into()).ok()?;
    let what = match words.next()? {
        "0" => Write::Job,
        "1" => Write::Step,
        _ => return None,
    };
    words.next().is_none().then_some(Written { run, job, epoch, status, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_trail_is_read_and_another_is_none() {
        let read = read("3 one 2 leased 0\n3 one 2 running 1").unwrap();
        assert_eq!((read[0].epoch, read[0].status, read[0].what), (2, JobStatus::Leased, Write::Job));
        assert_eq!(read[1].what, Write::Step);
        for wrong in ["3 one 2 leased", "3 one 2 lost 0", "3 one 2 leased 2", "x one 2 leased 0", "3 one 2 leased 0 0"]
        {
            assert!(written(wrong).is_none(), "{wrong}");
        }
    }
}
