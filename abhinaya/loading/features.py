"""The output of a frozen encoder, computed once and kept on disk.

One .npy file per clip, read through a memory map. The key is made of the encoder's weights and
settings, the bytes of the sound file and the way it is cropped, so a store may be shared by runs
and survives any change of manifest. Files are written under a temporary name and renamed; a killed
run leaves only whole ones.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from abhinaya.data.audio import audio_digest, read_audio
from abhinaya.data.problems import Problem
from abhinaya.errors import AudioError, BadValueError
from abhinaya.files import atomic_path, digest_of, drop_lock, take_lock
from abhinaya.loading.clips import Clip, Cropping, draw_segment, load_segments
from abhinaya.loading.dataset import usable_workers
from abhinaya.member import ContextBuilder, InputBuilder, Utterance
from abhinaya.nn.backbone import Backbone
from abhinaya.nn.classifier_config import CacheConfig
from abhinaya.processes import join_launch, map_in_shares, meet
from abhinaya.progress import progress

__all__ = ["FeatureStore", "collate_features", "encoder_digest"]

_logger = logging.getLogger(__name__)

# Of an encoder's config: where it lies, who wrote it, and what only matters in training.
_NOT_IN_DIGEST = ("_name_or_path", "apply_spec_augment", "dtype", "transformers_version")


def encoder_digest(backbone: Backbone) -> str:
    """Hash of everything that decides what a frozen encoder says about given audio."""
    # The config holds what weights do not tell, such as the number of attention heads.
    config = getattr(backbone.encoder, "config", None)
    facts = config.to_dict() if config is not None else {}
    for key in _NOT_IN_DIGEST:
        facts.pop(key, None)
    hasher = hashlib.sha256(digest_of([backbone.encode_settings, facts]).encode())
    for name, tensor in sorted(backbone.encoder.state_dict().items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Viewed as bytes, because numpy has no bfloat16.
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        hasher.update(flat.numpy().data)
    return hasher.hexdigest()[:16]


class FeatureStore:
    """Hidden states of a frozen encoder on disk: per clip an array (P, T, N, D) for P segments.

    Args:
        config: folder, size limit and number type.
        backbone: its encoder must be frozen.
        inputs: makes the encoder's inputs.
        cropping: which segments of a clip are used; not `random`.

    Attributes:
        hears: the encoder hears; otherwise it reads.

    Raises:
        BadValueError: if there is no audio, the encoder is trained, or crops are random.
    """

    hears = True

    def __init__(
        self, config: CacheConfig, backbone: Backbone, inputs: InputBuilder, cropping: Cropping
    ) -> None:
        if self.hears and not inputs.needs_audio:
            raise BadValueError(
                "cache keeps what an encoder makes of audio, but this member only reads. "
                "Remove cache."
            )
        if not backbone.is_frozen:
            raise BadValueError(
                "cache keeps the output of a frozen encoder, but this one is trained. "
                "Freeze the encoder, or remove cache."
            )
        if cropping.where == "random":
            raise BadValueError(
                "cache cannot keep random crops. Use first, centre, full or a number."
            )
        self.config = config
        self.backbone = backbone
        self.inputs = inputs
        self.cropping = cropping
        self.folder = config.dir / encoder_digest(backbone) / config.dtype
        self._files: dict[str, Path] = {}

    @property
    def files(self) -> frozenset[Path]:
        """Return what `load` reads."""
        return frozenset(self._files.values())

    def load(self, clip: Clip, epoch: int | None = None) -> list[dict[str, Any]]:
        """Load stored states of a clip that `fill` has seen, memory-mapped, and its context.

        All segments, or in training the one that the epoch draws.
        """
        segments = np.load(self._files[clip.utterance], mmap_mode="r")
        if epoch is not None:
            drawn = draw_segment(clip.utterance, len(segments), self.cropping.seed, epoch)
            segments = segments[drawn : drawn + 1]
        if not self.backbone.context:
            return [{"states": states} for states in segments]
        builder = cast("ContextBuilder", self.inputs)
        utterance = Utterance(clip.utterance, None, clip.text, epoch)
        context = builder.encode_context(utterance)
        return [{"states": states, "context": context} for states in segments]

    def collate(self, stored: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of what `load` returned, for `Backbone.forward`."""
        batch: dict[str, Any] = collate_features(stored)
        if self.backbone.context:
            builder = cast("ContextBuilder", self.inputs)
            batch |= builder.collate_context([entry["context"] for entry in stored])
        return batch

    def fill(
        self,
        clips: Sequence[Clip],
        *,
        batch_size: int,
        device: torch.device,
        keep: Collection[Path] = (),
        num_workers: int = 0,
    ) -> list[Problem]:
        """Compute what is missing; each process of a launch takes its share.

        Args:
            clips: clips that will be loaded.
            batch_size: clips per pass of the encoder.
            device: where the backbone is.
            keep: files of other stores that the same run needs; they count and are not deleted.
            num_workers: processes that read audio beside this one.

        Returns:
            Problems of clips that cannot be used; these cannot be loaded later.

        Raises:
            BadValueError: if the features of these clips and `keep` exceed the size limit, or
                those of a sound clip are not there in the end.
        """
        state = join_launch()
        if state.is_main_process:
            _hold(self.config.dir)
        meet()  # nobody looks at what may still be deleted
        found = map_in_shares(self._locate, clips)
        problems = [
            Problem(clip.utterance, place)
            for clip, place in zip(clips, found, strict=True)
            if isinstance(place, str)
        ]
        located = [
            (clip, place)
            for clip, place in zip(clips, found, strict=True)
            if isinstance(place, Path)
        ]
        # Longest first: the first batch shows whether memory and disk suffice. The batches are cut
        # before looking at what is there, so that a killed run is finished with the very same ones.
        located.sort(key=lambda entry: (-entry[0].duration_s, entry[0].utterance))
        batches = [located[at : at + batch_size] for at in range(0, len(located), batch_size)]
        # Shares are fixed before anybody looks at what is there: a process that looks late, when
        # others have written already, must not take another share than was meant for it.
        share = batches[state.process_index :: state.num_processes]
        mine = [batch for batch in share if not all([self._touch(file) for _, file in batch])]
        n_clips = sum(len(batch) for batch in mine)
        is_checked = False
        heard = DataLoader(
            cast("Any", mine),
            batch_size=None,
            num_workers=usable_workers(num_workers),
            collate_fn=partial(_hear, inputs=self.inputs, cropping=self.cropping),
        )
        with progress("encoding", n_clips, shown=state.is_main_process) as advance:
            for batch, (inputs, places) in zip(mine, heard, strict=True):
                self._encode(inputs, places, device)
                is_checked = is_checked or self._check_size(batch, clips, keep)
                advance(len(batch))
        meet()
        for clip, file in located:
            if file.exists():
                self._files[clip.utterance] = file
            else:
                problems.append(Problem(clip.utterance, _why_unreadable(clip)))
        if state.is_main_process:
            self._evict(self.files.union(keep))
        return problems

    def _touch(self, file: Path) -> bool:
        """Mark a stored file as used now; False if there is none, or what is there is damaged."""
        try:
            os.utime(file)
            stored = np.load(file, mmap_mode="r")  # its header, and whether all of it is there
            if stored.ndim == 4 and stored.dtype == self.config.dtype:
                return True
            reason = f"it holds {stored.ndim} axes of {stored.dtype}"
        except FileNotFoundError:
            return False
        except (ValueError, EOFError) as err:
            reason = " ".join(str(err).split())
        _logger.warning("The stored features %s are made again: %s", file, reason)
        file.unlink(missing_ok=True)
        return False

    def _locate(self, clip: Clip) -> Path | str:
        """Return the file of a clip's states, or why the clip cannot be read."""
        try:
            content = self._content(clip)
        except AudioError as err:
            return str(err)
        key = hashlib.sha256(content.encode()).hexdigest()[:32]
        return self.folder / key[:2] / f"{key}.npy"

    def _content(self, clip: Clip) -> str:
        """Return what of a clip decides its states."""
        assert clip.path is not None
        cut = f"{self.cropping.where} {self.cropping.max_audio_s} {self.cropping.normalize}"
        return f"{audio_digest(clip.path)} {cut}"

    @torch.no_grad()
    def _encode(
        self,
        inputs: Mapping[str, Tensor],
        places: Sequence[tuple[Path, int]],
        device: torch.device,
    ) -> None:
        if not places:
            return
        batch = {key: value.to(device) for key, value in inputs.items()}
        was_training = self.backbone.training
        self.backbone.eval()
        states, mask = self.backbone.find_states(batch)
        self.backbone.train(was_training)
        row = 0
        for file, n_segments in places:
            # Segments of one clip are equally long, so they have the same number of real frames.
            n_frames = int(mask[row].sum())
            kept = states[row : row + n_segments, :, :n_frames].transpose(1, 2)  # (P, T, N, D)
            row += n_segments
            if file.exists():
                continue
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, kept.float().cpu().numpy().astype(self.config.dtype))

    def _check_size(
        self, batch: Sequence[tuple[Clip, Path]], every: Sequence[Clip], keep: Collection[Path]
    ) -> bool:
        """Estimate the whole from a batch and refuse what cannot fit; False if it holds nothing."""
        written = [(clip, file.stat().st_size) for clip, file in batch if file.exists()]
        seconds = sum(self._heard_s(clip) for clip, _ in written)
        if seconds == 0:
            return False
        per_second = sum(size for _, size in written) / seconds
        total_gb = per_second * sum(self._heard_s(clip) for clip in every) / 1e9
        kept_gb = sum(file.stat().st_size for file in keep) / 1e9
        if total_gb + kept_gb > self.config.max_gb:
            beside = f" beside {kept_gb:.3g} GB of others that the run needs" if keep else ""
            raise BadValueError(
                f"The features of {len(every)} clips need about {total_gb:.3g} GB{beside}, but "
                f"cache.max_gb is {self.config.max_gb:g}. Raise cache.max_gb, set cache.dtype to "
                "float16, or remove cache."
            )
        return True

    def _heard_s(self, clip: Clip) -> float:
        """Return the seconds of all segments of a clip together, of text its letters."""
        if not self.hears:
            return clip.size
        longest_s = self.cropping.max_audio_s
        if self.cropping.where == "full" or clip.duration_s <= longest_s:
            return clip.duration_s
        return (
            longest_s * self.cropping.where if isinstance(self.cropping.where, int) else longest_s
        )

    def _evict(self, needed: Collection[Path]) -> None:
        """Delete the files used least recently until the store is within its limit.

        Not while another run reads the store: it may need any of them.
        """
        # The own lock is given up for a moment; the gate keeps others from deleting meanwhile.
        gate = take_lock(self.config.dir / ".evicting")
        if gate is None:
            return
        try:
            held = _held.pop(self.config.dir.resolve(), None)
            if held is not None:
                drop_lock(held)
            alone = take_lock(self.config.dir / ".in-use")
            if alone is not None:
                self._delete_oldest(needed)
                drop_lock(alone)
            _hold(self.config.dir)
        finally:
            drop_lock(gate)

    def _delete_oldest(self, needed: Collection[Path]) -> None:
        files = []
        # Only what `_locate` names: the folder may hold arrays of somebody else.
        for file in self.config.dir.glob("*/float*/??/*.npy"):
            stat = file.stat()
            files.append((stat.st_mtime, stat.st_size, file))
        excess = sum(size for _, size, _ in files) - self.config.max_gb * 1e9
        for _, size, file in sorted(files):
            if excess <= 0:
                break
            if file not in needed:
                file.unlink(missing_ok=True)
                excess -= size


def _hear(
    entries: Sequence[tuple[Clip, Path]], inputs: InputBuilder, cropping: Cropping
) -> tuple[dict[str, Any], list[tuple[Path, int]]]:
    """Return a batch of the segments of clips, and the file and number of those of each clip.

    Clips that cannot be read are left out: `FeatureStore.fill` reports every one without a file.
    """
    segments: list[dict[str, Any]] = []
    places: list[tuple[Path, int]] = []
    for clip, file in entries:
        try:
            heard = load_segments(clip, cropping)
        except AudioError:
            continue
        segments += [inputs.encode(segment) for segment in heard]
        places.append((file, len(heard)))
    return dict(inputs.collate(segments)) if segments else {}, places


_held: dict[Path, int] = {}
"""Shared locks of the stores that this process reads, until it ends."""


def _hold(folder: Path) -> None:
    """Keep other runs from deleting anything in a store, as long as this process lives."""
    while folder.resolve() not in _held:
        lock = take_lock(folder / ".in-use", shared=True)
        if lock is None:
            time.sleep(0.1)  # somebody is deleting, which is soon done
        else:
            _held[folder.resolve()] = lock


def _why_unreadable(clip: Clip) -> str:
    assert clip.path is not None
    try:
        read_audio(clip.path)
    except AudioError as err:
        return str(err)
    raise BadValueError(
        f"The features of {clip.utterance!r} were written to the cache but are not there. "
        "See that cache.dir is one folder for all processes and that nobody empties it, and run "
        "again: what is there is kept."
    )


def collate_features(stored: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pad stored states to a batch: `states` (B, N, T, D), `mask` (B, T) True if real."""
    arrays = [np.asarray(entry["states"]) for entry in stored]
    n_frames = max(len(array) for array in arrays)
    _, n_layers, width = arrays[0].shape
    states = np.zeros((len(arrays), n_frames, n_layers, width), dtype=np.float32)
    mask = np.zeros((len(arrays), n_frames), dtype=bool)
    for row, array in enumerate(arrays):
        states[row, : len(array)] = array
        mask[row, : len(array)] = True
    return {"states": torch.from_numpy(states).transpose(1, 2), "mask": torch.from_numpy(mask)}
