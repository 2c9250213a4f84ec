-- GPUs: what workers offer to jobs, and which of them a job has while it is held.
ALTER TABLE workers ADD COLUMN gpus TEXT; -- a list in JSON; NULL: none
ALTER TABLE jobs ADD COLUMN gpus TEXT;    -- UUIDs, joined by commas; NULL: it asks for none
