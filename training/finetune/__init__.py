"""One finetuning job."""
