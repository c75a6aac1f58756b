"""One loader for the four sources of a SALMONN; every key is accounted for, every misfit named.

Vicuna and Whisper come as folders in Hugging Face's layout, BEATs as its official file, and what
SALMONN's training made of them as `salmonn_v1.pth` or `salmonn_7b_v0.pth`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.errors import BadValueError, CheckpointError, MissingFileError, list_some
from abhinaya.files import read_json_object

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Blip2QFormerConfig

__all__ = [
    "SalmonnSizes",
    "read_classifier",
    "read_salmonn",
    "read_sizes",
    "sort_salmonn_keys",
]

_logger = logging.getLogger(__name__)

_LORA_KEY = re.compile(
    r"llama_model\.base_model\.model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])"
    r"(?:\.default)?\.weight"
)
"""The infix `.default` came with peft 0.3."""

# Buffers and shared tables that the official runner saves although nothing learns them.
_TOLERATED = re.compile(
    r".*rotary_emb\.inv_freq|.*embeddings\.position_ids|"
    r"beats\.encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight"
)

_QFORMER_NAMES = (
    ("embeddings.LayerNorm.", "layernorm."),
    ("attention.self.", "attention.attention."),
)


@dataclass(frozen=True)
class SalmonnSizes:
    """What a SALMONN checkpoint says of its own sizes.

    Args:
        widths: features of Whisper and of BEATs.
        n_queries: speech tokens per window.
        hidden: width of the Q-Former.
        intermediate: width of its feed-forward layers.
        n_layers: its layers.
        llm_width: width of the language model.
        lora_rank: rank of the adapters; 0 where there are none.
        lora_targets: names of the adapted layers, such as `q_proj`.
    """

    widths: tuple[int, int]
    n_queries: int
    hidden: int
    intermediate: int
    n_layers: int
    llm_width: int
    lora_rank: int
    lora_targets: tuple[str, ...]


def read_salmonn(file: Path) -> dict[str, Tensor]:
    """Return tensors of a SALMONN checkpoint, encoders aside, under our names.

    Raises:
        MissingFileError: if there is no such file.
        CheckpointError: if it is damaged, wants to run code, or holds something else.
    """
    from abhinaya.nn.weight_files import read_pickle

    content = read_pickle(file)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(
            f"{str(file)!r} has no 'model', expected a SALMONN checkpoint such as salmonn_v1.pth "
            "or salmonn_7b_v0.pth. Correct salmonn."
        )
    _check_tensors(file, content["model"])
    state, tolerated, unknown = sort_salmonn_keys(content["model"])
    _report(file, state, tolerated, unknown)
    return state


def read_classifier(file: Path) -> dict[str, Tensor]:
    """Return tensors of a classifier in Abhinaya's public layout, under our names.

    The file is flat: head and, below `salmonn_model.`, everything of SALMONN that was trained.

    Raises:
        MissingFileError: if there is no such file.
        CheckpointError: if it is damaged, wants to run code, or holds something else.
    """
    from abhinaya.nn.checkpoint import HEAD_NAMES
    from abhinaya.nn.weight_files import read_pickle

    content = read_pickle(file)
    prefix = "salmonn_model."
    if not isinstance(content, dict) or not any(str(key).startswith(prefix) for key in content):
        raise CheckpointError(
            f"{str(file)!r} has no keys that begin with {prefix!r}, expected a classifier saved by "
            "Abhinaya's public code. Correct classifier."
        )
    _check_tensors(file, content)
    inner = {
        key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)
    }
    state, tolerated, unknown = sort_salmonn_keys(inner)
    state = {f"backbone.{key}": value for key, value in state.items()}
    for key, value in content.items():
        if key.startswith(prefix):
            continue
        module, _, rest = key.partition(".")
        if module in HEAD_NAMES:
            state[f"{HEAD_NAMES[module]}.{rest}"] = value
        else:
            unknown.append(key)
    _report(file, state, tolerated, unknown)
    return state


def sort_salmonn_keys(
    content: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return tensors under our names, keys that may be there and are not used, and keys unknown."""
    state: dict[str, Tensor] = {}
    tolerated: list[str] = []
    unknown: list[str] = []
    for key, value in content.items():
        name = _our_name(key)
        if name is not None and name not in state:
            state[name] = value
        elif _TOLERATED.fullmatch(key):
            tolerated.append(key)
        else:
            unknown.append(key)
    return state, tolerated, unknown


def _our_name(key: str) -> str | None:
    """Name in our backbone of a tensor of a SALMONN checkpoint; None if it has none.

    Example:
        >>> _our_name("speech_Qformer.bert.encoder.layer.0.crossattention.self.key.bias")
        'adapter.qformer.encoder.layer.0.crossattention.attention.key.bias'
        >>> _our_name("llama_model.base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight")
        'llm.layers.3.self_attn.q_proj.lora_A.default.weight'
    """
    lora = _LORA_KEY.fullmatch(key)
    if lora:
        return f"llm.{lora['module']}.lora_{lora['matrix']}.default.weight"
    if key == "speech_query_tokens":
        return "adapter.query_tokens"
    module, _, rest = key.partition(".")
    if module in ("ln_speech", "ln_audio"):
        return f"adapter.{key}"
    if module == "speech_llama_proj":
        return f"adapter.proj.{rest}"
    prefix = "speech_Qformer.bert."
    if key.startswith(prefix) and not key.endswith("position_ids"):
        inner = key.removeprefix(prefix)
        for theirs, ours in _QFORMER_NAMES:
            inner = inner.replace(theirs, ours)
        return f"adapter.qformer.{inner}"
    return None


def _check_tensors(file: Path, content: Mapping[Any, Any]) -> None:
    import torch

    odd = [key for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise CheckpointError(
            f"{len(odd)} of {len(content)} entries of {str(file)!r} are no tensors: "
            f"{list_some(map(str, odd))}. It was made by other code; correct its path."
        )


def _report(file: Path, state: Mapping[str, Any], tolerated: list[str], unknown: list[str]) -> None:
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(state) + len(tolerated) + len(unknown)} tensors in "
            f"{str(file)!r} belong to no part of SALMONN: {list_some(sorted(unknown))}. It is "
            "another model's checkpoint, or was made by other code; correct its path."
        )
    _logger.info(
        "%s: %d tensors used, %d saved beside them that nothing needs",
        file,
        len(state),
        len(tolerated),
    )


def read_sizes(shapes: Mapping[str, tuple[int, ...]], where: str) -> SalmonnSizes:
    """Return sizes of a SALMONN from the shapes of its tensors, under our names.

    Args:
        shapes: of `read_salmonn`'s tensors.
        where: the file, for messages.

    Raises:
        CheckpointError: if tensors are missing that give the sizes.
    """
    needed = {
        "query tokens": "adapter.query_tokens",
        "norm of Whisper's features": "adapter.ln_speech.weight",
        "norm of BEATs' features": "adapter.ln_audio.weight",
        "projection": "adapter.proj.weight",
        "Q-Former": "adapter.qformer.encoder.layer.0.intermediate_query.dense.weight",
    }
    n_axes = dict.fromkeys(needed, 1) | {"query tokens": 3, "projection": 2, "Q-Former": 2}
    missing = [what for what, key in needed.items() if len(shapes.get(key, ())) != n_axes[what]]
    if missing:
        raise CheckpointError(
            f"{where!r} lacks {', '.join(missing)}, so it is no whole SALMONN checkpoint. Take "
            "salmonn_v1.pth or salmonn_7b_v0.pth; both have a BEATs branch and a window-level "
            "Q-Former."
        )
    layers = {
        int(match[1])
        for key in shapes
        if (match := re.match(r"adapter\.qformer\.encoder\.layer\.(\d+)\.", key))
    }
    lora = {key: shape for key, shape in shapes.items() if key.endswith(".lora_A.default.weight")}
    ranks = sorted({shape[0] for shape in lora.values()})
    if len(ranks) > 1:
        raise CheckpointError(
            f"{where!r} has adapters of the ranks {ranks}, expected one rank. It is no SALMONN "
            "checkpoint."
        )
    _, n_queries, hidden = shapes[needed["query tokens"]]
    return SalmonnSizes(
        widths=(
            shapes["adapter.ln_speech.weight"][0],
            shapes["adapter.ln_audio.weight"][0],
        ),
        n_queries=n_queries,
        hidden=hidden,
        intermediate=shapes[needed["Q-Former"]][0],
        n_layers=len(layers),
        llm_width=shapes["adapter.proj.weight"][0],
        lora_rank=ranks[0] if ranks else 0,
        lora_targets=tuple(sorted({key.split(".lora_A")[0].rpartition(".")[2] for key in lora})),
    )


def qformer_config(sizes: SalmonnSizes, folder: str | None) -> Blip2QFormerConfig:
    """Return the Q-Former's config: sizes from the checkpoint, the rest from BERT's config.

    Args:
        sizes: of the checkpoint.
        folder: with a config.json of the BERT; None for BERT's published values, 64 features per
            head and so on.

    Raises:
        MissingFileError: if the folder has no config.json.
        CheckpointError: if its sizes are not those of the checkpoint.
    """
    from transformers import Blip2QFormerConfig

    given: dict[str, Any] = {"num_attention_heads": max(1, sizes.hidden // 64)}
    if folder is not None:
        file = Path(folder) / "config.json"
        if not file.is_file():
            raise MissingFileError(
                f"There is no {str(file)!r}. Let qformer name a folder with the config.json of the "
                "BERT, or leave it out for BERT's own values."
            )
        try:
            content = read_json_object(file)
        except BadValueError as err:
            raise CheckpointError(
                f"{str(file)!r} is not JSON: {err} Take the config.json of the BERT."
            ) from err
        names = (
            "num_attention_heads",
            "hidden_act",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "layer_norm_eps",
        )
        given |= {name: content[name] for name in names if name in content}
        if content.get("hidden_size", sizes.hidden) != sizes.hidden:
            raise CheckpointError(
                f"{str(file)!r} describes a BERT of width {content['hidden_size']}, but the "
                f"Q-Former of the SALMONN checkpoint has {sizes.hidden}. Correct qformer."
            )
    if sizes.hidden % given["num_attention_heads"] != 0:
        raise CheckpointError(
            f"The Q-Former has {sizes.hidden} features, which {given['num_attention_heads']} heads "
            "cannot share. Let qformer name a folder with the config.json of its BERT."
        )
    return Blip2QFormerConfig(
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.n_layers,
        intermediate_size=sizes.intermediate,
        encoder_hidden_size=sum(sizes.widths),
        cross_attention_frequency=1,
        use_qformer_text_input=False,
        **given,
    )


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, what: str, where: str) -> None:
    """Copy a whole state into the trained part of a module.

    Raises:
        CheckpointError: if names are missing or unexpected, or shapes differ.
    """
    from abhinaya.nn.weight_files import check_fit

    expected = {name: value for name, value in module.named_parameters() if value.requires_grad}
    check_fit(expected, state, what=what, where=where)
    module.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
