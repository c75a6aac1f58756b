"""The encoder of the transcript: what it reads, and which published families load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from abhinaya.errors import BadValueError, CheckpointError
from abhinaya.member import Utterance
from members.fusion.config import FusionConfig
from members.fusion.member import MEMBER
from members.fusion.text import TextBackbone, TokenInputs, load_text_encoder

MakeConfig = Callable[..., FusionConfig]

TEXTS = ("so late", "I never thought that this could ever happen", "")


def tokens(make_config: MakeConfig, **changes: Any) -> TokenInputs:
    builder: Any = MEMBER.build_inputs(make_config(text=changes))
    text: TokenInputs = builder.parts["text"]
    return text


def read(inputs: TokenInputs, text: str) -> list[int]:
    return list(inputs.encode(Utterance("u", text=text))["input_ids"])


def test_transcript_is_read_with_the_tokenizers_own_special_tokens(
    make_config: MakeConfig, bases: Path
) -> None:
    inputs, tokenizer = tokens(make_config), AutoTokenizer.from_pretrained(bases / "roberta")
    for text in TEXTS:
        assert read(inputs, text) == tokenizer(text)["input_ids"]
    assert read(inputs, "") == [0, 2]
    # What is said never closes the text.
    assert 2 not in read(inputs, "</s>")[1:-1]


def test_long_transcript_loses_its_end_but_not_what_closes_it(make_config: MakeConfig) -> None:
    whole, cut = read(tokens(make_config), "so late again " * 50), tokens(make_config, max_tokens=6)
    assert read(cut, "so late again " * 50) == [*whole[:5], 2]
    with pytest.raises(BadValueError, match=r"text\.max_tokens is 129, but .* reads 128 at most"):
        tokens(make_config, max_tokens=129)


def test_utterance_without_transcript_raises(make_config: MakeConfig) -> None:
    with pytest.raises(BadValueError, match="'u' comes without a transcript, which the text enc"):
        tokens(make_config).encode(Utterance("u"))


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForPreTraining", {}),
    "deberta-v2": ("DebertaV2ForMaskedLM", {"relative_attention": True, "type_vocab_size": 0}),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16},
    ),
    "electra": ("ElectraForPreTraining", {"embedding_size": 8}),
    "modernbert": (
        "ModernBertForMaskedLM",
        {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2},
    ),
    "roberta": ("RobertaForMaskedLM", {}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_published_family_is_read_whole_and_without_regard_to_neighbours(
    family: str, tmp_path: Path
) -> None:
    """As published: with the heads of its pre-training beside it."""
    name, own = FAMILIES[family]
    torch.manual_seed(0)
    config: Any = AutoConfig.for_model(family, **SMALL | own)
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    backbone = TextBackbone(load_text_encoder(str(tmp_path)), frozen=True, layer_weights=True)
    ids = torch.randint(3, 50, (2, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    states, _ = backbone.forward_pretrained(input_ids=ids.masked_fill(~mask, 1), mask=mask)
    assert states.shape == (2, 3, 9, 16)
    alone, _ = backbone.forward_pretrained(input_ids=ids[1:, :4], mask=mask[1:, :4])
    torch.testing.assert_close(alone[0], states[1, :, :4], atol=1e-5, rtol=1e-4)
    theirs: Any = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        last = theirs(input_ids=ids[:1]).last_hidden_state
    torch.testing.assert_close(states[:1, -1], last, atol=1e-5, rtol=1e-4)
    assert not any("pooler" in name for name, _ in backbone.named_parameters())


def test_file_that_lacks_a_layer_is_refused(bases: Path, tmp_path: Path) -> None:
    for file in (bases / "roberta").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["roberta.encoder.layer.0.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: 'encoder\.layer\.0\.output\.dense"):
        load_text_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"text\.base '.*' cannot be used"):
        load_text_encoder(str(tmp_path))
