"""Whole training steps of one subject: how long they take, how much memory and which share of the peak."""

import statistics
import time

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.subjects import Subject
from benchmarks.gpu.table import Check
from training.loop.compiling import RECORDING, compile_layers

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_GRAD_NORM = 1.0
ROUNDS = 3  # medians are over so many stretches of steps


class Training:
    """A model with its step: loss, backward, clipping, fused AdamW, under autocast of a dtype and fp16's scaler."""

    def __init__(
        self, subject: Subject, dtype: str, device: torch.device, compiled: bool = False, recorded: bool = False
    ):
        """recorded: compiled, too, with CUDA graphs."""
        torch.manual_seed(0)
        with device:  # a hundred million random numbers take a CPU seconds
            self.model = subject.make()
        self.model.to(device).train()
        self.loss_of, self.dtype, self.device = subject.make_loss(self.model), DTYPES[dtype], device
        self.recorded = recorded
        if compiled or recorded:  # as --torch_compile; on a CPU without the minutes that inductor takes
            backend = "inductor" if device.type == "cuda" else "eager"
            compile_layers(self.model, backend=backend, mode=RECORDING[0] if recorded else None)
        self.batch = {name: tensor.to(device) for name, tensor in subject.batch.items()}
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == "fp16" and device.type == "cuda")

    def loss(self, batch: dict[str, torch.Tensor], model: nn.Module) -> torch.Tensor:
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return self.loss_of(model, batch)

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the norm of the gradient, on the device, which is not waited for."""
        if self.recorded:
            torch.compiler.cudagraph_mark_step_begin()
        loss = self.loss(self.batch, self.model)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach(), norm


def flops_of(subject: Subject, device: torch.device) -> float:
    """Of the matrix products of a step, attention's among them: three times those of a forward, counted on one row."""
    training = Training(subject, "fp32", device)
    row = {name: tensor[:1] for name, tensor in training.batch.items()}
    # With gradients, as in training: a causal objective keeps other books without.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        training.loss(row, training.model)
    return 3.0 * counter.get_total_flops() * len(subject.batch["input_ids"])


def seconds_of(check: Check, step, rounds: int) -> float:
    """Of one of several steps in a row, which are not waited for in between, as in training; a median."""
    times = []
    for _ in range(check.size(ROUNDS, 1)):
        check.wait()
        start = time.perf_counter()
        for _ in range(rounds):
            step()
        check.wait()
        times.append((time.perf_counter() - start) / rounds)
    return statistics.median(times)


def measure(
    check: Check,
    subject: Subject,
    dtype: str = "bf16",
    compiled: bool = False,
    recorded: bool = False,
    rounds: int = 5,
    mfu: bool = True,
) -> dict:
    """Speed and memory of the step of a subject; compiled, recorded: as for Training."""
    peak = check.peaks.get(DTYPES[dtype]) if mfu else None
    flops = flops_of(subject, check.device) if peak else 0.0
    started = time.perf_counter()
    training = Training(subject, dtype, check.device, compiled, recorded)
    for _ in range(3 if compiled or recorded else check.size(3, 1)):  # the second step may be compiled anew
        training.step()
    check.wait()
    first = time.perf_counter() - started
    if check.cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(check, training.step, check.size(rounds, 1))
    tokens = subject.batch["input_ids"].numel()
    numbers = {"tokens_per_second": round(tokens / seconds), "ms_a_step": 1000 * seconds, "dtype": dtype}
    if peak:
        numbers["mfu"] = flops / seconds / peak
    if check.cuda:
        numbers["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        start = time.perf_counter()
        training.step()
        numbers["ms_to_launch"] = 1000 * (time.perf_counter() - start)  # close to ms_a_step: the CPU is the limit
        check.wait()
    if compiled or recorded:
        numbers["seconds_to_compile"] = first
        torch.compiler.reset()  # or the graphs would keep the model
    return numbers
