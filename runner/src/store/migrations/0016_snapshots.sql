-- What a job's directories held before one of its steps, so that a rerun can begin there.
CREATE TABLE snapshots (
    job_id     TEXT   NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    step       BIGINT NOT NULL,
    digest     TEXT,                -- the content; NULL: the directories were empty
    bytes      BIGINT NOT NULL,
    state      TEXT   NOT NULL,     -- what steps had left for those after them; sealed where it may hold a secret
    is_sealed  BIGINT NOT NULL,
    artifacts  TEXT   NOT NULL,     -- the names of those that the job had made by then
    created_at BIGINT NOT NULL,
    PRIMARY KEY (job_id, step)
);
CREATE INDEX snapshots_by_age ON snapshots (created_at);
CREATE INDEX snapshots_of_digest ON snapshots (digest);

-- The snapshot that a job begins with, {job, step}; NULL: it begins with empty directories.
ALTER TABLE jobs ADD COLUMN begins_json TEXT;
