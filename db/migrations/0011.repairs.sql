-- Repairs: imports of corrected records of another import.
-- depends: 0010.columns

ALTER TABLE import_jobs
    -- how the import comes from its parent; NULL without one, and for a retry or commit that an earlier version made
    ADD relation text CHECK (relation IN ('retry', 'commit', 'repair'));

-- the refused records that repairs have taken on: a record of an import is in one repair at most
CREATE TABLE import_repairs (
    parent_id uuid NOT NULL REFERENCES import_jobs ON DELETE CASCADE,
    record bigint NOT NULL,
    -- the repair, and the number of the record in it; NULL once the repair was deleted
    import_id uuid REFERENCES import_jobs ON DELETE SET NULL,
    import_record bigint NOT NULL,
    PRIMARY KEY (parent_id, record)
);

-- the records of a repair that is deleted
CREATE INDEX import_repairs_import ON import_repairs (import_id);

-- The import and those that follow from it by repairs, retries and commits. The commit of a dry run replaces its retry, which is a
-- dry run too.
CREATE FUNCTION import_family(of_import uuid) RETURNS SETOF uuid LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE family (id) AS (
        SELECT of_import
        UNION
        SELECT child.id
        FROM family
        JOIN import_jobs AS child ON child.parent_id = family.id
        WHERE child.status <> 'uploading'
            AND NOT (child.dry_run AND child.relation IS DISTINCT FROM 'repair' AND EXISTS (
                SELECT
                FROM import_jobs AS sibling
                WHERE sibling.parent_id = family.id
                    AND sibling.status <> 'uploading'
                    AND sibling.relation IS DISTINCT FROM 'repair'
                    AND NOT sibling.dry_run
            ))
    )
    SELECT id FROM family;
END;
