"""The loader of SALMONN: what is read from its sources, and the sizes that they tell."""

from __future__ import annotations

import json
import logging
import os

import golden_set as S
import pytest
import salmonn_golden as G
import torch

import abhinaya.nn.language_model
from abhinaya.errors import CheckpointError, MissingFileError
from members.salmonn.build import build_backbone, window_frames
from members.salmonn.weights import (
    SalmonnSizes,
    qformer_config,
    read_salmonn,
    read_sizes,
)

LAST = S.LLM_LAYERS - 1
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


def trained_state(backbone):
    return {name: p.detach() for name, p in backbone.named_parameters() if p.requires_grad}


def assert_same_trained(ours, theirs):
    ours, theirs = trained_state(ours), trained_state(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def no_llm(monkeypatch):
    """Reading the language model's weights is a failure: the small files come first."""

    def fail(*args, **kwargs):
        pytest.fail("the language model was read before the small files were checked")

    monkeypatch.setattr(abhinaya.nn.language_model, "load_language_model", fail)


# ------------------------------------------------------------------ what is loaded


def test_every_trained_tensor_has_the_value_of_its_key(whole):
    """Some of the names by hand; that the mapping is complete is asserted by the loader."""
    stored = torch.load(S.SALMONN, weights_only=True)["model"]
    ours = dict(whole.named_parameters())
    pairs = {
        "adapter.query_tokens": "speech_query_tokens",
        "adapter.ln_speech.weight": "ln_speech.weight",
        "adapter.ln_audio.bias": "ln_audio.bias",
        "adapter.proj.weight": "speech_llama_proj.weight",
        "adapter.qformer.layernorm.bias": f"{QFORMER}embeddings.LayerNorm.bias",
        "adapter.qformer.encoder.layer.1.attention.attention.query.weight": (
            f"{QFORMER}encoder.layer.1.attention.self.query.weight"
        ),
        "adapter.qformer.encoder.layer.0.attention.output.dense.bias": (
            f"{QFORMER}encoder.layer.0.attention.output.dense.bias"
        ),
        "adapter.qformer.encoder.layer.0.crossattention.attention.value.weight": (
            f"{QFORMER}encoder.layer.0.crossattention.self.value.weight"
        ),
        "adapter.qformer.encoder.layer.1.output_query.LayerNorm.weight": (
            f"{QFORMER}encoder.layer.1.output_query.LayerNorm.weight"
        ),
        f"llm.layers.{LAST}.self_attn.v_proj.lora_B.default.weight": LORA.format(
            LAST, "v_proj", "B"
        ),
        "llm.layers.0.self_attn.q_proj.lora_A.default.weight": LORA.format(0, "q_proj", "A"),
    }
    for name, key in pairs.items():
        assert torch.equal(ours[name], stored[key]), name
    # Norms, queries, projection: 7. Each Q-Former layer has 2 attentions of 10 and 6 more;
    # then one norm, and the adapters.
    trained = trained_state(whole)
    assert len(trained) - 2 == 7 + 2 * 26 + 2 + S.N_ADAPTERS  # but the classifier's own norm
    frozen = {name for name, p in ours.items() if not p.requires_grad}
    assert {name.partition(".")[0] for name in frozen} == {"encoder", "llm"}


def test_adapters_named_as_by_old_peft_are_the_same(tmp_path, whole):
    def rename(tensors):
        for key in [key for key in tensors if ".default." in key]:
            tensors[key.replace(".default", "")] = tensors.pop(key)

    assert_same_trained(build(tmp_path, salmonn=str(edited(tmp_path, rename))), whole)


def test_adapter_under_both_names_raises(tmp_path):
    def repeat(tensors):
        key = LORA.format(0, "q_proj", "A")
        tensors[key.replace(".default", "")] = torch.zeros_like(tensors[key])

    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors .* no part .*q_proj\.lora_A\."):
        read_salmonn(edited(tmp_path, repeat))


def is_extra(key):
    return key.endswith(("inv_freq", "position_ids")) or key.startswith("beats.")


def test_buffers_and_repeated_tables_may_be_absent(tmp_path, whole):
    def remove(tensors):
        for key in [key for key in tensors if is_extra(key)]:
            del tensors[key]

    assert_same_trained(build(tmp_path, salmonn=str(edited(tmp_path, remove))), whole)


def test_buffers_and_repeated_tables_may_be_there_and_are_counted(tmp_path, caplog):
    stored = torch.load(S.SALMONN, weights_only=True)["model"]
    n_used = sum(not is_extra(key) for key in stored)

    def add(tensors):
        for layer in range(8):
            block = f"llama_model.base_model.model.model.layers.{layer}."
            tensors[f"{block}self_attn.rotary_emb.inv_freq"] = torch.ones(8)
            table = f"beats.encoder.layers.{layer}.self_attn.relative_attention_bias.weight"
            tensors[table] = torch.ones(320, 4)
        tensors[f"{QFORMER}embeddings.position_ids"] = torch.arange(512)[None]

    file = edited(tmp_path, add)
    n_all = len(torch.load(file, weights_only=True)["model"])
    with caplog.at_level(logging.INFO, logger="members.salmonn"):
        state = read_salmonn(file)
    assert len(state) == n_used
    assert f"{n_used} tensors used, {n_all - n_used} saved beside them" in caplog.text
    assert str(file) in caplog.text
    assert n_all - n_used == 8 + 8 + 1


def test_weights_in_half_precision_become_float32(tmp_path, whole):
    file = edited(tmp_path, lambda t: t.update({k: v.half() for k, v in t.items()}))
    for name, value in trained_state(build(tmp_path, salmonn=str(file))).items():
        assert value.dtype == torch.float32, name
        if not name.startswith("norm."):
            torch.testing.assert_close(value, trained_state(whole)[name], rtol=1e-3, atol=1e-4)


def test_loaded_weights_do_not_depend_on_the_file(tmp_path, whole):
    file = edited(tmp_path, lambda tensors: None)
    backbone = build(tmp_path, salmonn=str(file))
    with file.open("r+b") as stream:
        stream.write(bytes(os.path.getsize(file)))
    assert_same_trained(backbone, whole)


# ------------------------------------------------------------------ sizes


def test_sizes_are_read_from_the_file():
    shapes = {name: tuple(value.shape) for name, value in read_salmonn(S.SALMONN).items()}
    assert read_sizes(shapes, "file") == SalmonnSizes(
        widths=(S.WHISPER_WIDTH, S.BEATS_WIDTH),
        n_queries=G.CONFIG["salmonn"]["num_speech_query_token"],
        hidden=S.QFORMER_WIDTH,
        intermediate=G.CONFIG["qformer"]["intermediate_size"],
        n_layers=G.CONFIG["qformer"]["num_hidden_layers"],
        llm_width=S.LLM_WIDTH,
        lora_rank=S.RANK,
        lora_targets=tuple(G.CONFIG["lora"]["targets"]),
    )


def test_other_sizes_build_another_model(tmp_path):
    def change(tensors):
        tensors["speech_query_tokens"] = torch.randn(1, 3, S.QFORMER_WIDTH)
        for layer in range(S.LLM_LAYERS):
            for module, matrix in (
                ("q_proj", "A"),
                ("q_proj", "B"),
                ("v_proj", "A"),
                ("v_proj", "B"),
            ):
                del tensors[LORA.format(layer, module, matrix)]
            tensors[LORA.format(layer, "o_proj", "A")] = torch.randn(2, S.LLM_WIDTH)
            tensors[LORA.format(layer, "o_proj", "B")] = torch.randn(S.LLM_WIDTH, 2)

    backbone = build(tmp_path, salmonn=str(edited(tmp_path, change)), lora={"alpha": 10})
    lora = {name: p for name, p in backbone.llm.named_parameters() if "lora" in name}
    assert {name.split(".")[3] for name in lora} == {"o_proj"}
    assert len(lora) == 2 * S.LLM_LAYERS
    # 10 / 2
    assert backbone.llm.layers[0].self_attn.o_proj.scaling == {"default": 5.0}
    batch = G.batch_of(G.make_config("s2", tmp_path), ((0, 0),))
    with torch.no_grad():
        features, mask = backbone.eval()(batch)
    # BOS, the prompt before and after the speech, the text, and three queries for each window.
    texts = [len(G.TOKENS["strings"][key]["ids"]) for key in ("p_before", "p_after_0", "s2_text")]
    n_windows = 1500 // window_frames(G.CONFIG["salmonn"]["second_per_window"])
    assert features.shape == (1, 1 + sum(texts) + n_windows * 3, S.LLM_WIDTH)
    assert mask.all()


def test_checkpoint_without_adapters_leaves_the_language_model_as_it_is(tmp_path):
    file = edited(tmp_path, lambda t: [t.pop(key) for key in list(t) if "lora" in key])
    backbone = build(tmp_path, salmonn=str(file))
    assert not any(p.requires_grad for p in backbone.llm.parameters())
    assert not backbone.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    backbone.train()
    assert not backbone.llm.training


# ------------------------------------------------------------------ the Q-Former's config


def sizes_with(hidden=64):
    return SalmonnSizes((32, 48), 1, hidden, 96, 2, 64, 8, ("q_proj",))


@pytest.mark.parametrize(("hidden", "heads"), [(768, 12), (64, 1), (32, 1), (128, 2)])
def test_without_a_folder_the_qformer_is_as_bert(hidden, heads):
    config = qformer_config(sizes_with(hidden), None)
    assert config.num_attention_heads == heads
    assert config.layer_norm_eps == 1e-12
    assert config.hidden_act == "gelu"
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert config.encoder_hidden_size == 80
    assert (config.num_hidden_layers, config.intermediate_size) == (2, 96)


def test_heads_and_epsilon_come_from_the_folder(tmp_path):
    content = {"hidden_size": 64, "num_attention_heads": 8, "layer_norm_eps": 1e-3}
    # What the checkpoint tells is not asked: SALMONN takes two of BERT's twelve layers.
    content |= {"num_hidden_layers": 12, "intermediate_size": 3072, "hidden_act": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = qformer_config(sizes_with(), str(tmp_path))
    assert config.num_attention_heads == 8
    assert config.layer_norm_eps == 1e-3
    assert config.hidden_act == "relu"
    assert (config.num_hidden_layers, config.intermediate_size) == (2, 96)


def test_qformer_folder_without_config_raises(tmp_path, no_llm):
    with pytest.raises(MissingFileError, match=r"There is no .*config\.json'\. Let qformer name"):
        build(tmp_path, qformer=str(tmp_path / "bert"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"hidden_size": 768}',
            rf"BERT of width 768, but the Q-Former .* has {S.QFORMER_WIDTH}\. Correct qformer",
        ),
        (
            '{"num_attention_heads": 7}',
            rf"has {S.QFORMER_WIDTH} features, which 7 heads cannot share\. Let qformer",
        ),
        ("{", r"config\.json' is not JSON: .*Take the config\.json of the BERT"),
    ],
)
def test_qformer_folder_of_another_model_raises(tmp_path, no_llm, text, expected):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=expected):
        build(tmp_path, qformer=str(tmp_path))


def test_width_that_no_heads_of_64_share_asks_for_the_folder():
    # 200 // 64 = 3 heads
    with pytest.raises(CheckpointError, match=r"200 features, which 3 heads cannot share"):
        qformer_config(sizes_with(200), None)
