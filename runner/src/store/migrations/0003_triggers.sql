-- What a run was given, and pipelines that time starts.

ALTER TABLE runs ADD COLUMN inputs_json TEXT NOT NULL DEFAULT '{}';   -- IndexMap<String, Value>: the context `inputs`

-- a push and a pull request of the same commit
CREATE INDEX runs_of_commit ON runs (repository, commit_sha, id);

-- The schedules of every repository's default branch, as last read.
CREATE TABLE schedules (
    repository TEXT   NOT NULL,
    file       TEXT   NOT NULL,
    cron       TEXT   NOT NULL,
    timezone   TEXT   NOT NULL,               -- '' for UTC
    next_due   BIGINT NOT NULL,
    PRIMARY KEY (repository, file, cron, timezone)
);
CREATE INDEX schedules_due ON schedules (next_due);

-- Each time that has come, once: whoever makes the row makes the delivery, in one transaction.
CREATE TABLE schedule_slots (
    repository  TEXT   NOT NULL,
    file        TEXT   NOT NULL,
    cron        TEXT   NOT NULL,
    timezone    TEXT   NOT NULL,
    due         BIGINT NOT NULL,
    delivery_id TEXT   NOT NULL,
    PRIMARY KEY (repository, file, cron, timezone, due)
);
CREATE INDEX schedule_slots_age ON schedule_slots (due);
