"""What every training script shares: arguments, start and finish of a run, the Trainer, the optimisers."""
