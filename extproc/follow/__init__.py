"""What is made of the journal while it grows: telemetry. One process, beside the data path and never on it."""
