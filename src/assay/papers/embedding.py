"""Texts as vectors of meaning, on the CPU and without a network.

The default takes the static token vectors that the package `wordllama` brings (256 numbers for each of 32,000
tokens) and averages them over a text: no corpus is fitted, so a new paper is taken in without touching the
others. `ASSAY_EMBEDDING` names a sentence-transformers model instead, by its name on Hugging Face or by its
folder; `benchmarks/bench_retrieval.py` measures what either is worth.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Embedding(Protocol):
    """A model of meaning; texts close in meaning get unit vectors with a large product."""

    name: str
    """What vectors are stored under: those of another name are made anew."""

    def papers(self, texts: Sequence[str]) -> Vectors:
        """The vectors of papers' texts, one a row; zero for a text without a word."""

    def query(self, text: str) -> Vectors:
        """The vector of what somebody searches for."""


def embedding() -> Embedding:
    """The model that `ASSAY_EMBEDDING` names, by default the static one; loaded once a process."""
    return _load(os.environ.get("ASSAY_EMBEDDING", "").strip())


@functools.cache
def _load(name: str) -> Embedding:
    return SentenceEmbedding(name) if name else StaticEmbedding()


class StaticEmbedding:
    """The mean of the token vectors that `wordllama` brings (MIT licence)."""

    name = "wordllama-256"

    def __init__(self) -> None:
        # On import, wordllama makes the root logger print everything from INFO up; a handler keeps it off.
        held = logging.NullHandler()
        logging.getLogger().addHandler(held)
        try:
            import wordllama  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            raise ImportError("search by meaning needs the extra assay[web]") from error
        finally:
            logging.getLogger().removeHandler(held)
        # The package looks for its own tokenizer in a folder of another name, and would download it.
        folder = Path(wordllama.__file__).parent
        model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
        self._tokenizer = model.tokenizer
        self._vectors: Vectors = model.embedding
        self._tokens = functools.lru_cache(maxsize=100_000)(self._tokens_of_word)

    def papers(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self.query(text) for text in texts])

    def query(self, text: str) -> Vectors:
        # No token spans two words. Word by word, most are in the cache: ten times as fast as whole texts.
        tokens = [token for word in text.split() for token in self._tokens(word)]
        return _unit(self._vectors[tokens].sum(axis=0))

    def _tokens_of_word(self, word: str) -> list[int]:
        return list(self._tokenizer.encode(word, add_special_tokens=False).ids)


class SentenceEmbedding:
    """A model of the package sentence-transformers."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import (  # type: ignore[import-not-found,unused-ignore]
                SentenceTransformer,
            )
        except ImportError as error:
            raise ImportError(
                f"ASSAY_EMBEDDING names the model {name!r}, which needs the package sentence-transformers "
                "(version 5 or newer)"
            ) from error
        self.name = name
        self._model: Any = SentenceTransformer(name)

    def papers(self, texts: Sequence[str]) -> Vectors:
        return _unit(np.asarray(self._model.encode_document(list(texts)), dtype=np.float32))

    def query(self, text: str) -> Vectors:
        return _unit(np.asarray(self._model.encode_query(text), dtype=np.float32))


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
    return unit
