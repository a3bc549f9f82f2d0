"""One module per Kafka API: its versions, its messages, and what it makes the node do."""
