"""The audit: log, payloads and database walked side by side, and every row that is not as the log says, named.

    public      the public log, recomputed (`fsck`), and read again as the same bytes
    private     what an aggregator's directory adds: payloads, checkpoints as they were published, device names
    truth       what ought to be in the database, batch by batch, and which readings were seen; `leaves`: of one batch
    records     batch records, judged; `checkpoints`: checkpoint records; `spans`: from when to when a batch is
    rows        readings' rows, judged; `copies` and `frames` are for stores that are keyed by position
    auditor     all of it, in order
    findings    what comes out; `report` has it as values, `telling` and `words` in words, `page` with its `proofs`
    cli         the command; `sources` sorts out what it is of, `audited` says which exactly that was, `state` is what
                an incremental one goes on from

A database alone and the public log are enough: payloads only add what is known of readings whose rows are gone.
"""
