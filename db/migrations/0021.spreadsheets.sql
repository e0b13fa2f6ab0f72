-- Exports as XLSX, and CSV with a byte order mark. Workers of the previous version write NDJSON instead of XLSX, and no byte order
-- mark: do not send the parameters before all workers are replaced.
-- depends: 0020.watermarks

ALTER TABLE export_jobs
    ADD bom boolean NOT NULL DEFAULT false,
    -- the API checks the format
    DROP CONSTRAINT export_jobs_format_check;
