"""Our episodes as an environment of the real SkyRL, with a scripted model.

Needs `pip install skyrl-gym` and, for its generator, `skyrl[skyrl-train]` without its GPU parts on Python 3.12 or newer
(an environment of its own is best), and then `pytest -m oracle tests/env`.
"""

import asyncio
import base64
import importlib
import re
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from hypereyes_jax.env import EpisodeConfig, ExactJudge, Question, tool_call
from hypereyes_jax.env.actions import TextSearch
from hypereyes_jax.env.adapters.skyrl import dataset_rows, environment_class
from hypereyes_jax.env.tools.zoom import Zoom
from hypereyes_jax.errors import UserError
from tests.env.adapters.scenes import FLAGS, HALVES, ZOOM, Down

pytestmark = pytest.mark.oracle

skyrl_gym = pytest.importorskip("skyrl_gym")

SHOWN = Question("shown", "Which?", (FLAGS,), ("Chad",))
TOLD = Question("told", "Whose capital is N'Djamena?", (), ("Chad",))


@pytest.fixture
def register():
    """Registers a class as SkyRL does, and takes it out again."""
    from skyrl_gym.envs.registration import registry

    def registered(entry_point):
        skyrl_gym.register(id="hypereyes", entry_point=entry_point)

    yield registered
    registry.pop("hypereyes", None)


def made(**row):
    return skyrl_gym.make("hypereyes", env_config={}, extras={"max_turns": 4, **row})


def frugal(result, correct):
    return float(correct) - 0.1 * result.invocations


def test_an_episode_with_images_and_tools(library, register):
    register(environment_class([SHOWN, TOLD], library, ExactJudge(), tools=[Zoom()], reward=frugal))
    row = dataset_rows([SHOWN])[0]
    assert row.pop("env_class") == "hypereyes"
    environment = made(**row)
    (system, user), info = environment.init(row["prompt"])
    assert info == {"question_id": "shown"}
    assert "3. zoom:" in system["content"]
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    _, data = user["content"][0]["image_url"]["url"].split(",")
    assert Image.open(BytesIO(base64.b64decode(data))).size == FLAGS.size
    seen = environment.step(HALVES + ZOOM)
    assert (seen["reward"], seen["done"]) == (0.0, False)
    assert [part["type"] for part in seen["observations"][0]["content"]] == [*["image_url"] * 3, "text"]
    ended = environment.step("<answer>Chad</answer>")
    assert (ended["observations"], ended["done"]) == ([], True)
    assert ended["reward"] == pytest.approx(0.8)
    counts = {"accuracy": 1.0, "rounds": 1, "invocations": 2, "masked": 0.0, "turns": 2}
    assert environment.get_metrics() == counts
    environment.close()


def test_text_alone_is_a_string_for_chat_templates_without_images(library, register):
    register(environment_class([TOLD], library, ExactJudge()))
    environment = made(question_id="told")
    messages, _ = environment.init([])
    assert messages[-1] == {"role": "user", "content": TOLD.text}
    (seen,) = environment.step(tool_call(TextSearch(("Chad",))))["observations"]
    assert "N'Djamena" in seen["content"]


def test_an_outage_is_a_metric_and_the_averages_of_the_others_stand(register, library):
    register(environment_class([TOLD], Down(), ExactJudge()))
    environment = made(question_id="told")
    environment.init([])
    ended = environment.step(tool_call(TextSearch(("Chad",))))
    assert (ended["reward"], ended["done"]) == (0.0, True)
    masked = environment.get_metrics()
    assert masked["masked"] == 1.0
    right = {"accuracy": 1.0, "rounds": 0, "invocations": 0, "masked": 0.0, "turns": 1}
    from skyrl_gym.metrics import aggregate_for_environment

    together = aggregate_for_environment("hypereyes", [masked, right])
    assert (together["accuracy"], together["masked"]) == (1.0, 0.5)


def test_skyrl_s_number_of_turns_is_the_episode_s(library, register):
    register(environment_class([TOLD], library, ExactJudge(), EpisodeConfig(max_rounds=8, system="{rounds} rounds")))
    environment = made(question_id="told", max_turns=2)
    (system, _), _ = environment.init([])
    assert system["content"] == "1 rounds"
    assert not environment.step(tool_call(TextSearch(("Chad",))))["done"]
    assert environment.step(tool_call(TextSearch(("Chad",))))["done"]
    assert environment.get_metrics()["rounds"] == 1


def test_rollouts_in_many_threads_share_a_loop_and_one_may_run_already(slow_library, register):
    register(environment_class([TOLD], slow_library, ExactJudge()))

    def play(_):
        environment = made(question_id="told")
        environment.init([])
        environment.step(tool_call(TextSearch(("Chad",))))
        return environment.step("<answer>Chad</answer>")["reward"]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(play, range(8))) == [1.0] * 8
    assert slow_library.most_in_flight > 1

    async def within():  # `max_env_workers: 0` steps in the generator's own loop
        return play(0)

    assert asyncio.run(within()) == 1.0


@pytest.mark.parametrize("row", [{}, {"question_id": "other"}])
def test_a_row_without_a_question_of_the_environment_is_refused(library, register, row):
    register(environment_class([TOLD], library, ExactJudge()))
    with pytest.raises(UserError, match="dataset_rows"):
        made(**row)


class Client:
    """What SkyRL's generator asks of its inference engine, by our tokenizer; images are two tokens each."""

    model_name = "scripted"

    def __init__(self, tokenizer, turns):
        self.tokenizer, self.turns, self.prompts = tokenizer, list(turns), []

    async def render_chat_completion(self, request):
        text = ""
        for message in request["json"]["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            body = "".join(part.get("text", "<|image_pad|><|image_pad|>") for part in parts)
            text += f"<|im_start|>{message['role']}\n{body}<|im_end|>\n"
        return {"token_ids": self.tokenizer.encode(text + "<|im_start|>assistant\n"), "features": None}

    async def generate(self, engine_input, model=None):
        self.prompts.append(engine_input["prompt_token_ids"][0])
        ids = self.tokenizer.encode(self.turns.pop(0) + "<|im_end|>")
        text = self.tokenizer.decode(ids[:-1])
        return {
            "responses": [text],
            "response_ids": [ids],
            "stop_reasons": ["stop"],
            "response_logprobs": [[-0.5] * len(ids)],
        }

    async def finish_session(self, session_id):
        pass


@pytest.fixture
def generate():
    """Plays rollouts by SkyRL's own generator of vision-language models."""
    try:
        vlm = importlib.import_module("skyrl.train.generators.skyrl_vlm_generator")
        configs = importlib.import_module("skyrl.train.config")
    except ImportError as error:
        pytest.skip(f"needs skyrl[skyrl-train]: {error}")
    except Exception as error:  # pydantic refuses skyrl's types before Python 3.12
        pytest.skip(f"skyrl can't be imported here: {error}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(str(resources.files("hypereyes_jax.assets") / "base")))
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"

    class Masking(vlm.SkyRLVLMGymGenerator):
        async def agent_loop(self, *arguments, **options):
            played = await super().agent_loop(*arguments, **options)
            if played.env_metrics["masked"]:
                played.loss_mask = [0] * len(played.loss_mask)
            return played

    def play(question, turns):
        settings = configs.GeneratorConfig(max_turns=4, max_input_length=10_000, batched=False)
        settings.sampling_params.logprobs = 1
        client = Client(tokenizer, turns)
        generator = Masking(settings, configs.SkyRLGymConfig(max_env_workers=2), client, tokenizer)
        row = dataset_rows([question])[0]
        request = {
            "prompts": [row["prompt"]],
            "env_classes": [row["env_class"]],
            "env_extras": [{"question_id": row["question_id"]}],
        }
        return asyncio.run(generator.generate(request, disable_tqdm=True)), tokenizer, client

    return play


def test_skyrl_s_generator_plays_an_episode_and_masks_what_was_not_sampled(library, register, generate):
    register(environment_class([SHOWN], library, ExactJudge(), tools=[Zoom()], reward=frugal))
    turns = [HALVES + ZOOM, "<answer>Chad</answer>"]
    output, tokenizer, client = generate(SHOWN, turns)
    (response,), (mask,) = output["response_ids"], output["loss_masks"]
    assert len(response) == len(mask)
    sampled = tokenizer.decode([token for token, kept in zip(response, mask, strict=True) if kept])
    assert sampled == "".join(f"{turn}<|im_end|>" for turn in turns)
    between = tokenizer.decode([token for token, kept in zip(response, mask, strict=True) if not kept])
    assert between.count("<|image_pad|>") == 6  # two crops of the search, one of the zoom
    assert "Chad" in between
    assert client.prompts[1][: len(client.prompts[0])] == client.prompts[0]
    rewards = output["rewards"][0]
    assert rewards[-1] == pytest.approx(0.8)
    assert sum(rewards) == pytest.approx(0.8)


def test_a_generator_of_one_s_own_masks_rollouts_of_an_outage(register, generate):
    register(environment_class([TOLD], Down(), ExactJudge()))
    output, _, _ = generate(TOLD, [tool_call(TextSearch(("Chad",)))])
    assert sum(output["loss_masks"][0]) == 0
    assert len(output["loss_masks"][0]) > 0


def test_the_code_of_the_guide_runs(register, generate):
    page = (Path(__file__).parents[3] / "docs" / "guides" / "your_trainer.md").read_text()
    section = page.partition("## SkyRL")[2].partition("\n## ")[0]
    made_class, masking = re.findall(r"```\{code-block\} python\n(.*?)```", section, re.S)
    from skyrl_gym.envs.registration import registry

    names = {}
    exec(made_class, names)
    assert names["rows"][0]["env_class"] in registry
    exec(masking, names)
    assert names["Masking"].__mro__[1].__name__ == "SkyRLVLMGymGenerator"
