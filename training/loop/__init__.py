"""The training loop: Trainer, optimisers, schedules, logs, checkpoints."""
