"""Renames the tensors of a checkpoint by a table, both ways, and refuses what the table or the model does not know.

A name that the table does not map, a tensor that the model lacks or has in another shape, a table that differs from
what the model computes, second copies of a tied tensor that differ: each is an error, never a warning.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig

from common.errors import UserError, library_errors

from ..base import AUTO_CLASSES

State = dict[str, torch.Tensor]


class CheckpointError(UserError):
    """A checkpoint that does not fit its table or its config."""


@dataclass(frozen=True)
class Source:
    """Names of one foreign code base; `{i}` stands for a layer's number."""

    name: str  # value of --source
    model_type: str
    renames: tuple[tuple[str, str], ...]  # (beginning of their name, beginning of ours); the first that fits counts
    ties: tuple[tuple[str, str], ...] = ()  # (their second copy, their tensor)
    tables: dict[str, Callable[[PreTrainedConfig], torch.Tensor]] = field(default_factory=dict)  # we compute these
    unused: dict[str, Callable[[PreTrainedConfig], torch.Tensor]] = field(default_factory=dict)  # kept if there
    config_of: Callable[[State], dict] | None = None  # for sources without a config.json


def _pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name).replace(r"\{i\}", r"(\d+)"))


def _rename(name: str, renames: tuple[tuple[str, str], ...]) -> str | None:
    for old, new in renames:
        if match := _pattern(old).match(name):
            return new.replace("{i}", match[1] if match.groups() else "") + name[match.end() :]
    return None


def _expand(name: str, config: PreTrainedConfig) -> list[str]:
    return [name.replace("{i}", str(i)) for i in range(config.num_hidden_layers)] if "{i}" in name else [name]


def _fail(source: Source, problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(
            f"the checkpoint must hold exactly the tensors of {source.name}, got: {shown}; "
            "check --source and the config"
        )


def _model_class(config: PreTrainedConfig) -> str:
    """What follows the family's name in the class that config.architectures names; a masked LM when it names none."""
    architecture = (config.architectures or ["ForMaskedLM"])[0]
    return next((ending for ending in AUTO_CLASSES.values() if architecture.endswith(ending)), "ForMaskedLM")


def expected_shapes(config: PreTrainedConfig) -> dict[str, torch.Size]:
    """Shape of every tensor that our model class saves; tied ones appear once."""
    auto = next(auto for auto, ending in AUTO_CLASSES.items() if ending == _model_class(config))
    meta, expected = torch.device("meta"), "config.json and --config must give a model"
    with library_errors(CheckpointError, expected, "correct them"), meta:
        model = getattr(transformers, auto).from_config(config, trust_remote_code=False)
    prefix = f"{model.base_model_prefix}." if model.base_model is model else ""
    ties = model.get_expanded_tied_weights_keys(all_submodels=True)
    return {prefix + name: tensor.shape for name, tensor in model.state_dict().items() if name not in ties}


def _check(source: Source, state: State, config: PreTrainedConfig) -> None:
    expected = expected_shapes(config)
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} for {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    _fail(source, problems)


def make_config(fields: dict) -> PreTrainedConfig:
    """The config object of config.json's fields."""
    fields = {name: value for name, value in fields.items() if name != "auto_map"}
    kind = fields.pop("model_type", None)
    with library_errors(CheckpointError, "config.json and --config must give a config", "correct them"):
        if not isinstance(kind, str):
            raise ValueError(f"model_type {kind!r}")
        names = fields.get("architectures") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"architectures {names!r}")
        return AutoConfig.for_model(kind, **fields)


def to_ours(source: Source, state: State, config: PreTrainedConfig) -> State:
    """Their state dict -> ours; tensors are passed on, not copied. Raises CheckpointError."""
    state, problems, result = dict(state), [], {}
    for copy, tensor in source.ties if config.tie_word_embeddings else ():
        if copy in state and tensor in state and not same(state.pop(copy), state[tensor]):
            problems.append(f"{copy} differs from {tensor}, to which it is tied")
    tables = {
        name: (state.pop(name), compute)
        for template, compute in source.tables.items()
        for name in _expand(template, config)
        if name in state
    }
    unused = {name: state.pop(name) for t in source.unused for name in _expand(t, config) if name in state}
    for name, tensor in state.items():
        renamed = _rename(name, source.renames)
        if renamed is None:
            problems.append(f"{name} is not in the table")
        else:
            result[renamed] = tensor
    _fail(source, problems)
    _check(source, result, config)  # so that the sizes of tables, too, are those of tensors
    for name, (stored, compute) in tables.items():
        table = compute(config).double()
        if stored.shape != table.shape or not torch.allclose(stored.double(), table, atol=1e-4):
            problems.append(f"{name} differs from the table that the model computes")
    _fail(source, problems)
    return result | unused


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors have the same type, shape and values."""
    return left.dtype == right.dtype and torch.equal(left, right)


def to_theirs(source: Source, state: State, config: PreTrainedConfig) -> State:
    """Our state dict -> theirs, tables and second copies (of the same storage) included. Raises CheckpointError."""
    state, problems, result = dict(state), [], {}
    unused = {name: state.pop(name, None) for template in source.unused for name in _expand(template, config)}
    _check(source, state, config)
    for name, tensor in state.items():
        renamed = _rename(name, tuple((ours, theirs) for theirs, ours in source.renames))
        if renamed is None:
            problems.append(f"{name} is not in the table")
        else:
            result[renamed] = tensor
    _fail(source, problems)
    if config.tie_word_embeddings and _model_class(config) == "ForMaskedLM":
        result |= {copy: result[tensor] for copy, tensor in source.ties}
    for template, compute in source.tables.items():
        table = compute(config)
        result |= dict.fromkeys(_expand(template, config), table)
    for template, compute in source.unused.items():
        for name in _expand(template, config):
            result[name] = compute(config) if unused[name] is None else unused[name]
    return result
