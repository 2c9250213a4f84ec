-- Pushes that were found by comparing branches, by what a late webhook of them would bring.
CREATE INDEX work_identities_found ON work_identities (repository, event, git_ref, after_commit) WHERE delivery_id LIKE 'head-%';
