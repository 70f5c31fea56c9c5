"""The agent on the gateway: readings in, sealed batches out, nothing forgotten before a verified receipt.

    source ─► outbox ─► batcher ─► seal ─► window ─► mqtt ─► broker
                 ▲                                    │
                 └────────── receipts ◄───────────────┘

The rooms:

    config     edge.toml as one frozen dataclass       source    what a source of readings is, how one is found
    key        the device key's file                   sources/  the built-in one: lines of JSON
    outbox     what a reading is accepted into; its    collect   sources' chunks into group commits
               rooms: intake, chain, overflow          clock     what time it is, and who says so
               (store what they share, schema and      batcher   what to seal next          (no I/O, no clock)
               database its file, thread its thread,   window    what to send when          (no I/O, no clock)
               outbox_reader beside it, epoch what     courier   batches out, answers in
               outlives it, recovery an old copy)      mqtt      the only room that knows MQTT
    seal       batch info and the signature            status    how the agent stands
    receipts   what lets a batch go
    setup      a new agent's files (files)             agent     all of it under one TaskGroup
                                                       sealing   what the chain says next, with which key
                                                       keeper    what goes on beside: time, room, clock
    cli        `vitalseal edge init | run | status | recover`; identity_cli `enroll | rotate`

    enroll     from a one-time token (token) to a gateway that can deliver
    desk       the aggregator's enrolment desk, as we talk to it
    identity   the TLS key and certificate, renewal when they are exchanged; tls contexts, and why one failed
    rotation   a new signing key                       pkcs11    keys in tokens, secure elements, TPMs
"""
