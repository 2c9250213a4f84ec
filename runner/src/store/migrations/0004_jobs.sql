-- Matrices: one job becomes several, and is kept as it was planned, so that a rerun can evaluate it again.
ALTER TABLE jobs ADD COLUMN part BIGINT NOT NULL DEFAULT 0;      -- its place among the combinations of a matrix
ALTER TABLE jobs ADD COLUMN matrix_of TEXT;                      -- the key, in the file, of the job that it is a combination of
ALTER TABLE jobs ADD COLUMN max_parallel BIGINT;                 -- how many of those may be at work at a time
ALTER TABLE jobs ADD COLUMN planned_json TEXT;                   -- JobPlan as planned; NULL: plan_json still is
ALTER TABLE jobs ADD COLUMN stop_reason TEXT;                    -- why it was told to stop, where that was not a person's word
ALTER TABLE jobs ADD COLUMN environment_url TEXT;
CREATE INDEX jobs_at_work ON jobs (run_id, attempt, matrix_of)
    WHERE matrix_of IS NOT NULL AND epoch > 0 AND ended_at IS NULL;

-- Concurrency groups, and jobs that are begun again.
ALTER TABLE runs ADD COLUMN concurrency TEXT;                    -- the group, evaluated, in small letters
ALTER TABLE runs ADD COLUMN concurrency_json TEXT;               -- ConcurrencyPlan as planned
ALTER TABLE jobs ADD COLUMN concurrency TEXT;
ALTER TABLE jobs ADD COLUMN retries BIGINT NOT NULL DEFAULT 0;   -- how often it was begun again in this attempt
ALTER TABLE jobs ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0; -- not claimable earlier
CREATE INDEX runs_in_group ON runs (repository, concurrency) WHERE concurrency IS NOT NULL AND ended_at IS NULL;
CREATE INDEX jobs_in_group ON jobs (repository, concurrency) WHERE concurrency IS NOT NULL AND ended_at IS NULL;
CREATE INDEX jobs_put_off ON jobs (not_before) WHERE status = 'queued' AND not_before > 0;

-- Who is at work in a group: a run, or one job of it.
CREATE TABLE slots (
    repository TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    run_id     BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    job_id     TEXT,                                             -- NULL: the run
    taken_at   BIGINT NOT NULL,
    PRIMARY KEY (repository, name)
);
CREATE INDEX slots_of_run ON slots (run_id);
