"""The folder `rl/` in another trainer: copied as the guide says, it computes the same by itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import hypereyes_jax
from hypereyes_jax import rl

PACKAGE = Path(hypereyes_jax.__file__).parent
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your_trainer.md"

ACCURACY, ROUNDS, INVOCATIONS = [1.0, 1.0, 0.0, -0.5, 1.0], [1, 3, 4, 0, 1], [3, 5, 4, 0, 4]
LOGP, OLD_LOGP, ADVANTAGE = [[-0.3, -1.2, -0.7]], [[-0.5, -0.9, -0.7]], [[0.8, 0.8, -2.0]]

PROGRAM = """
import json, sys
import jax.numpy as jnp


class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hypereyes_jax":
            raise ImportError("the original can't be had")


sys.meta_path.insert(0, Refusal())
from their_trainer import rl

accuracy, rounds, invocations, logp, old_logp, advantage, path = json.loads(sys.argv[1])
store = rl.ReferenceStore({"q": (3, 4)})
store.observe("q", 2, 3)
store.save(path)
store = rl.ReferenceStore.load(path)
store.commit()
c, s = store.get("q")
tool, total = rl.trace_reward(jnp.asarray(accuracy), jnp.asarray(rounds), jnp.asarray(invocations), c, s)
loss, metrics = rl.policy_loss(jnp.asarray(logp), jnp.asarray(old_logp), jnp.asarray(advantage), jnp.ones((1, 3)))
print(json.dumps({
    "tool": tool.tolist(), "total": total.tolist(), "advantage": rl.group_relative_advantage(total).tolist(),
    "loss": loss.tolist(), "metrics": {name: float(value) for name, value in metrics.items()}, "reference": [c, s],
}))
"""


def test_a_copy_under_another_name_computes_the_same_without_this_library(tmp_path):
    (tmp_path / "hypereyes_jax").symlink_to(PACKAGE)
    (commands,) = re.findall(r"```bash\n(mkdir .*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "hypereyes_jax").unlink()
    inputs = [ACCURACY, ROUNDS, INVOCATIONS, LOGP, OLD_LOGP, ADVANTAGE, str(tmp_path / "references.json")]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(inputs)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    theirs = json.loads(ran.stdout)

    tool, total = rl.trace_reward(jnp.asarray(ACCURACY), jnp.asarray(ROUNDS), jnp.asarray(INVOCATIONS), 2, 3)
    loss, metrics = rl.policy_loss(jnp.asarray(LOGP), jnp.asarray(OLD_LOGP), jnp.asarray(ADVANTAGE), jnp.ones((1, 3)))
    ours = {
        "tool": tool,
        "total": total,
        "advantage": rl.group_relative_advantage(total),
        "loss": loss,
        "reference": [2, 3],
    }
    for name, values in ours.items():
        np.testing.assert_array_equal(np.asarray(theirs[name]), np.asarray(values, np.float64), err_msg=name)
    assert theirs["metrics"] == {name: float(value) for name, value in metrics.items()}
    assert rl.ReferenceStore.load(tmp_path / "references.json").state()["pending"] == {"q": [2, 3]}
