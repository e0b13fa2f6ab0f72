-- Incremental exports: the watermark from which an export continues, and its own, for the next one.
-- depends: 0019.import_jobs_by_hash

ALTER TABLE export_jobs
    ADD changed_since text,
    -- set with the file; NULL: written by a worker of an earlier version
    ADD watermark text;
