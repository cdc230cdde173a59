"""The broker on MQTT: everything is a retained message, and claims decide who may write or process it."""
