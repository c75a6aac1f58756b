"""What a voice sounds like, as one vector per clip: x-vectors of a speaker-verification model.

Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker Recognition", 2018,
https://doi.org/10.1109/ICASSP.2018.8461375; with a self-supervised encoder below them: Chen et al.,
"WavLM", 2022, arXiv:2110.13900, such as `microsoft/wavlm-base-plus-sv`.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

from abhinaya.data.audio import SAMPLE_RATE_HZ, audio_digest, crop_bounds, read_audio
from abhinaya.data.problems import Problem
from abhinaya.errors import (
    AudioError,
    BadValueError,
    CheckpointError,
    MissingFileError,
)
from abhinaya.files import atomic_path
from abhinaya.loading.clips import Clip
from abhinaya.loading.features import encoder_digest
from abhinaya.progress import progress

__all__ = ["EmbeddingStore", "SpeakerModel", "embed_clips", "load_speaker_model"]

FloatArray = NDArray[np.float32]

MAX_AUDIO_S = 30.0
"""Of a longer clip the middle is heard; memory grows with the square of the length."""

CHUNK_SIZE = 64
"""Clips that are read together."""

SAVE_EVERY_S = 30.0
"""Embeddings are written this often: a killed run loses no more than that."""

_N_READERS = 8

_MODEL_TYPES = (
    "data2vec-audio",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-conformer",
    "wavlm",
)  # those that take waveforms

# Only training uses them: SpecAugment, and the classifier of the training speakers.
_MAY_BE_MISSING = ("masked_spec_embed", "classifier.", "objective.")


@dataclass(frozen=True, eq=False)
class SpeakerModel:
    """A loaded model.

    Args:
        network: `...ForXVector` of transformers, in evaluation mode.
        extractor: makes its input of a waveform.
        digest: hash of weights and settings: what decides an embedding of given audio.
        min_samples: fewest samples that give an embedding.
    """

    network: Any
    extractor: Any
    digest: str
    min_samples: int


class EmbeddingStore:
    """Embeddings of one model in one .npz file, by the SHA-256 of the sound file's bytes.

    The arrays in the file are `model` (its digest), `digests`, shape (N,), and `embeddings`,
    float32, shape (N, D): other tools may write such a file too.

    Args:
        file: read if it is there.
        model: digest of the model; None takes the file as it is.

    Raises:
        BadValueError: if the file is no such file, or of another model.
        MissingFileError: if it is not there and no model could fill it.
    """

    def __init__(self, file: Path, model: str | None) -> None:
        self.file = file
        self.model = model or ""
        self.embeddings: dict[str, FloatArray] = {}
        if file.is_file():
            self._read(model)
        elif model is None:
            raise MissingFileError(
                f"There are no embeddings {str(file)!r}, and no model to make them. "
                "Name one with --model."
            )

    def save(self) -> None:
        """Write everything, whole or not at all."""
        with atomic_path(self.file) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                model=np.array(self.model),
                digests=np.array(list(self.embeddings), dtype=np.str_),
                embeddings=np.stack(list(self.embeddings.values())),
            )

    def _read(self, model: str | None) -> None:
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                stored = str(arrays["model"])
                digests, embeddings = arrays["digests"].tolist(), arrays["embeddings"]
                self.embeddings = dict(zip(digests, embeddings, strict=True))
        except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile) as err:
            raise BadValueError(
                f"{str(self.file)!r} holds no embeddings: expected an .npz file with model, "
                "digests and embeddings. Delete it, or name another file."
            ) from err
        if model is not None and stored != model:
            raise BadValueError(
                f"{str(self.file)!r} holds embeddings of another model (digest {stored}, now "
                f"{model}). Name another file, or delete this one."
            )
        self.model = stored


def load_speaker_model(name: str, device: torch.device | None = None) -> SpeakerModel:
    """Load a published x-vector model in float32, every key of its file accounted for.

    Args:
        name: folder with config.json, weights and preprocessor_config.json, or a hub id such as
            `microsoft/wavlm-base-plus-sv`.
        device: where to compute; an accelerator by default, if there is one.

    Raises:
        MissingFileError: if there is no such model.
        CheckpointError: if it is another kind of model, wants another sampling rate, or its weights
            do not fit.
    """
    from abhinaya.nn.weight_files import check_loading_report, read_model_config, unusable

    try:
        config = read_model_config(name)
        extractor = cast("Any", AutoFeatureExtractor).from_pretrained(name)
    except (OSError, ValueError) as err:
        raise _not_loaded(name, err) from err
    except Exception as err:  # of any kind, where its values are of a wrong type
        raise unusable(f"The preprocessor_config.json of {name!r}", err) from err
    if config.model_type not in _MODEL_TYPES:
        raise CheckpointError(
            f"{name!r} holds a model of type {config.model_type!r}, expected one of "
            f"{', '.join(_MODEL_TYPES)} with an x-vector head, such as "
            "microsoft/wavlm-base-plus-sv."
        )
    if extractor.sampling_rate != SAMPLE_RATE_HZ:
        raise CheckpointError(
            f"{name!r} wants audio at {extractor.sampling_rate} Hz, expected {SAMPLE_RATE_HZ} Hz. "
            "Choose a model of that rate."
        )
    try:
        network, report = AutoModelForAudioXVector.from_pretrained(
            name,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # Reported below, with the others.
        )
    except (OSError, ValueError) as err:
        raise _not_loaded(name, err) from err
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as err:  # a network of impossible sizes can fail in any way
        raise unusable(f"The model {name!r}", err) from err
    prefix = f"{network.base_model_prefix}."
    check_loading_report(
        report,
        network,
        name,
        may_be_missing=lambda key: key.removeprefix(prefix).startswith(_MAY_BE_MISSING),
        advice="Name a model for speaker verification, or download it again.",
    )
    # Where they are missing they are random, and must not make two digests of one model.
    network.classifier, network.objective = torch.nn.Identity(), torch.nn.Identity()
    if hasattr(network.base_model, "masked_spec_embed"):
        torch.nn.init.zeros_(network.base_model.masked_spec_embed)
    settings = {"extractor": extractor.to_dict(), "max_audio_s": MAX_AUDIO_S}
    digest = encoder_digest(cast("Any", SimpleNamespace(encoder=network, encode_settings=settings)))
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    network.to(device).eval()
    return SpeakerModel(network, extractor, digest, _min_samples(config))


def embed_clips(
    clips: Sequence[Clip],
    store: EmbeddingStore,
    model: SpeakerModel | None,
    *,
    batch_size: int = 16,
) -> tuple[dict[str, FloatArray], list[Problem]]:
    """Embed each clip; a problem for each clip that has no embedding.

    Only clips of exactly equal length share a batch, so nothing is ever padded: models with group
    normalisation, such as the base size of WavLM, would hear the padding. What is in the store is
    not computed again; what is new is added to it and written from time to time, so a killed run
    goes on where it was.

    Args:
        clips: with audio.
        store: what is known already.
        model: computes what is not; None lists these clips as problems.
        batch_size: clips per pass.

    Returns:
        embeddings: float32, shape (D,), by utterance.
        problems: unreadable and too short clips.
    """
    with ThreadPoolExecutor(_N_READERS) as pool:
        found = list(pool.map(_digest, clips))
    problems = [
        Problem(clip.utterance, digest.reason)
        for clip, digest in zip(clips, found, strict=True)
        if isinstance(digest, _Unusable)
    ]
    located = [
        (clip, digest) for clip, digest in zip(clips, found, strict=True) if isinstance(digest, str)
    ]
    # Sorted, so that clips of one length meet. The chunks are cut before looking at what is there,
    # and each is stored as a whole: a killed run is finished with the very same batches.
    located.sort(key=lambda entry: (-entry[0].duration_s, entry[0].utterance))
    chunks = [located[at : at + CHUNK_SIZE] for at in range(0, len(located), CHUNK_SIZE)]
    todo = [[entry for entry in chunk if entry[1] not in store.embeddings] for chunk in chunks]
    todo = [chunk for chunk in todo if chunk]
    reasons: dict[str, str] = {}
    if model is None:
        reasons = {
            digest: f"its embedding is not in {store.file.name}, and no model was given"
            for chunk in todo
            for _, digest in chunk
        }
    else:
        _fill(store, todo, model, batch_size, reasons)
    embeddings = {
        clip.utterance: store.embeddings[digest]
        for clip, digest in located
        if digest in store.embeddings
    }
    problems += [
        Problem(clip.utterance, reasons[digest])
        for clip, digest in located
        if digest not in store.embeddings
    ]
    return embeddings, problems


@dataclass(frozen=True)
class _Unusable:
    """Why a clip has no embedding."""

    reason: str


def _digest(clip: Clip) -> str | _Unusable:
    assert clip.path is not None
    try:
        return audio_digest(clip.path)
    except AudioError as err:
        return _Unusable(str(err))


def _fill(
    store: EmbeddingStore,
    chunks: Sequence[Sequence[tuple[Clip, str]]],
    model: SpeakerModel,
    batch_size: int,
    reasons: dict[str, str],
) -> None:
    """Embed chunks of clips into the store; `reasons` gets why a digest has no embedding."""
    saved_at, is_saved = time.monotonic(), True
    read = partial(_read_clip, model=model)
    try:
        with (
            progress("embedding voices", sum(map(len, chunks))) as advance,
            ThreadPoolExecutor(_N_READERS) as pool,
        ):
            reading = [pool.map(read, chunk) for chunk in chunks[:1]]
            for chunk, following in zip_longest(chunks, chunks[1:], fillvalue=()):
                heard = list(reading.pop())
                reading.append(pool.map(read, following))  # while this chunk is embedded
                waveforms: dict[str, FloatArray] = {}
                for (_, digest), sound in zip(chunk, heard, strict=True):
                    if isinstance(sound, _Unusable):
                        reasons[digest] = sound.reason
                    else:
                        waveforms[digest] = sound
                for digest, embedding in _embed(waveforms, model, batch_size):
                    if np.isfinite(embedding).all() and embedding.any():
                        store.embeddings[digest], is_saved = embedding, False
                    else:
                        reasons[digest] = "the speaker model gives no finite embedding for it"
                advance(len(chunk))
                if not is_saved and time.monotonic() - saved_at >= SAVE_EVERY_S:
                    store.save()
                    saved_at, is_saved = time.monotonic(), True
    finally:
        if not is_saved:
            store.save()


def _read_clip(entry: tuple[Clip, str], model: SpeakerModel) -> FloatArray | _Unusable:
    """Return the middle of a clip as the model's input, shape (S,)."""
    clip, _ = entry
    assert clip.path is not None
    try:
        waveform = read_audio(clip.path)
    except AudioError as err:
        return _Unusable(str(err))
    if len(waveform) < model.min_samples:
        return _Unusable(
            f"{clip.path.name} is too short for the speaker model: {len(waveform)} samples of at "
            f"least {model.min_samples}"
        )
    start, stop = crop_bounds(len(waveform), round(MAX_AUDIO_S * SAMPLE_RATE_HZ), "centre")
    inputs = model.extractor(waveform[start:stop], sampling_rate=SAMPLE_RATE_HZ)
    return np.asarray(inputs["input_values"][0], dtype=np.float32)


@torch.inference_mode()
def _embed(
    waveforms: Mapping[str, FloatArray], model: SpeakerModel, batch_size: int
) -> Iterable[tuple[str, FloatArray]]:
    """Embed waveforms, those of equal length together."""
    by_length: dict[int, list[str]] = {}
    for digest, waveform in waveforms.items():
        by_length.setdefault(len(waveform), []).append(digest)
    made: list[tuple[str, FloatArray]] = []
    for digests in by_length.values():
        for at in range(0, len(digests), batch_size):
            batch = digests[at : at + batch_size]
            stacked = torch.from_numpy(np.stack([waveforms[digest] for digest in batch]))
            output = model.network(stacked.to(model.network.device)).embeddings
            made += zip(batch, output.float().cpu().numpy(), strict=True)
    return made


def _min_samples(config: Any) -> int:
    """Return samples for two frames after all convolutions: one alone has no spread."""
    n_frames = 2 + sum(
        dilation * (kernel - 1)
        for kernel, dilation in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True)
    )
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        n_frames = (n_frames - 1) * stride + kernel
    return int(n_frames)


def _not_loaded(name: str, reason: Exception) -> MissingFileError:
    return MissingFileError(
        f"The speaker model {name!r} cannot be loaded: {str(reason).splitlines()[0]} Give a folder "
        "with config.json, weights and preprocessor_config.json, or a hub id such as "
        "'microsoft/wavlm-base-plus-sv'."
    )
