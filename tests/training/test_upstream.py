"""The Trainer starts only on a transformers that has all it overrides and calls."""

import re
from pathlib import Path

import pytest
import transformers

from common.errors import UserError
from training import upstream
from training.loop.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


def test_the_trainers_list_of_overrides_is_complete():
    bases = [vars(one) for one in Trainer.__mro__ if one.__module__.startswith("training.")]
    ours = {name for base in bases for name in base if not name.startswith("__")}
    assert sorted(name for name in ours if hasattr(transformers.Trainer, name)) == sorted(upstream.OVERRIDDEN)
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(upstream.SUPPORTED)} ", requirements, re.MULTILINE)


@pytest.mark.parametrize("name", ["_issue_warnings_after_load", "_save_scaler", "loss_is_scaled_for_ga"])
def test_the_trainer_refuses_to_start_without_what_it_overrides(name, monkeypatch):
    monkeypatch.delattr(transformers.Trainer, name)
    message = rf"transformers {re.escape(transformers.__version__)} must have {name}.* install transformers>="
    with pytest.raises(UserError, match=message):
        Trainer(objective=None, args=None)
