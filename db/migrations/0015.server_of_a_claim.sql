-- A claim stores which server it was made on. A reclaim that finds another one does not count as a crash of the worker.
-- Workers of the previous version do not write the column.
-- depends: 0014.brin_summaries

-- Since when this server is the primary. Constant until it is restarted or a standby is promoted: the last transaction that a standby
-- has replayed remains the same after its promotion.
CREATE FUNCTION primary_since() RETURNS timestamptz
LANGUAGE sql AS $$
    SELECT greatest(pg_postmaster_start_time(), pg_last_xact_replay_timestamp())
$$;

ALTER TABLE chunks ADD server_since timestamptz;
