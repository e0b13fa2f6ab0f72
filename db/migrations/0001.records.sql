-- The records: what clients import and export.
--
-- import_id, import_record and import_action say which record of which import last touched a row, and how. They are never
-- exported. There is no foreign key to import_jobs on purpose: jobs are pruned, records stay.
--
-- Text that is compared (keys, ids) has the collation "C": exact, fast, and the same on every server.

CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text COLLATE "C" NOT NULL CHECK (char_length(email) <= 254),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    role text NOT NULL CHECK (role IN ('admin', 'author', 'reader')),
    active boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    import_id uuid,
    import_record bigint,
    import_action text CHECK (import_action IN ('created', 'updated', 'unchanged'))
);

CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TABLE articles (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug text COLLATE "C" NOT NULL CHECK (char_length(slug) <= 255),
    title text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 500),
    body text NOT NULL,
    author_id uuid NOT NULL REFERENCES users,
    tags text[],
    status text NOT NULL CHECK (status IN ('draft', 'published')),
    published_at timestamptz,
    import_id uuid,
    import_record bigint,
    import_action text CHECK (import_action IN ('created', 'updated', 'unchanged')),
    CONSTRAINT drafts_are_not_published CHECK (status <> 'draft' OR published_at IS NULL)
);

CREATE UNIQUE INDEX articles_slug_key ON articles (slug);
-- for the foreign key's own look-ups, and for the filter author_id
CREATE INDEX articles_author_id ON articles (author_id);

CREATE TABLE comments (
    id text COLLATE "C" PRIMARY KEY DEFAULT 'cm_' || gen_random_uuid(),
    article_id uuid NOT NULL REFERENCES articles,
    user_id uuid NOT NULL REFERENCES users,
    body text NOT NULL CHECK (body <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    import_id uuid,
    import_record bigint,
    import_action text CHECK (import_action IN ('created', 'updated', 'unchanged'))
);

CREATE INDEX comments_article_id ON comments (article_id);
CREATE INDEX comments_user_id ON comments (user_id);
