CREATE TABLE tags (
    id uuid PRIMARY KEY DEFAULT uuid_v7(),
    name text COLLATE "C" NOT NULL,
    colour text NOT NULL CHECK (colour IN ('red', 'green', 'blue')),
    article_id uuid REFERENCES articles,
    import_id uuid,
    import_record bigint,
    import_action text CHECK (import_action IN ('created', 'updated', 'unchanged'))
);

CREATE UNIQUE INDEX tags_name_key ON tags (name);
CREATE INDEX tags_article_id ON tags (article_id);
