-- With what an attempt was asked for (debug logging, other inputs, why); of a run, its newest attempt's. NULL: with nothing.
ALTER TABLE runs ADD COLUMN terms_json TEXT;
ALTER TABLE attempts ADD COLUMN terms_json TEXT;
