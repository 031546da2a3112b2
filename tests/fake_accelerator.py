"""An accelerator without numbers, on which a CPU can tell what would wait for a GPU, or mix devices.

Tensors of DEVICE have shapes, dtypes and a device, but no values: to read one is an error. Those of the CPU are real.
torch can be given such a device once in a process, and for good, so everything here runs in processes of its own.
"""

import importlib
import os
import traceback
from unittest.mock import patch

import torch
from accelerate import PartialState
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
from transformers import PreTrainedModel, TrainerCallback

from common.script import _end_processes
from training.loop.trainer import Trainer

NAME = "fakegpu"
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Waits(Exception):
    """An operation for which the host would wait for the device."""


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def synchronize(self, device=None) -> None:
        pass


class _NoNumbers(FakeTensorMode):
    avoid_device_init = True  # else torch.tensor(1, device=DEVICE) would ask for the device itself


class Accelerator(TorchDispatchMode):
    """Operations on tensors of DEVICE give tensors without numbers; while steady is true, none may wait.

    Whatever reads numbers of the device is an error at any time: item(), tolist(), nonzero(), indexing by a mask.
    """

    def __init__(self):
        super().__init__()
        self.steady = False
        self.on_host: list[str] = []  # operations with a tensor of the CPU
        self._no_numbers = _NoNumbers(allow_non_fake_inputs=True)

    def __enter__(self):
        self._lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(1, device=DEVICE) is a copy from the CPU, as on CUDA
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self._lifting)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        kinds = {tensor.device.type for tensor in tensors}
        target = kwargs.get("device")
        target = None if target is None else torch.device(target).type
        if "cpu" in kinds or target == "cpu":
            self.on_host.append(str(func))
        if NAME not in kinds | {target}:
            return func(*args, **kwargs)
        if self.steady:
            self._refuse_waits(func, args, kwargs, tensors, target)
        with self._no_numbers:
            if func is COPIES[0] and kinds == {"cpu"}:  # a parameter that moves must not be known to the mode inside
                return torch.empty_like(args[0], dtype=kwargs.get("dtype"), device=kwargs["device"])
            return func(*args, **kwargs)

    @staticmethod
    def _refuse_waits(func, args, kwargs, tensors, target: str | None) -> None:
        kinds = {tensor.device.type for tensor in tensors} | ({target} - {None})
        hosts = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        if func in COPIES:
            # To the host, too: torch then copies into pinned memory of its own, which nobody can read here.
            asynchronous = kwargs.get("non_blocking") or (func is COPIES[1] and len(args) > 2 and args[2])
            if "cpu" in kinds and not asynchronous:
                raise Waits(f"{func} between {' and '.join(sorted(kinds))}")
        elif any(tensor.dim() for tensor in hosts):
            raise Waits(f"{func} takes a tensor of the CPU among those of the device")


def register() -> None:
    """Give torch the device, in this process and for good."""
    if not hasattr(torch, NAME):
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())


def move(model: torch.nn.Module) -> torch.nn.Module:
    """model.to(DEVICE), which would part tied parameters, and cannot be called twice."""
    if next(model.parameters()).device.type != NAME:
        torch.nn.Module.to(model, NAME)
        model.tie_weights()
    return model


def failure_of(function) -> str:
    """What a call raises, with its traceback; '' for nothing. Not every error can leave a process as it is."""
    try:
        function()
    except Exception:
        return traceback.format_exc()
    return ""


def end_alone_over_gloo() -> None:
    """common/script.py ends this process, the only one of its group, as if it were one of several on CPUs."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    with patch("os._exit") as leave, patch("threading._shutdown"), patch("atexit._run_exitfuncs"):
        _end_processes(7)
    leave.assert_called_once_with(7)
    assert not torch.distributed.is_initialized()


class _Enough(BaseException):
    """Ends a run that has shown what was asked."""


class _Watch(TrainerCallback):
    """From the third step on none may wait; the run ends after the fifth."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator

    def on_step_begin(self, args, state, control, **kwargs):
        self.accelerator.steady = state.global_step >= 2
        if state.global_step == 5:
            raise _Enough


def run_script(script: str, words: list[str]) -> None:
    """The first five steps of a script on the device; its flags must leave logs, checkpoints and evaluation out."""
    train = Trainer.train

    def watched(trainer, *arguments, **options):
        trainer.args.dataloader_pin_memory = False  # there is no allocator for it
        trainer.add_callback(_Watch(accelerator))
        return train(trainer, *arguments, **options)

    with (
        Accelerator() as accelerator,
        patch.object(Trainer, "train", watched),
        patch.object(PreTrainedModel, "to", lambda model, device: move(model)),
        patch.dict(os.environ, {"ACCELERATE_TORCH_DEVICE": f"{NAME}:0"}),
        patch("training.loop.progress.measured_peak", return_value=1.0),
    ):
        PartialState._reset_state()
        try:
            importlib.import_module(script).main(words)
        except _Enough:
            return
        finally:
            PartialState._reset_state()
    raise AssertionError("the run ended before its fifth step")
