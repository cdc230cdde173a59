"""What an instance of the function is made of: settings, connection, executor, warm state."""
