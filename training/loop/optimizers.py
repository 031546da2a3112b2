"""Optimisers that torch lacks, and learning rates by layer.

Without bias correction: google-research/electra's optimization.py, theta -= lr * (m / (sqrt(v) + eps) + wd * theta).
Muon: Jordan et al. 2024 (torch.optim.Muon). Matrices are the weights of nn.Linear modules inside the encoder and
head; embeddings, the output projection, vectors and tables stay with AdamW.
Rates by layer, the smaller the nearer to the input: Clark et al. 2020 and google-research/electra. With n layers,
embeddings have depth 0, layer k depth k and the head depth n + offset; the rate is multiplied by
decay ** (n + offset - depth). Offset 1 is the paper's text, offset 2 the original code, where the depth of a pooler
that is no longer there was left free (its issue 51).
"""

import math

import torch
from torch import nn

from common.errors import ArgumentError


class AdamWithoutBiasCorrection(torch.optim.AdamW):
    """torch's fused AdamW with its step count at infinity, where both corrections are exactly 1."""

    def __init__(self, params, lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)

    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.full((), torch.inf, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        super().step()
        return loss


def own_adam(args) -> tuple[type, dict] | None:
    """Class and options of the Adam that --adam_bias_correction false asks for; None leaves the choice to --optim."""
    if args.adam_bias_correction:
        return None
    betas = (args.adam_beta1, args.adam_beta2)
    return AdamWithoutBiasCorrection, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}


def raise_first_scale(scaler: torch.amp.GradScaler | None, objective, rows: int) -> None:
    """Let fp16's loss scale begin higher the more tokens a step has; rows: of a step.

    The loss is a mean over them, and the gradients that flow through the network shrink as they grow in number: at
    80,000 labelled tokens of 524,288 those of queries and keys are off by up to 15 % under torch's 2^16, 0.4 % under
    2^22. A scale that is too high is halved in the first steps, which change nothing then. Nothing happens without a
    scaler.
    """
    if scaler is None or not rows:
        return
    tokens = rows * max(map(float, objective.counts(objective.example(objective.example_lengths[-1])).values()))
    scale = 2.0 ** min(max(math.floor(math.log2(8 * tokens)), 16), 24)
    scaler.load_state_dict(scaler.state_dict() | {"scale": scale})


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimiser over two kinds of parameter groups, AdamW's first.

    Args:
        adamw_groups, muon_groups: parameter groups with their own lr and weight_decay.
        betas, eps: of AdamW.

    Like fused AdamW it takes two numbers on the device, which nobody waits for and fp16's scaler sets as attributes
    for the time of a step: found_inf, whether it must change nothing, and grad_scale, what divides its gradients.
    """

    _step_supports_amp_scaling = True  # torch's mark of such an optimiser

    def __init__(self, adamw_groups: list[dict], muon_groups: list[dict], betas=(0.9, 0.999), eps=1e-8):
        self._adamw = torch.optim.AdamW(adamw_groups, betas=betas, eps=eps, fused=True)
        self._muon = torch.optim.Muon(muon_groups)
        super().__init__([*self._adamw.param_groups, *self._muon.param_groups], {})
        self._share()

    def _share(self):
        """Let both parts work on this optimiser's groups and state, which schedulers and checkpoints see."""
        count = len(self._adamw.param_groups)
        self._adamw.param_groups, self._muon.param_groups = self.param_groups[:count], self.param_groups[count:]
        self._adamw.state = self._muon.state = self.state

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        self._adamw.found_inf, self._adamw.grad_scale = found_inf, scale
        self._adamw.step()
        if found_inf is None:
            self._muon.step()
        else:
            self._step_if_finite(found_inf.bool(), scale)
        return loss

    def _step_if_finite(self, found_inf: torch.Tensor, scale: torch.Tensor | None) -> None:
        """Muon's step, which leaves matrices and momentum bit for bit as they are where found_inf is true."""
        groups = self._muon.param_groups
        matrices = [matrix for group in groups for matrix in group["params"] if matrix.grad is not None]
        for matrix in matrices:
            gradient = matrix.grad if scale is None else matrix.grad / scale
            momentum = self.state[matrix].get("momentum_buffer", torch.zeros_like(matrix))
            matrix.grad = torch.where(found_inf, momentum, gradient)  # the momentum's own mean with itself
        before = [matrix.clone() for matrix in matrices]
        self._muon.step()
        for matrix, old in zip(matrices, before, strict=True):
            matrix.copy_(torch.where(found_inf, old, matrix))


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weights that Muon trains: those of nn.Linear modules except the output projection."""
    output = model.get_output_embeddings()
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if output is not None:
        shared.add(id(output.weight))
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) not in shared
    }


def make_muon(model: nn.Module, decayed: list[str], args) -> MuonWithAdamW:
    """Optimiser for --optimizer muon.

    decayed: names of the parameters with weight decay; args: learning_rate, muon_learning_rate, weight_decay,
    adam_beta1, adam_beta2, adam_epsilon.
    """
    matrices = hidden_matrices(model)
    groups = {key: [] for key in ("decayed", "plain", "muon")}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = "muon" if name in matrices else "decayed" if name in decayed else "plain"
            groups[key].append(parameter)
    return MuonWithAdamW(
        [
            {"params": groups["decayed"], "lr": args.learning_rate, "weight_decay": args.weight_decay},
            {"params": groups["plain"], "lr": args.learning_rate, "weight_decay": 0.0},
        ],
        [{"params": groups["muon"], "lr": args.muon_learning_rate, "weight_decay": args.weight_decay}],
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
    )


def layer_factors(model: nn.Module, decay: float, offset: int) -> dict[str, float]:
    """What the learning rate of each parameter of a transformers model is multiplied with, by the parameter's name.

    A pooler has depth n + 1, a norm behind the layers depth n; what layers share (relative positions) counts as
    embeddings. Encoders that use one layer's parameters n times (ALBERT) have one layer.

    Raises:
        ArgumentError: the encoder has no numbered layers.
    """
    encoder = model.base_model
    prefix = "" if encoder is model else f"{model.base_model_prefix}."
    layers = _layer_list(encoder)
    if layers is None:
        raise ArgumentError(
            f"layer-wise decay needs an encoder with numbered layers, and {type(encoder).__name__} has none; leave "
            "--layer_decay out"
        )
    start, count = f"{layers}.", len(encoder.get_submodule(layers))

    def depth(name: str) -> int:
        if not name.startswith(prefix):
            return count + offset
        name = name.removeprefix(prefix)
        if name.startswith(start):
            return 1 + int(name.removeprefix(start).split(".")[0])
        if "pooler" in name:
            return count + 1
        return count if "norm" in name.lower() and "embed" not in name else 0

    return {name: decay ** (count + offset - depth(name)) for name, _ in model.named_parameters()}


def factors_of_part(model: nn.Module, part: nn.Module, decay: float, offset: int) -> dict[str, float]:
    """layer_factors of one network of a joint model, by the names that its parameters have there.

    What it shares with another network (ELECTRA's embeddings) has its factor; all else of the others has none.
    """
    own = layer_factors(part, decay, offset)
    factors = {id(parameter): own[name] for name, parameter in part.named_parameters()}
    return {name: factors[id(tensor)] for name, tensor in model.named_parameters() if id(tensor) in factors}


def _layer_list(encoder: nn.Module) -> str | None:
    """Name of the longest list of modules that is in no other such list."""
    lists = {name: len(module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return max(outer, key=lists.get, default=None)


def split_by_rate(groups: list[dict], names: dict[int, str], factors: dict[str, float]) -> list[dict]:
    """An optimiser's parameter groups, each split into groups of one learning rate; the highest rate first.

    names: of the parameters by id(parameter); factors: of a group's rate by name, 1 where there is none.
    """
    split = {}
    for number, group in enumerate(groups):
        for parameter in group["params"]:
            rate = group["lr"] * factors.get(names[id(parameter)], 1.0)
            split.setdefault((-rate, number), group | {"params": [], "lr": rate})["params"].append(parameter)
    return [split[key] for key in sorted(split)]
