"""The source archive of Google Cloud Functions."""
