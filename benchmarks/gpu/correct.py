"""What must be right on a device: a CPU's numbers, whole steps in half precision, and steps that wait for nothing.

Gradients are compared as one vector, and each parameter's alone; both as shares of the CPU's in fp32.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.gpu import subjects
from benchmarks.gpu.steps import DTYPES, Training
from benchmarks.gpu.subjects import NO_DROPOUT, Subject
from benchmarks.gpu.table import Case, Check, Wrong, bounded
from benchmarks.gpu.waits import WaitsSeen, unknown

SCALE = 2.0**16  # GradScaler's first
# A joint model draws tokens from its logits, which may give another one where two are alike within rounding.
BOUNDS = {"loss_error": 1e-3, "grad_error": 1e-3, "worst_error": 2e-2, "bf16_grad_error": 0.1, "fp16_grad_error": 0.02}
JOINT_BOUNDS = dict.fromkeys(("loss_error", "grad_error"), 0.05) | {"bf16_grad_error": 1.0, "fp16_grad_error": 1.0}
FLOOR = 1e-4  # of a parameter's gradient, as a share of all: that of a key's bias is nothing but rounding
RECIPE_TOKENS = 79_000  # labelled, of a step of scripts/pretrain_gau_alpha.sh


def small_subjects(check: Check, **fields) -> dict[str, Subject]:
    """Every family at a width that a CPU can follow, on padded rows."""
    shape = check.shape(4, 8, length=256, hidden=256)
    causal = {re.sub("_probs?", "", name): rate for name, rate in fields.items()}  # Transformer-XL's names
    return {
        "gau_alpha": subjects.gated("gau_alpha", shape, padded=True, **fields),
        "gau_alpha squared_relu": subjects.gated("gau_alpha", shape, True, normalization="squared_relu", **fields),
        "flash_quad": subjects.gated("flash_quad", shape, padded=True),
        "flash": subjects.gated("flash", shape, padded=True),
        "flash causal": subjects.gated("flash", shape, padded=True, causal=True, laplace_attn_fn=True),
        "bert": subjects.bert(shape, padded=True, **fields),
        "electra small": subjects.electra("small", replace(shape, layers=2), padded=True, **fields),
        "gau_alpha electra": subjects.gated_electra(shape, padded=True, **fields),
        "transformer_xl": subjects.transformer_xl(shape, 0, **causal),
        "transformer_xl memory": subjects.transformer_xl(shape, shape.length // 2, **causal),
    }


def gradients(subject: Subject, dtype: str, device: torch.device, scale: float = 1.0, factor: float = 1.0):
    """The loss, and the gradients of a model of fixed numbers, in fp32 on the CPU.

    scale: the loss is multiplied with it and the gradients are divided; factor: of the loss, for good.
    """
    torch.manual_seed(0)
    model = subject.make().to(device).train()  # made on the CPU: equal numbers everywhere
    batch = {name: tensor.to(device) for name, tensor in subject.batch.items()}
    loss_of = subject.make_loss(model)
    with torch.autocast(device.type, DTYPES[dtype] or torch.bfloat16, enabled=dtype != "fp32"):
        for _ in range(1 + subject.remembers):
            loss = loss_of(model, batch)
    (loss * factor * scale).backward()
    parameters = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.item(), {name: grad.float().cpu() / (scale * factor) for name, grad in parameters.items()}


def apart(grads: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> tuple[float, str, float]:
    """How far gradients are from the wanted ones: all of them, the name of the worst, and that one."""
    lengths = {name: wanted[name].norm().item() for name in wanted}
    differences = {name: (grads[name] - wanted[name]).norm().item() for name in wanted}
    total = math.hypot(*lengths.values())
    shares = {name: differences[name] / (lengths[name] + FLOOR * total) for name in wanted}
    worst = max(shares, key=shares.get)
    return math.hypot(*differences.values()) / total, worst, shares[worst]


def parity(check: Check) -> Iterator[Case]:
    """The device in fp32, bf16 and fp16 against a CPU in fp32, one step of every family without dropout."""
    cpu = torch.device("cpu")

    def measure(name, subject):
        loss, wanted = gradients(subject, "fp32", cpu)
        device_loss, grads = gradients(subject, "fp32", check.device)
        total, worst, share = apart(grads, wanted)
        numbers = {"loss": loss, "loss_error": abs(device_loss - loss), "grad_error": total}
        numbers |= {"worst": worst, "worst_error": share}
        for dtype in ("bf16", "fp16"):
            scale = SCALE if dtype == "fp16" and "electra" not in name else 1.0
            half_loss, grads = gradients(subject, dtype, check.device, scale)
            numbers |= {f"{dtype}_loss_error": abs(half_loss - loss), f"{dtype}_grad_error": apart(grads, wanted)[0]}
        return bounded(numbers, **(JOINT_BOUNDS if "electra" in name else BOUNDS))

    for name, subject in small_subjects(check, **NO_DROPOUT).items():
        yield name, lambda name=name, subject=subject: measure(name, subject)
    yield "fp16 at the recipe's batch", lambda: recipe_batch(check)


def recipe_batch(check: Check) -> dict:
    """Queries' and keys' gradients where the loss is divided by as many tokens as a step of the recipe has."""
    subject = small_subjects(check, **NO_DROPOUT)["gau_alpha"]
    few = int((subject.batch["labels"] != -100).sum())
    numbers = {"labelled_tokens": RECIPE_TOKENS}
    for name, dtype, scale in (("scale_2^16", "fp16", SCALE), ("scale_2^22", "fp16", 2.0**22), ("bf16", "bf16", 1.0)):
        _, wanted = gradients(subject, "fp32", check.device)
        _, grads = gradients(subject, dtype, check.device, scale, few / RECIPE_TOKENS)
        narrow = [key for key in wanted if "scaleoffset" in key]
        numbers[f"qk_error_{name}"] = apart({k: grads[k] for k in narrow}, {k: wanted[k] for k in narrow})[0]
    return numbers


def precision(check: Check) -> Iterator[Case]:
    """Ten whole steps in half precision at the recipes' width: finite, and the loss falls."""
    shape = check.shape(6, 16)
    steps = check.size(10, 4)

    def measure(family, dtype):
        training = Training(subjects.gated(family, shape), dtype, check.device)
        outcomes = [training.step() for _ in range(steps)]
        losses, norms = ([value.item() for value in values] for values in zip(*outcomes, strict=True))
        numbers = {"first_loss": losses[0], "last_loss": losses[-1]}
        numbers |= {"not_finite": sum(not math.isfinite(norm) for norm in norms), "scale": training.scaler.get_scale()}
        sound = all(map(math.isfinite, losses)) and all(bool(p.isfinite().all()) for p in training.parameters)
        if not sound or not losses[-1] < losses[0]:
            raise Wrong("losses and weights must be finite, and the loss must fall", numbers)
        return numbers

    for family in ("gau_alpha", "flash_quad", "flash"):
        for dtype in ("fp16", "bf16"):
            yield f"{family} {dtype}", lambda family=family, dtype=dtype: measure(family, dtype)


def waits(check: Check) -> Iterator[Case]:
    """Of one steady step of every family in bf16, and one in fp16: where the host waited for the device."""

    def measure(subject):
        places = Counter()
        for dtype in ("bf16", "fp16"):
            training = Training(subject, dtype, check.device)
            for _ in range(check.size(3, 1)):
                training.step()
            with WaitsSeen() as seen:
                training.step()
            places += seen.places
        numbers = {"waits": places.total(), "where": dict(places.most_common(4))}
        if unknown(places):
            raise Wrong("a steady step must not wait", numbers)
        return numbers

    for name, subject in small_subjects(check).items():
        yield name, lambda subject=subject: measure(subject)
