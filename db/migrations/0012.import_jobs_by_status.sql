-- transactional: false
-- The number of imports by status and outcome, read from the index alone, and lists of a status or an outcome that is rare.
-- depends: 0011.repairs

DROP INDEX CONCURRENTLY IF EXISTS import_jobs_by_status;
CREATE INDEX CONCURRENTLY import_jobs_by_status ON import_jobs (status, outcome) INCLUDE (resource, dry_run, created_at);
