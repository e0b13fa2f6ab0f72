ALTER TABLE export_jobs DROP created_by;
ALTER TABLE import_jobs
    DROP created_by,
    DROP columns;
