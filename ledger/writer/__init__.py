"""The only code that can append to a log, and the programs' way to its private payloads.

    storage   what a log needs of a database and a disk: the one seam
    files     reading, listing, syncing and locking files
    database  the sequencer database: schema, made, opened, copied
    reader    the reading half of that seam on SQLite and a directory
    local     the whole of it, for the one writer
    tree      the right edge of the tile tree in memory: which tiles a longer log changes
    log       LogWriter: append, publish what a quorum has cosigned, and recovery by publishing
    replay    an old copy of a database, brought up to what the world has seen before anything is signed
    keybook   the keys of the log: key events and key states are appended through it
    payload   the private half of a batch, and the proof of one leaf of it
    prove     proofs from a log's own data: leaves, ranges, the status of a key
    create    a new log: keys, database, guard, policy files

    witnesses           asks every witness at once to cosign; the only room with an HTTP library
    witness_peer        what one witness is asked, and what its answers mean
    witness_talk        a dialogue with one, between the caller's thread and the pool's
    witness_health      when one may be asked again, and what people are told of it

One writer per log, in one process. Readers open the database read-only and the directory like anyone else.
"""
