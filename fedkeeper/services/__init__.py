"""What runs the parts of a system: broker, FL server, bridges, relay; each reports to systemd and is restarted."""
