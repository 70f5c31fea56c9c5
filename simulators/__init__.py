"""Devices that are not there: recordings replayed, signals made up, fleets of agents, the one-command demo.

    recordings/  real measurements, derived from public packages     recorded   a recording as a series of steps
    sources      what `edge.toml` calls `recording` and `synthetic`  synthetic  made-up signals, marked as demo data
    replay       a series released on schedule, exactly once         process    child processes that die with us
    broker       an MQTT broker for a machine that has none          fleet      many devices under one directory
    demo         the whole pipeline, and the check of all of it      account    the check: accepted against verified
    cli          `vitalseal simulate`                                demo_cli   `vitalseal demo`

Everything here uses the production programs and interfaces; nothing in them knows that it is being simulated.
"""
