"""Many finetuning jobs, and what they sum up to."""
