"""Cloud Functions behind Pub/Sub."""
