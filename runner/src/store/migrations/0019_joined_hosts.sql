-- Hosts on other machines. The authority that vouches for them: one row, its key sealed like a secret.
CREATE TABLE host_authority (
    one         BIGINT NOT NULL PRIMARY KEY,
    certificate TEXT   NOT NULL,
    sealed_key  TEXT   NOT NULL,
    revision    BIGINT NOT NULL DEFAULT 0, -- one higher with each certificate that is revoked
    made_at     BIGINT NOT NULL
);

-- Tokens by which a machine may join once, by the key that each is. Of a token, the public half alone is here.
CREATE TABLE host_invitations (
    key        TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    made_at    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT,
    used_by    TEXT            -- the key of the host that joined with it
);

-- Those that joined.
CREATE TABLE joined_hosts (
    name       TEXT   NOT NULL PRIMARY KEY,
    address    TEXT   NOT NULL, -- HOST:PORT, where workers reach it
    key        TEXT   NOT NULL, -- its public key
    ends_at    BIGINT NOT NULL, -- when its newest certificate ends
    joined_at  BIGINT NOT NULL,
    revoked_at BIGINT
);

-- Certificates that were given out, of hosts and of workers, until they have ended.
CREATE TABLE host_certificates (
    serial     TEXT   NOT NULL PRIMARY KEY,
    kind       TEXT   NOT NULL, -- host, worker
    name       TEXT   NOT NULL,
    ends_at    BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX host_certificates_of ON host_certificates (kind, name);
CREATE INDEX host_certificates_ended ON host_certificates (ends_at);
CREATE INDEX host_certificates_revoked ON host_certificates (revoked_at) WHERE revoked_at IS NOT NULL;

-- What every host carries, joined or not, as it was last told.
CREATE TABLE host_states (
    name     TEXT   NOT NULL PRIMARY KEY,
    state    TEXT   NOT NULL, -- JSON
    heard_at BIGINT NOT NULL
);
