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
    envelope    a sealed batch on the wire                          entry    what the log holds
    note        signed notes and vkeys
    checkpoint  origin, size, root; cosignatures                    tiles    tlog-tiles paths, tiles, bundles
    policy      which logs, which witnesses, what quorum
    proof       the `.tlog-proof` file                              receipt  stored, receipt, reject
    verify      the numbered verifier of reading proofs
    fsck        the whole-truth checker of a log directory
    writer/     the only code that can append
    cli         `vitalseal verify`, `vitalseal ledger ...`
"""
