"""Loads tokenizers in Hugging Face format, and trains the miniature's, a byte-level BPE, and saves it in that format.

The control tokens are Qwen3-VL's own, so the chat format, the processor and the model's config read the same as for a
published checkpoint. Only the pieces differ from Qwen's: a tag, the opening of a call and a fraction with two decimals
(a box edge) can each become one token, which keeps a grounded call with eight boxes near fifty tokens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# In Qwen's vocabulary these are added tokens but not control tokens: they survive `skip_special_tokens`.
TAG_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

_PIECES = (
    r"</?[a-z_]+>"  # a tag
    r'|\{"name": "[a-z_]+", "arguments": \{"[a-z_]+": '  # the opening of a call
    r'|"img_[0-9]+"(?:, "area": )?'
    r"|\[img_[0-9]+\]"
    r"|(?:, )?[01]\.[0-9]{2}(?![0-9])"  # a box edge, with the comma before it
    r"| ?\p{L}+"
    r"| ?\p{N}"  # a digit: numbers of all lengths are compared
    r"| ?[^\s\p{L}\p{N}<]+|<"  # without the space behind it: a name reads the same after a comma as after a word
    r"|\s+"
)


class _NoPyTorchAdvice(logging.Filter):
    """Drops the advice that transformers gives where PyTorch is missing: only its tokenizers are used here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(("PyTorch was not found", "None of PyTorch"))


_NO_ADVICE = _NoPyTorchAdvice()


def load_tokenizer(path: Path | str) -> Any:
    """The fast tokenizer of a checkpoint directory. Raises whatever transformers raises for damaged files."""
    logging.getLogger("transformers").addFilter(_NO_ADVICE)  # a filter that is there is not added twice
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path, chat_template: str | None = None) -> None:
    """Learns merges from `texts` and writes tokenizer.json and tokenizer_config.json below `out`.

    vocab_size counts everything: 256 bytes, the merges, the control tokens and the tags.
    """
    logging.getLogger("transformers").addFilter(_NO_ADVICE)
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS) - len(TAG_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=chat_template
    )
    fast.add_special_tokens(
        {"additional_special_tokens": [t for t in CONTROL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")]}
    )
    fast.add_tokens(list(TAG_TOKENS), special_tokens=False)
    fast.save_pretrained(out)
    _make_portable(Path(out) / "tokenizer_config.json")


def _make_portable(file: Path) -> None:
    """Names the class and the control tokens as transformers 4 and 5 both read them; 5 writes names that 4 lacks."""
    config = json.loads(file.read_text(encoding="utf-8"))
    control = config.pop("extra_special_tokens", None) or config.pop("additional_special_tokens", [])
    config.pop("backend", None)
    if config.get("chat_template") is None:
        config.pop("chat_template", None)
    config |= {"additional_special_tokens": control, "tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n", encoding="utf-8")
