"""An emulator of Apache OpenWhisk."""
