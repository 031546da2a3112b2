"""Text that follows prompts, by generate(): in batches or as it comes, on one process or spread over several.

Letters: B prompts, T tokens.
"""

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Thread, main_thread

import torch
from tokenizers import Regex, decoders
from transformers import LogitsProcessor, TextIteratorStreamer, TextStreamer

from common.errors import ArgumentError

from .static_decoding import StaticStep, can_capture, captured_step, decode

logger = logging.getLogger(__name__)

PROCESSES, PROCESS = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
_NO_SPACE_BEFORE = Regex(r"^ (?=[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef])")  # Chinese and its punctuation


class SharedInterrupt:
    """Ctrl-C where several processes generate: the first one hears it, and all end behind the same token.

    A second Ctrl-C kills the first process at once. One process alone is interrupted as ever.
    """

    def __init__(self):
        self._heard = False
        if PROCESSES > 1:
            signal.signal(signal.SIGINT, signal.SIG_IGN if PROCESS else self._hear)

    def _hear(self, number, frame):
        self._heard = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    @contextmanager
    def at_once(self):
        """Meanwhile the first process, of which the others hear by other means, raises KeyboardInterrupt itself."""
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if self._heard:
                raise KeyboardInterrupt
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def raise_for_all(self, device: torch.device) -> None:
        """KeyboardInterrupt in every process if the first has heard Ctrl-C; all must call it together."""
        heard = torch.tensor(self._heard, device=device)
        torch.distributed.broadcast(heard, 0)
        if heard:
            raise KeyboardInterrupt


class FirstProcessDecides(LogitsProcessor):
    """Scores of the first process for all, so that no rounding makes processes draw different tokens; Ctrl-C too."""

    def __init__(self, interrupt: SharedInterrupt):
        self.interrupt = interrupt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.interrupt.raise_for_all(scores.device)
        scores = scores.contiguous()
        torch.distributed.broadcast(scores, 0)
        return scores


class Pieces(TextIteratorStreamer):
    """Pieces of a text for another thread. Once that wants no more, or the script ends, generate() is interrupted."""

    wanted = True

    def put(self, value):
        if not (self.wanted and main_thread().is_alive()):
            raise KeyboardInterrupt
        super().put(value)


def position_count(part: torch.nn.Module) -> int:
    """Tokens that a model, or its encoder or decoder, has rows of a position table for; sys.maxsize without one."""
    sizes = [
        table.num_embeddings - (getattr(table, "offset", 0) or (-1 if (pad := table.padding_idx) is None else pad) + 1)
        for name, table in part.named_modules()
        if isinstance(table, torch.nn.Embedding) and re.search(r"position|(^|[._])wpe$", name)
    ]
    return min(sizes, default=sys.maxsize)


class Generator:
    """A causal or encoder-decoder model, its tokenizer, and how to draw.

    begin: ids before every prompt of a causal model. interrupt: of processes that generate together, None where each
    does by itself. args: temperature (0 takes the likeliest), top_k, top_p (0 for all), repetition_penalty, num_beams,
    max_length (tokens of prompt and text) or max_new_tokens, source_prefix, max_source_length (of an encoder-decoder),
    cuda_graph (whether a Transformer-XL on one card decodes by a CUDA graph), torch_compile (whether its layers are
    compiled then).
    """

    def __init__(self, model, tokenizer, begin: list[int], interrupt: SharedInterrupt | None, args):
        self.model, self.tokenizer, self.args, self._begin = model.eval(), tokenizer, args, begin
        self.interrupt = interrupt
        config = model.config
        self._two_parts = bool(config.is_encoder_decoder)
        parts = [model.get_encoder(), model.get_decoder()] if self._two_parts else [model]
        self._most_prompt, self._most = position_count(parts[0]), position_count(parts[-1])
        if not self._two_parts and not getattr(config, "relative_encoding", False):
            self._most = min(self._most, getattr(config, "max_position_embeddings", None) or sys.maxsize)
        self._pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self._settings = self._make_settings(config.get_text_config().vocab_size)
        self._captures = args.cuda_graph and PROCESSES == 1 and args.num_beams == 1 and can_capture(model)
        self._steps: dict[int, StaticStep | None] = {}  # by their rows
        backend = tokenizer.backend_tokenizer
        if json.loads(backend.to_str())["model"]["type"] == "WordPiece":
            backend.decoder = decoders.Sequence([decoders.WordPiece(), decoders.Replace(_NO_SPACE_BEFORE, "")])

    def _make_settings(self, entries: int) -> dict:
        """Arguments of generate() that are the same for all prompts."""
        args = self.args
        settings = {"num_beams": args.num_beams, "do_sample": args.temperature > 0, "pad_token_id": self._pad}
        settings |= {"repetition_penalty": args.repetition_penalty}
        settings |= {"max_length": None}  # the model's own, of which generate() would warn beside max_new_tokens
        if args.temperature > 0:
            settings |= {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p or 1.0}
        else:
            settings |= {"temperature": None, "top_k": None, "top_p": None}
        undecodable = list(range(len(self.tokenizer), entries))  # rows that pad the vocabulary
        if undecodable:
            settings["suppress_tokens"] = undecodable
        if PROCESSES > 1 and self.interrupt is not None:
            settings["logits_processor"] = [FirstProcessDecides(self.interrupt)]
        return settings

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Meanwhile this process generates what no other does; Ctrl-C is its own."""
        together = self._settings.pop("logits_processor", None)
        with self.interrupt.at_once():
            yield
        self._settings["logits_processor"] = together

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt, source_prefix before it. ArgumentError when there are none."""
        text = self.args.source_prefix + prompt
        if self._two_parts:
            most = self.args.max_source_length
            return self.tokenizer(text, truncation=most is not None, max_length=most)["input_ids"]
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise ArgumentError(f"the prompt must have at least one token, got {prompt!r}; type some text")
        return [*self._begin, *ids]

    def room(self, rows: list[list[int]]) -> list[int]:
        """How many tokens may follow prompts of these ids. ArgumentError when that is none."""
        length, new = self.args.max_length, self.args.max_new_tokens
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        if longest > self._most_prompt or (not self._two_parts and longest >= self._most):
            how = "no more tokens than" if self._two_parts else "fewer tokens than"
            most = self._most_prompt if self._two_parts else self._most
            raise ArgumentError(f"the prompt must have {how} MODEL's {most} positions, got {longest}; shorten it")
        if self._two_parts:
            return self._within([length if new is None else new] * len(lengths), self._most)
        if new is None and longest >= length:
            raise ArgumentError(f"--max_length must be more than the {longest} tokens of the prompt, got {length}")
        # A row's own limit, whatever its neighbours; positions run out for the longest row first.
        rooms = [length - count if new is None else new for count in lengths]
        return self._within(rooms, self._most - longest)

    def _within(self, rooms: list[int], most: int) -> list[int]:
        """At most so many each, which is logged where it is fewer."""
        if max(rooms) > most and self.args.max_new_tokens is not None:
            logger.info("MODEL's positions end after %d tokens of the text, before --max_new_tokens", most)
        return [min(room, most) for room in rooms]

    def _decoding(self, rows: int, streamer) -> dict:
        """The argument of generate() that lets it decode so many rows by a captured step; {} for its own way."""
        if not self._captures:
            return {}
        if rows not in self._steps:
            self._steps[rows] = captured_step(self.model, rows, self.args.torch_compile)
        step = self._steps[rows]
        return {} if step is None else {"custom_generate": partial(decode, step, streamer)}

    def _padded(self, rows: list[list[int]], value: int) -> torch.Tensor:
        """Rows of one length, [B, T]: filled up behind for an encoder, whose first token has its first position."""
        longest = max(map(len, rows))
        fill = [[value] * (longest - len(row)) for row in rows]
        pairs = zip(rows, fill, strict=True) if self._two_parts else zip(fill, rows, strict=True)
        return torch.tensor([[*first, *second] for first, second in pairs])

    @torch.no_grad()
    def generate(self, prompts: list[str], streamer: TextStreamer | None = None) -> list[str]:
        """The text that follows each prompt."""
        rows = [self.encode(prompt) for prompt in prompts]
        rooms, longest = self.room(rows), max(map(len, rows))
        ids, mask = self._padded(rows, self._pad), self._padded([[1] * len(row) for row in rows], 0)
        decoding = self._decoding(len(rows), streamer)
        device, started = self.model.device, time.perf_counter()
        ids_after = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            streamer=streamer,
            max_new_tokens=max(rooms),
            **self._settings,
            **decoding,
        )
        new = ids_after[:, 1 if self._two_parts else longest :]  # behind the token that a decoder starts with
        seconds = time.perf_counter() - started
        logger.info("%d tokens, %.1f tokens/s", new.numel(), new.numel() / seconds)
        texts = zip(new.tolist(), rooms, strict=True)
        return [self.tokenizer.decode(row[:room], skip_special_tokens=True) for row, room in texts]

    def stream(self, prompt: str) -> None:
        """Print the prompt and what follows it, as it comes."""
        if PROCESS == 0:
            print(prompt, end="", flush=True)
        whole = self.args.num_beams > 1 or PROCESS > 0
        streamer = None if whole else TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        (text,) = self.generate([prompt], streamer)
        if whole and PROCESS == 0:
            print(text)

    def pieces(self, prompt: str) -> Iterator[str]:
        """What follows a prompt, as it comes; who leaves off ends the generation behind its next token."""
        if self.args.num_beams > 1:
            yield from self.generate([prompt])
            return
        pieces, errors = Pieces(self.tokenizer, skip_prompt=True, skip_special_tokens=True), []

        def run():
            try:
                self.generate([prompt], pieces)
            except BaseException as error:
                errors.append(error)
                pieces.end()

        thread = Thread(target=run)
        thread.start()
        try:
            yield from pieces
        finally:
            pieces.wanted = False
            thread.join()
        if errors:
            raise errors[0]
