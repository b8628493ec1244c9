"""The ten commands, from nothing to the paper's table 2, at the paper's size and at a size to try them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hypereyes_jax.study.types import StudyStep

SEARCH_PRICE = 0.015  # dollars a search: SerpApi's plan of 5,000 searches a month for 75 dollars


@dataclass(frozen=True)
class PaperStep:
    """One of the ten commands, and what it needs."""

    title: str
    command: str
    """The command at the paper's size, without `hypereyes`; what a user fills in is in capitals."""
    keys: str
    """Keys and services."""
    disk: str
    device_hours: str
    """Hours of the paper's H20 GPUs, as it states them; `hypereyes plan` counts them for other machines."""
    searches: int
    """Approximate number of web searches."""
    counted: str
    """How that number is counted."""

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.command.split())

    def dollars(self, price: float = SEARCH_PRICE) -> float:
        return self.searches * price


PAPER_STEPS = (
    PaperStep(
        "Visual multi-entity questions, for each of the five photo sets",
        "synth-photos cub SETS/CUB --search.service serpapi --llm.url URL --llm.model GEMINI --count 4000 --out photos",
        "SERPAPI_API_KEY, a public image host, a chat model's key",
        "15 GB of photos, 10 GB of mosaics",
        "0",
        2_548,
        "637 classes of the five sets, 4 searches each",
    ),
    PaperStep(
        "Textual multi-constraint questions",
        "synth-wikidata latest-all.json.bz2 --classes Q5 Q11424 Q3957 --min-sitelinks 10 --llm.url URL "
        "--llm.model GEMINI --count 5000 --out wikidata",
        "a chat model's key",
        "100 GB of dump, 10 GB of graph",
        "0",
        0,
        "none",
    ),
    PaperStep(
        "Curation to the SFT set",
        "curate curation.yaml --out curation",
        "SERPAPI_API_KEY, keys of Gemini, of Qwen3-VL-235B behind an endpoint and of the judge",
        "200 GB of conversations with crops",
        "0",
        360_000,
        "30,000 demonstrations, 2 tries of 6 searches for each, an assumption: the paper gives no count",
    ),
    PaperStep(
        "SFT of the teacher, 235B",
        "sft hypereyes_235b_sft --mesh h20_8x8 --checkpoint Qwen/Qwen3-VL-235B-A22B-Instruct --demonstrations "
        "curation/sft/demonstrations.jsonl --out teacher-sft",
        "none",
        "470 GB of weights twice",
        "1,280 (64 GPUs, 20 h)",
        0,
        "none",
    ),
    PaperStep(
        "Selection of the teacher's RL questions",
        "curate curation.yaml --out curation --stage rl --name teacher --policy teacher-sft/model",
        "as the curation",
        "10 GB",
        "20",
        600_000,
        "20,000 candidates, 5 tries of 6 searches, an assumption",
    ),
    PaperStep(
        "RL of the teacher with TRACE",
        "rl hypereyes_235b_rl --mesh h20_8x8_paper --checkpoint teacher-sft/model --questions "
        "curation/teacher_questions.jsonl --search.service serpapi --judge.url URL --judge.model JUDGE --out "
        "teacher",
        "SERPAPI_API_KEY, the judge's key",
        "470 GB of weights, 1.4 TB a checkpoint",
        "4,608 (64 GPUs, 72 h)",
        614_400,
        "400 steps of 256 rollouts of 6 searches, before what is replayed from the store",
    ),
    PaperStep(
        "SFT of the student, 30B",
        "sft hypereyes_30b_sft --mesh h20_8x8 --checkpoint Qwen/Qwen3-VL-30B-A3B-Instruct --demonstrations "
        "curation/sft/demonstrations.jsonl --out student-sft",
        "none",
        "60 GB of weights twice",
        "640 (64 GPUs, 10 h)",
        0,
        "none",
    ),
    PaperStep(
        "Selection of the student's RL questions",
        "curate curation.yaml --out curation --stage rl --name student --policy student-sft/model",
        "as the curation",
        "10 GB",
        "10",
        600_000,
        "20,000 candidates, 5 tries of 6 searches, an assumption",
    ),
    PaperStep(
        "RL of the student with TRACE and on-policy distillation",
        "rl hypereyes_30b_rl --mesh h20_8x8 --checkpoint student-sft/model --questions "
        "curation/student_questions.jsonl --teacher-server.url TEACHER --search.service serpapi --judge.url "
        "URL --judge.model JUDGE --out student",
        "SERPAPI_API_KEY, the judge's key, a server of the teacher",
        "60 GB of weights, 180 GB a checkpoint",
        "3,072 (64 GPUs, 48 h), and the teacher's server",
        614_400,
        "400 steps of 256 rollouts of 6 searches, before what is replayed from the store",
    ),
    PaperStep(
        "The six benchmarks, beside the paper's rows",
        "eval student/model --benchmark mmsearch fvqa livevqa browsecomp-vl mmsearch-plus imeb --data "
        "BENCHMARKS --search.service serpapi --judge.url URL --judge.model JUDGE --out table2",
        "SERPAPI_API_KEY, the judge's key",
        "3 GB of benchmarks",
        "10",
        31_164,
        "5,194 questions of the full sets, 6 searches each",
    ),
)


def small_steps(out: Path, models: str, search: str) -> list[StudyStep]:
    """The same ten commands on the small inputs, with the miniature in place of both models.

    Args:
      models: address of the chat model, the judge and the retriever.
      search: address of a server of the miniature's world.
    """
    inputs, base = out / "inputs", str(resources.files("hypereyes_jax.assets") / "base")
    llm = ("--llm.url", f"{models}/v1", "--llm.model", "offline")
    retriever = ("--search.service", "retriever", "--search.url", f"{models}/retrieve")
    judge = ("--judge.url", f"{models}/v1", "--judge.model", "offline")
    demonstrations = str(out / "curation" / "sft" / "demonstrations.jsonl")
    sft = ("--demonstrations", demonstrations, "--settings.epochs", "1", "--settings.batch", "2")
    rl: tuple[str, ...] = ("--settings.steps", "1", "--settings.prompts", "1", "--settings.group", "4")
    rl += ("--settings.checkpoint-every", "1", "--search.service", "serve-world", "--search.url", search, *judge)
    curate = ("curate", str(inputs / "curation.yaml"), "--out", str(out / "curation"))

    def command(number: int, words: tuple[str, ...], folder: str, done: str, more: tuple[str, ...] = ()) -> StudyStep:
        name = f"{number:02d} {PAPER_STEPS[number - 1].title}"
        return StudyStep(name, out / folder / done, (*words, *more, "--out", str(out / folder)))

    def selection(number: int, name: str) -> StudyStep:
        words = (*curate, "--stage", "rl", "--name", name, "--policy", str(out / f"{name}-sft" / "model"))
        done = out / "curation" / f"{name}_questions.jsonl"
        return StudyStep(f"{number:02d} {PAPER_STEPS[number - 1].title}", done, words)

    def training(name: str, teacher: tuple[str, ...]) -> tuple[str, ...]:
        questions = str(out / "curation" / f"{name}_questions.jsonl")
        return ("rl", "--checkpoint", str(out / f"{name}-sft" / "model"), "--questions", questions, *teacher, *rl)

    photos = ("synth-photos", "cub", str(inputs / "cub"), "--count", "6", "--max-entities", "2", "--llm.no-looks")
    tested = ("--benchmark", "mmsearch", "fvqa", "livevqa", "browsecomp-vl", "mmsearch-plus", "imeb")
    world = ("--search.service", "serve-world", "--search.url", search)
    return [
        command(1, (*photos, *llm, *retriever), "photos", "synth_photos.json"),
        command(
            2,
            ("synth-wikidata", str(inputs / "wikidata.json.bz2"), "--classes", "Q5", "--count", "6", *llm),
            "wikidata",
            "synth_wikidata.json",
        ),
        StudyStep(f"03 {PAPER_STEPS[2].title}", out / "curation" / "funnel.html", curate),
        command(4, ("sft", "--checkpoint", base, *sft), "teacher-sft", "adapter"),
        selection(5, "teacher"),
        command(6, training("teacher", ("--settings.opd-coef", "0")), "teacher", "model"),
        command(7, ("sft", "--checkpoint", base, *sft, "--settings.seed", "43"), "student-sft", "adapter"),
        selection(8, "student"),
        command(9, training("student", ("--teacher", str(out / "teacher" / "model"))), "student", "model"),
        command(
            10,
            ("eval", str(out / "student" / "model"), "--recipe", "miniature", *tested),
            "table2",
            "benchmarks.tex",
            ("--data", str(inputs / "benchmarks"), *world, *judge),
        ),
    ]
