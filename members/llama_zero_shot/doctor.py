"""`abhinaya doctor` of what the config names: prompt, server or weights, transcripts."""

from __future__ import annotations

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.doctor.findings import Findings
from abhinaya.doctor.weights import (
    check_language_model,
    check_quantization,
    check_tokenizer,
    check_transcripts,
)
from abhinaya.errors import did_you_mean
from abhinaya.prompting.answers import class_words
from abhinaya.prompting.prompts import load_prompt
from members.llama_zero_shot.config import LlamaZeroShotConfig
from members.llama_zero_shot.openai_engine import OpenAIEngine
from members.llama_zero_shot.vllm_engine import VllmEngine
from members.llama_zero_shot.vllm_server import find_vllm_python

__all__ = ["check_zero_shot"]

_LONGEST_WAIT_S = 10.0
"""For the names of models, which no server has to think about."""


def check_zero_shot(config: LlamaZeroShotConfig) -> Findings:
    """Return all that can be known before a model is loaded or asked; a server tells its models."""
    findings = Findings()
    prompt = findings.attempt("prompt", config.prompt, lambda: load_prompt(config.prompt))
    if prompt is not None:
        needs = ", ".join(sorted(prompt.needs)) or "nothing"
        findings.add("prompt", config.prompt, "ok", f"needs of a clip: {needs}")
    if config.engine == "openai":
        _check_server(config, findings)
    else:
        _check_model(config, findings)
    if prompt is not None and "text" in prompt.needs:
        _check_transcripts(config, findings)
    return findings


def _check_transcripts(config: LlamaZeroShotConfig, findings: Findings) -> None:
    """Check what trained members check, but nothing that is read in training."""
    every = Findings()
    check_transcripts(config.data, every)
    training = ("data.transcripts.train", "data.transcripts.validation")
    findings.extend(found for found in every if found.what not in training)


def _check_server(config: LlamaZeroShotConfig, findings: Findings) -> None:
    # Nothing is asked, so classes and decoding do not matter.
    words = class_words(MSP_PODCAST)
    timeout_s = min(config.openai.timeout_s, _LONGEST_WAIT_S)
    server = config.openai.model_copy(update={"timeout_s": timeout_s})
    engine = findings.attempt(
        "engine",
        config.engine,
        lambda: OpenAIEngine(config.base, words, config.decoding, server),
        "its package is there"
        + ("" if server.api_key_env is None else f", and a key in {server.api_key_env}"),
    )
    if engine is None:
        return
    known = findings.attempt("server", server.url, engine.models)
    if known is None:
        return
    if config.base in known:
        findings.add("server", server.url, "ok", f"it is there and has {config.base}")
    else:
        listed = ", ".join(known) or "none"
        near = did_you_mean(config.base, known)
        findings.add(
            "server",
            server.url,
            "problem",
            f"it has no model {config.base!r}.{near} It has: {listed}. Set base to one of them.",
        )


def _check_model(config: LlamaZeroShotConfig, findings: Findings) -> None:
    if config.engine == "vllm" and config.vllm.server:
        python = findings.attempt("engine", "vllm", lambda: find_vllm_python(config.vllm))
        if python is not None:
            findings.add("engine", "vllm", "ok", f"{str(python)!r} has vLLM and starts its server")
    elif config.engine == "vllm":
        words = class_words(MSP_PODCAST)
        findings.attempt(
            "engine",
            config.engine,
            lambda: VllmEngine(config.base, words, config.decoding, config.vllm),
            "its package is there",
        )
    else:
        check_quantization("transformers.weights", config.transformers.weights, findings)
    model = check_language_model(config.base, findings, head=True)
    tokenizer = check_tokenizer(config.base, findings, model.config.vocab_size if model else None)
    if tokenizer is not None and not tokenizer.chat_template:
        findings.add(
            "tokenizer",
            config.base,
            "problem",
            "has no chat template, so it is no chat model. Set base to an instruct model.",
        )
