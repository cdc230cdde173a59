"""OpenWhisk: controller, invoker and action containers."""
