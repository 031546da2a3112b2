"""The upstream contract: what is private of the packages below ours and used here stands in one table, and holds."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch
import transformers

import common
import data
import models
import training
from models.layers import RECORDING
from models.post_norm import LAYERS

ROOT = Path(__file__).resolve().parents[1]
UPSTREAM = ("accelerate", "datasets", "deepspeed", "tokenizers", "torch", "transformers")

# file: owner: names. A name with brackets is a function with exactly these parameters, self left out; one with a dot
# before it is set or read on instances, so that the source of the owner's module must have it; "..." a key in a file
# or a call that the named source must hold.
TABLE = """
training/loop/trainer.py: transformers.trainer.Trainer:
    _issue_warnings_after_load(load_result)
    _get_grad_norm(model, grad_norm)
    _load_rng_state(checkpoint)
    _save_checkpoint(model, trial)
    save_model(output_dir, _internal_call)
    get_batch_samples(epoch_iterator, num_batches, device)
    compute_loss(model, inputs, return_outputs, num_items_in_batch)
    training_step(model, inputs, num_items_in_batch)
    create_optimizer(model)
    create_scheduler(num_training_steps, optimizer)
    get_decay_parameter_names(model)
    get_train_dataloader()
    evaluate(eval_dataset, ignore_keys, metric_key_prefix)
    log(logs, start_time)
    train(resume_from_checkpoint, trial, ignore_keys_for_eval)
    compute_loss_context_manager()
    loss_is_scaled_for_ga
    "self._issue_warnings_after_load("
    "self._get_grad_norm("
    "self.get_batch_samples("
    "self._load_rng_state("
    "self._save_checkpoint("
    "self.get_decay_parameter_names("
    "self.loss_is_scaled_for_ga"
    "ignore_data_skip"
training/sharing/folders.py: transformers.trainer.Trainer:
    _save(output_dir, state_dict)
    save_model(output_dir, _internal_call)
    "self._save("
training/loop/saving.py: transformers.trainer.Trainer:
    _save_optimizer_and_scheduler(output_dir)
    _save_rng_state(output_dir)
    _save_scaler(output_dir)
training/loop/saving.py: transformers.TrainerState:
    compute_steps(args, max_steps)
training/loop/saving.py: deepspeed.runtime.engine.DeepSpeedEngine:
    .first_dataloader_check
training/loop/model_parallel.py: deepspeed.module_inject.autotp_config:
    "layer_specs"
    "grad_allreduce"
    "use_default_specs"
    "partition_type"
training/arguments.py: transformers.training_args.TrainingArguments:
    ._n_gpu
models/base.py: transformers.PreTrainedModel:
    _supports_sdpa
    get_expanded_tied_weights_keys(all_submodels)
    .all_tied_weights_keys
    _tied_weights_keys
    _keys_to_ignore_on_load_unexpected
    "missing_keys"
    "unexpected_keys"
    "mismatched_keys"
models/gau.py: transformers.PreTrainedModel:
    _init_weights(module)
    _no_split_modules
    _tied_weights_keys
models/flash.py: transformers.PreTrainedModel:
    _init_weights(module)
    _keys_to_ignore_on_load_unexpected
    _no_split_modules
    _tied_weights_keys
models/flash_quad.py: transformers.PreTrainedModel:
    _init_weights(module)
    _keys_to_ignore_on_load_unexpected
    _no_split_modules
    _tied_weights_keys
models/electra/joint_model.py: transformers.PreTrainedModel:
    _supports_sdpa
    _tied_weights_keys
models/task_heads.py: transformers.PreTrainedModel:
    _init_weights(module)
models/transformer_xl.py: transformers.PreTrainedModel:
    _init_weights(module)
    _no_split_modules
    _skip_keys_device_placement
    _keys_to_ignore_on_load_unexpected
    _tied_weights_keys
    _tp_plan
models/relative.py: transformers.cache_utils.DynamicSlidingWindowLayer:
    update(key_states, value_states)
    lazy_initialization(key_states, value_states)
    .cumulative_length
    .is_initialized
    .record_past
    .sliding_window
models/layers.py: torch.nn.Module:
    ._forward_hooks
    ._forward_pre_hooks
    ._backward_hooks
    ._backward_pre_hooks
models/convert/travel.py: transformers.dynamic_module_utils:
    get_relative_import_files(module_file)
models/gated.py: torch.ops.aten:
    _softmax_backward_data
models/post_norm.py: torch.ops.aten:
    _softmax_backward_data
models/layers.py: transformers.PreTrainedConfig:
    _attn_implementation
models/post_norm.py: transformers.PreTrainedConfig:
    _attn_implementation
models/stock.py: transformers.PreTrainedConfig:
    _attn_implementation
training/objectives/causal_lm.py: transformers.PreTrainedConfig:
    _attn_implementation
training/loop/compiling.py: torch:
    _dynamo
    _functorch
training/loop/compiling.py: torch._functorch.config:
    activation_memory_budget
training/loop/compiling.py: torch._dynamo.config:
    suppress_errors
    recompile_limit
training/loop/compiling.py: accelerate.state.AcceleratorState:
    .dynamo_plugin
training/loop/logs.py: torch:
    _subclasses
training/loop/logs.py: torch._subclasses.fake_tensor:
    FakeCopyMode(fake_mode)
    FakeTensorMode
training/loop/optimizers.py: torch.amp.grad_scaler:
    "_step_supports_amp_scaling"
models/electra/config.py: transformers.PreTrainedConfig:
    "_name_or_path"
training/run_folder.py: transformers.PreTrainedConfig:
    "_name_or_path"
data/corpus/table_inputs.py: datasets.Dataset:
    ._indices
data/corpus/manifest.py: datasets.Dataset:
    "_data_files"
    "_fingerprint"
    "_format_columns"
    "_format_kwargs"
    "_format_type"
    "_output_all_columns"
    "_split"
common/flags.py: argparse.ArgumentParser:
    ._actions
common/flags.py: argparse.HelpFormatter:
    _format_args(action, default_metavar)
common/script.py: threading:
    _shutdown()
common/script.py: atexit:
    _run_exitfuncs
"""
ENTRY = re.compile(r'"(?P<held>.+)"|\.(?P<instance>\w+)|(?P<name>\w+)(?:\((?P<parameters>[^)]*)\))?')


def entries() -> list[tuple[str, str, re.Match]]:
    """(file, owner, entry) of each line."""
    entries, file, owner = [], "", ""
    for line in TABLE.strip().splitlines():
        if line.startswith(" "):
            entries.append((file, owner, ENTRY.fullmatch(line.strip())))
        else:
            file, owner = line.rstrip(":").split(": ")
    return entries


ENTRIES = entries()


def resolve(path: str):
    """The module or what is in it; skips the test where the package is not installed."""
    first, *names = path.split(".")
    thing = pytest.importorskip(first)
    for depth, name in enumerate(names, start=1):
        if not hasattr(thing, name):
            importlib.import_module(".".join((first, *names[:depth])))
        thing = getattr(thing, name)
    return thing


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def source_of(owner) -> str:
    """Of the module, or of the class and what it inherits."""
    if inspect.ismodule(owner):
        return inspect.getsource(owner)
    files = {inspect.getsourcefile(cls) for cls in owner.__mro__ if cls.__module__ not in ("abc", "builtins")}
    return "\n".join(text_of(Path(file)) for file in sorted(files))


@pytest.mark.parametrize(("file", "owner", "entry"), ENTRIES, ids=[f"{f}-{o}-{e[0][:40]}" for f, o, e in ENTRIES])
def test_upstream_holds_what_is_used_of_it(file, owner, entry):
    used = entry["held"] or entry["instance"] or entry["name"]
    text = text_of(ROOT / file)
    if not (entry["held"] or "").startswith("self."):  # where upstream calls what we override
        assert used in text, f"{file} does not use {used} any more: take the row out"
    holder = resolve(owner)
    if entry["held"]:
        assert entry["held"] in source_of(holder)
    elif entry["instance"]:
        name = entry["instance"]
        assert hasattr(holder, name) or re.search(rf"\b(self|model)\.{name}\b", source_of(holder))
    else:
        assert hasattr(holder, entry["name"]), f"{owner} has no {entry['name']}, which {file} needs"
    if entry["parameters"] is not None:
        parameters = inspect.signature(getattr(holder, entry["name"])).parameters
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = [name for name, p in parameters.items() if name not in ("self", "cls") and p.kind not in variadic]
        assert ", ".join(names) == entry["parameters"]


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_layers_of_bert_have_the_names_that_their_quick_form_reads(family):
    """models/post_norm.py: class by name, parts by name."""
    config = transformers.AutoConfig.for_model(family, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    model = transformers.AutoModel.from_config(config)
    (layer,) = model.encoder.layer
    assert type(layer).__name__ in LAYERS
    paths = [f"attention.self.{part}" for part in ("query", "key", "value", "config", "num_attention_heads")]
    paths += [f"{part}.{kind}" for part in ("attention.output", "output") for kind in ("dense", "LayerNorm")]
    for path in (*paths, "intermediate.dense", "intermediate.intermediate_act_fn", "is_decoder"):
        functools.reduce(getattr, path.split("."), layer)


SOURCES = [*ROOT.glob("*.py")]
for room in ("benchmarks", "common", "data", "examples", "models", "training"):
    SOURCES += (ROOT / room).rglob("*.py")
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit", "_MP"}  # of namedtuple and os


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC | {"_"}


def defined_here() -> set[str]:
    """Private names that this repository's own code defines."""
    names = set()
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr__"):
                names.update(c.value for c in node.args[1:2] if isinstance(c, ast.Constant))
    return {name for name in names if is_private(name)}


def test_private_names_of_others_stand_in_the_table():
    """Attributes, imports and imported modules that begin with an underscore and are not of this repository."""
    own = defined_here()
    shared = {entry["instance"] or entry["name"] for _, _, entry in ENTRIES}  # defined here, and upstream's too
    listed = {(file, entry["instance"] or entry["name"]) for file, _, entry in ENTRIES}
    for path in SOURCES:
        file = str(path.relative_to(ROOT))
        for node in ast.walk(tree_of(path)):
            used = []
            if isinstance(node, ast.Attribute):
                upper = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super"
                if is_private(node.attr) and (node.attr not in own or (upper and node.attr in shared)):
                    used = [node.attr]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] not in own:
                ours = node.module.split(".")[0] in ("common", "data", "models", "training", "benchmarks")
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                used = [] if ours else [name for name in names if is_private(name)]
            elif isinstance(node, ast.Import):
                used = [part for alias in node.names for part in alias.name.split(".") if is_private(part)]
            for name in used:
                assert (file, name) in listed, f"{file}:{node.lineno} uses {name}: a public way, or a row of TABLE"


code_of = functools.cache(inspect.getsource)


def sets(cls: type, name: str) -> bool:
    """Whether upstream's class has it, or sets or reads it on itself."""
    if hasattr(cls, name) or name not in text_of(Path(inspect.getsourcefile(cls))):
        return hasattr(cls, name)
    return re.search(rf"\bself\.{name}\b", code_of(cls)) is not None


def our_classes() -> list[type]:
    classes = {}
    for package in (common, data, models, training):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for cls in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(cls) and cls.__module__ == module.name:
                    classes[cls] = None
    return list(classes)


def test_what_our_classes_override_or_set_of_private_names_stands_in_the_table():
    """Also a name of ours that upstream's class has begun to use itself: one would overwrite the other."""
    shared = set()
    listed = {(file, entry["instance"] or entry["name"]) for file, _, entry in ENTRIES}
    for cls in our_classes():
        bases = [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] in UPSTREAM]
        if not bases:
            continue
        file = f"{cls.__module__.replace('.', '/')}.py"
        tree = next(node for node in tree_of(ROOT / file).body if getattr(node, "name", None) == cls.__name__)
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                names.add(node.attr)
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
        for name in sorted(filter(is_private, names)):
            for base in bases:
                if (file, name) not in listed and sets(base, name):
                    shared.add(f"{file}: {name} is {base.__name__}'s too")
    assert not shared


def test_hooks_that_record_attentions_are_known_by_their_module():
    """models/layers.py lets them be; under another name every layer that records would take the slow way."""
    model = transformers.AutoModel.from_config(
        transformers.BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8),
        attn_implementation="eager",
    )
    assert model(torch.ones(1, 2, dtype=int), output_attentions=True).attentions[0] is not None
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert hooks and all(hook.__module__ == RECORDING for hook in hooks)


def test_softmax_backward_is_what_autograd_computes():
    """The one call by a private name whose meaning could change under the same name and parameters."""
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(3, 5, dtype=torch.float64)
    probabilities = scores.softmax(-1)
    (expected,) = torch.autograd.grad(probabilities, scores, gradient)
    actual = torch.ops.aten._softmax_backward_data(gradient, probabilities.detach(), -1, scores.dtype)
    assert torch.allclose(actual, expected)
