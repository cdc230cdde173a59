"""An emulator of OpenFaaS Community Edition."""
