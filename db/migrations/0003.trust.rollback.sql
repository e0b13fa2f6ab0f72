DROP INDEX export_jobs_finished;
DROP INDEX import_jobs_finished;
DROP INDEX chunks_export;
DROP INDEX chunks_import;
ALTER TABLE import_jobs
    DROP parent_id,
    DROP after_id,
    DROP max_error_rate,
    DROP max_errors,
    DROP on_error,
    DROP dry_run;
