"""The evidence core: formats, maths and verification of the Vitalseal log.

Bytes in, a verified object or an exception out: nothing in the core opens a path or a socket, or reads a
clock. It needs only `cryptography` and `msgpack`, because whoever reads last - an auditor years from now -
has the proof, this package and nothing else. `FORMAT.md` beside this file is the normative text.

The rooms, bottom to top (a room imports only rooms named before it; CI checks this):

    errors      the two exceptions that can leave a parser or a verifier
    strict      decimal, base64 and text, without Python's leniencies
    canonical   the msgpack subset of our own formats
    kinds       what can be measured: code, unit, LOINC, MDC        merkle   RFC 6962 hashing and proofs
    reading     one reading                                         keys     device keys and signatures
    info        leaf 0 of a batch: when, by what clock, by which sensors
    batch       salts, leaves, header: what a device signs
    events      key events: enrol, rotate, revoke
    envelope    a sealed batch on the wire                          entry    what the log holds
    keystate    the state of every key, and the tree over them      leaves   a batch's leaves, whole or as hashes
    note        signed notes, vkeys, private keys with a name
    checkpoint  origin, size, root; who signs them, and how         tiles    tlog-tiles paths, tiles, bundles
    policy      which logs, which witnesses, what quorum
    add_checkpoint   what a witness is sent
    proof       the `.tlog-proof` file, and that of one leaf        receipt  stored, receipt, reject
    report      numbered steps: passed, failed, not checked
    status      key-status proofs, and step 7
    verify      the verifier of reading proofs                      completeness   that of a device's whole range
    refresh     an old proof under a current checkpoint
    follow      a log's truth, entry by entry
    fsck        the whole-truth checker of a log
    writer/     the only code that can append
    console     what commands share
    service/    programs around a log, which speak HTTP: serve, witness, monitor
    *_cli, cli  `vitalseal verify`, `vitalseal ledger ...`
"""
