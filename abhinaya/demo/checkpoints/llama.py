"""Tiny random language models with real tokenizers, in the layouts of Vicuna and of Llama 3.

What reads the published weights reads these; so the whole chain runs without a download. The same
seed gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.corpus.sentences import make_sentence
from abhinaya.errors import BadValueError, MissingPackageError
from abhinaya.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["demo_texts", "write_llama"]

Layout = Literal["vicuna", "llama3"]

_N_SENTENCES_PER_CLASS = 60

# The words of usual prompts, so that they are no row of single letters. The signs are all of ASCII.
_PROMPT_TEXTS = (
    *8 * ("USER: <Speech></Speech> Describe the emotion of the speaker in one word.\nASSISTANT:",),
    *8 * ("Use one word to describe the speaker's emotion. <Transcript> Is the emotion in it",),
    *8 * ("You are an emotion recognition system for text. Choose one of the following",),
    *(f"The emotion is {name}, {name}." for name in MSP_PODCAST.names for _ in range(8)),
    "".join(map(chr, range(ord(" "), ord("~") + 1))),
)

_LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)

# One turn per message, each with its role in a header of its own.
_LLAMA3_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)


def write_llama(
    folder: Path,
    *,
    seed: int = 0,
    layout: Layout = "vicuna",
    n_layers: int = 2,
    n_features: int = 64,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    vocab_size: int = 512,
    init_std: float = 0.12,
    texts: Sequence[str] | None = None,
    chat_template: bool = False,
) -> None:
    """Write a tiny LLaMA with a tokenizer, in the layout of Vicuna 1.5 or of Llama 3.1.

    "vicuna": float16 in two `pytorch_model-*.bin` files with an index, the buffers of the rotary
    embedding among them as in files of 2023; SentencePiece BPE with bytes for unknown letters in
    `tokenizer.model`, no `tokenizer.json`; <unk>, <s>, </s> are 0, 1, 2.
    "llama3": bfloat16 in two `model-*.safetensors` files with an index; half as many heads for
    keys and values; Llama 3's rotary scaling; BPE of bytes in `tokenizer.json`, special tokens at
    the end of the vocabulary.

    Args:
        folder: gets config.json, generation_config.json, weights and tokenizer.
        seed: of the weights; the tokenizer depends on `texts` alone.
        layout: see above.
        n_layers: transformer blocks.
        n_features: D, their width; a multiple of twice the heads.
        n_heads: attention heads.
        n_kv_heads: heads of keys and values; None is what the layout has.
        vocab_size: tokens of the tokenizer, special ones included, and rows of the embedding.
        init_std: standard deviation of the weights. LLaMA's own 0.02 suits thousands of features.
            With 64 of them a block then adds next to nothing to its input; about 0.12, one by the
            root of the width, keeps the size of what goes through a matrix.
        texts: what the tokenizer learns; None for sentences of the demo's corpus and prompt words.
        chat_template: give "llama3" the chat template and end of turn of an instruct model.

    Raises:
        BadValueError: if the texts do not give so many tokens, or Vicuna should get a template.
        MissingPackageError: if "vicuna" lacks the package sentencepiece.
    """
    if chat_template and layout == "vicuna":
        raise BadValueError(
            "chat_template is true, but a Vicuna folder has no chat template. "
            "Write the layout 'llama3', or leave chat_template out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    texts = demo_texts() if texts is None else texts
    if layout == "vicuna":
        _write_sentencepiece(folder, texts, vocab_size)
    else:
        _write_byte_bpe(folder, texts, vocab_size, chat_template=chat_template)
    sizes = {
        "hidden_size": n_features,
        "intermediate_size": 2 * n_features,
        "num_attention_heads": n_heads,
        "num_hidden_layers": n_layers,
        "num_key_value_heads": n_kv_heads or (n_heads if layout == "vicuna" else n_heads // 2),
        "vocab_size": vocab_size,
    }
    _write_configs(folder, layout, sizes, init_std, chat_template=chat_template)
    _write_shards(folder, layout, _random_weights(folder, layout, init_std, seed))


def _write_configs(
    folder: Path,
    layout: Layout,
    sizes: Mapping[str, int],
    init_std: float,
    *,
    chat_template: bool,
) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "initializer_range": init_std,
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_cache": True,
        **sizes,
    }
    if layout == "vicuna":
        special: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        config |= {"max_position_embeddings": 4096, "torch_dtype": "float16"}
    else:
        first = sizes["vocab_size"] - len(_LLAMA3_SPECIAL)
        # An instruct model may end its turn or the text.
        ends = [first + 1, first + len(_LLAMA3_SPECIAL) - 1]
        special = {"bos_token_id": first, "eos_token_id": ends if chat_template else ends[0]}
        config |= {
            "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"],
            "max_position_embeddings": 131_072,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500_000.0,
            "torch_dtype": "bfloat16",
        }
    write_json(folder / "config.json", config | special)
    write_json(folder / "generation_config.json", special)


def _random_weights(folder: Path, layout: Layout, std: float, seed: int) -> dict[str, Tensor]:
    """Return the tensors of the folder's LlamaForCausalLM under their published names."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    generator = torch.Generator().manual_seed(seed)
    config: Any = AutoConfig.from_pretrained(str(folder))
    dtype = torch.float16 if layout == "vicuna" else torch.bfloat16
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    weights: dict[str, Tensor] = {}
    for name, tensor in model.named_parameters():
        if name.endswith("norm.weight"):
            values = torch.ones(tensor.shape)
        else:
            values = std * torch.randn(tensor.shape, generator=generator)
        weights[name] = values.to(dtype)
        if layout == "vicuna" and name.endswith("o_proj.weight"):
            block = name.removesuffix("o_proj.weight")
            rates = 10_000.0 ** -(torch.arange(0, model.config.head_dim, 2) / model.config.head_dim)
            weights[f"{block}rotary_emb.inv_freq"] = rates.to(dtype)
    return weights


def _write_shards(folder: Path, layout: Layout, weights: Mapping[str, Tensor]) -> None:
    """Write the tensors as two files, and the index that says which tensor is where."""
    import torch
    from safetensors.torch import save_file

    stem, suffix = ("pytorch_model", "bin") if layout == "vicuna" else ("model", "safetensors")
    names = list(weights)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = folder / f"{stem}-{number:05d}-of-00002.{suffix}"
        weight_map |= dict.fromkeys(shard, file.name)
        content = {name: weights[name] for name in shard}
        if layout == "vicuna":
            # The name inside the archive would otherwise be that of the file.
            with file.open("wb") as stream:
                torch.save(content, stream)
        else:
            save_file(content, file, metadata={"format": "pt"})
    n_bytes = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": n_bytes}, "weight_map": weight_map}
    write_json(folder / f"{stem}.{suffix}.index.json", index)


def _write_sentencepiece(folder: Path, texts: Sequence[str], vocab_size: int) -> None:
    """Write LLaMA's first tokenizer: SentencePiece BPE that keeps every letter and blank."""
    try:
        import sentencepiece
    except ImportError as err:
        raise MissingPackageError("sentencepiece", "Making Vicuna's tokenizer", "text") from err

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # A line end is a byte to LLaMA, so no token may hold one.
            sentence_iterator=(line for text in texts for line in text.splitlines()),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as err:
        raise _bad_vocab_size(vocab_size, str(err)) from err
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": 4096,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            **{name: _special_token(content) for name, content in tokens.items()},
        },
    )


def _write_byte_bpe(
    folder: Path, texts: Sequence[str], vocab_size: int, *, chat_template: bool
) -> None:
    """Write Llama 3's kind of tokenizer: BPE of bytes, the special tokens behind all others."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    n_learnt = vocab_size - len(_LLAMA3_SPECIAL)
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_learnt,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != n_learnt:
        raise _bad_vocab_size(
            vocab_size, f"they make {tokenizer.get_vocab_size() + len(_LLAMA3_SPECIAL)}"
        )
    tokenizer.add_special_tokens(list(_LLAMA3_SPECIAL))
    first = _LLAMA3_SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A",
        pair=f"{first} $A {first}:1 $B:1",
        special_tokens=[(first, n_learnt)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "bos_token": first,
        "clean_up_tokenization_spaces": False,
        "eos_token": _LLAMA3_SPECIAL[-1] if chat_template else _LLAMA3_SPECIAL[1],
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131_072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if chat_template:
        config["chat_template"] = _LLAMA3_CHAT_TEMPLATE
    write_json(folder / "tokenizer_config.json", config)


def _special_token(content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"__type": "AddedToken", "content": content, **flags}


def _bad_vocab_size(vocab_size: int, reason: str) -> BadValueError:
    return BadValueError(
        f"The texts do not give a tokenizer of vocab_size {vocab_size}: {reason}. "
        "Give more texts, or another vocab_size."
    )


def demo_texts() -> list[str]:
    """Return sentences of the demo's corpus and the words of prompts, for tokenizers to learn."""
    rng = np.random.default_rng(0)
    sentences = [
        make_sentence(code, rng)
        for code in MSP_PODCAST.codes
        for _ in range(_N_SENTENCES_PER_CLASS)
    ]
    return [*sentences, *_PROMPT_TEXTS]
