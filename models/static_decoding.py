"""Decoding of Transformer-XL in steps of one shape, which a CUDA graph replays: a token is one launch, not hundreds.

The window of keys and values is a ring of fixed size: token p lies at place p mod W, and a tensor says where that is,
so that a step reads nothing on the host and works on the same memory each time. Letters: B rows, T tokens of a prompt,
W attention_window, N heads, D width of a head, V vocabulary.
"""

import logging
from collections.abc import Callable

import torch
from transformers import DynamicCache

from .relative import Band, Block, WindowLayer, named_cache
from .transformer_xl import TransformerXLForCausalLM

logger = logging.getLogger(__name__)

_WARM_UPS = 2  # steps before the capture, in which libraries take their memory


class RingLayer:
    """One layer's keys and values [B, N, W, D], written at `place` [1] int64, and its keys of relative positions."""

    def __init__(self, filled: WindowLayer, window: int, place: torch.Tensor):
        """filled: a layer of the cache that an ordinary forward has filled, for shapes and relative positions."""
        rows, heads, _, width = filled.keys.shape
        # Zeros, since what no token has written yet is multiplied with a weight of zero.
        self.keys, self.values = (filled.keys.new_zeros(rows, heads, window, width) for _ in range(2))
        self._relative = filled.keep_relative(None)
        self._place = place

    def put(self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys.index_copy_(2, places, keys)
        self.values.index_copy_(2, places, values)

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.put(self._place, keys, values)
        return self.keys, self.values

    def keep_relative(self, relative: None) -> torch.Tensor | None:
        return self._relative


def run_layer(layer: torch.nn.Module, *arguments, **options) -> torch.Tensor:
    """The layer's output; as a function of its own that a compiler makes one program of, for all layers."""
    return layer(*arguments, **options)


class StaticStep:
    """The logits of the next token for B rows, one token after the other; compiled: by kernels made for this step."""

    @torch.no_grad()
    def __init__(self, model: TransformerXLForCausalLM, rows: int, compiled: bool = False):
        self._model, self._window = model, model.config.attention_window
        options = {"fullgraph": True, "dynamic": False}
        if model.device.type == "cuda":  # products of a matrix and a vector by its own kernels, which are tuned
            options["options"] = {"coordinate_descent_tuning": True}
        self._run_layer = torch.compile(run_layer, **options) if compiled else run_layer

        def zeros(*shape, dtype=torch.int64):
            return torch.zeros(shape, dtype=dtype, device=model.device)

        self._token, self._position = zeros(rows, 1), zeros(1)  # of the token, padding counted
        self._real = zeros(rows, 1)  # tokens before it without padding: its absolute position
        self._place, self._seen = zeros(1), zeros(rows, self._window, dtype=torch.bool)
        self._places = torch.arange(self._window, device=model.device)
        cache = DynamicCache()
        model(self._token, **named_cache(cache), logits_to_keep=1)
        self.layers = [RingLayer(layer, self._window, self._place) for layer in cache.layers]
        self._run = self.compute

    @torch.no_grad()
    def begin(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Take in prompts [B, T], where a mask is 0 for padding on the left; logits [B, V] of what follows them."""
        cache, length = DynamicCache(), ids.shape[1]
        logits = self._model(ids, attention_mask=mask, **named_cache(cache), logits_to_keep=1).logits[:, -1]
        mask = torch.ones_like(ids) if mask is None else mask
        kept = cache.layers[0].keys.shape[2]
        places = torch.arange(length - kept, length, device=ids.device) % self._window
        for ring, layer in zip(self.layers, cache.layers, strict=True):
            ring.put(places, layer.keys, layer.values)
        self._seen.zero_().index_copy_(1, places, mask[:, length - kept :].bool())
        self._position.fill_(length)
        self._real.copy_(mask.sum(1, keepdim=True))
        return logits

    @torch.no_grad()
    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take in one token of each row [B, 1]; logits [B, V] of the next, to be read before another step."""
        self._token.copy_(tokens)
        return self._run()

    def compute(self) -> torch.Tensor:
        """A step by its operations: of one shape, on memory of this object, without a read on the host."""
        base, window = self._model.model, self._window
        self._place.copy_(self._position % window)
        self._seen.index_fill_(1, self._place, True)
        order = window - 1 - (self._position - self._places) % window
        block = Block(slice(0, 1), slice(0, window), window, self._seen[:, None, None], order)
        hidden = base.embed(base.embed_tokens(self._token), None, self._real, 0)
        band, biases = Band((block,), window), base.biases()
        for layer, ring in zip(base.layers, self.layers, strict=True):
            hidden = self._run_layer(layer, hidden, None, band, None, biases, **named_cache(ring))
        self._position += 1
        self._real += 1
        return self._model.lm_head(base.final_layernorm(hidden))[:, -1]

    @torch.no_grad()
    def capture(self) -> None:
        """Let the steps from now on replay one that is recorded here, before `begin`.

        RuntimeError where a kernel, the driver or the memory does not allow it.
        """
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self.compute()
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self.compute()

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        self._run = replay


def can_capture(model: torch.nn.Module) -> bool:
    """Whether there is a static step of a model, and graphs on its device."""
    return isinstance(model, TransformerXLForCausalLM) and model.device.type == "cuda"


def captured_step(model: TransformerXLForCausalLM, rows: int, compiled: bool = False) -> StaticStep | None:
    """The step as a CUDA graph; None, and a line that says why, where it cannot be captured."""
    try:
        step = StaticStep(model, rows, compiled)
        step.capture()
    except RuntimeError as error:
        logger.warning("no CUDA graph of a step (%s): each operation is launched", str(error).split("\n")[0])
        return None
    return step


def decode(
    step: StaticStep,
    streamer,
    model: TransformerXLForCausalLM,
    input_ids: torch.Tensor,
    logits_processor: Callable,
    stopping_criteria: Callable,
    generation_config,
    **inputs,
) -> torch.Tensor:
    """Prompts [B, T] int64 with the tokens that follow them, drawn as generate() draws them from the same numbers.

    The arguments from model on are what generate() gives its `custom_generate`. While the host reads a token, and
    prints it, the device computes the next step already: the one behind the last token is for nothing.
    """
    logits = step.begin(input_ids, inputs.get("attention_mask"))
    finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    running = True
    while running:
        scores = logits_processor(input_ids, logits.float())
        input_ids, finished = extend(input_ids, finished, scores, stopping_criteria, generation_config)
        read = begin_to_read(input_ids[:, -1], finished)
        logits = step(input_ids[:, -1:])
        tokens, ended = read()
        running = not ended.all()
        if streamer is not None:
            streamer.put(tokens)
    if streamer is not None:
        streamer.end()
    return input_ids


def extend(
    ids: torch.Tensor, finished: torch.Tensor, scores: torch.Tensor, stopping_criteria: Callable, generation_config
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [B, T + 1] with a token drawn from scores [B, V], padding where finished; and which rows [B] now are."""
    tokens = torch.where(finished, generation_config.pad_token_id, draw(scores, generation_config.do_sample))
    ids = torch.cat((ids, tokens.unsqueeze(1)), dim=1)
    return ids, finished | stopping_criteria(ids, None)


def draw(scores: torch.Tensor, sample: bool) -> torch.Tensor:
    """One token of each row of scores [B, V], int64 [B]: the likeliest, or a sample.

    torch.multinomial draws the same from the same random numbers, but asks the device whether its input is sound.
    """
    if not sample:
        return scores.argmax(-1)
    chances = scores.softmax(-1)
    return (chances / torch.empty_like(chances).exponential_(1)).argmax(-1)


def begin_to_read(*tensors: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
    """A function that waits for the tensors as they are now, on the host: on CUDA their copies begin here."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    copied = torch.cuda.current_stream().record_event() if tensors[0].is_cuda else None

    def read() -> list[torch.Tensor]:
        if copied is not None:
            copied.synchronize()
        return copies

    return read
