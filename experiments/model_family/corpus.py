"""Token ids of the text: the family's tokenizer, the batches of training, the held-out text that is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer

from lrcsim.experiments.model_family import text

Tokens = npt.NDArray[np.uint16]

PROMPT_TOKENS = (32, 128)


@dataclass(frozen=True)
class Corpus:
    """Encoded text.

    Attributes:
        tokenizer: byte-level BPE, trained on equal amounts of every domain's training text.
        training: uint16 [tokens] by domain.
        held_out: the same, never trained on.
    """

    tokenizer: Tokenizer
    training: dict[str, Tokens]
    held_out: dict[str, Tokens]

    @classmethod
    def open(cls, folder: Path, vocabulary: int) -> Corpus:
        """Prepare the text in a folder, train the tokenizer and encode the text; what is there already is kept.

        Raises:
            ConfigError: a package that holds text is not installed.
        """
        domains = text.prepare(folder)
        path = folder / f"tokenizer-{vocabulary}.json"
        if not path.exists():
            parts = [(folder / f"{domain}.train.txt").read_text(encoding="utf-8") for domain in domains]
            share = min(map(len, parts))
            lines = (line for part in parts for line in part[:share].splitlines(keepends=True))
            trainer = ByteLevelBPETokenizer()
            trainer.train_from_iterator(lines, vocab_size=vocabulary, min_frequency=2, show_progress=False)
            trainer.save(str(path))
        tokenizer = Tokenizer.from_file(str(path))

        def encode(split: str) -> dict[str, Tokens]:
            tokens = {}
            for domain in domains:
                kept = folder / f"{domain}.{split}-{vocabulary}.npy"
                if not kept.exists():
                    lines = (folder / f"{domain}.{split}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
                    ids = [i for encoding in tokenizer.encode_batch(lines) for i in encoding.ids]
                    np.save(kept, np.asarray(ids, dtype=np.uint16))
                tokens[domain] = np.load(kept)
            return tokens

        return cls(tokenizer, encode("train"), encode("val"))

    def batch(self, step: int, seed: int, per_domain: int, length: int) -> torch.Tensor:
        """Draw the batch of one step: int64 [domains * per_domain, length + 1].

        It depends on the seed and the step alone, so all variants of a seed see the same text in the same order.
        """
        random = np.random.default_rng((seed, step))
        rows = [
            ids[start : start + length + 1].astype(np.int64)
            for ids in self.training.values()
            for start in random.integers(0, len(ids) - length, per_domain)
        ]
        return torch.from_numpy(np.stack(rows))

    def windows(self, domain: str, count: int, length: int, share: tuple[float, float] = (0.0, 1.0)) -> Tokens:
        """Return windows of held-out text, evenly spread over a share of it: uint16 [count, length]."""
        ids = self.held_out[domain]
        low, high = (int(len(ids) * part) for part in share)
        starts = np.linspace(low, high - length, count, dtype=np.int64)
        return np.stack([ids[start : start + length] for start in starts])

    def samples(self, per_domain: int, length: int) -> Iterator[tuple[str, list[int]]]:
        """Yield domain and token ids of the teacher-forced samples, the domains in turn, from the second half."""
        found = {domain: self.windows(domain, per_domain, length, (0.5, 1.0)) for domain in self.held_out}
        for i in range(per_domain):
            for domain, rows in found.items():
                yield domain, rows[i].tolist()

    def prompts(self, per_domain: int, most: int, seed: int = 0) -> Iterator[tuple[str, list[int]]]:
        """Yield domain and token ids of prompts of 32 to 128 tokens (``most`` at most), from the first half."""
        random = np.random.default_rng(seed)
        low, high = (min(tokens, most) for tokens in PROMPT_TOKENS)
        for _ in range(per_domain):
            for domain, ids in self.held_out.items():
                length = int(random.integers(low, high + 1))
                start = int(random.integers(0, len(ids) // 2 - length))
                yield domain, ids[start : start + length].tolist()
