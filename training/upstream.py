"""What of transformers' Trainer ours stands on.

Some of it would be missed in silence: a method of ours that no one calls any more switches a guarantee off.
"""

import transformers

from common.errors import UserError

SUPPORTED = "transformers>=5.23,<5.25"  # as in requirements.txt
OVERRIDDEN = (
    "_get_grad_norm",
    "_issue_warnings_after_load",
    "_load_rng_state",
    "_save",
    "_save_checkpoint",
    "compute_loss",
    "create_optimizer",
    "create_scheduler",
    "evaluate",
    "get_batch_samples",
    "get_decay_parameter_names",
    "get_train_dataloader",
    "init_hf_repo",
    "log",
    "loss_is_scaled_for_ga",
    "push_to_hub",
    "save_model",
    "train",
    "training_step",
)
CALLED = ("_save_optimizer_and_scheduler", "_save_rng_state", "_save_scaler", "compute_loss_context_manager")


def check_upstream() -> None:
    """UserError where the installed transformers lacks something that the Trainer overrides or calls."""
    gone = [name for name in (*OVERRIDDEN, *CALLED) if not hasattr(transformers.Trainer, name)]
    if gone:
        raise UserError(
            f"the Trainer of transformers {transformers.__version__} must have {', '.join(gone)}, on which exact "
            f"training rests, and has not; install {SUPPORTED} (requirements.txt)"
        )
