"""Sentences with blanks, and what a masked language model puts there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common.errors import ArgumentError


@dataclass(frozen=True)
class Candidate:
    """One token for a [MASK] and its probability."""

    token: str
    probability: float

    def __str__(self) -> str:
        return f"{self.token}+{self.probability:.4f}"


@dataclass(frozen=True)
class Question:
    """A text with blanks, and the tokens that belong there, of which there may be none."""

    text: str
    answers: tuple[str, ...] = ()


class Filler:
    """A masked LM with its tokenizer, ready to fill sentences."""

    def __init__(self, model: torch.nn.Module, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def candidates(self, text: str, top_k: int = 5) -> list[list[Candidate]]:
        """The top_k candidates of each [MASK] of the text, best first."""
        batch = self.tokenizer(text, return_tensors="pt").to(self.model.device)
        positions = (batch["input_ids"][0] == self.tokenizer.mask_token_id).nonzero().T  # [1, P]
        if positions.numel() == 0:
            raise ArgumentError(f"TEXT must contain {self.tokenizer.mask_token}, got {text!r}; put it where to guess")
        batch = {name: tensor for name, tensor in batch.items() if name in ("input_ids", "attention_mask")}
        logits = self.model(**batch).logits[0, positions[0]]
        best = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
        return [
            [
                Candidate(self.tokenizer.convert_ids_to_tokens(token), value)
                for token, value in zip(ids, values, strict=True)
            ]
            for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def fill(self, text: str, top_k: int = 5) -> str:
        """The text with each [MASK] replaced by its candidates, as [气+0.9948||空+0.0011]."""
        return self._filled(text, self.candidates(text, top_k))

    def answer(self, question: Question, top_k: int = 5) -> tuple[str, list[bool]]:
        """The text filled, behind it what belongs where a first guess is another; which first guesses are right."""
        guesses = self.candidates(question.text, top_k)
        line = self._filled(question.text, guesses)
        if not question.answers:
            return line, []
        hits = [guess[0].token == answer for guess, answer in zip(guesses, question.answers, strict=True)]
        return line + ("" if all(hits) else f"    wanted: {' '.join(question.answers)}"), hits

    def _filled(self, text: str, guesses: list[list[Candidate]]) -> str:
        parts = text.split(self.tokenizer.mask_token)
        shown = [f"[{'||'.join(map(str, guess))}]" for guess in guesses]
        return "".join(part + guess for part, guess in zip(parts, [*shown, ""], strict=True))


def read_questions(path: str, tokenizer, most: int | None = None) -> list[Question]:
    """Those of a UTF-8 file of lines `text` or `text<TAB>answer<TAB>answer ...`; empty lines are left out.

    most: tokens that the model takes, None for any number. Raises ArgumentError, which names the line: no blank,
    another number of answers, an answer that is no token, a text that is too long.
    """
    questions, tokens = [], tokenizer.get_vocab()
    if not Path(path).is_file():
        raise ArgumentError(f"--probe_file must name a file, got {path!r}; check the path")
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            text, *answers = line.decode("utf-8-sig").split("\t")
        except UnicodeDecodeError:
            raise ArgumentError(f"--probe_file {path} line {number} must be UTF-8; convert the file") from None
        if not text.strip():
            continue
        blanks = text.count(tokenizer.mask_token)
        if not blanks or (answers and len(answers) != blanks):
            raise ArgumentError(
                f"--probe_file {path} line {number} must hold a text with {tokenizer.mask_token} and one answer for "
                f"each or none, got {blanks} blanks and {len(answers)} answers; mend the line"
            )
        unknown = [answer for answer in answers if answer not in tokens]
        if unknown:
            raise ArgumentError(
                f"--probe_file {path} line {number} must have answers of one token, got {unknown[0]!r}; take "
                "another blank"
            )
        if most is not None and len(tokenizer(text)["input_ids"]) > most:
            raise ArgumentError(f"--probe_file {path} line {number} must have at most {most} tokens; shorten it")
        questions.append(Question(text, tuple(answers)))
    if not questions:
        raise ArgumentError(f"--probe_file {path} must hold a text with {tokenizer.mask_token}, got none; add one")
    return questions


def count_right(hits: Sequence[bool]) -> str:
    """How many first guesses are right, in words; nothing where no answers are known."""
    return f"{sum(hits)} of {len(hits)} blanks right at the first guess" if hits else ""


class Blanks:
    """What a model fills into the blanks of questions; see training/samples/report.py."""

    def __init__(self, model: torch.nn.Module, tokenizer, questions: Sequence[Question]):
        self.model = model
        self._filler, self._questions = Filler(model, tokenizer), questions

    def __call__(self) -> tuple[list[dict[str, str]], dict[str, float]]:
        """A record of each question, and the share of first guesses that are right, if answers are known."""
        records, hits = [], []
        for question in self._questions:
            filled, right = self._filler.answer(question, top_k=3)
            records.append({"text": question.text, "filled": filled})
            hits += right
        return records, {"probe_accuracy": sum(hits) / len(hits)} if hits else {}
