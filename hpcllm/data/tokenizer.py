"""Text to numbers and back: subwords, whole words or bytes, each one `tokenizers.Tokenizer` in tokenizer.json.

    bpe     subwords over bytes: any text comes back as it was (Sennrich et al. 2016; bytes as in GPT-2, 2019)
    word    words and punctuation signs; rare ones are <unknown>; Chinese characters are words of their own
    byte    the 256 bytes, which is bpe without merges

The four special tokens have the first ids in all of them. They are *not* recognised in text: a document that contains
the six characters `<end>` is encoded as those characters.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from hpcllm.errors import HpcllmError
from hpcllm.job.spec import TokenizerSpec
from hpcllm.run_directory import write_text

PADDING, BEGIN, END, UNKNOWN = range(4)
SPECIALS = ("<padding>", "<begin>", "<end>", "<unknown>")

# A Chinese character, or a run of other letters and digits, or one sign.
_WORD = r"\p{Han}|[\w&&[^\p{Han}]]+|[^\s\w]"
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_NO_SPACE_BEFORE = re.compile(rf" (?=[.,;:!?%)\]}}，。；：！？、）》”’]|[{_HAN}])")
_NO_SPACE_AFTER = re.compile(rf"(?<=[(\[{{（《“‘{_HAN}，。；：！？、]) ")


class Tokenizer:
    """Learned once, then immutable."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        canonical = json.dumps(json.loads(tokenizer.to_str()), sort_keys=True)
        self._by_words = json.loads(canonical)["model"]["type"] == "WordLevel"
        self.vocabulary_size: int = tokenizer.get_vocab_size()
        self.sha256: str = hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def learn(cls, spec: TokenizerSpec, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer of these texts; the same texts in the same order give the same one. `byte` reads none."""
        learned = _LEARN[spec.kind](spec.vocabulary, texts)
        # The trainers mark the special tokens as ones to look for in text; this takes the mark off again.
        return cls(tokenizers.Tokenizer.from_str(json.dumps({**json.loads(learned.to_str()), "added_tokens": []})))

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """The tokenizer of a file. Raises HpcllmError when it is missing or damaged."""
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise HpcllmError(f"{path}: missing; run the tokenizer stage first") from None
        except Exception as error:  # tokenizers 0.23 raises bare Exception for every damage
            raise HpcllmError(f"{path}: damaged: {error}; delete it and run the tokenizer stage again") from None

    def save(self, path: Path) -> None:
        """Write tokenizer.json, which the tokenizers library reads by itself too."""
        write_text(path, json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n")

    def encode(self, text: str) -> list[int]:
        """Token ids, without special ones."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, on all cores that this process may use."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text. <padding>, <begin> and <end> are left out, <unknown> is shown."""
        kept = [i for i in ids if i not in (PADDING, BEGIN, END)]
        if self._by_words:
            return _join([str(self._tokenizer.id_to_token(i)) for i in kept])
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))


def _join(words: list[str]) -> str:
    """Words as people write them: no space before a comma, none between Chinese characters."""
    return _NO_SPACE_AFTER.sub("", _NO_SPACE_BEFORE.sub("", " ".join(words)))


def _learn_bpe(vocabulary: int, texts: Iterable[str]) -> Any:
    tokenizer = _over_bytes(models.BPE(), by_words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=_alphabet(),  # all 256 bytes, also those that these texts lack
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _learn_word(vocabulary: int, texts: Iterable[str]) -> Any:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=SPECIALS[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(_WORD), behavior="removed", invert=True)
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=list(SPECIALS), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _learn_byte(_vocabulary: int, _texts: Iterable[str]) -> Any:
    tokens = {token: number for number, token in enumerate([*SPECIALS, *_alphabet()])}
    return _over_bytes(models.BPE(vocab=tokens, merges=[]), by_words=False)


def _over_bytes(model: Any, by_words: bool) -> Any:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_words)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


_LEARN = {"bpe": _learn_bpe, "word": _learn_word, "byte": _learn_byte}
