-- Contents that are to be removed from where they lie. Named again meanwhile, a content counts as not there until it was uploaded anew.
CREATE TABLE removals (
    digest TEXT   NOT NULL PRIMARY KEY,
    bytes  BIGINT NOT NULL,
    since  BIGINT NOT NULL
);
