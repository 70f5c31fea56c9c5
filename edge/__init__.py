"""The agent on the gateway: readings in, sealed batches out, nothing forgotten before a verified receipt.

    source ─► outbox ─► batcher ─► seal ─► window ─► mqtt ─► broker
                 ▲                                    │
                 └────────── receipts ◄───────────────┘

The rooms:

    config     edge.toml as one frozen dataclass       source    what a source of readings is, how one is found
    key        the device key in a file                sources/  the built-in one: lines of JSON
    outbox     what a reading is accepted into         collect   sources' chunks into group commits
    (database its file, outbox_reader beside it,       batcher   when to close a batch      (no I/O, no clock)
    thread its thread, epoch what outlives it)         window    what to send when          (no I/O, no clock)
    seal       batch info and the signature            courier   batches out, answers in
    receipts   what lets a batch go                    mqtt      the only room that knows MQTT
    setup      a new agent's files (files)             agent     all of it under one TaskGroup
    cli        `vitalseal edge init | run | status`
"""
