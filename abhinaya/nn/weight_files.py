"""Published weights on disk: pickles that run no code, lists of files, names and shapes."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from abhinaya.errors import CheckpointError, MissingFileError, list_some
from abhinaya.files import read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "builds_skeletons",
    "check_fit",
    "check_loading_report",
    "open_safetensors",
    "read_model_config",
    "read_pickle",
    "read_shapes",
    "read_tensors",
    "skeletons",
    "unusable",
    "weight_files",
]

_is_skeleton = ContextVar("skeletons", default=False)

# How torch's restricted unpickler says that a pickle asks for more than tensors and containers.
_WANTS_CODE = re.compile(
    r"GLOBAL (\S+)|call reduce for unrecognized function (.+)|but got (<class .+?>)"
)


def read_pickle(file: Path) -> Any:
    """Return what a file of `torch.save` holds, on the CPU; nothing in it is ever run.

    The tensors of a zip archive (torch 1.6 and later) are mapped from disk: copy what you keep.

    Raises:
        MissingFileError: if there is no such file.
        CheckpointError: if it is damaged, no pickle, or holds more than tensors and containers.
    """
    if not file.is_file():
        raise MissingFileError(f"There is no file {str(file)!r}. Correct the path.")
    try:
        return torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except OSError:
        raise
    except Exception as err:  # bytes that are no pickle can fail in any way
        wanted = _WANTS_CODE.search(str(err))
        if isinstance(err, pickle.UnpicklingError) and wanted is not None:
            name = next(filter(None, wanted.groups()))
            raise CheckpointError(
                f"{str(file)!r} would run code when it is loaded, so it was not: it asks for "
                f"{name}. Take the weights from their publisher, best as safetensors."
            ) from err
        reason = _reason(err)
        raise CheckpointError(
            f"{str(file)!r} cannot be read as weights ({reason}). Download it again."
        ) from err


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a `pytorch_model.bin` by name; see `read_pickle`.

    Raises:
        MissingFileError: see there.
        CheckpointError: see there, or if it holds anything else.
    """
    content = read_pickle(file)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(
            f"{str(file)!r} holds other things than tensors with names. Download it again."
        )
    return content


@contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """Return the opened file, whose tensors are read one by one.

    Raises:
        CheckpointError: if it is damaged or no safetensors file.
    """
    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except SafetensorError as err:
        raise CheckpointError(
            f"{str(file)!r} cannot be read as weights ({err}). Download it again."
        ) from err


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights of a folder in Hugging Face's layout, sharded or not.

    Of several formats the first one in the order of transformers counts: safetensors, then
    `pytorch_model.bin`; then safetensors of any other name.

    Raises:
        MissingFileError: if there are none, or one that an index names is not there.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            weight_map = read_json_object(index).get("weight_map")
            names = weight_map.values() if isinstance(weight_map, dict) else [None]
            if not all(isinstance(file, str) for file in names):
                raise CheckpointError(
                    f"{str(index)!r} has no weight_map from tensors to files. Download it again."
                )
            files = [folder / file for file in sorted(set(names))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise MissingFileError(
                    f"The folder {str(folder)!r} has no {', '.join(missing)}, which its index "
                    "names. Download the model again."
                )
            return files
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingFileError(
            f"The folder {str(folder)!r} has no weights, expected *.safetensors or "
            "pytorch_model.bin. Download the model again."
        )
    return files


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return shape of every tensor of a folder in Hugging Face's layout; no weights are loaded.

    Only pickles older than torch 1.6 have to be read as a whole.

    Raises:
        MissingFileError: see `weight_files`.
        CheckpointError: if a file cannot be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with open_safetensors(file) as content:
                names = content.keys()
                shapes |= {name: tuple(content.get_slice(name).get_shape()) for name in names}
        else:
            shapes |= {name: tuple(tensor.shape) for name, tensor in read_tensors(file).items()}
    return shapes


def check_fit(
    expected: Mapping[str, Tensor | tuple[int, ...]],
    got: Mapping[str, Tensor | tuple[int, ...]],
    *,
    what: str,
    where: str,
    advice: str = "Correct the path, or download the model again.",
) -> None:
    """Refuse weights that are not exactly those of a model.

    Args:
        expected: the model's tensors, or their shapes, by name.
        got: the file's.
        what: the model in words, such as "a Whisper encoder of its size".
        where: the file.
        advice: what to do about it.

    Raises:
        CheckpointError: if names are missing or unexpected, or shapes differ; all are counted.
    """
    shapes = {name: (_shape(got[name]), _shape(expected[name])) for name in expected.keys() & got}
    refuse_misfit(
        expected.keys() - got.keys(),
        got.keys() - expected.keys(),
        {name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
        n_keys=len(expected),
        what=what,
        where=where,
        advice=advice,
    )


def read_model_config(base: str | Path) -> Any:
    """Read config.json with transformers, which has an own kind of error for each kind of mistake.

    Args:
        base: folder or hub id.

    Raises:
        OSError: if there is no such file, or it is no JSON.
        CheckpointError: if what it says cannot be used.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base)
    except OSError:
        raise
    except Exception as err:
        raise unusable(f"The config.json of {str(base)!r}", err) from err


def unusable(what: str, err: Exception) -> CheckpointError:
    """Return the error for a file of a model whose values a library cannot use."""
    reason = " ".join(str(err).split())[:300].rstrip(".") or type(err).__name__
    return CheckpointError(f"{what} cannot be used: {reason}. Download the model again.")


def check_loading_report(
    report: Mapping[str, Any],
    model: PreTrainedModel,
    base: str,
    *,
    may_be_missing: Callable[[str], bool] = lambda key: False,
    may_be_left_over: Callable[[str], bool] = lambda key: False,
    misshapen: Collection[str] = (),
    advice: str = "Download the model again.",
) -> None:
    """Refuse a model of which transformers loaded less, or found more, than the whole.

    Args:
        report: of `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`.
        model: what was loaded.
        base: path or hub id.
        may_be_missing: tells the keys that need not be in the files.
        may_be_left_over: tells the keys that may be there and are not used.
        misshapen: keys of wrong shapes that the report does not know.
        advice: what to do about it.

    Raises:
        CheckpointError: see `check_fit`.
    """
    shapes: dict[str, tuple[Any, Any] | None] = dict.fromkeys(misshapen)
    for key, stored, own in report["mismatched_keys"]:
        shapes[key] = tuple(stored), tuple(own)
    refuse_misfit(
        [key for key in report["missing_keys"] if not may_be_missing(key)],
        [key for key in report["unexpected_keys"] if not may_be_left_over(key)],
        shapes,
        unread=report["error_msgs"],
        n_keys=len(model.state_dict()),
        what=f"the {type(model).__name__} of its config.json",
        where=base,
        advice=advice,
    )


@contextmanager
def skeletons() -> Iterator[None]:
    """Make loaders of published weights build their models on the meta device within the block.

    The files' config is read, and none of their weights. What is small may be loaded all the same.
    """
    token = _is_skeleton.set(True)
    try:
        yield
    finally:
        _is_skeleton.reset(token)


def builds_skeletons() -> bool:
    """Tell whether models are to be built without memory for their weights."""
    return _is_skeleton.get()


def refuse_misfit(
    missing: Collection[str],
    unexpected: Collection[str],
    shapes: Mapping[str, tuple[Any, Any] | None],
    *,
    n_keys: int,
    what: str,
    where: str,
    advice: str,
    unread: Collection[str] = (),
) -> None:
    """Raise an error that counts and names all keys that did not load, if there are any.

    Args:
        missing: keys that the file lacks.
        unexpected: keys that the model does not have.
        shapes: keys of other shapes; the file's and the model's where they are known.
        n_keys: keys of the model.
        what: the model in words.
        where: the file.
        advice: what to do about it.
        unread: further errors while reading.

    Raises:
        CheckpointError: see above.
    """
    problems = [
        f"{kind}: {list_some(sorted(keys))}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("not read", unread))
        if keys
    ]
    names = sorted(shapes)
    for name in names[:3]:
        pair = shapes[name]
        problems.append(
            f"size mismatch for {name}" + (f": {pair[0]} against {pair[1]}" if pair else "")
        )
    if len(names) > 3:
        problems.append(f"and {len(names) - 3} more")
    n_wrong = len(missing) + len(unexpected) + len(shapes) + len(unread)
    if n_wrong > 0:
        raise CheckpointError(
            f"{n_wrong} of {n_keys} keys do not fit between {where!r} and {what}: "
            f"{'; '.join(problems)}. {advice}"
        )


def _shape(value: Tensor | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else value


def _reason(err: Exception) -> str:
    """Return the reason in an error of torch.load; the rest advises to run code."""
    text = str(err).rpartition("WeightsUnpickler error:")[2].strip()
    return re.split(r"\n|\. ", text)[0] or type(err).__name__
