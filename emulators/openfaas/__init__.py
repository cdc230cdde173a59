"""OpenFaaS CE: gateway, provider, watchdog and template."""
