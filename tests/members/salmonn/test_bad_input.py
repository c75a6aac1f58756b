"""Files that are no part of a SALMONN, or not of this one: each misfit is named with its file."""

from __future__ import annotations

import os
import shutil

import golden_set as S
import pytest
import salmonn_golden as G
import torch

import abhinaya.nn.language_model
from abhinaya.demo.checkpoints.beats import write_beats
from abhinaya.demo.checkpoints.encoders import write_whisper
from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.errors import BadValueError, CheckpointError, MissingFileError
from members.salmonn.build import build_backbone
from members.salmonn.weights import read_classifier, read_salmonn

LORA = "llama_model.base_model.model.model.layers.{}.self_attn.{}.lora_{}.default.weight"
QFORMER = "speech_Qformer.bert."


def build(tmp_path, **changes):
    return build_backbone(G.make_config("s2", tmp_path, classifier=None, **changes))


def edited(tmp_path, change, source=S.SALMONN):
    """A copy of a checkpoint after `change(tensors)`."""
    content = torch.load(source, weights_only=True)
    change(content["model"] if "model" in content else content)
    file = tmp_path / f"edited_{source.name}"
    torch.save(content, file)
    return file


@pytest.fixture
def no_llm(monkeypatch):
    """Reading the language model's weights is a failure: the small files come first."""

    def fail(*args, **kwargs):
        pytest.fail("the language model was read before the small files were checked")

    monkeypatch.setattr(abhinaya.nn.language_model, "load_language_model", fail)


# ------------------------------------------------------------------ keys that are wrong


def test_unknown_keys_are_listed(tmp_path, no_llm):
    def add(tensors):
        tensors["llama_model.lm_head.weight"] = torch.zeros(2)
        tensors["audio_tower.bias"] = torch.zeros(2)

    file = edited(tmp_path, add)
    n_all = len(torch.load(file, weights_only=True)["model"])
    with pytest.raises(CheckpointError) as caught:
        build(tmp_path, salmonn=str(file))
    message = str(caught.value)
    assert message.startswith(f"2 of {n_all} tensors in {str(file)!r} belong to no part of SALMONN")
    assert "'audio_tower.bias', 'llama_model.lm_head.weight'" in message
    assert "correct its path" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: t.pop(f"{QFORMER}encoder.layer.1.crossattention.self.key.bias"),
            r"1 of \d+ keys .* missing: "
            r"'qformer\.encoder\.layer\.1\.crossattention\.attention\.key\.bias'",
        ),
        (
            lambda t: t.update({f"{QFORMER}pooler.dense.weight": torch.zeros(2)}),
            r"1 of \d+ keys .* unexpected: 'qformer\.pooler\.dense\.weight'",
        ),
        (
            lambda t: t.update({"speech_llama_proj.bias": torch.zeros(S.LLM_WIDTH + 1)}),
            rf"1 of \d+ keys .* size mismatch for proj\.bias: \({S.LLM_WIDTH + 1},\) "
            rf"against \({S.LLM_WIDTH},\)",
        ),
        (
            lambda t: (
                t.pop("ln_speech.bias"),
                t.update({f"{QFORMER}embeddings.LayerNorm.bias": torch.zeros(1)}),
            ),
            r"2 of \d+ keys .* missing: 'ln_speech\.bias'; size mismatch for qformer\.layernorm",
        ),
    ],
    ids=["missing", "unexpected", "shape", "two"],
)
def test_qformer_that_does_not_fit_is_told_before_the_language_model_is_read(
    tmp_path, no_llm, change, expected
):
    file = edited(tmp_path, change)
    with pytest.raises(CheckpointError, match=expected) as caught:
        build(tmp_path, salmonn=str(file))
    assert repr(str(file)) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: [t.pop(LORA.format(1, "v_proj", matrix)) for matrix in "AB"],
            rf"2 of {S.N_ADAPTERS} keys .* missing: 'layers\.1\.self_attn\.v_proj\.lora_A",
        ),
        (
            lambda t: t.update(
                {LORA.format(1, "q_proj", "B"): torch.zeros(S.LLM_WIDTH - 1, S.RANK)}
            ),
            rf"1 of {S.N_ADAPTERS} keys .* size mismatch for layers\.1\.self_attn\.q_proj\.lora_B\."
            rf"default\.weight: \({S.LLM_WIDTH - 1}, {S.RANK}\) "
            rf"against \({S.LLM_WIDTH}, {S.RANK}\)",
        ),
        (
            lambda t: t.update(
                {
                    LORA.format(S.LLM_LAYERS, "q_proj", m): torch.zeros(s)
                    for m, s in zip(
                        "AB", ((S.RANK, S.LLM_WIDTH), (S.LLM_WIDTH, S.RANK)), strict=True
                    )
                }
            ),
            rf"2 of {S.N_ADAPTERS} keys .* unexpected: "
            rf"'layers\.{S.LLM_LAYERS}\.self_attn\.q_proj\.lora_A",
        ),
        (
            lambda t: [t.pop(key) for key in list(t) if "lora_A" in key],
            rf"{S.N_ADAPTERS // 2} of 0 keys .* unexpected: 'layers\.0\.self_attn\.q_proj\.lora_B",
        ),
    ],
    ids=["missing layer", "shape", "layer too many", "half of them"],
)
def test_adapters_that_do_not_fit_name_both_files(tmp_path, change, expected):
    file = edited(tmp_path, change)
    with pytest.raises(CheckpointError, match=expected) as caught:
        build(tmp_path, salmonn=str(file))
    assert repr(str(file)) in str(caught.value)
    assert f"adapters of the language model {str(S.LLAMA)!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["speech_query_tokens"], "lacks query tokens, so"),
        (["ln_audio.weight", "ln_audio.bias"], "lacks norm of BEATs' features, so"),
        (
            ["ln_speech.weight", "speech_llama_proj.weight"],
            "lacks norm of Whisper's .*, projection",
        ),
        (
            [f"{QFORMER}encoder.layer.0.intermediate_query.dense.weight"],
            "lacks Q-Former, so .* salmonn_v1.pth or salmonn_7b_v0.pth",
        ),
    ],
)
def test_checkpoint_without_a_part_is_no_whole_one(tmp_path, no_llm, keys, named):
    file = edited(tmp_path, lambda tensors: [tensors.pop(key) for key in keys])
    with pytest.raises(CheckpointError, match=named) as caught:
        build(tmp_path, salmonn=str(file))
    assert repr(str(file)) in str(caught.value)


def test_queries_without_three_axes_are_no_queries(tmp_path, no_llm):
    file = edited(tmp_path, lambda t: t.update(speech_query_tokens=torch.zeros(1, 64)))
    with pytest.raises(CheckpointError, match="lacks query tokens"):
        build(tmp_path, salmonn=str(file))


def test_adapters_of_mixed_ranks_raise(tmp_path, no_llm):
    def shrink(tensors):
        tensors[LORA.format(1, "q_proj", "A")] = torch.zeros(S.RANK + 1, S.LLM_WIDTH)
        tensors[LORA.format(1, "q_proj", "B")] = torch.zeros(S.LLM_WIDTH, S.RANK + 1)

    ranks = rf"adapters of the ranks \[{S.RANK}, {S.RANK + 1}\], expected one rank"
    with pytest.raises(CheckpointError, match=ranks):
        build(tmp_path, salmonn=str(edited(tmp_path, shrink)))


def test_entries_that_are_no_tensors_raise(tmp_path):
    file = edited(tmp_path, lambda tensors: tensors.update({"ln_speech.bias": [0.0], "epoch": 3}))
    with pytest.raises(CheckpointError, match=r"2 of \d+ entries of .* are no tensors: 'ln_speech"):
        read_salmonn(file)
    file = edited(tmp_path, lambda t: t.update(epoch=3), S.classifier_of("s2"))
    with pytest.raises(CheckpointError, match=r"1 of \d+ entries of .* are no tensors: 'epoch'"):
        read_classifier(file)


# ------------------------------------------------------------------ files of other models


def test_language_model_of_another_width_is_named(tmp_path):
    write_llama(tmp_path / "llama", n_features=2 * S.LLM_WIDTH, n_layers=S.LLM_LAYERS)
    with pytest.raises(CheckpointError) as caught:
        build(tmp_path, base=str(tmp_path / "llama"))
    message = str(caught.value)
    assert message.startswith(
        f"base: {str(tmp_path / 'llama')!r} has {2 * S.LLM_WIDTH} features, but {str(S.SALMONN)!r}"
    )
    assert f"was trained with {S.LLM_WIDTH}" in message
    assert "Vicuna-13B v1.1 (5120) for salmonn_v1.pth" in message
    assert message.endswith("Correct base or salmonn.")


@pytest.mark.parametrize(
    ("n_layers", "kind"), [(S.LLM_LAYERS - 1, "unexpected"), (S.LLM_LAYERS + 1, "missing")]
)
def test_language_model_of_another_depth_is_named(tmp_path, n_layers, kind):
    write_llama(tmp_path / "llama", n_features=S.LLM_WIDTH, n_layers=n_layers)
    # Vicuna has 32 or 40 layers, four matrices each.
    with pytest.raises(
        CheckpointError, match=rf"4 of {4 * n_layers} keys .* {kind}: 'layers\."
    ) as c:
        build(tmp_path, base=str(tmp_path / "llama"))
    assert repr(str(tmp_path / "llama")) in str(c.value)
    assert repr(str(S.SALMONN)) in str(c.value)


def test_beats_of_another_width_is_named(tmp_path, no_llm):
    write_beats(tmp_path / "beats.pt", n_features=2 * S.BEATS_WIDTH)
    with pytest.raises(
        CheckpointError,
        match=rf"^beats: '.*beats\.pt' has {2 * S.BEATS_WIDTH} features, but "
        rf"'.*salmonn_tiny\.pth' was trained with {S.BEATS_WIDTH}\. "
        r".*BEATs iter3\+ AS2M cpt2 \(768\)\. Correct beats or salmonn",
    ):
        build(tmp_path, beats=str(tmp_path / "beats.pt"))


def test_whisper_of_another_width_is_named(tmp_path, no_llm):
    write_whisper(tmp_path / "whisper", n_features=2 * S.WHISPER_WIDTH, n_layers=1)
    with pytest.raises(
        CheckpointError,
        match=rf"^whisper: '.*whisper' has {2 * S.WHISPER_WIDTH} features, but .* trained with "
        rf"{S.WHISPER_WIDTH}\. .*"
        r"Whisper-large-v2 \(1280\)\. Correct whisper or salmonn",
    ):
        build(tmp_path, whisper=str(tmp_path / "whisper"))


CLASSIFIER = S.classifier_of("s2")


@pytest.mark.parametrize(
    ("key", "file", "expected"),
    [
        (
            "salmonn",
            S.BEATS,
            r"(\d+) of \1 tensors in .*BEATs_tiny\.pt' belong to no part of SALMONN",
        ),
        ("salmonn", CLASSIFIER, r"s2_classifier\.pth' has no 'model', expected .*Correct salmonn"),
        ("beats", S.SALMONN, r"salmonn_tiny\.pth' has no 'cfg' and 'model', expected .*BEATs"),
        ("beats", CLASSIFIER, r"s2_classifier\.pth' has no 'cfg' and 'model'"),
        (
            "classifier",
            S.SALMONN,
            r"no keys that begin with 'salmonn_model\.', .*Correct classifier",
        ),
        ("classifier", S.BEATS, r"no keys that begin with 'salmonn_model\.', .*Correct classifier"),
    ],
)
def test_swapped_files_are_told_apart(tmp_path, no_llm, key, file, expected):
    with pytest.raises(CheckpointError, match=expected):
        build_backbone(G.make_config("s2", tmp_path, **{key: str(file)}))


@pytest.mark.parametrize("key", ["salmonn", "beats", "classifier", "whisper"])
def test_absent_file_is_named(tmp_path, no_llm, key):
    with pytest.raises(MissingFileError, match=r"There is no .*nowhere/weights\.pth'"):
        build_backbone(
            G.make_config("s2", tmp_path, **{key: str(tmp_path / "nowhere/weights.pth")})
        )


class RunsCode:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("key", ["salmonn", "beats", "classifier"])
def test_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, no_llm, monkeypatch, key):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    torch.save({"model": {"salmonn_model.x": RunsCode()}, "cfg": {}}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth' would run code .* so it was not"):
        build_backbone(G.make_config("s2", tmp_path, **{key: str(tmp_path / "evil.pth")}))
    assert not ran


@pytest.mark.parametrize("key", ["salmonn", "beats", "classifier"])
def test_file_cut_off_in_the_middle_is_named(tmp_path, no_llm, key):
    source = {"salmonn": S.SALMONN, "beats": S.BEATS, "classifier": CLASSIFIER}[key]
    shutil.copyfile(source, tmp_path / "half.pth")
    os.truncate(tmp_path / "half.pth", source.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"half\.pth' cannot be read as weights"):
        build_backbone(G.make_config("s2", tmp_path, **{key: str(tmp_path / "half.pth")}))


def test_window_longer_than_whisper_hears_raises(tmp_path, no_llm):
    with pytest.raises(BadValueError, match=r"window_s is 31, but .* hears 30 s at once"):
        build(tmp_path, window_s=31)


# ------------------------------------------------------------------ a classifier over SALMONN


def test_classifier_with_other_adapters_than_salmonn_names_both_files(tmp_path, no_llm):
    def change(tensors):
        del tensors["salmonn_model." + LORA.format(0, "q_proj", "A")]
        tensors["salmonn_model.speech_llama_proj.bias"] = torch.zeros(3)

    file = edited(tmp_path, change, CLASSIFIER)
    with pytest.raises(
        CheckpointError, match=r"2 of \d+ keys do not fit .* missing: .*lora_A"
    ) as c:
        build_backbone(G.make_config("s2", tmp_path, classifier=str(file)))
    assert repr(str(file)) in str(c.value)
    assert f"the SALMONN {str(S.SALMONN)!r}" in str(c.value)


def test_classifier_with_a_norm_of_another_width_raises(tmp_path):
    file = edited(tmp_path, lambda t: t.update({"ln.weight": torch.ones(3)}), CLASSIFIER)
    with pytest.raises(CheckpointError, match=r"1 of 2 keys .* norm .* size mismatch for weight:"):
        build_backbone(G.make_config("s2", tmp_path, classifier=str(file)))


def test_classifier_prefix_counts_at_the_beginning_only(tmp_path):
    file = edited(tmp_path, lambda t: t.update({"ema.salmonn_model.x": torch.ones(3)}), CLASSIFIER)
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors .*: 'ema\.salmonn_model\.x'"):
        read_classifier(file)
