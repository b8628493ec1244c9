"""What SFT reads is told as it is by every other command."""

import json
from importlib import resources

from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.miniature import model_config
from hypereyes_jax.models.pretrained import load_chat_format_of
from hypereyes_jax.runs.terminal import Terminal
from hypereyes_jax.train.demonstrations import open_demonstrations
from hypereyes_jax.train.sizes import MINIATURE_SFT


def test_files_that_are_missing_or_not_read_are_told(tmp_path, capsys):
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<answer>x</answer>"}]}
    (tmp_path / "train-00000-of-00002.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "train-more.csv").write_text("question,answer\n?,x\n")
    chat = load_chat_format_of(str(resources.files("hypereyes_jax.assets") / "base"))
    opened = open_demonstrations(
        tmp_path, chat, model_config(chat.tokenizer), MINIATURE_SFT, Processes(), Terminal(stderr=True)
    )
    assert len(opened) == 1
    said = "".join(capsys.readouterr().err.split())  # long paths are wrapped anywhere
    assert "notread,astheyhaveanotherformatorarecompressed:train-more.csv" in said
    assert "train-*-of-00002only1arethere" in said
