-- Limits on the stored record errors of an import, and the summary of its errors at its end.
-- depends: 0008.plain_names

-- errors that were counted but not stored, because the import had IMPORT_ERRORS_MAX of them
ALTER TABLE chunks ADD errors_omitted integer NOT NULL DEFAULT 0;

ALTER TABLE import_jobs
    ADD errors_omitted bigint NOT NULL DEFAULT 0,
    -- written when the job becomes final: the most frequent kinds of error, and the number of all kinds
    ADD error_summary jsonb CHECK (jsonb_typeof(error_summary) = 'array'),
    ADD error_kinds bigint,
    -- the service checks the name of a resource; a new resource needs no change here
    DROP CONSTRAINT import_jobs_resource_check;

ALTER TABLE export_jobs DROP CONSTRAINT export_jobs_resource_check;

-- the errors stored so far, asked for by each chunk that has errors
CREATE INDEX chunks_with_errors ON chunks (job_id) INCLUDE (errors, errors_omitted) WHERE errors > 0;

-- the refused records of a chunk that have no row in import_errors
CREATE TABLE import_refused (
    import_id uuid NOT NULL REFERENCES import_jobs ON DELETE CASCADE,
    -- that of the chunk
    first_record bigint NOT NULL,
    records int8multirange NOT NULL,
    PRIMARY KEY (import_id, first_record)
);
