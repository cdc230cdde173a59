"""An emulator of Google Cloud Functions (2nd gen) and Pub/Sub."""
