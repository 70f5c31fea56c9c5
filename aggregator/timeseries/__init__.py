"""Reading stores: one protocol (`base`), the embedded SQLite store (`embedded`), and InfluxDB (`influx`).

A store is a view: trusted for nothing, rebuilt from the log and the payloads at any time. Every reading in it carries
what leads to its proof.

InfluxDB's rooms, of which only `influx` knows the client library: `influx` talks to the server, `reader` asks it,
`requests` bounds what is sent and finds what is refused, `server` says what its errors mean, `credentials` hold token
and CA; `lines` are points out, `answers` rows in, `influxql` the questions; `copies` keeps equal readings apart,
`neighbours` asks who is there; `erasing` deletes.
"""
