"""A head of every kind on every encoder: saved and loaded, blind to padding, on the encoder's own tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    DebertaConfig,
    DistilBertConfig,
    ElectraConfig,
    ElectraForPreTraining,
    ModernBertConfig,
    RobertaConfig,
    RoFormerConfig,
)

import models
from models.task_heads import (
    HEAD_CLASSES,
    encoder_config,
    has_head,
    load_encoder,
    new_task_model,
    set_dropout,
    takes_token_types,
    task_model,
)
from training.model_setup import own_memory

SIZE = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "initializer_range": 0.2}
STOCK = SIZE | {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 48, "pad_token_id": 0}
ENCODERS = {
    "gau_alpha": models.GAUAlphaConfig(intermediate_size=40, attention_key_size=8, **SIZE),
    "flash_quad": models.FLASHQuadConfig(s=8, **SIZE),
    "flash": models.FLASHConfig(query_key_dim=40, group_size=8, linear_divisor="valid", **SIZE),
    "bert": BertConfig(**STOCK),
    "roberta": RobertaConfig(type_vocab_size=1, **STOCK),
    "electra": ElectraConfig(embedding_size=8, **STOCK),
    "roformer": RoFormerConfig(embedding_size=24, **STOCK),
    "modernbert": ModernBertConfig(
        global_attn_every_n_layers=2,
        local_attention=8,
        **dict.fromkeys(("cls_token_id", "bos_token_id"), 1),
        **dict.fromkeys(("sep_token_id", "eos_token_id"), 2),
        **STOCK,
    ),
    "distilbert": DistilBertConfig(vocab_size=50, dim=24, n_layers=2, n_heads=2, hidden_dim=32, pad_token_id=0),
    "albert": AlbertConfig(embedding_size=8, **STOCK),
}
EVERY_ENCODER = pytest.mark.parametrize("name", ENCODERS)
LABELS = ("no", "maybe", "yes")


def inputs(kind, lengths=(13, 7, 2), width=13):
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = torch.randint(3, 50, (len(lengths), 13), generator=generator)
    batch = {"input_ids": F.pad(ids, (0, width - 13)) * mask, "attention_mask": mask}
    return {key: tensor.unsqueeze(0) for key, tensor in batch.items()} if kind == "multiple_choice" else batch


def logits(model, kind, batch):
    with torch.no_grad():
        outputs = model(**batch)
    if kind == "question_answering":
        return torch.stack((outputs.start_logits, outputs.end_logits), -1)
    return outputs.logits


@EVERY_ENCODER
def test_padding_never_changes_what_a_head_says(name):
    for kind in HEAD_CLASSES:
        for head in ("auto", "linear"):
            torch.manual_seed(0)
            model = new_task_model(ENCODERS[name], kind, LABELS, head).eval()
            padded = logits(model, kind, inputs(kind, width=16))
            padded = padded[0] if kind == "multiple_choice" else padded
            for row, length in enumerate((13, 7, 2)):
                alone = {key: tensor[..., row : row + 1, :length] for key, tensor in inputs(kind).items()}
                result = logits(model, kind, alone)[0]
                wanted = padded[row, :length] if padded.dim() == 3 else padded[row]
                torch.testing.assert_close(result.view_as(wanted), wanted, atol=1e-5, rtol=1e-5)


@EVERY_ENCODER
def test_a_model_with_any_head_is_saved_and_loaded(name, tmp_path):
    for number, kind in enumerate(HEAD_CLASSES, start=list(ENCODERS).index(name)):  # each head with half the families
        model = new_task_model(ENCODERS[name], kind, LABELS, ("auto", "linear")[number % 2]).eval()
        model.save_pretrained(tmp_path / kind)
        loaded = own_memory(HEAD_CLASSES[kind].from_pretrained(tmp_path / kind)).eval()
        assert type(loaded) is type(model) and has_head(loaded.config, kind)
        assert torch.equal(logits(loaded, kind, inputs(kind)), logits(model, kind, inputs(kind)))
        if kind in ("classification", "tagging"):
            assert loaded.config.id2label == dict(enumerate(LABELS))
            assert loaded.config.label2id == {label: number for number, label in enumerate(LABELS)}
        assert encoder_config(loaded.config).model_type == ENCODERS[name].model_type


def test_a_family_without_a_class_of_a_kind_gets_the_linear_head(tmp_path):
    model = new_task_model(DebertaConfig(**STOCK), "multiple_choice", ()).eval()
    assert type(model).__name__ == "LinearHeadForMultipleChoice"
    model.save_pretrained(tmp_path)
    batch = inputs("multiple_choice")
    loaded = own_memory(HEAD_CLASSES["multiple_choice"].from_pretrained(tmp_path)).eval()
    assert torch.equal(logits(loaded, "multiple_choice", batch), logits(model, "multiple_choice", batch))


def test_the_linear_head_is_electras():
    torch.manual_seed(0)
    model = new_task_model(ENCODERS["electra"], "classification", LABELS, "linear", dropout=0.3)
    assert [type(module) for name, module in model.named_children() if name != "encoder"] == [nn.Dropout, nn.Linear]
    bound = (6 / (24 + 3)) ** 0.5  # Glorot-uniform
    assert bound * 0.8 < model.classifier.weight.abs().max() <= bound and (model.classifier.bias == 0).all()
    assert model.dropout.p == 0.3 and model.encoder.config.hidden_dropout_prob == 0.3
    batch = inputs("classification")
    with torch.no_grad():
        first = model.eval().encoder(**batch)[0][:, 0]
        torch.testing.assert_close(model(**batch).logits, model.classifier(first))
    assert not any(
        "pooler" in name
        for name, _ in new_task_model(BertConfig(**STOCK), "regression", (), "linear").named_parameters()
    )


@pytest.mark.parametrize("head", ["auto", "linear"])
def test_a_fresh_head_stands_on_the_tensors_of_the_encoder(head, tmp_path):
    """From a masked LM, from a discriminator, and from a model finetuned for another kind of task."""
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**STOCK)).save_pretrained(tmp_path / "lm")
    config = BertConfig.from_pretrained(tmp_path / "lm")
    classifier = task_model(config, str(tmp_path / "lm"), "classification", LABELS, head=head)
    classifier.save_pretrained(tmp_path / "classifier")
    assert classifier.config.problem_type == "single_label_classification" and classifier.config.num_labels == 3
    from_lm = BertForMaskedLM.from_pretrained(tmp_path / "lm").base_model.state_dict()
    state = classifier.base_model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in from_lm.items())
    config = type(classifier.config).from_pretrained(tmp_path / "classifier")
    for kind, outputs in (("regression", 1), ("multiple_choice", 1), ("question_answering", 2), ("tagging", 2)):
        model = task_model(config, str(tmp_path / "classifier"), kind, ("O", "B"))
        assert type(model).__name__.startswith("LinearHead" if head == "linear" else "Bert")
        assert model.config.problem_type == ("regression" if kind == "regression" else None)
        assert model.config.num_labels == outputs
        tensors = model.base_model.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items() if name in state)
    assert config.problem_type == "single_label_classification", "the config that was given stays as it is"


def test_a_discriminator_is_an_encoder(tmp_path):
    ElectraForPreTraining(ENCODERS["electra"]).save_pretrained(tmp_path)
    model = task_model(ENCODERS["electra"], str(tmp_path), "classification", LABELS, head="linear")
    state = ElectraForPreTraining.from_pretrained(tmp_path).electra.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.encoder.state_dict().items())


def test_what_lacks_tensors_is_refused(tmp_path):
    small = BertConfig(**STOCK)
    AutoModel.from_config(small).save_pretrained(tmp_path)
    deep = BertConfig(**STOCK | {"num_hidden_layers": 3})
    with pytest.raises(ValueError, match=r"must hold all tensors of BertModel, got one without encoder.layer.2"):
        load_encoder(new_task_model(deep, "tagging", LABELS), str(tmp_path))
    wide = BertConfig(**STOCK | {"intermediate_size": 40})
    with pytest.raises(ValueError, match="intermediate"):
        load_encoder(new_task_model(wide, "tagging", LABELS), str(tmp_path))
    with pytest.raises(ValueError, match="head must be one of auto, linear, got 'crf'"):
        new_task_model(small, "tagging", LABELS, "crf")


def test_token_types_are_for_encoders_that_were_pretrained_with_them():
    takes = {name for name, config in ENCODERS.items() if takes_token_types(new_task_model(config, "regression", ()))}
    assert takes == {"bert", "electra", "roformer", "albert"}
    linear = new_task_model(ENCODERS["bert"], "regression", (), "linear")
    assert takes_token_types(linear)
    batch = inputs("regression")
    types = batch | {"token_type_ids": batch["attention_mask"]}
    assert not torch.equal(logits(linear.eval(), "regression", batch), logits(linear, "regression", types))


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("name", ["gau_alpha", "bert"])
def test_the_linear_head_may_read_all_real_tokens(name, pooling, tmp_path):
    model = new_task_model(ENCODERS[name], "classification", LABELS, pooling=pooling).eval()
    batch = inputs("classification", width=16)
    with torch.no_grad():
        rows = [
            model.encoder(ids[None, :length])[0][0] for ids, length in zip(batch["input_ids"], (13, 7, 2), strict=True)
        ]
        wanted = torch.stack([row.mean(0) if pooling == "mean" else row.amax(0) for row in rows])
        torch.testing.assert_close(model(**batch).logits, model.classifier(wanted), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(batch["input_ids"][:1, :13]).logits, model(**batch).logits[:1])
    model.save_pretrained(tmp_path)
    loaded = HEAD_CLASSES["classification"].from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, "classification", batch), logits(model, "classification", batch))
    with pytest.raises(ValueError, match="pooling must be first for a task of tagging"):
        new_task_model(ENCODERS[name], "tagging", LABELS, pooling=pooling)


def test_dropout_can_be_switched_off_everywhere():
    for config in ENCODERS.values():
        model = new_task_model(config, "classification", LABELS, dropout=0.0).train()
        batch = inputs("classification")
        assert torch.equal(logits(model, "classification", batch), logits(model, "classification", batch))
    modern = ModernBertConfig(**STOCK)
    set_dropout(modern, 0.25)
    assert modern.mlp_dropout == modern.classifier_dropout == 0.25


@pytest.mark.parametrize("name", ["gau_alpha", "bert"])
def test_auto_model_of_a_folder_with_a_linear_head_is_its_encoder(tmp_path, name):
    torch.manual_seed(0)
    model = new_task_model(ENCODERS[name], "classification", ("no", "yes"), head="linear").eval()
    model.save_pretrained(tmp_path)
    encoder = own_memory(AutoModel.from_pretrained(tmp_path)).eval()
    ids, mask = torch.arange(5, 17).view(2, 6), torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        wanted = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        outputs = encoder(ids, mask, output_hidden_states=True)
        assert torch.equal(outputs.last_hidden_state, wanted)
        assert torch.equal(encoder(ids, mask, return_dict=False)[0], wanted)
    assert len(outputs.hidden_states) == 3 and encoder.config.hidden_size == 24
    assert not [parameter for parameter, _ in encoder.named_parameters() if not parameter.startswith("encoder.")]
