"""The `local` platform: worker processes on the bridge's own machine."""
