"""What every package needs and no package is about: tasks, processes, logs, waiting, validation."""
