DROP FUNCTION import_family;
DROP TABLE import_repairs;
ALTER TABLE import_jobs DROP relation;
