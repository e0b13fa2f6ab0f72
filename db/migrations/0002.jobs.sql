-- The jobs, the queue of their chunks, and what is known of refused and of undecided records. See db/README.md.
-- depends: 0001.records

CREATE TABLE import_jobs (
    -- uuid v7: newer jobs have greater ids, which is the order of every list
    id uuid PRIMARY KEY,
    status text NOT NULL DEFAULT 'uploading'
        CHECK (status IN ('uploading', 'pending', 'processing', 'completed', 'failed', 'cancelled')),
    outcome text CHECK (outcome IN ('success', 'partial', 'rejected')),
    resource text CHECK (resource IN ('users', 'articles', 'comments')),
    mode text NOT NULL DEFAULT 'insert' CHECK (mode IN ('insert', 'skip', 'upsert', 'update')),
    unknown_fields text NOT NULL DEFAULT 'error' CHECK (unknown_fields IN ('error', 'ignore')),
    format text CHECK (format IN ('csv', 'ndjson', 'json')),
    -- CSV: the delimiter, the header's bytes (refused records are given back with it) and its cells
    csv_delimiter text NOT NULL DEFAULT ',',
    csv_header bytea,
    csv_columns text[],
    file_name text,
    file_bytes bigint,
    file_sha256 bytea,
    total_records bigint,
    total_chunks integer,
    -- one key, one job; the digest tells a repetition from another request under the same key
    idempotency_token text UNIQUE CHECK (char_length(idempotency_token) BETWEEN 1 AND 255),
    request_digest bytea,
    request_id text,
    -- a cancelled or failing job starts no further chunk
    cancel_requested_at timestamptz,
    problem jsonb,
    -- written once, when the job becomes final; until then they are sums over its chunks
    created bigint NOT NULL DEFAULT 0,
    updated bigint NOT NULL DEFAULT 0,
    unchanged bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- the last sign of life of an upload
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT sealed_unless_uploading CHECK ((status = 'uploading') = (sealed_at IS NULL)),
    CONSTRAINT sealed_is_known CHECK (
        sealed_at IS NULL
        OR (resource IS NOT NULL AND format IS NOT NULL AND file_bytes IS NOT NULL AND file_sha256 IS NOT NULL
            AND total_records IS NOT NULL AND total_chunks IS NOT NULL AND request_digest IS NOT NULL)
    ),
    CONSTRAINT finished_iff_final CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT outcome_iff_completed CHECK ((status = 'completed') = (outcome IS NOT NULL)),
    CONSTRAINT failed_with_problem CHECK (status <> 'failed' OR problem IS NOT NULL)
);

-- the sweep of uploads that were left behind
CREATE INDEX import_jobs_uploading ON import_jobs (touched_at) WHERE status = 'uploading';
-- the jobs that a claim chooses from
CREATE INDEX import_jobs_live ON import_jobs (id) WHERE status IN ('pending', 'processing');

CREATE TABLE export_jobs (
    id uuid PRIMARY KEY,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'expired')),
    resource text NOT NULL CHECK (resource IN ('users', 'articles', 'comments')),
    format text NOT NULL CHECK (format IN ('csv', 'ndjson', 'json')),
    idempotency_token text UNIQUE CHECK (char_length(idempotency_token) BETWEEN 1 AND 255),
    request_digest bytea NOT NULL,
    request_id text,
    snapshot_at timestamptz,
    total_records bigint,
    file_name text,
    file_bytes bigint,
    file_records bigint,
    file_sha256 bytea,
    cancel_requested_at timestamptz,
    problem jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT finished_iff_final CHECK (
        (status IN ('completed', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)
    ),
    CONSTRAINT completed_with_file CHECK (
        status <> 'completed'
        OR (file_name IS NOT NULL AND file_bytes IS NOT NULL AND file_records IS NOT NULL AND file_sha256 IS NOT NULL)
    ),
    CONSTRAINT failed_with_problem CHECK (status <> 'failed' OR problem IS NOT NULL)
);

CREATE INDEX export_jobs_live ON export_jobs (id) WHERE status IN ('pending', 'processing');

-- The queue. One row is one unit of work, small and hot; the bytes are apart in import_payloads.
CREATE TABLE chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- records: a slice of a file; settle: the last step of an import with deferred records; export: a whole export
    kind text NOT NULL DEFAULT 'records' CHECK (kind IN ('records', 'settle', 'export')),
    import_id uuid REFERENCES import_jobs ON DELETE CASCADE,
    export_id uuid REFERENCES export_jobs ON DELETE CASCADE,
    job_id uuid NOT NULL GENERATED ALWAYS AS (coalesce(import_id, export_id)) STORED,
    seq integer NOT NULL,
    first_record bigint NOT NULL DEFAULT 1,
    records integer NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed', 'cancelled')),
    -- the fence: who does not hold the present number has lost the chunk
    lease integer NOT NULL DEFAULT 0,
    -- how often it was claimed, and how often taken over from a dead worker
    attempt integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    worker text,
    claimed_at timestamptz,
    -- given back after an accident: not to be claimed again before
    not_before timestamptz,
    finished_at timestamptz,
    -- why it was given back or failed, for people
    accident text,
    -- what became of its records; a settle chunk holds corrections, which may be negative
    created integer NOT NULL DEFAULT 0,
    updated integer NOT NULL DEFAULT 0,
    unchanged integer NOT NULL DEFAULT 0,
    skipped integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    deferred integer NOT NULL DEFAULT 0,
    errors integer NOT NULL DEFAULT 0,
    UNIQUE (job_id, seq),
    CONSTRAINT of_one_job CHECK ((kind = 'export') = (export_id IS NOT NULL) AND (import_id IS NULL) <> (export_id IS NULL)),
    CONSTRAINT running_is_claimed CHECK (state <> 'running' OR (worker IS NOT NULL AND claimed_at IS NOT NULL)),
    CONSTRAINT finished_iff_final CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
) WITH (
    -- every chunk is rewritten twice or thrice in its life: room for it on the page, and an early vacuum
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000
);

-- claim: the next chunk of a job
CREATE INDEX chunks_pending ON chunks (job_id, seq) WHERE state = 'pending';
-- reclaim: claims, oldest first
CREATE INDEX chunks_running ON chunks (claimed_at) WHERE state = 'running';

CREATE TABLE import_payloads (
    import_id uuid NOT NULL REFERENCES import_jobs ON DELETE CASCADE,
    first_record bigint NOT NULL,
    first_line bigint NOT NULL,
    data bytea NOT NULL,
    -- where each record begins in data, and its line counted from first_line; NULL: each record is one line
    starts integer[],
    lines integer[],
    -- by first_record, so that the payload of any record is found by one descent
    PRIMARY KEY (import_id, first_record)
);

-- written once, read once, soon gone: packing it would cost more than it saves
ALTER TABLE import_payloads ALTER data SET STORAGE EXTERNAL;

CREATE TABLE import_errors (
    import_id uuid NOT NULL REFERENCES import_jobs ON DELETE CASCADE,
    record bigint NOT NULL,
    -- numbers the errors of one record, from 1
    n smallint NOT NULL,
    line bigint NOT NULL,
    record_id text,
    record_key text,
    field text,
    code text NOT NULL,
    message text NOT NULL,
    value text,
    duplicate_of_line bigint,
    PRIMARY KEY (import_id, record, n)
);

-- Records that cannot be decided before all chunks are done: they collide with others of their own import.
CREATE TABLE import_deferred (
    import_id uuid NOT NULL REFERENCES import_jobs ON DELETE CASCADE,
    record bigint NOT NULL,
    line bigint NOT NULL,
    record_id text COLLATE "C",
    record_key text COLLATE "C",
    -- the row that it would be
    data jsonb NOT NULL,
    PRIMARY KEY (import_id, record)
);

-- the physical line where a record of an import starts
CREATE FUNCTION import_line(of_import uuid, of_record bigint) RETURNS bigint LANGUAGE sql STABLE
RETURN (
    SELECT first_line + coalesce(lines[of_record - first_record + 1], of_record - first_record)
    FROM import_payloads
    WHERE import_id = of_import AND first_record <= of_record
    ORDER BY first_record DESC
    LIMIT 1
);

-- Whether a record came with this id or got it from us: ids of ours do not stand in the file. Asked of few records.
CREATE FUNCTION import_names(of_import uuid, of_record bigint, id text) RETURNS boolean LANGUAGE sql STABLE
RETURN (
    SELECT bool_or(position(convert_to(spelling, 'UTF8') IN data) > 0)
    FROM (
        SELECT data
        FROM import_payloads
        WHERE import_id = of_import AND first_record <= of_record
        ORDER BY first_record DESC
        LIMIT 1
    ) AS payload
    CROSS JOIN unnest(ARRAY[id, upper(id), replace(id, '-', ''), upper(replace(id, '-', ''))]) AS spelling
);
