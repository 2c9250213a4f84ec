-- The image of a release that is run as a container, by its digest. NULL: the release is an artifact.
ALTER TABLE releases ADD COLUMN image TEXT;
