-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS import_jobs_by_hash;
