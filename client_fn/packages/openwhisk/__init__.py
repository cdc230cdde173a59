"""The action of OpenWhisk, and the image that it runs in."""
