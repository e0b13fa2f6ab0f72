DROP VIEW queue_health, export_progress, import_progress, running_chunks;
DROP FUNCTION import_names;
ALTER FUNCTION import_sent_id(uuid, bigint, text) RENAME TO import_names;
DROP FUNCTION import_line;
ALTER FUNCTION import_record_line(uuid, bigint) RENAME TO import_line;
DROP VIEW export_tallies;
ALTER TABLE export_progress_reports RENAME TO export_tallies;
DROP TRIGGER copy_renamed_columns ON chunks;
DROP FUNCTION chunks_copy_renamed_columns;
ALTER TABLE chunks
    DROP last_error,
    DROP retry_at,
    DROP counted_in_seq;

-- A running chunk without a session belongs to a dead worker, and is taken over when the grace is over.
CREATE VIEW running_chunks AS
SELECT
    chunks.worker,
    session.pid IS NOT NULL AS has_session,
    chunks.kind,
    chunks.job_id,
    coalesce(import_jobs.resource, export_jobs.resource) AS resource,
    chunks.seq,
    chunks.records,
    chunks.claimed_at,
    clock_timestamp() - chunks.claimed_at AS held_for,
    chunks.attempt,
    chunks.crashes,
    chunks.accident AS last_accident,
    session.pid,
    session.wait_event_type || ': ' || session.wait_event AS waits_for,
    pg_blocking_pids(session.pid) AS blocked_by
FROM chunks
LEFT JOIN import_jobs ON import_jobs.id = chunks.import_id
LEFT JOIN export_jobs ON export_jobs.id = chunks.export_id
LEFT JOIN worker_sessions AS session ON session.worker = left(chunks.worker, 51)
WHERE chunks.state = 'running';

COMMENT ON VIEW running_chunks IS 'Which worker holds what, since when, and what it waits for';

-- The chunks of live jobs only are looked at, by their key (job_id, seq); those of final ones may be many.
CREATE VIEW import_progress AS
SELECT
    job.id,
    job.resource,
    job.mode,
    job.status,
    job.outcome,
    CASE
        WHEN job.status = 'completed' THEN NULL
        WHEN job.status = 'failed' THEN concat_ws(': ', job.problem ->> 'title', job.problem ->> 'detail')
        WHEN job.status = 'cancelled' THEN 'it was cancelled'
        WHEN job.status = 'uploading' THEN format(
            'its file is being received; the last sign of life was %s s ago',
            round(extract(epoch FROM clock_timestamp() - job.touched_at))
        )
        WHEN job.cancel_requested_at IS NOT NULL AND work.running > 0 THEN format(
            'it is being cancelled; %s chunks that were begun are still worked on', work.running
        )
        WHEN job.problem IS NOT NULL AND work.running > 0 THEN format(
            'it is being stopped (%s); %s chunks that were begun are still worked on', job.problem ->> 'title', work.running
        )
        WHEN work.running > 0 AND work.running = work.abandoned THEN format(
            'the workers of its %s running chunks are gone; others will take them over', work.running
        )
        WHEN work.is_settling THEN 'records that share a key are being decided on, which is the last step'
        WHEN work.running > 0 THEN format('%s workers are on it', work.running)
        WHEN job.cancel_requested_at IS NOT NULL OR job.problem IS NOT NULL OR work.pending = 0
            THEN 'nothing is left to do; its end is about to be written'
        WHEN earlier.status <> 'completed' THEN format('it waits for import %s, which is %s', earlier.id, earlier.status)
        WHEN connected.workers = 0 THEN 'no worker is connected'
        WHEN work.resting = work.pending THEN format(
            'its chunks were given back and rest until %s: %s',
            to_char(work.rests_until, 'YYYY-MM-DD HH24:MI:SS TZ'), work.last_accident
        )
        ELSE format('it waits for its turn; %s of %s workers are busy', connected.busy, connected.workers)
    END AS because,
    job.file_name,
    job.total_records,
    counts.processed AS processed_records,
    CASE job.total_records WHEN 0 THEN 100.0 ELSE round(100.0 * counts.processed / job.total_records, 1) END AS percent,
    counts.failed AS failed_records,
    counts.deferred AS deferred_records,
    round(speed.records_per_second) AS records_per_second,
    CASE
        WHEN job.finished_at IS NULL AND speed.records_per_second > 0
        THEN (job.total_records - counts.processed) / speed.records_per_second * interval '1 second'
    END AS time_left,
    -- of live jobs
    work.pending AS pending_chunks,
    work.resting AS resting_chunks,
    work.running AS running_chunks,
    work.done AS done_chunks,
    work.failed_chunks,
    work.attempts AS most_attempts,
    work.last_accident,
    job.after_id,
    job.request_id,
    job.created_at,
    job.started_at,
    job.finished_at
FROM import_jobs AS job
LEFT JOIN import_jobs AS earlier ON earlier.id = job.after_id
LEFT JOIN LATERAL (
    SELECT
        sum(created + updated + unchanged + skipped + failed)::bigint AS processed,
        sum(failed)::bigint AS failed,
        sum(deferred)::bigint AS deferred,
        count(*) FILTER (WHERE state = 'pending') AS pending,
        count(*) FILTER (WHERE state = 'pending' AND not_before > clock_timestamp()) AS resting,
        count(*) FILTER (WHERE state = 'running') AS running,
        count(*) FILTER (
            WHERE state = 'running' AND left(chunks.worker, 51) NOT IN (SELECT worker FROM worker_sessions)
        ) AS abandoned,
        count(*) FILTER (WHERE state = 'done') AS done,
        count(*) FILTER (WHERE state = 'failed') AS failed_chunks,
        coalesce(bool_or(kind = 'settle' AND state = 'running'), false) AS is_settling,
        max(attempt) AS attempts,
        min(not_before) FILTER (WHERE state = 'pending') AS rests_until,
        (array_agg(accident ORDER BY claimed_at DESC) FILTER (WHERE accident IS NOT NULL))[1] AS last_accident
    FROM chunks
    WHERE chunks.job_id = job.id
) AS work ON job.finished_at IS NULL
CROSS JOIN LATERAL (
    SELECT
        coalesce(work.processed, job.created + job.updated + job.unchanged + job.skipped + job.failed) AS processed,
        coalesce(work.failed, job.failed) AS failed,
        coalesce(work.deferred, 0) AS deferred
) AS counts
CROSS JOIN LATERAL (
    SELECT counts.processed
        / nullif(extract(epoch FROM coalesce(job.finished_at, clock_timestamp()) - job.started_at), 0) AS records_per_second
) AS speed
CROSS JOIN (
    SELECT
        (SELECT count(*) FROM worker_sessions) AS workers,
        (SELECT count(*) FROM chunks WHERE state = 'running') AS busy
) AS connected;

COMMENT ON VIEW import_progress IS 'How far each import is, and why it is not finished';

CREATE VIEW export_progress AS
SELECT
    job.id,
    job.resource,
    job.format,
    job.compression,
    job.status,
    CASE
        WHEN job.status IN ('completed', 'expired') THEN NULL
        WHEN job.status = 'failed' THEN concat_ws(': ', job.problem ->> 'title', job.problem ->> 'detail')
        WHEN job.status = 'cancelled' THEN 'it was cancelled'
        WHEN job.cancel_requested_at IS NOT NULL THEN 'it is being cancelled'
        WHEN chunks.state = 'running' AND NOT connected.has_session
            THEN 'the worker that wrote it is gone; another will begin it again'
        WHEN chunks.state = 'running' THEN 'a worker writes it'
        WHEN chunks.state <> 'pending' THEN 'nothing is left to do; its end is about to be written'
        WHEN connected.workers = 0 THEN 'no worker is connected'
        WHEN chunks.not_before > clock_timestamp() THEN format(
            'it was given back and rests until %s: %s', to_char(chunks.not_before, 'YYYY-MM-DD HH24:MI:SS TZ'), chunks.accident
        )
        ELSE format('it waits for its turn; %s workers are connected', connected.workers)
    END AS because,
    counts.total AS total_records,
    counts.exported AS exported_records,
    CASE counts.total WHEN 0 THEN 100.0 ELSE round(100.0 * counts.exported / counts.total, 1) END AS percent,
    round(speed.records_per_second) AS records_per_second,
    CASE
        WHEN job.finished_at IS NULL AND speed.records_per_second > 0
        THEN greatest(0, counts.total - counts.exported) / speed.records_per_second * interval '1 second'
    END AS time_left,
    chunks.worker,
    chunks.attempt AS attempts,
    chunks.accident AS last_accident,
    job.file_name,
    job.file_bytes,
    job.request_id,
    job.created_at,
    job.started_at,
    job.finished_at
FROM export_jobs AS job
LEFT JOIN export_tallies AS tally ON tally.export_id = job.id
LEFT JOIN chunks ON chunks.job_id = job.id
CROSS JOIN LATERAL (
    SELECT
        coalesce(job.file_records, job.total_records, tally.total_records) AS total,
        coalesce(job.file_records, tally.records, 0) AS exported
) AS counts
CROSS JOIN LATERAL (
    -- the present attempt's: an earlier one's work is done again
    SELECT counts.exported
        / nullif(extract(epoch FROM coalesce(job.finished_at, clock_timestamp()) - chunks.claimed_at), 0) AS records_per_second
) AS speed
CROSS JOIN LATERAL (
    SELECT count(*) AS workers, coalesce(bool_or(worker = left(chunks.worker, 51)), false) AS has_session
    FROM worker_sessions
) AS connected;

COMMENT ON VIEW export_progress IS 'How far each export is, and why it is not finished';

-- One row. Counts of live jobs and chunks lean on the partial indexes.
CREATE VIEW queue_health AS
SELECT
    (SELECT count(*) FROM worker_sessions) AS workers,
    queue.pending AS pending_chunks,
    queue.resting AS resting_chunks,
    held.running AS running_chunks,
    held.abandoned AS abandoned_chunks,
    oldest.since AS oldest_pending_since,
    clock_timestamp() - oldest.since AS oldest_pending_for,
    (SELECT max(held_for) FROM running_chunks) AS longest_held_for,
    (SELECT count(*) FROM import_jobs WHERE status = 'uploading') AS uploading_imports,
    (SELECT count(*) FROM import_jobs WHERE status IN ('pending', 'processing')) AS live_imports,
    (SELECT count(*) FROM export_jobs WHERE status IN ('pending', 'processing')) AS live_exports,
    (
        SELECT count(*)
        FROM (
            SELECT status FROM import_jobs WHERE finished_at > clock_timestamp() - interval '1 hour'
            UNION ALL
            SELECT status FROM export_jobs WHERE finished_at > clock_timestamp() - interval '1 hour'
        ) AS ended
        WHERE status = 'failed'
    ) AS failed_jobs_last_hour,
    activity.oldest_transaction_for,
    activity.waiting_for_locks,
    pg_stat_get_dead_tuples('chunks'::regclass) AS dead_queue_rows
FROM (
    SELECT count(*) AS pending, count(*) FILTER (WHERE not_before > clock_timestamp()) AS resting
    FROM chunks
    WHERE state = 'pending'
) AS queue
CROSS JOIN (
    SELECT count(*) AS running, count(*) FILTER (WHERE NOT has_session) AS abandoned
    FROM running_chunks
) AS held
CROSS JOIN (
    -- the chunks of a job become claimable together: an import's when it is sealed, an export's when it is ordered
    SELECT min(waiting.since) AS since
    FROM (
        SELECT id, sealed_at FROM import_jobs WHERE status IN ('pending', 'processing')
        UNION ALL
        SELECT id, created_at FROM export_jobs WHERE status IN ('pending', 'processing')
    ) AS waiting (job_id, since)
    WHERE EXISTS (SELECT FROM chunks WHERE chunks.job_id = waiting.job_id AND state = 'pending')
) AS oldest
CROSS JOIN (
    SELECT
        clock_timestamp() - min(xact_start) FILTER (WHERE pid <> pg_backend_pid()) AS oldest_transaction_for,
        count(*) FILTER (WHERE wait_event_type = 'Lock') AS waiting_for_locks
    FROM pg_stat_activity
    WHERE datname = current_database()
) AS activity;

COMMENT ON VIEW queue_health IS 'One row: is the queue healthy, and what is stuck';
