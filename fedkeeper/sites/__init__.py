"""The sites of a system: what their bridges say, and the clients and data that lie there."""
