"""Sources that come with the agent; others are found through the entry points group `vitalseal.sources`."""
