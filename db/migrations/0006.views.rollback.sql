DROP VIEW queue_health;
DROP VIEW export_progress;
DROP VIEW import_progress;
DROP VIEW running_chunks;
DROP VIEW worker_sessions;
