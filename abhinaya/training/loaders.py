"""How the rows of a training become batches: read each time, or from a store of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from abhinaya.data.labels import EmotionSet
from abhinaya.errors import AudioError
from abhinaya.loading.clips import Clip, Cropping
from abhinaya.loading.dataset import ClipDataset, Collator, SegmentLoader, fresh_loader
from abhinaya.loading.joined import open_store
from abhinaya.loading.mixing import MixedClips
from abhinaya.loading.speaker_scaling import scale_speakers
from abhinaya.loading.targets import SoftTargets
from abhinaya.member import InputBuilder
from abhinaya.nn.backbone import LayerMix
from abhinaya.nn.classifier import EmotionClassifier
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["Rows", "make_dataset", "make_loaders", "training_crop"]


@dataclass(frozen=True)
class Rows:
    """Usable rows of a selection: clips, targets for the loss, and true class indices (U,).

    `attributes` is the truth of further tasks (U, N), None where the config asks for none.
    """

    clips: list[Clip]
    targets: NDArray[Any] | SoftTargets
    truth: NDArray[np.int64]
    attributes: NDArray[np.float32] | None = None

    @property
    def teacher_rows(self) -> frozenset[str]:
        """Utterances that the model behind `targets.table` was trained on, as far as known."""
        return self.targets.teacher_rows if isinstance(self.targets, SoftTargets) else frozenset()


def make_loaders(
    config: ClassifierConfig,
    inputs: InputBuilder,
    model: EmotionClassifier,
    train: Rows,
    validation: Rows | None,
    arguments: TrainingArguments,
) -> tuple[SegmentLoader, SegmentLoader, Any]:
    """Return loaders of training and validation clips, and what makes their segments a batch."""
    audio = config.audio
    crop_train = training_crop(config)
    crop_eval = Cropping(audio.eval_crop, audio.max_audio_s, audio.normalize)
    load_train, load_eval = fresh_loader(inputs, crop_train), fresh_loader(inputs, crop_eval)
    collate: Any = inputs.collate
    device, num_workers = arguments.device, arguments.dataloader_num_workers
    if config.cache is not None:
        model.backbone.to(device)
        stores = [
            open_store(config.cache, model.backbone, inputs, c) for c in (crop_train, crop_eval)
        ]
        every = [(stores[0], train.clips)] + ([(stores[1], validation.clips)] if validation else [])
        size = config.inference.batch_size
        for store, clips in every:
            # The training features must survive the filling of the validation store.
            keep = stores[0].files
            unread = store.fill(
                clips, batch_size=size, device=device, keep=keep, num_workers=num_workers
            )
            if unread:  # all of them could be read a moment ago
                raise AudioError(
                    f"{len(unread)} clips can no longer be read for the cache, such as "
                    f"{unread[0].utterance!r}: {unread[0].reason} Run again to leave them out."
                )
        load_train, load_eval = stores[0].load, stores[1].load
        collate = stores[0].collate
    if config.speaker_scaling is not None:
        load_train = scale_speakers(load_train, train.clips, config.speaker_scaling)
        if validation:
            load_eval = scale_speakers(load_eval, validation.clips, config.speaker_scaling)
    for module in model.backbone.modules():
        if isinstance(module, LayerMix) and module.standardize:
            model.backbone.to(device)
            rows = ClipDataset(train.clips, load_train, train.targets)
            size = config.inference.batch_size
            module.fit(_training_states(rows, collate, model, size, arguments))
    return load_train, load_eval, collate


def make_dataset(
    config: ClassifierConfig,
    inputs: InputBuilder,
    train: Rows,
    load: SegmentLoader,
    emotions: EmotionSet,
) -> ClipDataset:
    """Return the rows that are trained on, joined two by two where the config says so."""
    if config.mixing is None or config.mixing.clips is None:
        return ClipDataset(train.clips, load, train.targets, train.attributes)
    return MixedClips(
        train.clips,
        load,
        train.targets,
        train.attributes,
        truth=train.truth,
        emotions=emotions,
        mixing=config.mixing.clips,
        inputs=inputs,
        cropping=training_crop(config),
    )


def training_crop(config: ClassifierConfig) -> Cropping:
    """Return where training clips are cut, and what changes them."""
    audio = config.audio
    return Cropping(
        audio.train_crop, audio.max_audio_s, audio.normalize, config.seed, audio.augment
    )


def _training_states(
    rows: ClipDataset, collate: Any, model: EmotionClassifier, size: int, args: TrainingArguments
) -> Any:
    """Yield hidden states and masks of this process' share of the rows, in evaluation mode."""
    model.eval()
    batches = [
        [(idx, 0) for idx in range(at, min(at + size, len(rows)))]  # of the first epoch
        for at in range(0, len(rows), size)
    ]
    loader = DataLoader(
        rows,
        batch_sampler=batches[args.process_index :: args.world_size],
        num_workers=args.dataloader_num_workers,
        collate_fn=Collator(collate),
    )
    with torch.no_grad():
        for batch in loader:
            inputs = {key: value.to(args.device) for key, value in batch["inputs"].items()}
            yield model.backbone.find_states(inputs)
