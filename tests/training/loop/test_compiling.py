"""Compiled layers: how many graphs there are, and runs that are what they are without."""

import torch

from tests.models.small_models import batch, head_inputs, make
from training.loop.compiling import compile_layers


def test_layers_share_their_graphs_and_lengths_have_one_for_all_of_them():
    torch.compiler.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = make("gau", num_hidden_layers=5).train()
    names = list(model.state_dict())
    compile_layers(model, backend=keep)
    counts = []
    for length in (16, 16, 24, 40, 20, 32, 28):
        ids, mask = batch((length, length - 5, 3), length)
        positions = torch.arange(length // 6).expand(3, -1).contiguous()
        model(**head_inputs("ForMaskedLM", ids, mask), masked_positions=positions).loss.backward()
        counts.append(len(graphs))
    # Of a layer and of the last one: for the first length, and then for any.
    assert counts == [2, 2, 4, 4, 4, 4, 4]
    assert list(model.state_dict()) == names
