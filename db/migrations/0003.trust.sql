-- What makes imports repairable and bounded: dry runs, error budgets, order between imports, children, retention.
-- depends: 0002.jobs

ALTER TABLE import_jobs
    ADD dry_run boolean NOT NULL DEFAULT false,
    ADD on_error text NOT NULL DEFAULT 'continue' CHECK (on_error IN ('continue', 'stop')),
    -- the error budget: refused records, or their share of the records that are done
    ADD max_errors bigint CHECK (max_errors >= 0),
    ADD max_error_rate double precision CHECK (max_error_rate BETWEEN 0 AND 1),
    -- waits until that import is completed
    ADD after_id uuid REFERENCES import_jobs ON DELETE SET NULL,
    -- the import that this one repairs or commits
    ADD parent_id uuid REFERENCES import_jobs ON DELETE SET NULL;

-- the chunks of a job that is removed
CREATE INDEX chunks_import ON chunks (import_id) WHERE import_id IS NOT NULL;
CREATE INDEX chunks_export ON chunks (export_id) WHERE export_id IS NOT NULL;
-- the jobs that wait for another; also for the foreign keys' own look-ups when a job is removed
CREATE INDEX import_jobs_after ON import_jobs (after_id) WHERE after_id IS NOT NULL;
CREATE INDEX import_jobs_parent ON import_jobs (parent_id) WHERE parent_id IS NOT NULL;
-- retention: the oldest ends first
CREATE INDEX import_jobs_finished ON import_jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX export_jobs_finished ON export_jobs (finished_at) WHERE finished_at IS NOT NULL;
