"""BLEU (Papineni et al. 2002), as sacrebleu computes it (Post 2018), always with its signature."""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU

# Words of these languages have no spaces between them. sacrebleu's own segmenters of Japanese and Korean need packages
# beyond ours, so single characters are compared there; the signature says which (tok:zh, tok:char, tok:13a).
TOKENIZATION = {"zh": "zh", "ja": "char", "ko": "char"}
OTHER = "13a"


def score(translations: Sequence[str], references: Sequence[str], language: str) -> tuple[float, str]:
    """(BLEU from 0 to 100 over all sentences together, sacrebleu's signature). `language` such as zh_CN."""
    metric = BLEU(tokenize=tokenization(language))
    value = metric.corpus_score(list(translations), [list(references)]).score
    return float(value), str(metric.get_signature().format())


def tokenization(language: str) -> str:
    """sacrebleu's tokenizer for a language code: `zh_CN` -> `zh`, `fr_FR` -> `13a`."""
    return TOKENIZATION.get(language.replace("-", "_").split("_")[0].lower(), OTHER)
