"""Transformer-XL: the original's numbers, one result however a text is cut, and everything generation asks of it."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, pipeline
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import models
from models.convert import thudm
from models.relative import named_cache, relative_table
from tests.models.small_models import close, make_xl

LOGITS, GRADIENTS = 1e-5, 1e-6


@torch.no_grad()
def segments(model, tensors, path, count=3):
    """Runs the fixture's segments one after the other with their memory; yields each output with its number."""
    memory = None
    for number in range(count):
        outputs = model(tensors[f"{path[0]}/{number}"], mems=memory, output_mems=True)
        memory = outputs.mems
        yield number, outputs


@pytest.mark.parametrize(
    ("paths", "window", "mem_len"),
    [
        (("input_ids_all", "logits_all", "mems_all"), 6, 8),
        (("seg8_mem4/input_ids", "seg8_mem4/logits", "seg8_mem4/mems"), 8, 4),
    ],
)
def test_segments_and_their_memories_are_the_originals(xl_tensors, xl_model, paths, window, mem_len):
    model = xl_model(attention_window=window, mem_len=mem_len)
    for number, outputs in segments(model, xl_tensors, paths):
        close(outputs.logits, xl_tensors[f"{paths[1]}/{number}"])
        assert len(outputs.mems) == model.config.num_hidden_layers + 1
        for layer, memory in enumerate(outputs.mems):
            close(memory, xl_tensors[f"{paths[2]}/{number}/{layer}"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_every_gradient_are_the_originals(xl_tensors, xl_model, checkpointing):
    model = xl_model(attention_window=6, mem_len=8).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    labels = xl_tensors["train/targets"].masked_fill(xl_tensors["train/loss_mask"] == 0, -100)
    memory = tuple(xl_tensors[f"train/mems_in/{i}"] for i in range(3))
    loss = model(xl_tensors["train/input_ids"], mems=memory, shift_labels=labels).loss
    close(loss, xl_tensors["train/loss"], GRADIENTS)
    loss.backward()
    gradients = dict(model.named_parameters())
    for path, expected in xl_tensors.items():
        if path.startswith("train/grads/"):
            parameter, names = thudm.resolve(path.removeprefix("train/grads/"))
            for name, part in zip(names, expected.chunk(parameter.parts), strict=True):
                close(gradients.pop(name).grad, part, GRADIENTS)
    assert not gradients


def test_decoding_step_by_step_gives_the_originals_logits(xl_tensors, xl_model):
    model = xl_model(attention_window=14)
    tokens, expected = xl_tensors["gen/tokens"], xl_tensors["gen/step_logits"]
    cache, start = DynamicCache(), 0
    for step in range(20):
        with torch.no_grad():
            outputs = model(tokens[:, start : 5 + step], past_key_values=cache)
        close(outputs.logits[:, -1], expected[:, step])
        start = 5 + step
    assert cache.get_seq_length() == 24
    assert cache.layers[0].keys.shape == (1, 4, 13, 8)


def test_the_absolute_variant_decodes_as_the_original(xl_tensors, xl_model):
    model = xl_model("abs_variant/state_dict/", attention_window=16)
    tokens, expected = xl_tensors["abs_variant/tokens"], xl_tensors["abs_variant/step_logits"]
    cache = DynamicCache()
    for step, (start, stop) in enumerate([(0, 5), *((i, i + 1) for i in range(5, 16))]):
        with torch.no_grad():
            outputs = model(tokens[:, start:stop], past_key_values=cache)
        close(outputs.logits[:, -1], expected[:, step])


def test_half_precision_follows_the_originals_positions(xl_tensors, xl_model):
    ours = relative_table(768, 64, "float16", torch.device("cpu"))
    original = xl_tensors["fp16/pos_emb_hidden64_klen768_fp16"].float()
    assert (ours != original).sum() <= 4  # sines that differ by one unit in the last place
    close(ours, original, 2**-11)
    model = xl_model(attention_window=6, mem_len=8, positions_dtype="float16").half()
    for number, outputs in segments(model, xl_tensors, ("input_ids_all",), 2):
        close(outputs.logits.float(), xl_tensors[f"fp16/logits/{number}"], 1e-2)
        assert outputs.logits.dtype == torch.float16


@pytest.mark.parametrize(
    ("name", "top_k", "top_p"), [("temp0.9_topk5", 5, None), ("topp0.7", None, 0.7), ("topk10_topp0.5", 10, 0.5)]
)
def test_transformers_filters_are_the_originals(xl_tensors, name, top_k, top_p):
    scores = TemperatureLogitsWarper(0.9)(None, xl_tensors["sampling/logits"])
    scores = scores if top_k is None else TopKLogitsWarper(top_k)(None, scores)
    scores = scores if top_p is None else TopPLogitsWarper(top_p)(None, scores)
    assert torch.equal(scores, xl_tensors[f"sampling/{name}"])


def stepwise_scores(model, ids):
    """Attention as the definition says it, pair by pair, in float64: the independent reading of section 3.3."""
    model = model.double()
    config, base = model.config, model.model
    heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    table = relative_table(len(ids), config.hidden_size, "float32", torch.device("cpu")).double()
    u, v = base.rel_bias()
    hidden = base.embed_tokens(ids)
    for layer in base.layers:
        normed = layer.input_layernorm(hidden)
        q, k, value = (getattr(layer.attn, f"{x}_proj")(normed).view(-1, heads, dim) for x in "qkv")
        r = layer.attn.r_proj(table).view(-1, heads, dim)
        mixed = torch.zeros_like(q)
        for i in range(len(ids)):
            seen = range(max(0, i - config.attention_window + 1), i + 1)
            scores = [((q[i] + u) * k[j] + (q[i] + v) * r[len(ids) - 1 - (i - j)]).sum(-1) for j in seen]
            weights = (torch.stack(scores) / dim**0.5).softmax(0)
            mixed[i] = sum(weights[n].unsqueeze(-1) * value[j] for n, j in enumerate(seen))
        hidden = hidden + layer.attn.o_proj(mixed.reshape(len(ids), -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.lm_head(base.final_layernorm(hidden))


@torch.no_grad()
def test_the_definition_pair_by_pair_gives_the_same():
    ids = torch.randint(0, 49, (40,), generator=torch.Generator().manual_seed(1))
    logits = make_xl()(ids.unsqueeze(0)).logits[0]
    close(logits.double(), stepwise_scores(make_xl(), ids))


@pytest.mark.parametrize("relative", [True, False])
@torch.no_grad()
def test_a_left_padded_batch_gives_what_its_rows_give_alone(relative):
    model = make_xl(relative_encoding=relative, max_position_embeddings=40)
    rows = [torch.randint(0, 49, (n,), generator=torch.Generator().manual_seed(n)) for n in (17, 9, 1)]
    ids = torch.stack([F.pad(row, (17 - len(row), 0), value=49) for row in rows])
    mask = torch.stack([F.pad(torch.ones_like(row), (17 - len(row), 0)) for row in rows])
    logits = model(ids, attention_mask=mask).logits
    assert torch.isfinite(logits).all()
    batch = model.generate(ids, attention_mask=mask, max_new_tokens=15, min_new_tokens=15, do_sample=False)
    for number, row in enumerate(rows):
        close(logits[number, 17 - len(row) :], model(row.unsqueeze(0)).logits[0])
        alone = model.generate(row.unsqueeze(0), max_new_tokens=15, min_new_tokens=15, do_sample=False)
        assert torch.equal(batch[number, 17:], alone[0, len(row) :])


@torch.no_grad()
def test_generate_equals_a_loop_without_a_cache():
    model = make_xl()
    ids = torch.randint(0, 49, (1, 9), generator=torch.Generator().manual_seed(5))
    for prompt in (ids, ids.repeat(1, 40)):
        greedy = model.generate(prompt, max_new_tokens=30, do_sample=False)
        loop = prompt
        while loop.shape[1] < greedy.shape[1]:
            loop = torch.cat((loop, model(loop, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
        assert torch.equal(greedy, loop)
    for options in ({"num_beams": 3, "do_sample": False}, {"do_sample": True}, {"num_return_sequences": 2}):
        results = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            options = {"do_sample": True, "top_k": 0} | options
            results.append(model.generate(ids, max_new_tokens=20, use_cache=use_cache, **options))
        assert torch.equal(*results)


@torch.no_grad()
def test_generate_goes_on_from_its_own_cache_and_in_chunks():
    model = make_xl()
    ids = torch.randint(0, 49, (1, 30), generator=torch.Generator().manual_seed(6))
    once = model.generate(ids, max_new_tokens=20, do_sample=False)
    cache = DynamicCache(config=model.config)
    half = model.generate(ids, max_new_tokens=10, do_sample=False, **named_cache(cache))
    assert cache.get_seq_length() == half.shape[1] - 1
    assert torch.equal(model.generate(half, max_new_tokens=10, do_sample=False, **named_cache(cache)), once)
    assert torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False, prefill_chunk_size=7), once)


@torch.no_grad()
def test_generate_feeds_one_token_a_step():
    """Under a name for the cache that transformers does not know, generate() reads the whole prompt at every step."""
    model, lengths = make_xl(), []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    model.generate(torch.ones(1, 30, dtype=int), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert lengths == [30, 1, 1, 1]


class Printed:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@torch.no_grad()
def test_generate_streams():
    model, streamer = make_xl(), Printed()
    generated = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=6, do_sample=False, streamer=streamer)
    assert streamer.tokens == generated[0].tolist()
    assert streamer.ended


def test_saved_model_comes_back_with_the_auto_classes_and_the_pipeline(tmp_path, small_cog):
    tokenizer = small_cog()
    model = make_xl(vocab_size=len(tokenizer), eos_token_id=len(tokenizer) - 1, pad_token_id=len(tokenizer) - 1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is models.TransformerXLForCausalLM
    assert again.lm_head.weight is again.model.embed_tokens.weight
    own = again.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    base = models.TransformerXLModel.from_pretrained(tmp_path)
    assert torch.equal(base.layers[1].mlp.fc_in.weight, model.model.layers[1].mlp.fc_in.weight)
    text = pipeline("text-generation", model=str(tmp_path), max_new_tokens=8)("问题：", return_full_text=False)
    assert isinstance(text[0]["generated_text"], str)
    with pytest.raises(ValueError, match="must hold exactly the tensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path, num_hidden_layers=3)


def test_without_this_repository_the_saved_code_gives_the_same(tmp_path):
    model = make_xl()
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.auto_map["AutoModelForCausalLM"] == "transformer_xl.TransformerXLForCausalLM"
    assert "AutoModelForMaskedLM" not in config.auto_map
    assert {file.name for file in tmp_path.glob("*.py")} >= {"transformer_xl.py", "relative.py", "base.py"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_finite_and_near(dtype):
    ids = torch.randint(0, 49, (2, 30), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    mask[1, :10] = 0
    expected = make_xl()(ids).logits
    logits = make_xl().to(dtype)(ids).logits
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert torch.isfinite(make_xl().to(dtype)(ids, attention_mask=mask).logits).all()
    with torch.autocast("cpu", dtype=dtype):
        assert (make_xl()(ids).logits.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_training_draws_dropout_and_trains_with_autocast():
    model = make_xl(hidden_dropout=0.3, attention_dropout=0.3).train()
    ids = torch.randint(0, 49, (2, 30), generator=torch.Generator().manual_seed(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [model(ids, labels=ids).loss for _ in range(2)]
    assert losses[0] != losses[1]
    losses[0].backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())


@torch.no_grad()
def test_labels_are_shifted_and_nothing_labelled_gives_zero():
    model, ids = make_xl(), torch.arange(12).view(2, 6)
    shifted = F.pad(ids[:, 1:], (0, 1), value=-100)
    outputs = model(ids, labels=ids)
    assert torch.equal(outputs.loss, model(ids, shift_labels=shifted).loss)
    expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    close(outputs.loss, expected)
    assert model(ids, labels=torch.full_like(ids, -100)).loss == 0
    close(model(ids, logits_to_keep=2).logits, outputs.logits[:, -2:])


def test_fresh_weights_are_drawn_as_megatron_draws_them():
    torch.manual_seed(0)
    config = models.TransformerXLConfig(hidden_size=128, num_hidden_layers=8, num_attention_heads=2, vocab_size=500)
    model = models.TransformerXLModel(config)
    layer = model.layers[0]
    for weight, std in ((model.embed_tokens.weight, 0.02), (layer.attn.r_proj.weight, 0.02)):
        assert abs(weight.std() / std - 1) < 0.05
    for weight in (layer.attn.o_proj.weight, layer.mlp.fc_out.weight):
        assert abs(weight.std() / (0.02 / 4) - 1) < 0.05
    assert not model.rel_bias.r_w_bias.any()
    assert not model.rel_bias.r_r_bias.any()
    assert not layer.attn.q_proj.bias.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(torch.ones(1, 3, dtype=int), past_key_values=DynamicCache(), mems=(torch.ones(1, 2, 24),) * 3),
            "must not both be given",
        ),
        (lambda m: m(), "exactly one of input_ids"),
        (lambda m: m(torch.ones(1, 3, dtype=int), attention_mask=torch.ones(1, 1, 3, 3)), "attention_mask must have"),
        (
            lambda m: make_xl(relative_encoding=False, max_position_embeddings=4)(torch.ones(1, 5, dtype=int)),
            "at most max_position_embeddings 4 tokens, got 5",
        ),
        (lambda m: make_xl(num_attention_heads=5), "hidden_size must be even and divide"),
        (lambda m: make_xl(positions_dtype="bfloat16"), "positions_dtype must be one of"),
        (lambda m: make_xl(attention_window=0), "attention_window must lie between 1 and"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_xl())


def test_every_number_of_the_fixture_is_compared(xl_tensors):
    roots = {path.split("/")[0] for path in xl_tensors}
    compared = {"state_dict", "input_ids_all", "logits_all", "mems_all", "seg8_mem4", "train", "gen", "abs_variant"}
    assert roots == compared | {"fp16", "sampling", "xl_dataset", "attention_mask_full"}


def test_copies_of_tied_tensors_are_written_once(xl_model, tmp_path):
    """As they come from a state dict that was gathered over processes."""
    model = xl_model()
    gathered = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "lm_head.weight" in gathered
    model.save_pretrained(tmp_path, state_dict=gathered)
    assert load_file(tmp_path / "model.safetensors").keys() == gathered.keys() - {"lm_head.weight"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, gathered[name]) for name, tensor in again.state_dict().items())
