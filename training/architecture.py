"""The model of a run: loaded to continue from, or new from its type, a config and changes to it."""

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from common.errors import UserError
from training.pretrained import ArgumentError, load_config, resolve_pretrained


def make_model(auto_class, model_args, tokenizer) -> torch.nn.Module:
    """The model to continue from, or a new one with an entry for each token, in fp32.

    auto_class: one of transformers' Auto classes; model_args: ModelArguments.

    Raises:
        ArgumentError: no such model, one too small for the tokenizer, or settings that give none.
    """
    if model_args.model_name_or_path:
        flag, name = "--model_name_or_path", model_args.model_name_or_path
        return load_model(auto_class, load_config(name, flag), name, flag, tokenizer)
    config = make_config(model_args, tokenizer)
    try:
        return auto_class.from_config(config)
    except ValueError as error:
        raise ArgumentError(
            f"--config_overrides and --config_name must give a model that can be built: {error}"
        ) from error


def load_model(auto_class, config, name: str, flag: str, tokenizer) -> torch.nn.Module:
    """The model of a folder or hub name, typed after `flag`, in fp32.

    Raises:
        ArgumentError: it lacks some of the tokens, or tensors, which transformers would fill at random.
    """
    check_vocabulary(config, name, flag, tokenizer)
    folder = resolve_pretrained(name, flag)
    model, info = auto_class.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"]:
        raise ArgumentError(
            f"{flag} {name} must hold all tensors of {type(model).__name__}, got one without "
            f"{min(info['missing_keys'])}; name a folder of that kind"
        )
    return model


def check_vocabulary(config, name: str, flag: str, tokenizer) -> None:
    """ArgumentError for a tokenizer of more entries than the model."""
    if config.vocab_size < len(tokenizer):
        raise ArgumentError(
            f"{flag} {name} must have an entry for each of the {len(tokenizer)} tokens of --tokenizer_name, "
            f"got {config.vocab_size}; name the tokenizer it was trained with"
        )


def make_config(model_args, tokenizer):
    """Config of a new model from --config_name or --model_type, --config_overrides and the tokenizer."""
    if model_args.config_name:
        config = load_config(model_args.config_name, "--config_name")
    elif model_args.model_type in CONFIG_MAPPING:
        config = AutoConfig.for_model(model_args.model_type)
    else:
        raise ArgumentError(f"--model_type {model_args.model_type} must be one that transformers or models/ knows")
    return finish_config(config, model_args.config_overrides, "--config_overrides", tokenizer)


def finish_config(config, overrides: str | None, flag: str, tokenizer):
    """A new model's config with the tokenizer's entries and `overrides`, key=value,key=value as typed after `flag`."""
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    if hasattr(config, "linear_divisor"):
        config.linear_divisor = "valid"  # padding changes nothing then; published weights alone need another
    try:
        if overrides:
            names = {pair.partition("=")[0] for pair in overrides.split(",")}
            config.update_from_string(overrides)
            follows = getattr(type(config), "intermediate_size", 0) is None  # by default, from hidden_size
            if follows and "hidden_size" in names and "intermediate_size" not in names:
                config.intermediate_size = None
        heads = getattr(config, "num_attention_heads", 1)
        if not hasattr(config, "head_dim") and config.hidden_size % heads:
            raise UserError(
                f"hidden_size must be a multiple of num_attention_heads, got {config.hidden_size}, {heads}"
            )
        return type(config).from_dict(config.to_dict())  # checks the fields once more
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{flag} {overrides}: {error}; see {type(config).__name__}") from error


def check_length(most: int | None, longest: int) -> None:
    """ArgumentError when the longest row has more tokens than the model has positions for; None is any number."""
    if most is not None and longest > most:
        raise ArgumentError(
            f"--max_seq_length must be at most {most}, the tokens that the model has positions for, got rows of "
            f"{longest}; prepare shorter ones or raise max_position_embeddings in --config_overrides"
        )


def set_unigram_bias(model, counts) -> None:
    """Set a masked LM's output bias to the log frequency of each token, so that training need not learn it first.

    counts: int64 array [V], how often each id occurs.
    """
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is None:
        raise ArgumentError(
            f"--unigram_bias needs a head with an output bias, and {type(model).__name__} has none; leave it out"
        )
    counts = torch.from_numpy(counts).float() + 1
    with torch.no_grad():
        bias[: len(counts)].copy_(torch.log(counts / counts.sum()))
