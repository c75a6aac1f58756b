"""A tiny random encoder of text with a real tokenizer, in the layout of RoBERTa."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abhinaya.demo.checkpoints.encoders import seeded
from abhinaya.demo.checkpoints.llama import demo_texts
from abhinaya.files import write_json

__all__ = ["write_roberta"]

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_N_TOKENS = 384
_MAX_TOKENS = 128


def write_roberta(
    folder: Path,
    *,
    seed: int = 0,
    n_layers: int = 2,
    n_features: int = 32,
    init_std: float = 0.1,
) -> None:
    """Write a tiny RoBERTa with a tokenizer, as `FacebookAI/roberta-large` is published.

    Args:
        folder: gets config.json, model.safetensors (with the head for masked words, without
            pooler), tokenizer.json and tokenizer_config.json.
        seed: of the weights.
        n_layers: transformer blocks. Published: 24.
        n_features: D, their width; a multiple of 4. Published: 1024.
        init_std: standard deviation of the weights; with the usual .02 so narrow a network hardly
            tells texts apart.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(
        vocab_size=_N_TOKENS,
        hidden_size=n_features,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        intermediate_size=2 * n_features,
        # Positions are counted from behind the padding token on.
        max_position_embeddings=_MAX_TOKENS + 2,
        type_vocab_size=1,
        initializer_range=init_std,
    )
    with seeded(seed):
        RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_N_TOKENS,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(demo_texts(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    write_json(
        folder / "tokenizer_config.json",
        {
            "model_max_length": _MAX_TOKENS,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **dict(zip(names, _SPECIAL, strict=True)),
        },
    )
