"""Names of tensors as trainers and other programs write them, as transformers' Qwen3-VL has them.

Only what can be meant in one way is renamed: what wraps a module (torch.compile, FSDP, activation checkpointing, a
parallel wrapper), and where the decoder, the tower and the head lie in the classes of other programs and of other
versions of transformers.
"""

from __future__ import annotations

import re

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARALLEL = re.compile(r"(?:module\.)+")
_DECODER, _TOWER, _HEAD = "model.language_model.", "model.visual.", "lm_head."
# What a name begins with -> as transformers has it; the first that fits counts.
_PLACES = (
    ("model.language_model.model.", _DECODER),
    ("model.language_model.lm_head.", _HEAD),
    ("model.model.language_model.", _DECODER),
    ("model.model.visual.", _TOWER),
    ("language_model.model.", _DECODER),
    ("language_model.lm_head.", _HEAD),
    ("model.lm_head.", _HEAD),
    ("language_model.", _DECODER),
    ("visual.", _TOWER),
)
_BARE = re.compile(r"model\.(?=(?:layers|embed_tokens|norm)\.)")


def usual_name(name: str, *, whole: bool) -> str:
    """The name that transformers gives to a tensor of this model; any other name as it is.

    Args:
      whole: a model's tower lies beside its decoder, which then may be named as a language model's: "model.layers.0".
        Of an adapter that would be one for a language model.
    """
    plain = _WRAPPERS.sub("", name)
    parallel = _PARALLEL.match(plain)
    plain = plain[parallel.end() :] if parallel else plain
    for begin, usual in _PLACES:
        if plain.startswith(begin):
            return usual + plain.removeprefix(begin)
    return _BARE.sub(_DECODER, plain, count=1) if whole and _BARE.match(plain) else plain
