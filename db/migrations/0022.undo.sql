-- Undo of imports: which rows an undoable import has created, and what its undo has done.
-- depends: 0021.spreadsheets

ALTER TABLE import_jobs
    ADD undoable boolean NOT NULL DEFAULT false,
    -- of the statement that made an undoable import final: a row that is not visible in it was written since. NULL: unknown
    ADD end_snapshot pg_snapshot;

CREATE TABLE import_undos (
    import_id uuid PRIMARY KEY REFERENCES import_jobs ON DELETE CASCADE,
    -- grows each time that the undo begins again
    run integer NOT NULL DEFAULT 1,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    removed bigint NOT NULL DEFAULT 0,
    -- deleted before by others
    missing bigint NOT NULL DEFAULT 0,
    -- kept, as far as this run has come
    changed bigint NOT NULL DEFAULT 0,
    referred_to bigint NOT NULL DEFAULT 0
);

CREATE INDEX import_undos_running ON import_undos (started_at) WHERE finished_at IS NULL;

-- A batch of rows that an undoable import has created, without those that its undo has removed. The arrays are parallel.
CREATE TABLE import_created (
    import_id uuid NOT NULL REFERENCES import_jobs ON DELETE CASCADE,
    batch bigint GENERATED ALWAYS AS IDENTITY,
    records bigint[] NOT NULL,
    ids text[] NOT NULL,
    -- the run that has processed the batch, and why it has kept the rows
    run integer NOT NULL DEFAULT 0,
    reasons text[],
    PRIMARY KEY (import_id, batch),
    CONSTRAINT arrays_are_parallel CHECK (
        cardinality(ids) = cardinality(records) AND (reasons IS NULL OR cardinality(reasons) = cardinality(records))
    )
);

-- to compress them would take more of an import's time than to write them
ALTER TABLE import_created
    ALTER records SET STORAGE EXTERNAL,
    ALTER ids SET STORAGE EXTERNAL;
