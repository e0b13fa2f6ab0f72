-- Exports of some records and some fields, and cells that are safe in a spreadsheet.
-- depends: 0003.trust

ALTER TABLE export_jobs
    -- as the client wrote them; NULL: all records, all fields
    ADD filters jsonb CHECK (jsonb_typeof(filters) = 'object'),
    ADD fields text[] CHECK (cardinality(fields) > 0),
    ADD csv_safe boolean NOT NULL DEFAULT false;

ALTER TABLE import_jobs ADD csv_safe boolean NOT NULL DEFAULT false;

-- Indexes for the filters that choose few of many records; each one is paid for by every import. None for role, active and
-- status: each of their few values has so many records that the table is read all the same, in the order of the ids.
-- Ids, natural keys and references have theirs already.

-- what a client asks for, again and again, that keeps a copy
CREATE INDEX users_updated ON users (updated_at);
-- Records stand in the table as they came, and so mostly in the order of their times: the range of times of each 32 pages is
-- enough, and costs an import hardly anything.
CREATE INDEX users_created ON users USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX comments_created ON comments USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);
-- these times come from the clients, in any order
CREATE INDEX articles_published ON articles (published_at) WHERE published_at IS NOT NULL;
CREATE INDEX articles_tags ON articles USING gin (tags);
