"""The only code that can append to a log, and the programs' way to its private payloads.

    storage   what a log needs of a database and a disk: the one seam
    files     reading, listing, syncing and locking files
    local     that seam on SQLite and a directory
    tree      the right edge of the tile tree in memory: which tiles a longer log changes
    log       LogWriter: append, publish, and recovery by publishing
    payload   the private half of a batch, and the proof of one leaf of it
    create    a new log: key, database, policy files

One writer per log, in one process. Readers open the database read-only and the directory like anyone else.
"""
