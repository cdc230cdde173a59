"""The parts of an instance of the function: settings, connection, executor, reports."""
