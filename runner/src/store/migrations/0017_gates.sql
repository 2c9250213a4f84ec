-- Those teams among an environment's reviewers that GitHub said the approver is in, a list in JSON.
ALTER TABLE approvals ADD COLUMN teams TEXT;
-- Why an administrator passed the environment's rules by. NULL: it is a yes within them.
ALTER TABLE approvals ADD COLUMN bypass TEXT;

-- What waits for a time: a wait timer, the end of a freeze.
CREATE INDEX jobs_gate ON jobs (not_before) WHERE status = 'waiting' AND not_before > 0;

-- What people ask by buttons of checks, until it is done or refused: GitHub is asked whether they may.
CREATE TABLE github_buttons (
    delivery_id TEXT   NOT NULL PRIMARY KEY,
    repository  TEXT   NOT NULL,
    check_id    BIGINT NOT NULL,
    button      TEXT   NOT NULL,
    pressed_by  TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    next_try_at BIGINT NOT NULL,
    tries       BIGINT NOT NULL DEFAULT 0,
    error       TEXT,
    done_at     BIGINT
);
CREATE INDEX github_buttons_due ON github_buttons (next_try_at) WHERE done_at IS NULL;
