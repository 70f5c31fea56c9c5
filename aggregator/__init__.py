"""The service beside the broker: admission, sequencing, receipts, and the projection to a time-series store.

mqtt         the only module that knows MQTT           --> a bounded queue
admission    is this envelope the next of an enrolled device's chain?
registry     device names, and who wears which sensor: private
service      ingest and publisher threads around one log writer
outgoing     what is still owed to devices: receipts
projection   a process of its own: walks the log, writes readings with proof references
timeseries/  reading stores
"""
