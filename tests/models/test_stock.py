"""Stock transformers models, adapted: the same numbers at the positions asked for, and packed documents kept apart."""

import pytest
import torch
import transformers

from models import FLASHForMaskedLM, GAUAlphaForMaskedLM
from models.flash import FLASHConfig
from models.gau import GAUAlphaConfig
from models.stock import accept_our_inputs, check_isolation, longest_row

TINY = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1}

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
KINDS = pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra"])


def make(kind, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **changes)
    return getattr(transformers, f"{kind}ForMaskedLM")(config).eval()


@KINDS
@pytest.mark.parametrize("return_dict", [True, False])
def test_logits_and_loss_at_masked_positions_equal_those_of_all(kind, return_dict):
    model = make(kind)
    ids = torch.randint(5, 50, (2, 9))
    positions = torch.tensor([[2, 7], [5, 0]])
    labels = torch.full((2, 9), -100)
    labels[0, 2], labels[0, 7], labels[1, 5] = 8, 9, 10
    full = model(ids, labels=labels, attention_mask=torch.ones_like(ids))
    keywords = {"attention_mask": torch.ones_like(ids), "return_dict": return_dict}
    few = accept_our_inputs(model)(input_ids=ids, labels=labels, masked_positions=positions, **keywords)
    torch.testing.assert_close(few[0], full.loss)
    torch.testing.assert_close(few[1], full.logits.gather(1, positions[..., None].expand(2, 2, 50)))
    torch.testing.assert_close(model(input_ids=ids, **keywords)[0], full.logits)  # and without positions, all


@KINDS
def test_packed_documents_have_the_logits_of_each_alone(kind):
    model = accept_our_inputs(make(kind))
    first, second = torch.randint(5, 50, (1, 6)), torch.randint(5, 50, (1, 4))
    documents = torch.tensor([[1] * 6 + [2] * 4])
    packed = model(
        input_ids=torch.cat([first, second], dim=1),
        attention_mask=documents[:, :, None] == documents[:, None, :],
        position_ids=torch.tensor([[*range(6), *range(4)]]),
    ).logits
    torch.testing.assert_close(packed[:, :6], model(input_ids=first).logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed[:, 6:], model(input_ids=second).logits, atol=1e-5, rtol=0)


def logits_and_gradients(model, **inputs):
    """Logits, gradients, and how many masks of all pairs autograd keeps."""
    masks = {}

    def pack(tensor):
        if tensor.shape[-2:] == (10, 10):
            masks[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(**inputs).logits
    return logits, torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True), len(masks)


@KINDS
@pytest.mark.parametrize("form", ["numbers", "pairs"])
def test_packed_documents_need_one_mask_in_all_layers(kind, form):
    """Where transformers' own layers run; theirs is boolean, and each layer makes another of it."""
    model = make(kind)
    documents = torch.tensor([[1] * 6 + [2] * 3 + [0], [1] * 10])
    ids, pairs = torch.randint(5, 50, (2, 10)), documents[:, :, None] == documents[:, None, :]
    logits, gradients, masks = logits_and_gradients(model, input_ids=ids, attention_mask=pairs.unsqueeze(1))
    assert masks == SIZES["num_hidden_layers"]
    mask = pairs if form == "pairs" else documents.unsqueeze(1)
    ours = logits_and_gradients(accept_our_inputs(model), input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(ours[0], logits)
    for gradient, expected in zip(ours[1], gradients, strict=True):
        torch.testing.assert_close(gradient, expected)
    assert ours[2] == 1


def test_pair_masks_without_sdpa_are_refused():
    model = accept_our_inputs(make("Bert", attn_implementation="eager"))
    with pytest.raises(ValueError, match="sdpa"):
        model(input_ids=torch.ones(1, 3, dtype=torch.int64), attention_mask=torch.ones(1, 3, 3))


def test_models_that_cannot_keep_documents_apart_are_told_from_those_that_can():
    for kind in ("Bert", "Roberta", "Electra", "XLMRoberta", "DistilBert"):
        check_isolation(accept_our_inputs(make(kind)))
    gau, flash = GAUAlphaForMaskedLM(GAUAlphaConfig(**TINY)), FLASHForMaskedLM(FLASHConfig(**TINY))
    check_isolation(accept_our_inputs(gau))
    for model in (
        flash,
        make("MobileBert", embedding_size=16, intra_bottleneck_size=32),
        make("RoFormer"),
        make("Bert", attn_implementation="eager"),
    ):
        with pytest.raises(ValueError, match="isolated needs a model that takes a mask of pairs"):
            check_isolation(accept_our_inputs(model))


def test_the_longest_row_leaves_room_for_padding_positions():
    assert [longest_row(make(kind)) for kind in ("Bert", "Roberta", "Electra")] == [40, 38, 40]
    assert longest_row(GAUAlphaForMaskedLM(GAUAlphaConfig(**TINY))) is None
