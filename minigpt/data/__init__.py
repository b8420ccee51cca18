"""From text to verified token shards, and from shards to the windows of a step."""
