DROP INDEX export_jobs_with_file;
DROP TABLE export_tallies;
ALTER TABLE export_jobs DROP compression;
