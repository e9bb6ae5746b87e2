"""Features: from events to the primary table, and from there to a train and a test set."""
