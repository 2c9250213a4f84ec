-- Machines with GPUs that runs rent from a cloud. A row is there before its machine is asked for, and stays until that is known to be gone.
CREATE TABLE machines (
    name          TEXT   NOT NULL PRIMARY KEY, -- the instances of its launches are called NAME-1, NAME-2, ...
    ask           TEXT   NOT NULL,             -- the worker's own word for this ask: the same again is the same machine
    repository    TEXT   NOT NULL,
    run_id        BIGINT NOT NULL,             -- of a run that is kept, or not any more
    attempt       BIGINT NOT NULL,
    job_id        TEXT   NOT NULL,
    step          BIGINT NOT NULL,
    epoch         BIGINT NOT NULL,
    request       TEXT   NOT NULL,             -- MachineRequest
    ssh_key       TEXT   NOT NULL,             -- the key that may log in, by its name at the cloud
    state         TEXT   NOT NULL,
    version       BIGINT NOT NULL DEFAULT 1,   -- one higher with each change that people see
    launches      BIGINT NOT NULL DEFAULT 0,   -- how many were asked for
    instance      TEXT,                        -- the cloud's id
    instance_type TEXT,                        -- of the newest launch, as are the region and the price
    region        TEXT,
    price_cents   BIGINT,
    ip            TEXT,
    reason        TEXT,
    asked_at      BIGINT NOT NULL,
    heard_at      BIGINT NOT NULL,             -- when whoever asked was last known to wait for it
    launched_at   BIGINT,
    ready_at      BIGINT,
    idle_since    BIGINT,
    ended_at      BIGINT
);
CREATE UNIQUE INDEX machines_of_ask ON machines (job_id, ask);
CREATE INDEX machines_there ON machines (state) WHERE state <> 'ended';
CREATE INDEX machines_ended ON machines (ended_at) WHERE ended_at IS NOT NULL;

-- Which of the servers that share a database speaks to the cloud: one at a time, as its limits are those of the account.
CREATE TABLE machine_keeper (
    one         BIGINT NOT NULL PRIMARY KEY,
    server      BIGINT NOT NULL,
    until_at    BIGINT NOT NULL,
    launched_at BIGINT NOT NULL, -- the newest launch of all
    trouble     TEXT             -- what is wrong with the way to the cloud
);
