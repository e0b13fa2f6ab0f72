-- transactional: false
-- The random sample of live imports from which a claim chooses.
-- depends: 0018.import_source

DROP INDEX CONCURRENTLY IF EXISTS import_jobs_by_hash;
CREATE INDEX CONCURRENTLY import_jobs_by_hash ON import_jobs (uuid_hash(id)) WHERE status IN ('pending', 'processing');
