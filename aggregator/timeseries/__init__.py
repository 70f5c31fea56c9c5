"""Reading stores: one protocol (`base`), the embedded SQLite store (`embedded`).

A store is a view: trusted for nothing, rebuilt from the log and the payloads at any time. Every reading in it carries
what leads to its proof.
"""
