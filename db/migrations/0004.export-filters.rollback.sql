DROP INDEX articles_tags;
DROP INDEX articles_published;
DROP INDEX comments_created;
DROP INDEX users_created;
DROP INDEX users_updated;
ALTER TABLE import_jobs DROP csv_safe;
ALTER TABLE export_jobs
    DROP csv_safe,
    DROP fields,
    DROP filters;
