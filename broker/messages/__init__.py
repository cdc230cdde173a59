"""The types of all messages, and the codec that encodes and decodes them."""
