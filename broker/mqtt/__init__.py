"""The broker on MQTT: retained messages, and claims that settle who has what."""
