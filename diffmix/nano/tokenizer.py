"""A small CLIP tokenizer: one token per word of given words, byte-level pieces for other text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order of rank, that make each of `words` a single symbol.

    `words` are lower-case ASCII.
    """
    spelled = [[*word[:-1], word[-1] + _WORD_END] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while any(len(symbols) > 1 for symbols in spelled):
        counts: dict[tuple[str, str], int] = {}
        for symbols in spelled:
            for pair in pairwise(symbols):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        spelled = [_merge(symbols, best) for symbols in spelled]
    return merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """The symbols with each occurrence of `pair` joined."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def write_tokenizer(words: Iterable[str], folder: Path, max_length: int) -> CLIPTokenizer:
    """Write the files of a CLIP tokenizer into `folder` and load it.

    It cuts and pads prompts to `max_length` tokens.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    merges = learn_merges(words)
    letters = sorted(ByteLevel.alphabet())
    symbols = letters + [letter + _WORD_END for letter in letters]
    symbols += [left + right for left, right in merges] + [START, END]
    special = {"unk_token": END, "bos_token": START, "eos_token": END, "pad_token": END}
    config = special | {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "do_lower_case": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = [f"{left} {right}\n" for left, right in merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(lines))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    return CLIPTokenizer.from_pretrained(folder)
