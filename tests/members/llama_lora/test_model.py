"""The language model under its head: batches, number types, adapters, other families."""

from __future__ import annotations

import warnings

import llama_golden as G
import peft
import pytest
import torch
from golden_set import GOLDEN, PUBLIC
from transformers import GPT2Config, GPT2LMHeadModel

from abhinaya.demo.checkpoints.llama import write_llama
from abhinaya.errors import BadValueError, ProblemsError
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.nn.language_model import load_language_model
from members.llama_lora.member import MEMBER
from members.llama_lora.model import LanguageModelBackbone, add_adapters

TEXTS = (
    "I really did not expect to see you here today!",
    "Why?",
    "It's fine. I'm fine — we are all going to be fine, aren't we?",
    "The meeting ran long and nobody could agree on anything, " * 15,
    "",
    "😀",
    "well, " * 10_000,
)


DEMO_SIZES = {"lora": {}, "head": {"hidden": 32, "norm": "none"}}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Keys of a config on the demo's LLaMA; bitsandbytes' 4 bits want multiples of 32 on a CPU."""
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder, layout="llama3")
    return {"base": str(folder), "classifier": None}


def new_classifier(config):
    """A classifier with adapters that do something, which at first they do not."""
    torch.manual_seed(0)
    model = build_classifier(MEMBER, config, 8, G.CONFIG["class_counts"])
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(value, std=0.1)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("weights", ["float32", "bf16", "nf4"])
def test_row_gets_the_same_logits_in_any_batch(tmp_path, demo, weights):
    if weights == "nf4":
        pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    config = G.make_config(tmp_path, weights=weights, **demo, **DEMO_SIZES)
    model = new_classifier(config)
    # In bfloat16 longer sums round otherwise: one digit is 1/256.
    tolerance = 0.03 if weights == "bf16" else 1e-5
    alone = [model(G.batch_of(config, text)).logits[0] for text in TEXTS]
    for rows in [range(len(TEXTS)), (4, 6), (6, 4), (1, 1, 5), (0, 2)]:
        logits = model(G.batch_of(config, *(TEXTS[row] for row in rows))).logits
        for got, row in zip(logits, rows, strict=True):
            torch.testing.assert_close(got, alone[row], atol=tolerance, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 10 * tolerance


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(tmp_path):
    config = G.make_config(tmp_path)
    model = G.load_classifier(config)
    batch = G.batch_of(config, *TEXTS)
    expected = model(batch).logits
    batch["input_ids"] = batch["input_ids"].masked_fill(~batch["mask"], 17)
    torch.testing.assert_close(model(batch).logits, expected, atol=1e-6, rtol=0)
    # More of it than any row needs.
    wider = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 40), value=3),
        "mask": torch.nn.functional.pad(batch["mask"], (0, 40)),
    }
    torch.testing.assert_close(model(wider).logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["bf16", "fp16"])
def test_half_precision_gives_logits_near_those_of_float32(tmp_path, weights):
    config = G.make_config(tmp_path, weights=weights)
    model = G.load_classifier(config)
    assert model.backbone.encoder.embed_tokens.weight.dtype != torch.float32
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    batch = G.batch_of(config, *G.TOKENS["texts"])
    expected = torch.from_numpy(G.golden()["logits"])
    torch.testing.assert_close(model(batch).logits, expected, atol=0.03, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(batch).logits, expected, atol=0.06, rtol=0)


def test_training_reaches_adapters_norm_pooling_and_head_alone(tmp_path):
    model = G.load_classifier(G.make_config(tmp_path))
    names = model.trained_names()
    adapters = [name for name in names if name.startswith("backbone.encoder.")]
    assert len(adapters) == G.N_ADAPTERS
    assert all(".lora_" in name for name in adapters)
    others = {name.split(".")[0] for name in set(names) - set(adapters)}
    assert others == {"backbone", "pooling", "head"}
    assert {n for n in names if n.startswith("backbone.norm")} == {
        "backbone.norm.weight",
        "backbone.norm.bias",
    }
    # The adapters' dropout needs the training mode in them.
    assert model.train().backbone.encoder.layers[0].self_attn.q_proj.lora_dropout.default.training


def test_recomputed_layers_give_the_same_gradients(tmp_path):
    config = G.make_config(tmp_path)
    labels = torch.tensor(G.CONFIG["t2_labels"])
    gradients = []
    for is_recomputed in (False, True):
        model = G.load_classifier(config).train()  # layers are only recomputed in training
        if is_recomputed:
            model.activation_checkpointing_enable()
            assert model.backbone.encoder.layers[0].gradient_checkpointing
        torch.manual_seed(0)  # of dropout, which recomputing must repeat
        model(G.batch_of(config, *G.TOKENS["texts"]), labels).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, recomputed = gradients
    assert len(plain) == G.N_ADAPTERS + 2 + 3 + 4  # adapters, norm, pooling, head
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@torch.no_grad()
def test_nf4_gives_logits_near_those_of_float32(tmp_path, demo):
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    logits = {}
    for weights in ("float32", "nf4"):
        config = G.make_config(tmp_path, weights=weights, **demo, **DEMO_SIZES)
        model = new_classifier(config)
        logits[weights] = model(G.batch_of(config, *TEXTS)).logits
    packed = [n for n, p in model.backbone.encoder.named_parameters() if p.dtype == torch.uint8]
    assert len(packed) == 14  # seven matrices in each of two layers
    ours, exact = logits["nf4"], logits["float32"]
    # Sixteen levels per weight: off, but far closer than the rows are to each other.
    assert (ours - exact).norm() < 0.5 * (exact - exact.mean(dim=0)).norm()


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_step_of_qlora_on_the_cpu_lowers_the_loss(tmp_path, demo, is_recomputed):
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    config = G.make_config(
        tmp_path, weights="nf4", lora={"dropout": 0.0}, head={"hidden": 32, "dropout": 0.0}, **demo
    )
    model = new_classifier(config).train()
    if is_recomputed:
        model.activation_checkpointing_enable()
    batch = G.batch_of(config, *G.TOKENS["texts"])
    labels = torch.tensor(G.CONFIG["t2_labels"])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len([name for name in trained if ".lora_" in name]) == 8
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    loss = model(batch, labels).loss
    loss.backward()
    for name, value in trained.items():
        assert value.grad.isfinite().all(), name
        assert value.grad.abs().max() > 0, name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    optimizer.step()
    assert model(batch, labels).loss.item() < loss.item() - 1e-3


@torch.no_grad()
def test_int8_gives_logits_near_those_of_float32(tmp_path):
    pytest.importorskip("bitsandbytes", reason="8-bit weights need bitsandbytes")
    config = G.make_config(tmp_path, weights="int8")
    logits = G.load_classifier(config)(G.batch_of(config, *G.TOKENS["texts"])).logits
    expected = torch.from_numpy(G.golden()["logits"])
    # Measured on the public set; what rounding does depends on the weights.
    tolerance = 0.05 if GOLDEN == PUBLIC else 0.3 * float(expected.std())
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=0)


# ------------------------------------------------------------------ other language models


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A tiny GPT-2, whose layers have other names and whose matrices lie the other way round."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_another_family_gets_adapters_that_load_into_the_whole_with_peft(gpt2, tmp_path):
    encoder = load_language_model(gpt2)
    add_adapters(encoder, rank=2, alpha=4.0, dropout=0.0, target_modules=["attn.c_attn"])
    backbone = LanguageModelBackbone(encoder).eval()
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    assert len(trained) == 4  # two matrices in each of two layers
    torch.manual_seed(1)
    for value in trained.values():
        torch.nn.init.normal_(value, std=0.3)
    assert backbone.save_adapter(tmp_path / "adapter")
    full = GPT2LMHeadModel.from_pretrained(gpt2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what PEFT gives for keys that it misses
        theirs = peft.PeftModel.from_pretrained(full, str(tmp_path / "adapter")).eval()
    ids, mask = torch.arange(1, 20)[None], torch.ones(1, 19, dtype=torch.bool)
    with torch.no_grad():
        states, _ = backbone.forward_pretrained(ids, mask)
        expected = theirs.base_model.model.transformer(input_ids=ids).last_hidden_state
        plain = load_language_model(gpt2)(input_ids=ids).last_hidden_state
    torch.testing.assert_close(states.squeeze(1), expected)
    assert (expected - plain).abs().max() > 0.1


def test_layers_that_the_language_model_lacks_are_named(gpt2):
    encoder = load_language_model(gpt2)
    with pytest.raises(
        BadValueError,
        match=r"lora\.target_modules names 'q_proj', 'attn', but no linear layer of the GPT2Model "
        r"'.*' is called so\. Its layers are called c_attn, c_fc, c_proj\. Correct",
    ):
        # `attn` is there, but it is no layer that could get adapters.
        add_adapters(
            encoder,
            **{"rank": 2, "alpha": 4.0, "dropout": 0.0},
            target_modules=["c_attn", "q_proj", "attn"],
        )
    assert not hasattr(encoder, "peft_config")


# ------------------------------------------------------------------ the config


def test_mistakes_of_the_config_are_named_together(tmp_path):
    content = G.make_config(tmp_path).model_dump(mode="json", exclude_none=True)
    content |= {"max_tokens": 0, "weights": "int4", "special_tokens": "no", "training": {}}
    content["lora"] = {"rnak": 8, "dropout": 1.0, "target_modules": []}
    with pytest.raises(ProblemsError) as caught:
        check_member_config(content, "the config")
    message = str(caught.value)
    for expected in (
        "max_tokens is 0",
        "weights is 'int4'",
        "special_tokens is 'no'",
        "lora.rnak is unknown, did you mean lora.rank?",
        "lora.dropout is 1.0",
        "lora.target_modules: is empty; name at least one layer",
    ):
        assert expected in message, message


def test_one_target_may_stand_alone(tmp_path):
    config = G.make_config(tmp_path, lora={"target_modules": "q_proj"})
    assert config.lora.target_modules == ("q_proj",)
    assert config.lora.rank == 8


def test_stored_output_of_a_trained_encoder_raises(tmp_path, manifest, manifest_file):
    config = G.make_config(
        tmp_path,
        **{"classifier": None, "cache": {"dir": str(tmp_path)}, "audio": {"train_crop": "first"}},
        data={"manifest": str(manifest_file), "transcripts": {"predict": "human"}},
    )
    with pytest.raises(BadValueError, match=r"cache keeps .*this member only reads"):
        MEMBER.train(config, manifest)
