"""On an accelerator without numbers no step waits for it, mixes devices or leaves a parameter without gradient.

What transformers itself waits for (whether a mask is all ones, once a forward of BERT, RoBERTa and ELECTRA) does not
show here: it does not ask tensors without numbers.
"""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from accelerate.utils import send_to_device
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    ElectraConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    RobertaConfig,
    StoppingCriteriaList,
)
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

import models
from data.batches.sampling import TrainBatches
from models.electra.config import ElectraOptions, electra_configs, generator_config
from models.electra.joint_model import new_joint_model
from models.post_norm import use_fast_layers
from models.static_decoding import StaticStep, extend
from models.stock import accept_our_inputs
from models.task_heads import HEAD_CLASSES
from tests import fake_accelerator
from tests.models.small_models import VARIANTS
from tests.models.small_models import batch as padded_rows
from tests.processes import SERVER
from tests.small_runs import SCRIPTS
from training.finetune.extension import FastGradient
from training.finetune.task_model import EvalRows, run_model
from training.loop.metric_sums import MetricSums, SumEvaluator
from training.loop.optimizers import AdamWithoutBiasCorrection, make_muon
from training.objectives.causal_lm import CausalLanguageModelling
from training.objectives.electra import ReplacedTokenDetection
from training.objectives.masked_lm import MaskedLanguageModelling
from training.objectives.tasks import TaskObjective, make_objective

SIZE = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2}
STOCK = SIZE | {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 48, "pad_token_id": 0}
STOCK_CONFIGS = {"bert": BertConfig, "roberta": RobertaConfig, "electra": ElectraConfig}
TXL = SIZE | {"num_attention_heads": 2, "mem_len": 6, "segment_length": 12, "attention_window": 12}
HEADS = ("classification", "regression", "multiple_choice", "question_answering", "tagging")


def masked_rows(isolated=False):
    """Rows of 12, 7 and 3 tokens; or full rows of two documents each."""
    ids, mask = padded_rows((12, 12, 12) if isolated else (12, 7, 3))
    positions = torch.tensor([[2, 5, 7, 11], [3, 6, 0, 0], [1, 0, 0, 0]])
    labels = torch.full_like(ids, -100).scatter(1, positions, ids.gather(1, positions))
    labels[:, 0] = -100
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels, "masked_positions": positions}
    if isolated:
        first = torch.arange(12) < torch.tensor([5, 9, 4]).unsqueeze(1)
        rows["document_ids"] = torch.where(first, 1, 2)
        rows["position_ids"] = torch.arange(12) - 5 * ~first
    return rows


def masked_lm(name, isolated=False):
    if name in VARIANTS:
        family, fields = VARIANTS[name]
        config = getattr(models, f"{family}Config")(**fields)
    else:
        config = STOCK_CONFIGS[name](**STOCK)
    model = use_fast_layers(accept_our_inputs(AutoModelForMaskedLM.from_config(config)))
    return model, MaskedLanguageModelling(model, 12, 0.15), masked_rows(isolated)


def joint(gau=False, isolated=False, **options):
    _, config = electra_configs("small", 50)
    config.update(STOCK | {"embedding_size": 16})
    if gau:
        config = models.GAUAlphaConfig(intermediate_size=40, attention_key_size=8, **SIZE)
    model = new_joint_model(generator_config(config, 2), config, ElectraOptions(**options))
    return model, ReplacedTokenDetection(model, 12, 0.15), masked_rows(isolated) | {"noise_seed": torch.arange(3)}


def causal(stock=False, memory=6):
    if stock:
        ids = {"bos_token_id": 0, "eos_token_id": 0}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=2, n_positions=16, **ids))
    else:
        model = models.TransformerXLForCausalLM(models.TransformerXLConfig(**TXL))
    batches = TrainBatches(3, 3, steps=9, seed=0)
    objective = CausalLanguageModelling(model, 12, batches, memory)
    ids = torch.randint(5, 50, (3, 12))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.roll(-1, 1)}
    return model, objective, rows | {"position_ids": torch.arange(12).expand(3, 12) - 5}


def task(kind, family="gau", **settings):
    config = BertConfig(**STOCK) if family == "bert" else models.GAUAlphaConfig(**VARIANTS["gau"][1])
    config.num_labels = 1 if kind == "regression" else 2
    model = use_fast_layers(HEAD_CLASSES[kind].from_config(config))
    ids, mask = padded_rows()
    rows = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1])}
    if kind == "regression":
        rows["labels"] = torch.tensor([0.5, 1.0, 2.0])
    elif kind == "multiple_choice":
        rows = {name: torch.stack((tensor, tensor), 1) for name, tensor in rows.items() if name != "labels"}
        rows |= {
            "labels": torch.tensor([0, 1, 0]),
            "choice_mask": torch.tensor([[True] * 2, [True] * 2, [True, False]]),
        }
    elif kind == "question_answering":
        rows |= {"start_positions": torch.tensor([0, 1, 0]), "end_positions": torch.tensor([3, 1, 2])}
    elif kind == "tagging":
        rows["labels"] = (ids % 2).masked_fill(mask == 0, -100)
    weights = torch.tensor([0.5, 2.0]) if kind in ("classification", "tagging") else None
    settings = {"label_smoothing": 0.1 if kind in ("classification", "multiple_choice", "tagging") else 0.0} | settings
    return model, make_objective(kind, SimpleNamespace(**{"rdrop": 0.0} | settings), 12, weights), rows


MUON = SimpleNamespace(learning_rate=1e-3, muon_learning_rate=1e-2, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.98)
MUON.adam_epsilon = 1e-8
OPTIMIZERS = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), fused=True),
    "adam without correction": lambda model: AdamWithoutBiasCorrection(model.parameters()),
    "muon": lambda model: make_muon(model, [], MUON),
}


def take_steps(build, optimizer=None, scaled=False, checkpointing=False, adversary=False) -> None:
    """Two whole steps on the device, as the Trainer takes them, the second without waiting; or one's gradients."""
    with fake_accelerator.Accelerator() as accelerator:
        torch.manual_seed(0)
        model, objective, rows = build()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        fake_accelerator.move(model).train()
        rows = send_to_device(rows, fake_accelerator.NAME)
        optimizer = optimizer and OPTIMIZERS[optimizer](model)
        scaler = torch.amp.GradScaler(fake_accelerator.NAME, enabled=scaled)

        def backward():
            sums, _ = objective(model, rows)
            counts = objective.counts(rows)
            scaler.scale(sum(objective.weights[term] * sums[term] / counts[term] for term in sums)).backward()

        for accelerator.steady in (False, True) if optimizer else (True,):
            backward()
            if adversary:
                with FastGradient(1.0)(model):
                    backward()
            without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
            assert not without, f"no gradient: {without}"
            if optimizer is None:
                return
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def evaluate(build) -> None:
    """Two batches of held-out rows by their evaluator, whose sums are read once, behind the last of them."""

    def read_sums(sums, *_):
        accelerator.steady = False
        return {name: torch.zeros(value.shape).tolist() for name, value in sums._device.items()}

    with fake_accelerator.Accelerator() as accelerator, patch.object(MetricSums, "totals", read_sums):
        model, objective, rows = build()
        args = SimpleNamespace(
            device=torch.device(fake_accelerator.NAME), eval_workers=0, model_parallel_size=1, fsdp=""
        )
        args.metric_for_best_model = None
        trainer = SimpleNamespace(model=fake_accelerator.move(model), objective=objective, args=args)
        trainer.accelerator = SimpleNamespace(autocast=nullcontext)
        both = [rows, rows]
        if isinstance(objective, CausalLanguageModelling):  # documents that begin, and go on
            both = [rows | {"documents": torch.arange(3), "fresh": fresh} for fresh in (True, False)]
        trainer.loader = lambda *_: both
        accelerator.steady = True
        if isinstance(objective, TaskObjective):
            indices, scores, sums = run_model(trainer, EvalRows(None, [[(0, 0), (0, 1)], [(0, 2)]], None))
            assert indices == [0, 1, 2] and len(scores) == 2 and sums.device.type == fake_accelerator.NAME
            assert all(batch.device.type == "cpu" for batch in scores)
        else:
            SumEvaluator(args, objective, None, None, None)(trainer)
            assert not accelerator.steady, "the sums are read"


def decode_tokens() -> None:
    """Tokens drawn, and the steps of one shape between them, as on CUDA, where a graph records the step."""
    with fake_accelerator.Accelerator() as accelerator, torch.no_grad():
        model = fake_accelerator.move(causal()[0]).eval()
        step, device = StaticStep(model, 3), torch.device(fake_accelerator.NAME)
        ids, mask = (tensor.to(device) for tensor in padded_rows())
        drawn = [TemperatureLogitsWarper(0.9), TopKLogitsWarper(5), TopPLogitsWarper(0.9)]
        drawn = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.2), *drawn])
        ends = StoppingCriteriaList([MaxLengthCriteria(99), EosTokenCriteria(torch.tensor([7], device=device))])
        settings, finished = GenerationConfig(do_sample=True, pad_token_id=0), torch.zeros(3, dtype=bool).to(device)
        logits = step.begin(ids, mask)
        accelerator.steady = True
        for _ in range(2):
            ids, finished = extend(ids, finished, drawn(ids, logits.float()), ends, settings)
            logits = step(ids[:, -1:])


CASES = {name: partial(take_steps, partial(masked_lm, name)) for name in (*VARIANTS, *STOCK_CONFIGS)}
for name in ("gau", "gau_squared_relu", "flash_quad", "bert", "roberta", "electra"):
    CASES[f"{name}, isolated"] = partial(take_steps, partial(masked_lm, name, isolated=True))
for name in ("gau", "flash_quad", "flash", "bert"):
    CASES[f"{name}, checkpointing"] = partial(take_steps, partial(masked_lm, name), checkpointing=True)
for name in OPTIMIZERS:
    CASES[f"gau, {name}, fp16's scaler"] = partial(take_steps, partial(masked_lm, "gau"), name, scaled=True)
CASES["flash, muon"] = partial(take_steps, partial(masked_lm, "flash"), "muon")
CASES |= {
    f"joint, {name}": partial(take_steps, partial(joint, **options))
    for name, options in {
        "fp32_gumbel": {},
        "fp16_gumbel": {"sampling": "fp16_gumbel", "disallow_correct": True},
        "multinomial": {"sampling": "multinomial", "temperature": 2.0},
        "falling temperature": {"initial_temperature": 2.0},
        "uniform generator": {"uniform_generator": True},
        "generator alone": {"electra_objective": False},
        "one encoder": {"untied_generator": False, "gen_smooth_label": 0.1, "disc_smooth_label": 0.1},
        "isolated": {"isolated": True},
        "gau": {"gau": True},
    }.items()
}
CASES["joint, checkpointing"] = partial(take_steps, joint, "adam without correction", checkpointing=True)
CASES |= {
    "transformer_xl": partial(take_steps, causal, "adamw"),
    "transformer_xl, no memory": partial(take_steps, partial(causal, memory=0)),
    "transformer_xl, checkpointing": partial(take_steps, causal, checkpointing=True),
    "gpt2": partial(take_steps, partial(causal, stock=True, memory=0)),
}
CASES["transformer_xl, decoding"] = decode_tokens
EVALUATED = {name: partial(masked_lm, name) for name in ("gau", "flash_quad", "flash", *STOCK_CONFIGS)}
EVALUATED |= {"gau, isolated": partial(masked_lm, "gau", isolated=True), "joint": joint, "transformer_xl": causal}
EVALUATED |= {"gpt2": partial(causal, stock=True, memory=0)} | {kind: partial(task, kind) for kind in HEADS}
CASES |= {f"{name}, evaluation": partial(evaluate, build) for name, build in EVALUATED.items()}
for kind in HEADS:
    CASES[kind] = partial(take_steps, partial(task, kind))
    CASES[f"{kind}, bert, two passes"] = partial(take_steps, partial(task, kind, "bert", rdrop=1.0), adversary=True)


@pytest.fixture(scope="module")
def apart():
    """function() in a process that has the device -> its error as a text, '' for none."""
    with SERVER.Pool(1, initializer=fake_accelerator.register) as pool:
        yield lambda function: pool.apply_async(fake_accelerator.failure_of, (function,)).get(120)


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_nothing_and_stays_on_its_device(apart, case):
    failure = apart(CASES[case])
    assert not failure, failure


def run_joint_model(gau: bool) -> None:
    with fake_accelerator.Accelerator() as accelerator:
        model, _, rows = joint(gau)
        model, rows = fake_accelerator.move(model).train(), send_to_device(rows, fake_accelerator.NAME)
        assert accelerator.on_host, "what moved came from there"
        accelerator.on_host.clear()
        model(**rows).loss.backward()
        assert not accelerator.on_host, accelerator.on_host


@pytest.mark.parametrize("gau", [False, True])
def test_the_joint_model_computes_nothing_on_the_host(apart, gau):
    """Else torch would record no CUDA graph of it."""
    failure = apart(partial(run_joint_model, gau))
    assert not failure, failure


RUNS = {
    "mlm": ("mlm", {"gradient_accumulation_steps": 2}),
    "mlm, muon": ("mlm", {"optimizer": "muon", "on_nan": "skip"}),
    "electra": ("electra", {}),
    "clm": ("clm", {}),
    "glue": ("glue", {"rdrop": 1.0, "fgm_eps": 1.0}),
}


@pytest.mark.parametrize("case", RUNS)
def test_the_scripts_wait_for_nothing_in_a_steady_step(apart, small_runs, tmp_path, case):
    script, changes = RUNS[case]
    quiet = {
        "logging_steps": 1000,
        "save_steps": 1000,
        "eval_steps": 1000,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    quiet |= {"device": "gpu"} if script == "glue" else {"use_cpu": False}
    words = small_runs.words(script, tmp_path / "run", **quiet | changes)
    failure = apart(partial(fake_accelerator.run_script, SCRIPTS[script], words))
    assert not failure, failure


def test_processes_of_gloo_end_without_the_device_that_their_machine_has(apart):
    failure = apart(fake_accelerator.end_alone_over_gloo)
    assert not failure, failure
