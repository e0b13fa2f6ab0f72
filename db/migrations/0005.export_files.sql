-- Files of exports: packed, with a progress that is seen while they are written, and with an end.
-- depends: 0004.export-filters

ALTER TABLE export_jobs
    ADD compression text NOT NULL DEFAULT 'none' CHECK (compression IN ('none', 'gzip', 'zstd'));

-- How far an export is, as the worker that writes it last told. Apart from the job, whose row that worker holds at the end.
CREATE TABLE export_tallies (
    export_id uuid PRIMARY KEY REFERENCES export_jobs ON DELETE CASCADE,
    -- which claim told; what an earlier one tells late does not count
    lease integer NOT NULL,
    total_records bigint NOT NULL,
    records bigint NOT NULL
) WITH (fillfactor = 50);

-- upkeep: files that are due, and those of which the job says that they are gone
CREATE INDEX export_jobs_with_file ON export_jobs (finished_at) WHERE file_name IS NOT NULL AND finished_at IS NOT NULL;
