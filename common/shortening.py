"""Flags of run_glue.py after which a run is not the whole of its task: no submission comes of it, and no summary."""

SHORTENING = ("max_train_samples", "max_eval_samples", "max_predict_samples", "overfit", "dry_run")
