"""A vLLM server asked 64 questions at once against one by one: the time of a table.

A tiny random LLaMA is served by a real vLLM (on a CPU where that is what there is) and the member
`llama-70b-zero-shot` labels 128 made-up transcripts, constrained and with log-probabilities, with
one request at a time and with 64, by turns, every time with an empty store of answers. Run it with:

    python benchmarks/vllm_client.py PYTHON

PYTHON is the interpreter of an environment with vLLM, such as that of `make test-vllm`:
.venv-vllm/bin/python.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.demo.corpus.sentences import make_sentence
from abhinaya.prompting.answers import class_words
from abhinaya.prompting.prompts import load_prompt
from members.llama_zero_shot.config import Decoding, OpenAIConfig
from members.llama_zero_shot.engine import Answer, Question
from members.llama_zero_shot.openai_engine import OpenAIEngine

# It lives beside the tests that need it too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from vllm_server import VllmServer

N_QUESTIONS = 128
N_ROUNDS = 3
AT_ONCE = 64


def make_questions() -> list[Question]:
    rng = np.random.default_rng(0)
    words = ", ".join(class_words(MSP_PODCAST))
    prompt = load_prompt("zero-shot-v1")
    texts = [
        f"{make_sentence(MSP_PODCAST.codes[number % 8], rng)} {number}"
        for number in range(N_QUESTIONS)
    ]
    return [Question(prompt.render(transcript=text, classes=words)) for text in texts]


def ask(url: str, questions: list[Question], concurrency: int) -> tuple[float, dict[int, Answer]]:
    """Seconds, and the answers by index."""
    server = OpenAIConfig(url=url, concurrency=concurrency)
    engine = OpenAIEngine("tiny", class_words(MSP_PODCAST), Decoding(), server)
    answers: dict[int, Answer] = {}
    start = time.perf_counter()
    engine.ask(questions, answers.__setitem__)
    return time.perf_counter() - start, answers


def main() -> None:
    """Print the ratio of the times."""
    questions = make_questions()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "llama"
        # vLLM's attention on CPUs wants heads of 32 features.
        write_llama(model, layout="llama3", n_features=128, init_std=0.2, chat_template=True)
        server = VllmServer(Path(sys.argv[1]), model, Path(folder) / "server.log")
        try:
            server.start()
            ask(server.url, questions, AT_ONCE)  # warm up
            ratios, per_second, agreed = [], [], []
            for _ in range(N_ROUNDS):
                alone_s, alone = ask(server.url, questions, 1)
                together_s, together = ask(server.url, questions, AT_ONCE)
                ratios.append(alone_s / together_s)
                per_second.append((N_QUESTIONS / alone_s, N_QUESTIONS / together_s))
                same = [alone[idx].text == together[idx].text for idx in alone]
                agreed.append(statistics.mean(same))
        finally:
            server.kill()
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"{N_QUESTIONS} questions, {N_ROUNDS} rounds, labels agree {min(agreed):.3f} at least")
    print(
        "questions per second: one by one "
        f"{statistics.median(rate for rate, _ in per_second):.1f}, {AT_ONCE} at once "
        f"{statistics.median(rate for _, rate in per_second):.1f}"
    )
    print(f"time one by one / {AT_ONCE} at once: {low:.1f} / {middle:.1f} / {high:.1f}")


if __name__ == "__main__":
    main()
