"""FLASHTransformer of lucidrains/FLASH-pytorch 0.1.9, a state dict without a config."""

from .engine import CheckpointError, Source, same
from .flash import inverse_frequencies, rotary_frequencies


def config_of(state: dict) -> dict:
    """Config fields that the tensors' names and shapes give, and FLASHTransformer's defaults of those they do not."""
    for name in ("token_emb.weight", "to_logits.1.weight", "layers.0.to_qk.0.weight", "layers.0.to_out.weight"):
        if name not in state or state[name].dim() != 2 or 0 in state[name].shape:
            raise CheckpointError(f"the checkpoint must hold a matrix {name}, got none; check --source")
    vocab_size, hidden_size = state["token_emb.weight"].shape
    return {
        "model_type": "flash",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": sum(name.endswith(".to_out.weight") for name in state),
        "query_key_dim": state["layers.0.to_qk.0.weight"].shape[0],
        "expansion_factor": state["layers.0.to_out.weight"].shape[1] / hidden_size,
        "norm_type": "scalenorm" if "layers.0.norm.g" in state else "layernorm",
        "tie_word_embeddings": same(state["to_logits.1.weight"], state["token_emb.weight"]),
        "group_size": 256,
        "shift_tokens": True,
        "pad_token_id": None,
    }


LUCIDRAINS_FLASH = Source(
    name="lucidrains_flash",
    model_type="flash",
    renames=(
        ("token_emb.", "flash.embeddings.word_embeddings."),
        ("abs_pos_emb.scale", "flash.embeddings.scale"),
        ("layers.{i}.qk_offset_scale.gamma", "flash.encoder.layers.{i}.qk_offset_scale.weight"),
        ("layers.{i}.qk_offset_scale.beta", "flash.encoder.layers.{i}.qk_offset_scale.bias"),
        ("layers.{i}.", "flash.encoder.layers.{i}."),
        ("to_logits.0.", "cls.predictions.LayerNorm."),
        ("to_logits.1.", "cls.predictions.decoder."),
    ),
    ties=(("to_logits.1.weight", "token_emb.weight"),),
    tables={
        "abs_pos_emb.inv_freq": lambda config: inverse_frequencies(config.hidden_size),
        "layers.{i}.rotary_pos_emb.freqs": rotary_frequencies,
    },
    config_of=config_of,
)
