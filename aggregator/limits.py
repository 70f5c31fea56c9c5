"""How much may wait where in a running aggregator, by name, for `status` and the metrics."""

from aggregator import intake, mqtt, outgoing, parking

LIMITS = {
    "queue_messages": intake.TOTAL_MESSAGES,
    "queue_bytes": intake.TOTAL_BYTES,
    "queue_messages_per_device": intake.SHARE_MESSAGES,
    "queue_bytes_per_device": intake.SHARE_BYTES,
    "queue_messages_unknown_devices": intake.STRANGERS_MESSAGES,
    "queue_bytes_unknown_devices": intake.STRANGERS_BYTES,
    "group_messages": intake.GROUP_MESSAGES,
    "group_bytes": intake.GROUP_BYTES,
    "parked_batches_per_device": parking.LOT_BATCHES,
    "parked_bytes_per_device": parking.LOT_BYTES,
    "parked_bytes": parking.TOTAL_BYTES,
    "outgoing_messages": mqtt.OUTGOING_MESSAGES,
    "outgoing_bytes": mqtt.OUTGOING_BYTES,
    "outgoing_messages_per_device": mqtt.OUTGOING_PER_DEVICE,
    "owed_receipts_per_device": outgoing.MAX_OWED,
}
