-- The fields of a file's columns, and the API key that created a job.
-- depends: 0009.error_limits

ALTER TABLE import_jobs
    -- an object: for the name of a column or key of the file the field that it is, or null to ignore it
    ADD columns jsonb,
    -- the name of the key; NULL for a key without a name, and without API_KEYS
    ADD created_by text;

ALTER TABLE export_jobs ADD created_by text;
