DROP TABLE import_refused;
DROP INDEX chunks_with_errors;
ALTER TABLE export_jobs
    ADD CONSTRAINT export_jobs_resource_check CHECK (resource IN ('users', 'articles', 'comments')) NOT VALID;
ALTER TABLE import_jobs
    ADD CONSTRAINT import_jobs_resource_check CHECK (resource IN ('users', 'articles', 'comments')) NOT VALID,
    DROP error_kinds,
    DROP error_summary,
    DROP errors_omitted;
ALTER TABLE chunks DROP errors_omitted;
