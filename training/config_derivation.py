"""What follows from changes of a model's config, and what cannot be built or run with them, told before a run."""

import inspect
import json
import logging
import re
from contextlib import contextmanager, suppress
from typing import get_args

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging as transformers_logging

from common.errors import ArgumentError, UserError, describe_fault
from training.objectives.base import trying

logger = logging.getLogger(__name__)

_SIZE = re.compile(r"(^|_)(n|num|heads?|dim|size|rank|groups?|experts|types|width|proj|d)(_|$)")


def with_changes(config, changes: dict):
    """A config of the same class with other values; what its class derives from them follows, unless it is given.

    A field that comes out the same when it is left out (layer_types, head_dim, intermediate_size of some) was derived.
    Key-value heads that no longer divide the heads keep their ratio to them, which is logged.
    """
    kind = type(config)
    names = {kind.attribute_map.get(name, name): value for name, value in changes.items()}
    stated = {name: value for name, value in _stated(config).items() if name not in names}
    derived = kind.from_dict(stated | names)
    heads, groups = (whole_number(derived, name) for name in ("num_attention_heads", "num_key_value_heads"))
    before = whole_number(config, "num_attention_heads")
    if not before or not groups or heads % groups == 0 or heads * groups % before or "num_key_value_heads" in names:
        return derived
    logger.info("num_key_value_heads: %d for %d heads, as %d for %d", heads * groups // before, heads, groups, before)
    return kind.from_dict(stated | names | {"num_key_value_heads": heads * groups // before})


def whole_number(config, name: str) -> int:
    """A field that is a whole number; 0 where it is none or differs from layer to layer."""
    with suppress(Exception):
        return value if type(value := getattr(config, name)) is int else 0
    return 0


def _stated(config) -> dict:
    """The fields of a config without which its class would make another one."""
    kind, fields, level = type(config), config.to_dict(), transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)  # what it says of each try
    try:
        default = {}
        with suppress(Exception):  # a class that has no defaults
            default = kind().to_dict()
        stated = {name: value for name, value in fields.items() if name not in default or default[name] != value}
        for name in list(stated):
            without = {other: value for other, value in stated.items() if other != name}
            with suppress(Exception):  # it cannot be left out
                stated = without if kind.from_dict(without).to_dict() == fields else stated
    finally:
        transformers_logging.set_verbosity(level)
    return stated


def _split(overrides: str) -> list[str]:
    """key=value of each override; commas within brackets belong to the value."""
    return [part for part in re.split(r",(?![^\[]*\])", overrides) if part]


def _takes_fractions(config, name: str) -> bool:
    """Whether a field that holds a whole number is declared to take others, too."""
    declared = (inspect.get_annotations(kind).get(name) for kind in type(config).__mro__)
    return float in get_args(next((annotation for annotation in declared if annotation is not None), None))


def parse_overrides(config, overrides: str) -> dict:
    """{name: value} of key=value,key=value, in the type of the field; JSON for lists. ValueError naming the key."""
    changes = {}
    for part in _split(overrides):
        name, equals, text = part.partition("=")
        if not equals or not hasattr(config, name):
            raise ValueError(
                f"key {name} isn't in the original config dict" if equals else f"{part} must be key=value"
            )
        old = getattr(config, name)
        try:
            if isinstance(old, str):
                changes[name] = text
            elif isinstance(old, bool):
                changes[name] = {"true": True, "1": True, "y": True, "yes": True}.get(text.lower(), False)
                if not changes[name] and text.lower() not in ("false", "0", "n", "no"):
                    raise ValueError("neither true nor false")
            elif isinstance(old, float) or (_takes_fractions(config, name) and not text.lstrip("-").isdigit()):
                changes[name] = float(text)
            elif isinstance(old, int):
                changes[name] = int(text)
            else:
                changes[name] = json.loads(text)
        except ValueError:
            raise ValueError(f"key {name} must be like {old!r}, got {text!r}") from None
    return changes


@contextmanager
def told(config, overrides: str | None):
    """Whatever building or trying a model raises, each family in its own way, becomes an ArgumentError of one line.

    overrides: of a new model's config, "" for none; None for a model that was loaded.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if describe_fault(error):  # of files or memory, whatever the config
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if overrides is None:
            raise ArgumentError(f"--model_name_or_path must give a model that can run, got {reason}") from error
        raise ArgumentError(
            f"--config_overrides {overrides} must give a {config.model_type} model that can be built and run, got "
            f"{reason}; give the fields too that have to follow, among {', '.join(_kept_sizes(config, overrides))}"
        ) from error


def _kept_sizes(config, overrides: str) -> list[str]:
    """field=value of sizes that are not among the overrides; first those without one, and unfit key-value heads."""
    named = {pair.partition("=")[0] for pair in _split(overrides)}
    sizes = {
        name: value
        for name, value in config.to_dict().items()
        if name not in named and _SIZE.search(name) and "token" not in name
        if value is None or (type(value) is int and value > 1)
    }
    heads = whole_number(config, "num_attention_heads")
    first = [name for name, value in sizes.items() if value is None]
    first += ["num_key_value_heads"] if heads % (sizes.get("num_key_value_heads") or 1) else []
    names = [*first, *(name for name in sizes if name not in first)]
    return [f"{name}={json.dumps(sizes[name])}" for name in names[:12]]


def check_first_pass(model: torch.nn.Module, objective, overrides: str | None) -> None:
    """ArgumentError when the model cannot compute the objective of one short row, before anything is written.

    Models of this repository are known to; under ZeRO stage 3 no process has the weights.
    """
    if is_deepspeed_zero3_enabled() or all(hasattr(part, "takes_pair_masks") for part in _networks(model)):
        return
    for part in _networks(model):
        if part.config.is_encoder_decoder:
            raise ArgumentError(
                f"--model_type must be that of an encoder, got {part.config.model_type}, which would read its "
                "own labels in its decoder; take another one"
            )
    with trying(model), told(_networks(model)[-1].config, overrides):
        objective(model, objective.example(min(16, *objective.example_lengths)))


def _networks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The model, or the two of a joint one."""
    parts = [getattr(model, name, None) for name in ("generator", "discriminator")]
    return [part for part in parts if isinstance(part, torch.nn.Module)] or [model]
