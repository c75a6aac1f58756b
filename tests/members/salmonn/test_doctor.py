"""The golden SALMONN (tests/golden/README.md) has no problem; broken copies of it have theirs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import golden_set as S
import pytest
import salmonn_golden as G
import torch
from safetensors.torch import load_file, save_file

from abhinaya.data.transcripts import write_transcripts
from abhinaya.demo.checkpoints.beats import write_beats
from abhinaya.demo.checkpoints.encoders import write_wavlm, write_whisper, write_whisper_openai
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.doctor import memory
from abhinaya.doctor.environment import Device
from abhinaya.doctor.weights import check_member
from members.salmonn.build import window_frames


class Parts:
    """Copies of the golden files, to be broken, and what the doctor says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.llama, self.whisper = folder / "llama", folder / "whisper"
        shutil.copytree(S.LLAMA, self.llama)
        shutil.copytree(S.WHISPER, self.whisper)
        self.beats = shutil.copy(S.BEATS, folder / "beats.pt")
        self.salmonn = shutil.copy(S.SALMONN, folder / "s.pth")

    def findings(self, system="s2", *, with_memory=False, **changes):
        keys = {"base": self.llama, "whisper": self.whisper}
        keys |= {"beats": self.beats, "salmonn": self.salmonn, "classifier": None}
        keys = {key: value if value is None else str(value) for key, value in keys.items()}
        config = G.make_config(system, self.folder, **(keys | changes))
        return check_member(config, memory=with_memory)

    def problems(self, system="s2", *, with_memory=False, **changes):
        """(what, details) of each problem."""
        return [
            (found.what, found.details)
            for found in self.findings(system, with_memory=with_memory, **changes)
            if found.result == "problem"
        ]

    def only_problem(self, what, text, **changes):
        """There is one problem; it belongs to `what` and matches `text`."""
        problems = self.problems(**changes)
        assert [key for key, _ in problems] == [what], problems
        assert re.search(text, problems[0][1]), problems

    def edit_json(self, file: Path, **changes):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def edit_salmonn(self, change):
        content = torch.load(self.salmonn, weights_only=True)
        change(content["model"])
        torch.save(content, self.salmonn)


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path)


@pytest.mark.parametrize("system", ["s2", "st1"])
def test_golden_set_is_whole(system, parts):
    classifier = str(S.classifier_of(system))
    sources = {"manifest": "m.parquet", "transcripts": {"predict": "human"}}
    findings = parts.findings(system, with_memory=True, classifier=classifier, data=sources)
    details = {}
    for found in findings:
        assert found.result != "problem", found
        details.setdefault(found.what, []).append(found.details)
    n_vocabulary = S.CONFIG["llama"]["vocab_size"]
    n_whisper, n_beats = (S.CONFIG[k]["encoder_layers"] for k in ("whisper", "beats_cfg"))
    layers, width = (S.CONFIG["qformer"][k] for k in ("num_hidden_layers", "hidden_size"))
    n_frames = window_frames(S.CONFIG["salmonn"]["second_per_window"])
    n_queries = S.CONFIG["salmonn"]["num_speech_query_token"]
    assert details["whisper"] == [
        "80 mel bins at 16000 Hz, 30 s",
        f"the encoder is whole: {n_whisper} layers of {S.WHISPER_WIDTH} features",
        f"its {S.WHISPER_WIDTH} features are what the checkpoint was trained with",
    ]
    beats = f"the encoder is whole: {n_beats} layers of {S.BEATS_WIDTH} features, fine-tuned"
    assert details["beats"][0] == beats
    sizes = f"{S.LLM_LAYERS} layers of {S.LLM_WIDTH} features, {n_vocabulary} tokens"
    assert details["base"][0] == f"the language model is whole: {sizes}"
    assert details["tokenizer"] == [f"{n_vocabulary} tokens, begins with '<s>', ends with '</s>'"]
    # Beside the trained ones: position_ids, inv_freq of each layer, tables of BEATs but the first.
    n_beside = 1 + S.LLM_LAYERS + n_beats - 1
    assert re.fullmatch(rf"\d+ tensors used, {n_beside} saved beside .*", details["salmonn"][0])
    assert details["qformer"] == [
        f"is whole: {layers} layers of {width} features; "
        f"tokens per window of {n_frames} frames: {n_queries}"
    ]
    adapters = f"are whole: rank {S.RANK} on q_proj, v_proj of {S.LLM_LAYERS} layers"
    assert details["adapters"] == [adapters]
    assert details["classifier"][1] == f"head and pooling are whole, for {len(S.CLASSES)} classes"
    assert details["prompt"] == ["suits the member"]
    assert "computed, not measured" in details["memory for training"][0]


def test_whisper_of_another_width(parts):
    write_whisper(parts.folder / "other", n_features=2 * S.WHISPER_WIDTH)
    parts.only_problem(
        "whisper",
        rf"has {2 * S.WHISPER_WIDTH} features, but '.*s.pth' was trained with {S.WHISPER_WIDTH}\. "
        r".*Whisper-large-v2 \(1280\)",
        whisper=str(parts.folder / "other"),
    )


def test_whisper_as_a_file_of_openai(parts):
    write_whisper_openai(parts.folder / "w.pt", n_features=S.WHISPER_WIDTH)
    assert parts.problems(whisper=str(parts.folder / "w.pt")) == []


def test_whisper_preprocessor_of_another_rate_or_model(parts):
    file = parts.whisper / "preprocessor_config.json"
    parts.edit_json(file, sampling_rate=8000)
    parts.only_problem("whisper", "at 8000 Hz, expected 80, 160 and 16000 Hz")
    parts.edit_json(file, sampling_rate=16000, feature_size=128)
    parts.only_problem("whisper", "makes 128 mel bins .* expected 80, 160")


def test_whisper_is_another_kind_of_model(parts):
    write_wavlm(parts.folder / "wavlm", n_layers=2, n_features=16, n_conv_features=8)
    problems = parts.problems(whisper=str(parts.folder / "wavlm"))
    assert {what for what, _ in problems} == {"whisper"}
    assert "a model of type 'wavlm', expected 'whisper'. Correct the path." in problems[0][1]


def test_whisper_without_a_key_of_its_encoder(parts):
    file = parts.whisper / "model.safetensors"
    weights = load_file(file)
    del weights["model.encoder.layers.1.fc2.bias"]
    del weights["model.decoder.layer_norm.bias"]  # nobody needs it
    save_file(weights, file, metadata={"format": "pt"})
    parts.only_problem("whisper", r"1 of \d+ keys do not fit .* missing: 'layers.1.fc2.bias'")


def test_clips_longer_than_whisper_hears(parts):
    parts.only_problem(
        "audio.max_audio_s",
        r"is 40, but Whisper hears 30 s at once. Set it to 30 or less",
        audio={"max_audio_s": 40},
    )


def test_beats_of_another_width(parts):
    write_beats(Path(parts.beats), n_features=2 * S.BEATS_WIDTH)
    text = rf"has {2 * S.BEATS_WIDTH} features, but .* trained with {S.BEATS_WIDTH}.*BEATs iter3\+"
    parts.only_problem("beats", text)


def test_beats_is_another_file(parts):
    shutil.copy(parts.salmonn, parts.beats)
    parts.only_problem("beats", "has no 'cfg' and 'model', expected a published BEATs checkpoint")


def test_language_model_of_another_width(parts):
    shutil.rmtree(parts.llama)
    write_llama(parts.llama, n_features=2 * S.LLM_WIDTH, n_layers=S.LLM_LAYERS)
    problems = dict(parts.problems())
    assert problems.keys() == {"base", "adapters"}
    assert f"has {2 * S.LLM_WIDTH} features, but" in problems["base"]
    assert "Vicuna-13B v1.1 (5120) for salmonn_v1.pth" in problems["base"]
    assert "size mismatch for" in problems["adapters"]


def test_language_model_with_fewer_layers_than_adapters(parts):
    shutil.rmtree(parts.llama)
    write_llama(parts.llama, n_features=S.LLM_WIDTH, n_layers=S.LLM_LAYERS - 1)
    text = rf"unexpected: 'layers\.{S.LLM_LAYERS - 1}\.self_attn\.q_proj\.lora_A"
    parts.only_problem("adapters", text)


def test_language_model_without_a_shard(parts):
    (parts.llama / "pytorch_model-00002-of-00003.bin").unlink()
    parts.only_problem("base", "has no pytorch_model-00002-of-00003.bin, which its index names")


def test_language_model_of_git_lfs_pointers(parts):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (parts.llama / "pytorch_model-00001-of-00003.bin").write_text(pointer)
    (parts.llama / "tokenizer.model").write_text(pointer)
    (parts.llama / "pytorch_model-00002-of-00003.bin").unlink()
    problems = parts.problems()
    assert [what for what, _ in problems] == ["base", "base", "tokenizer"]
    assert "2 files in" in problems[0][1]
    assert "are pointers of git-lfs" in problems[0][1]
    assert "which its index names" in problems[1][1]


def test_language_model_without_a_key_or_with_another_config(parts):
    file = parts.llama / "pytorch_model-00002-of-00003.bin"
    weights = torch.load(file, weights_only=True)
    gone = next(key for key in weights if key.endswith("proj.weight"))
    del weights[gone]
    torch.save(weights, file)
    parts.only_problem("base", re.escape(f"missing: '{gone.removeprefix('model.')}'"))
    parts.edit_json(parts.llama / "config.json", vocab_size=700)
    n_tokens = S.CONFIG["llama"]["vocab_size"]
    text = rf"size mismatch for .*: \({n_tokens}, {S.LLM_WIDTH}\) against \(700, {S.LLM_WIDTH}\)"
    parts.only_problem("base", text)


def test_language_model_is_another_or_stored_quantized(parts):
    problems = parts.problems(base=str(parts.whisper))
    assert "holds a model of type 'whisper', expected 'llama', of which Vicuna" in problems[0][1]
    parts.edit_json(parts.llama / "config.json", quantization_config={"load_in_8bit": True})
    parts.only_problem("base", "are stored quantised, expected plain ones")


def test_tokenizer_absent_or_without_its_signs(parts):
    (parts.llama / "special_tokens_map.json").unlink()
    file = parts.llama / "tokenizer_config.json"
    parts.edit_json(file, bos_token=None, eos_token=None)
    parts.only_problem("tokenizer", "has no bos_token and no eos_token, expected those of LLaMA")
    (parts.llama / "tokenizer.model").unlink()
    parts.only_problem("tokenizer", "has no tokenizer, expected tokenizer.json or tokenizer.model")


def test_tokenizer_with_more_tokens_than_the_model_is_a_note(parts):
    n_tokens = S.CONFIG["llama"]["vocab_size"]
    (parts.llama / "added_tokens.json").write_text(json.dumps({"[PAD]": n_tokens}))
    findings = parts.findings()
    assert not [found for found in findings if found.result == "problem"]
    (note,) = (f for f in findings if f.what == "tokenizer" and f.result == "note")
    assert note.details.startswith(
        f"has {n_tokens + 1} tokens, but the language model knows {n_tokens}. Prompts"
    )


def test_salmonn_of_pickled_code_is_not_run(parts, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Evil()}, parts.salmonn)
    parts.only_problem("salmonn", r"would run code when it is loaded, so it was not: .*mkdir")
    assert not (tmp_path / "ran").exists()


def test_salmonn_is_another_file(parts):
    torch.save({"state": {}}, parts.salmonn)
    parts.only_problem("salmonn", "has no 'model', expected a SALMONN checkpoint")


def test_salmonn_with_foreign_tensors_is_checked_on(parts):
    def change(model):
        model["speech_video_proj.weight"] = torch.zeros(1)
        del model["speech_llama_proj.bias"]

    n_tensors = len(torch.load(parts.salmonn, weights_only=True)["model"])
    parts.edit_salmonn(change)
    problems = dict(parts.problems())
    assert problems.keys() == {"salmonn", "qformer"}
    assert re.search(
        f"^1 of {n_tensors} tensors belong to no part of SALMONN: 'speech_video",
        (problems["salmonn"]),
    )
    assert "missing: 'proj.bias'" in problems["qformer"]


def test_salmonn_without_keys(parts):
    gone = "speech_Qformer.bert.encoder.layer.1.crossattention.self.value.weight"
    adapters = "llama_model.base_model.model.model.layers."
    also_gone = f"{adapters}1.self_attn.v_proj.lora_B.default.weight"
    parts.edit_salmonn(lambda model: (model.pop(gone), model.pop(also_gone)))
    problems = dict(parts.problems())
    assert problems.keys() == {"qformer", "adapters"}
    assert "missing: 'qformer.encoder.layer.1.crossattention" in problems["qformer"]
    assert "missing: 'layers.1.self_attn.v_proj.lora_B.default.weight'" in problems["adapters"]
    parts.edit_salmonn(lambda model: model.pop("speech_query_tokens"))
    parts.only_problem("salmonn", "lacks query tokens, so it is no whole SALMONN checkpoint")


def test_salmonn_without_adapters_is_a_note(parts):
    def change(model):
        for key in [key for key in model if ".lora_" in key]:
            del model[key]

    parts.edit_salmonn(change)
    (found,) = (found for found in parts.findings() if found.what == "adapters")
    assert (found.result, found.details) == (
        "note",
        "there are none; the language model stays as is",
    )


def test_classifier_of_another_head(parts):
    classifier = str(S.classifier_of("s2"))
    parts.only_problem(
        "classifier",
        r"pooling, head and last norm of the config: size mismatch for head\.fc",
        classifier=classifier,
        head={"hidden": 16, "norm": "none"},
    )
    parts.only_problem(
        "classifier", "has no keys that begin with 'salmonn_model.'", classifier=str(parts.salmonn)
    )


def test_prompt_of_the_other_member(parts):
    parts.only_problem(
        "prompt",
        "has a transcript in it",
        prompt=str(parts.folder / "st1-v1.md"),
        prompt_pool=None,
    )


def test_transcripts_missing_unknown_and_there(parts):
    problems = dict(parts.problems("st1"))
    assert problems.keys() == {"data.transcripts"}
    assert "Set data.transcripts.train and .predict" in problems["data.transcripts"]

    sources = {"train": "human", "predict": "machine"}
    data = {"manifest": str(parts.folder / "manifest.parquet"), "transcripts": sources}
    findings = parts.findings("st1", data=data)
    (note,) = (found for found in findings if found.what == "data.transcripts")
    assert note.result == "note"
    assert "there is no manifest" in note.details

    (parts.folder / "manifest.parquet").touch()
    rows = [
        {"utterance": name, "source": "human", "text": text}
        for name, text in (("a", "A"), ("b", None))
    ]
    write_transcripts(rows, parts.folder / "transcripts.parquet")
    findings = parts.findings("st1", data=data)
    found = {found.what: found for found in findings}
    assert found["data.transcripts.train"].details == "1 utterances of the source 'human'"
    assert found["data.transcripts.predict"].result == "problem"
    assert "Unknown transcript source 'machine'." in found["data.transcripts.predict"].details


def test_quantized_weights_need_bitsandbytes(parts, monkeypatch):
    pytest.importorskip("bitsandbytes")
    assert parts.problems(llm_weights="nf4") == []
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    parts.only_problem(
        "llm_weights",
        r"llm_weights: int8 needs .* pip install 'abhinaya\[quant\]'",
        llm_weights="int8",
    )


def test_hub_ids_that_are_not_here_are_notes(parts, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(parts.folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    findings = parts.findings(with_memory=True, base="lmsys/vicuna-13b", whisper="openai/whisper")
    notes = {found.what for found in findings if "fetched when it is first used" in found.details}
    assert notes == {"base", "whisper"}
    assert "memory" in {found.what for found in findings}
    assert not [found for found in findings if found.result == "problem"]


def test_memory_is_compared_with_the_smallest_device(parts, monkeypatch):
    devices = (Device("cuda:0", "Large", 2**40), Device("cuda:1", "Small", 2**29))
    monkeypatch.setattr(memory, "find_devices", lambda: devices)
    problems = dict(parts.problems(with_memory=True))  # the context alone takes 0.75 GiB
    assert problems.keys() == {"memory for training", "memory for prediction"}
    assert "Small has 512.0 MiB. Choose a smaller batch" in problems["memory for training"]


def test_everything_wrong_is_shown_at_once(parts):
    write_whisper(parts.folder / "other", n_features=2 * S.WHISPER_WIDTH)
    write_beats(Path(parts.beats), n_features=2 * S.BEATS_WIDTH)
    (parts.llama / "pytorch_model-00002-of-00003.bin").unlink()
    (parts.llama / "tokenizer.model").unlink()
    parts.edit_salmonn(lambda model: model.pop("speech_llama_proj.bias"))
    problems = parts.problems(
        whisper=str(parts.folder / "other"), prompt="no-such-prompt", prompt_pool=None
    )
    assert {what for what, _ in problems} == {
        "whisper",
        "beats",
        "base",
        "tokenizer",
        "qformer",
        "prompt",
    }
    assert len(problems) == 6
    for _, details in problems:
        # Each says what is wrong, and ends with what to do.
        assert details.count(". ") >= 1, details
        assert details.endswith((".", "?")), details
