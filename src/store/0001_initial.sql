-- 0001: tokens, their objects, and what objects can be found by.
--
-- All bytes that mean something to PKCS#11 or to the TPM are opaque here. Numbers that are unsigned
-- outside are kept as the signed number with the same 64 bits.
-- Safe to interrupt: runs in the same transaction that sets user_version to 1.

CREATE TABLE token (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    serial       BLOB NOT NULL UNIQUE,  -- 16 hexadecimal digits
    label        BLOB NOT NULL,         -- 32 bytes, padded with blanks
    state        INTEGER NOT NULL,      -- 0 pending, 1 active
    gate         BLOB NOT NULL,
    srk_name     BLOB NOT NULL,
    replaces     BLOB,                  -- serial of the token that dies when this one becomes active
    replaced     BLOB,                  -- that token's gate, until the TPM has nothing of it any more
    user_pin_set INTEGER NOT NULL,
    pinless      INTEGER NOT NULL,
    user_count   INTEGER NOT NULL,      -- wrong PINs as last seen; the TPM counts
    user_limit   INTEGER NOT NULL,
    so_count     INTEGER NOT NULL,
    so_limit     INTEGER NOT NULL,
    objects      INTEGER NOT NULL,      -- these four: the set of objects, signed (seal.rs)
    generation   INTEGER NOT NULL,
    digest       BLOB NOT NULL,
    digest_mac   BLOB NOT NULL
) STRICT;

CREATE TABLE object (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: handles are made of it
    token   INTEGER NOT NULL REFERENCES token (id) ON DELETE CASCADE,
    uuid    BLOB NOT NULL,
    version INTEGER NOT NULL,
    class   INTEGER NOT NULL,
    private INTEGER NOT NULL,                   -- 1: content is encrypted
    name    BLOB NOT NULL,
    tag     BLOB NOT NULL,                      -- MAC over all of the row
    content BLOB NOT NULL                       -- last, so that reading the others stops before it
) STRICT;

-- All that a login reads of every object, and all that listing needs.
CREATE INDEX object_set ON object (token, uuid, version, tag, private);

CREATE INDEX object_by_name ON object (name) WHERE length(name) > 0;

-- Values of public objects, keyed hashes for private ones. Its own primary key is the search index.
CREATE TABLE attribute (
    token  INTEGER NOT NULL,
    type   INTEGER NOT NULL,
    value  BLOB NOT NULL,
    object INTEGER NOT NULL REFERENCES object (id) ON DELETE CASCADE,
    PRIMARY KEY (token, type, value, object)
) STRICT, WITHOUT ROWID;

CREATE INDEX attribute_of ON attribute (object);

-- What is known about the TPM that has this storage root key.
CREATE TABLE facts (
    srk_name BLOB NOT NULL PRIMARY KEY,
    facts    BLOB NOT NULL
) STRICT, WITHOUT ROWID;
