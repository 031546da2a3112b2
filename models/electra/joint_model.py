"""ELECTRA pretraining: a masked-LM generator proposes tokens, a discriminator tells which of them are replaced.

Source: Clark et al. 2020, arXiv 2003.10555; google-research/electra. We differ in: logits at masked positions only,
any masked LM as generator and any encoder as discriminator, noise that is a function of the sample and the place.
Letters: B batch, T tokens, P masked positions of the fullest row, V vocab_size.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.generic import ModelOutput

from ..heads import IGNORED
from ..layers import widened
from ..post_norm import use_fast_layers
from ..stock import accept_our_inputs
from .config import ElectraJointConfig, ElectraOptions
from .generator_head import projected
from .token_sampling import Sampler, place_keys, sample_uniformly
from .vocabulary_loss import VocabularyLoss

REPLACED_TOKEN_HEADS = ("electra", "gau_alpha")  # families whose ForPreTraining scores every token


@dataclass
class ElectraJointOutput(ModelOutput):
    """What one batch gives; sums and counts are scalars on the device, of a term that is absent None.

    Attributes:
        loss: weighted sum of both mean losses, fp32.
        generator_loss: sum of cross entropies in nats over masked tokens, fp32.
        masked, generator_correct, sampled_correct: masked tokens, and those whose likeliest and whose sampled token
            is the original, int64.
        discriminator_loss: sum of binary cross entropies in nats over real tokens, fp32.
        logits: [B, T] of being replaced.
        replaced: [B, T] bool, where the discriminator's input differs from the original.
        scored: [B, T] bool, the real tokens.
        hidden, hidden_correct: masked tokens that the generator does not see, as they became [MASK] or another token,
            and those of them whose likeliest token is the original, int64.
    """

    loss: torch.Tensor | None = None
    generator_loss: torch.Tensor | None = None
    masked: torch.Tensor | None = None
    generator_correct: torch.Tensor | None = None
    sampled_correct: torch.Tensor | None = None
    discriminator_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    replaced: torch.Tensor | None = None
    scored: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    hidden_correct: torch.Tensor | None = None


def discriminator_loss(
    logits: torch.Tensor, replaced: torch.Tensor, scored: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Sum of binary cross entropies, in fp32 or wider, over the scored tokens of logits [B, T].

    replaced, scored: [B, T] bool. Smoothing is one-sided: original tokens have it as their target instead of 0.
    """
    logits = widened(logits)
    target = torch.where(replaced, 1.0, smoothing).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return losses.masked_fill(~scored, 0).sum()


@dataclass(frozen=True)
class MaskedTokens:
    """The masked tokens of a batch in one row of N.

    Attributes:
        labels: original tokens, -100 where an entry only fills a row of masked_positions.
        places: in the batch's B T tokens.
        keys: of their random numbers.
        is_hidden: bool, whether the input has another token there.
        chosen: entries of masked_positions' B P that the others hold; None for all of them.
        count: how many there are without the fills.
    """

    labels: torch.Tensor
    places: torch.Tensor
    keys: torch.Tensor
    is_hidden: torch.Tensor
    chosen: torch.Tensor | None
    count: torch.Tensor

    @classmethod
    def of(
        cls, input_ids: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor, seeds: torch.Tensor
    ) -> "MaskedTokens":
        """input_ids, labels [B, T], positions [B, P], seeds [B] int64; on a CPU, where it costs no waiting, without
        the fills. Not so when compiled, since a graph does not know how many they are."""
        wanted = labels.gather(1, positions).flatten()
        rows = torch.arange(0, labels.numel(), labels.shape[1], device=labels.device).unsqueeze(-1)
        is_hidden = (input_ids.gather(1, positions).flatten() != wanted) & (wanted != IGNORED)
        lists = (wanted, (positions + rows).flatten(), place_keys(seeds, positions).flatten(), is_hidden)
        chosen = None
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            chosen = (wanted != IGNORED).nonzero().squeeze(-1)
            lists = (entries.index_select(0, chosen) for entries in lists)
        return cls(*lists, chosen, (wanted != IGNORED).sum())


class ElectraForJointPreTraining(PreTrainedModel):
    """Generator and discriminator under one loss; parameters begin with `generator.` and `discriminator.`."""

    config_class = ElectraJointConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: ElectraJointConfig, generator=None, discriminator=None):
        super().__init__(config)
        self.options = ElectraOptions(**config.options)
        if generator is None and config.generator is not None:
            generator = AutoModelForMaskedLM.from_config(config.generator, trust_remote_code=False)
        if discriminator is None and config.discriminator is not None:
            auto_class = discriminator_class(config.discriminator)
            discriminator = auto_class.from_config(config.discriminator, trust_remote_code=False)
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            setattr(self, name, network if network is None else use_fast_layers(accept_our_inputs(network)))
            setattr(config, name, network if network is None else network.config)
        if self.options.initial_temperature is not None:  # a tensor, so that a compiled step takes what it is now
            self.register_buffer(
                "training_temperature", torch.tensor(self.options.initial_temperature), persistent=False
            )
        self._tied_weights_keys = self._shared_names()
        self.post_init()

    def _shared_names(self) -> dict[str, str]:
        """Parameters of the discriminator that are the generator's: the embeddings, or the whole encoder."""
        if self.generator is None or self.discriminator is None:
            return {}
        if self.options.untied_generator and self.options.untied_generator_embeddings:
            return {}
        start = "embeddings." if self.options.untied_generator else ""
        own, other = self.generator.base_model, self.discriminator.base_model
        shared = {name: parameter.shape for name, parameter in own.named_parameters() if name.startswith(start)}
        wanted = {name: parameter.shape for name, parameter in other.named_parameters() if name.startswith(start)}
        unlike = sorted(name for name in shared.keys() | wanted.keys() if shared.get(name) != wanted.get(name))
        if unlike:
            raise ValueError(
                f"generator and discriminator must have {start or 'encoder.'}* of the same names and shapes to share "
                f"them, got another {unlike[0]}; set untied_generator_embeddings"
            )
        prefixes = [f"{name}.{getattr(self, name).base_model_prefix}" for name in ("discriminator", "generator")]
        return {f"{prefixes[0]}.{name}": f"{prefixes[1]}.{name}" for name in wanted}

    def get_input_embeddings(self):
        return (self.generator or self.discriminator).get_input_embeddings()

    def get_output_embeddings(self):
        return None if self.generator is None else self.generator.get_output_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        masked_positions: torch.Tensor,
        noise_seed: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        real_tokens: torch.Tensor | None = None,
    ) -> ElectraJointOutput:
        """One pass through both networks; all arguments int64 unless said.

        input_ids [B, T]: masked; attention_mask [B, T], or [B, T, T] bool (query, key), or numbers of documents
        [B, 1, T]; labels [B, T]: the original token where one is masked, else -100; masked_positions [B, P]: places of
        the labels, filled with places that have none; noise_seed [B]: a number for each sample, drawn if absent;
        real_tokens [B, T]: what the discriminator is scored on, needed unless the mask is [B, T].
        """
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        if noise_seed is None:
            noise_seed = torch.randint(2**63 - 1, labels.shape[:1], device=labels.device)
        masked = MaskedTokens.of(input_ids, labels, masked_positions, noise_seed)
        output, terms = ElectraJointOutput(masked=masked.count), []
        if self.generator is None:
            sampled = sample_uniformly(masked.keys, self.config.discriminator.vocab_size)
        else:
            sampled = self._generate(output, input_ids, inputs, masked_positions, masked)
            terms.append((self.options.gen_weight, output.generator_loss, output.masked))
        if self.discriminator is not None:
            output.sampled_correct = (sampled == masked.labels).sum()
            output.scored = (attention_mask if real_tokens is None else real_tokens).bool()
            self._discriminate(output, torch.where(labels == IGNORED, input_ids, labels), inputs, masked, sampled)
            terms.append((self.options.disc_weight, output.discriminator_loss, output.scored.sum()))
        output.loss = sum(weight * total / count.clamp(min=1) for weight, total, count in terms)
        return output

    def _generate(self, output, input_ids, inputs, positions, masked: "MaskedTokens") -> torch.Tensor | None:
        """Fills in the generator's part of output; returns the sampled tokens [N], None without a discriminator."""
        hidden, matrix, bias = projected(self.generator, input_ids, positions, inputs)
        hidden = hidden.flatten(0, 1)
        if masked.chosen is not None:
            hidden = hidden.index_select(0, masked.chosen)
        options = self.options
        falls = self.training and options.initial_temperature is not None
        temperature = self.training_temperature if falls else options.temperature
        sampler = Sampler(options.sampling, temperature, options.disallow_correct)
        output.generator_loss, correct, sampled = VocabularyLoss.apply(
            hidden,
            matrix,
            bias,
            masked.labels,
            masked.keys,
            None if self.discriminator is None else sampler,
            options.gen_smooth_label,
            torch.is_grad_enabled(),
        )
        output.generator_correct = correct.sum()
        output.hidden, output.hidden_correct = masked.is_hidden.sum(), (correct & masked.is_hidden).sum()
        return sampled

    def _discriminate(self, output, original, inputs, masked: "MaskedTokens", sampled) -> None:
        """Fills in the discriminator's part of output; original [B, T] are the tokens before masking."""
        changes = (sampled - masked.labels).masked_fill(masked.labels == IGNORED, 0)
        changed = original.flatten().index_add(0, masked.places, changes).view_as(original)
        logits = self.discriminator(input_ids=changed, **inputs).logits
        output.logits = logits.squeeze(-1) if logits.dim() == 3 else logits
        output.replaced = changed != original
        scores = (output.logits, output.replaced, output.scored)
        output.discriminator_loss = discriminator_loss(*scores, self.options.disc_smooth_label)

    def export(self, folder: str, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Writes each network as a plain folder of its own, `generator/` and `discriminator/`.

        weights: the state dict of this model, where its own tensors are but a process's share of them.
        """
        for name, network in self.named_children():
            own, tied = None, network.all_tied_weights_keys
            if weights is not None:
                own = {key.removeprefix(f"{name}."): weights[key] for key in weights if key.startswith(f"{name}.")}
                own = {key: tensor for key, tensor in own.items() if key not in tied}
            network.save_pretrained(f"{folder}/{name}", state_dict=own)


def discriminator_class(config: PreTrainedConfig):
    """The Auto class that gives an encoder of this config one score a token."""
    if config.model_type in REPLACED_TOKEN_HEADS:
        return AutoModelForPreTraining
    config.num_labels = 1
    return AutoModelForTokenClassification


def make_joint_model(
    generator: PreTrainedModel | None, discriminator: PreTrainedModel | None, options: ElectraOptions
) -> ElectraForJointPreTraining:
    """Both networks, new or loaded, in one model that shares what the options say.

    generator: a masked LM, None with uniform_generator; discriminator: a model of one score a token, such as
    ElectraForPreTraining, None without electra_objective.

    Raises:
        ValueError: a network is missing or too many, vocabularies or shared parameters differ.
    """
    for name, model, wanted in (
        ("generator", generator, not options.uniform_generator),
        ("discriminator", discriminator, options.electra_objective),
    ):
        if (model is not None) != wanted:
            got = "one" if model is not None else "none"
            raise ValueError(f"{name} must be {'given' if wanted else 'absent'} with these options, got {got}")
    if generator is not None and discriminator is not None:
        sizes = generator.config.vocab_size, discriminator.config.vocab_size
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"generator and discriminator must have one vocabulary, got {sizes[0]} and {sizes[1]} entries; "
                "take networks of one tokenizer"
            )
    config = ElectraJointConfig(
        generator=None if generator is None else generator.config.to_dict(),
        discriminator=None if discriminator is None else discriminator.config.to_dict(),
        options=asdict(options),
    )
    return ElectraForJointPreTraining(config, generator, discriminator)


def new_joint_model(
    generator: PreTrainedConfig, discriminator: PreTrainedConfig, options: ElectraOptions
) -> ElectraForJointPreTraining:
    """A new model of these configs, initialised as the options say.

    With untied_generator off, and without electra_objective, the generator has the discriminator's config.
    """
    if not (options.untied_generator and options.electra_objective):
        generator = discriminator
    with_generator, with_discriminator = not options.uniform_generator, options.electra_objective
    plain, auto_class = {"trust_remote_code": False}, discriminator_class(discriminator)
    model = make_joint_model(
        AutoModelForMaskedLM.from_config(generator, **plain) if with_generator else None,
        auto_class.from_config(discriminator, **plain) if with_discriminator else None,
        options,
    )
    if options.init == "google":
        initialize_as_google(model)
    return model


def initialize_as_google(model: nn.Module) -> None:
    """Truncated normal matrices of deviation 0.02 before truncation, Glorot-uniform projections and output."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            if name.endswith(("embeddings_project", "dense_prediction")):
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
