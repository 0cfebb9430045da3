-- A sandbox's record is JSON, so that a new field needs no migration; what must be unique or searched is a column.
CREATE TABLE sandboxes (
    id     TEXT PRIMARY KEY NOT NULL,
    name   TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL CHECK (json_valid(record))
) STRICT;

-- The journal. `ended_at` is null while an operation is under way, or was when the daemon died.
CREATE TABLE operations (
    id           TEXT PRIMARY KEY NOT NULL,
    verb         TEXT NOT NULL,
    sandbox_id   TEXT NOT NULL,
    sandbox_name TEXT NOT NULL,
    began_at     INTEGER NOT NULL,
    ended_at     INTEGER,
    outcome      TEXT NOT NULL,
    error        TEXT,
    steps        TEXT NOT NULL CHECK (json_valid(steps))
) STRICT;
CREATE INDEX operations_of_sandbox ON operations (sandbox_id, began_at);
CREATE INDEX operations_by_time ON operations (began_at);
CREATE INDEX operations_open ON operations (id) WHERE ended_at IS NULL;
