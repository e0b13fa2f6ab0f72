ALTER TABLE export_jobs
    DROP bom,
    -- rows of the newer version may have another format
    ADD CONSTRAINT export_jobs_format_check CHECK (format IN ('csv', 'ndjson', 'json')) NOT VALID;
