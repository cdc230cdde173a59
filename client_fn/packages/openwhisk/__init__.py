"""The OpenWhisk action, and the image that it runs in."""
