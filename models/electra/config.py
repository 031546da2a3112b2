"""What an ELECTRA pretraining run may choose: the options of both networks and the published sizes.

Source: Clark et al. 2020, arXiv 2003.10555; google-research/electra and its form in richarddwang/electra_pytorch.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar

from transformers import AutoConfig, ElectraConfig, PreTrainedConfig

from ..base import nested_config
from .token_sampling import SAMPLERS

# size: embedding, hidden, layers, heads, feed-forward, what the generator's width is divided by
SIZES = {
    "small": (128, 256, 12, 4, 1024, 4),
    "base": (768, 768, 12, 12, 3072, 3),
    "large": (1024, 1024, 24, 16, 4096, 4),
}
INITS = ("hf", "google")


@dataclass(frozen=True)
class ElectraOptions:
    """What is trained and how tokens are sampled; defaults are google-research/electra's.

    Attributes:
        electra_objective: train the discriminator; else the generator alone, which is plain masked LM.
        uniform_generator: sample replacements uniformly from the vocabulary, without a generator.
        untied_generator: the generator is a network of its own; else it is the discriminator's with another head.
        untied_generator_embeddings: the generator has embeddings of its own.
        sampling: fp32_gumbel, fp16_gumbel (logits rounded to half precision) or multinomial.
        temperature: of the softmax that is sampled from.
        initial_temperature: the same at the beginning of a training, which lowers it; None for no other.
        disallow_correct: never sample the original token.
        gen_weight, disc_weight: of the two losses.
        gen_smooth_label: label smoothing of the generator's cross entropy, in [0, 1); True is 0.1.
        disc_smooth_label: target of original tokens instead of 0, in [0, 1); True is 0.1.
        init: of a new model: hf (normal) or google (truncated normal; Glorot for projections).

    Raises:
        ValueError: names the option.
    """

    electra_objective: bool = True
    uniform_generator: bool = False
    untied_generator: bool = True
    untied_generator_embeddings: bool = False
    sampling: str = "fp32_gumbel"
    temperature: float = 1.0
    initial_temperature: float | None = None
    disallow_correct: bool = False
    gen_weight: float = 1.0
    disc_weight: float = 50.0
    gen_smooth_label: float | bool = 0.0
    disc_smooth_label: float | bool = 0.0
    init: str = "hf"

    def __post_init__(self):
        for name in ("gen_smooth_label", "disc_smooth_label"):
            value = getattr(self, name)
            object.__setattr__(self, name, 0.1 if value is True else float(value))
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}; 0 switches it off")
        for name, choices in (("sampling", SAMPLERS), ("init", INITS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}; correct it"
                )
        for name in ("temperature", "initial_temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}; 1 samples from the softmax itself")
        for name in ("gen_weight", "disc_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}; 0 switches the loss off")
        if self.uniform_generator and not (self.electra_objective and self.untied_generator):
            raise ValueError("uniform_generator must stand without other generator options, got both; leave one out")
        if self.initial_temperature is not None and (self.uniform_generator or not self.electra_objective):
            raise ValueError(
                "initial_temperature needs a generator and a discriminator, got one of them; leave it out"
            )


def electra_configs(size: str, vocab_size: int, pad_token_id: int = 0) -> tuple[ElectraConfig, ElectraConfig]:
    """Configs of the generator and the discriminator of a published size: small, base or large."""
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}; correct it")
    embedding, hidden, layers, heads, feed_forward, divisor = SIZES[size]
    discriminator = ElectraConfig(
        vocab_size=vocab_size,
        pad_token_id=pad_token_id,
        embedding_size=embedding,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
    )
    return generator_config(discriminator, divisor), discriminator


def generator_config(discriminator: PreTrainedConfig, divisor: int) -> PreTrainedConfig:
    """A smaller config whose embeddings can be the discriminator's.

    A family with a projection after its embeddings (ELECTRA) is divisor times narrower, any other that much shallower.
    """
    fields = discriminator.to_dict()
    for name in ("model_type", "architectures", "_name_or_path"):
        fields.pop(name, None)
    if isinstance(discriminator, ElectraConfig):
        for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
            fields[name] = max(1, fields[name] // divisor)
    else:
        layers = fields["num_hidden_layers"]
        fields["num_hidden_layers"] = max(1, layers // divisor)
        for name, value in fields.items():  # what a layer is, one by one
            if isinstance(value, list) and len(value) == layers:
                fields[name] = value[: fields["num_hidden_layers"]]
    return type(discriminator)(**fields)


class ElectraJointConfig(PreTrainedConfig):
    """Configs of both networks, either of which may be absent, and the options as a dictionary."""

    model_type = "electra_joint"
    sub_configs: ClassVar = {"generator": AutoConfig, "discriminator": AutoConfig}

    generator: PreTrainedConfig | dict | None = None
    discriminator: PreTrainedConfig | dict | None = None
    options: dict | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        for name in ("generator", "discriminator"):
            if isinstance(getattr(self, name), dict):
                setattr(self, name, nested_config(name, getattr(self, name)))
        self.options = asdict(ElectraOptions(**self.options or {}))
        super().__post_init__(**kwargs)
