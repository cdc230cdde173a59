"""What travels: every message's type, and the one codec that encodes and decodes them."""
