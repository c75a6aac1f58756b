"""Preview: what augmentation and mixing make of clips, to listen to and to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abhinaya.config import MemberConfig
from abhinaya.errors import BadValueError, require_package
from abhinaya.files import atomic_folder, sole_outputs
from abhinaya.pipeline.report import Cell, Report

if TYPE_CHECKING:
    from abhinaya.data.audio import FloatArray
    from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["PICTURE", "run_preview"]

PICTURE = "spectrograms.png"
_MAX_CLIPS = 4


@sole_outputs("out")
def run_preview(
    config: MemberConfig, clips: Sequence[Path], out: Path, *, epoch: int = 0
) -> Report:
    """Write clips as they are, after each transform alone, and as an epoch of training hears them.

    Args:
        config: of a member that hears sound.
        clips: sound files; the first two are also joined where `mixing.clips` is set.
        out: folder to write: `1-NAME/before.wav` and so on, and `spectrograms.png`.
        epoch: of training; what it draws for a clip depends on it, the seed and the file's name.

    Raises:
        BadValueError: if the config changes no clips, or `out` exists.
        AudioError: if a clip, or a recording of a folder, cannot be used.
        MissingPackageError: if the extra `augment` is not installed.
    """
    import soundfile

    from abhinaya.data.audio import SAMPLE_RATE_HZ
    from abhinaya.nn.classifier_config import ClassifierConfig

    if not isinstance(config, ClassifierConfig) or not (
        config.audio.augment or (config.mixing and config.mixing.clips)
    ):
        raise BadValueError(
            f"The config of {config.name!r} has neither audio.augment nor mixing.clips, so there "
            "is nothing to preview. Set one of them."
        )
    if out.exists():
        raise BadValueError(
            f"{str(out)!r} exists, and a preview overwrites nothing. Remove it, or choose another "
            "--out."
        )
    require_package("matplotlib", "A picture of spectrograms", "augment")
    sounds = _hear(config, clips, epoch)
    rows: list[list[Cell]] = []
    with atomic_folder(out) as folder:
        for name, heard in sounds.items():
            (folder / name).mkdir()
            for kind, waveform in heard.items():
                file = f"{name}/{kind}.wav"
                soundfile.write(folder / file, waveform.clip(-1, 1), SAMPLE_RATE_HZ)
                rows.append([kind, len(waveform) / SAMPLE_RATE_HZ, _level_db(waveform), file])
        _draw(folder / PICTURE, dict(list(sounds.items())[:_MAX_CLIPS]))
    notes = []
    if config.mixing and config.mixing.clips and len(clips) < 2:
        notes.append("mixing.clips joins two clips; give a second one to hear it.")
    if len(clips) > _MAX_CLIPS:
        notes.append(f"{PICTURE} shows the first {_MAX_CLIPS} clips.")
    return Report(
        str(out),
        ["sound", "seconds", "level in dB", "file"],
        rows,
        files=(out,),
        remark=f"trained.wav is what epoch {epoch} of a training hears, each of the others one "
        "transform alone, though chance might leave it out.",
        notes=tuple(notes),
    )


def _hear(
    config: ClassifierConfig, clips: Sequence[Path], epoch: int
) -> dict[str, dict[str, FloatArray]]:
    """Return what there is to hear of each clip, by the names of the files."""
    from dataclasses import replace

    from abhinaya.data.audio import utterance_rng
    from abhinaya.data.augmentation import TRANSFORMS, AugmentConfig, augment, require_augmentation
    from abhinaya.loading.clips import Clip, load_segments
    from abhinaya.loading.mixing import join_clips
    from abhinaya.training.loaders import training_crop

    if config.audio.augment is not None:
        require_augmentation(config.audio.augment)
    # Loudness as it was recorded is more to a listener than scaled segments.
    cropping = replace(training_crop(config), normalize=False)
    parts = [Clip(path.name, path) for path in clips]
    sounds: dict[str, dict[str, FloatArray]] = {}
    for number, clip in enumerate(parts, start=1):
        (before,) = load_segments(clip, replace(cropping, augment=None), epoch)
        (trained,) = load_segments(clip, cropping, epoch)
        assert before.waveform is not None
        assert trained.waveform is not None
        heard = {"before": before.waveform}
        for name in TRANSFORMS:
            transform = getattr(config.audio.augment, name, None)
            if transform is not None:
                certain = transform.model_copy(update={"probability": 1.0})
                rng = utterance_rng(config.seed, epoch, f"augment {clip.utterance}")
                only = AugmentConfig.model_construct(**{name: certain})
                heard[name] = augment(before.waveform, only, rng)
        sounds[f"{number}-{Path(clip.utterance).stem}"] = heard | {"trained": trained.waveform}
    if config.mixing and config.mixing.clips and len(parts) > 1:
        rng = utterance_rng(config.seed, epoch, f"mix {parts[0].utterance}")
        joined = join_clips(
            parts[:2], config.mixing.clips, cropping, parts[0].utterance, epoch, rng
        )
        assert joined.waveform is not None
        next(iter(sounds.values()))["mixed"] = joined.waveform
    return sounds


def _level_db(waveform: FloatArray) -> float | None:
    import numpy as np

    power = float(np.mean(waveform.astype(np.float64) ** 2))
    return round(10 * float(np.log10(power)), 1) if power else None


def _draw(file: Path, sounds: Mapping[str, Mapping[str, FloatArray]]) -> None:
    """Draw a column of spectrograms for each clip, all on one scale of decibels."""
    import numpy as np
    from matplotlib.figure import Figure
    from scipy.signal import stft

    from abhinaya.data.audio import SAMPLE_RATE_HZ

    n_rows = max(map(len, sounds.values()))
    longest_s = max(len(w) for heard in sounds.values() for w in heard.values()) / SAMPLE_RATE_HZ
    figure = Figure(figsize=(1 + 5 * len(sounds), 1 + 1.5 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, len(sounds), squeeze=False, sharex=True, sharey=True)
    for column, (name, heard) in zip(axes.T, sounds.items(), strict=True):
        for axis in column[len(heard) :]:
            axis.set_axis_off()
        for axis, (kind, waveform) in zip(column, heard.items(), strict=False):
            _, _, spectrum = stft(waveform, SAMPLE_RATE_HZ, nperseg=400, noverlap=240)
            image = axis.imshow(
                20 * np.log10(np.abs(spectrum) + 1e-6),
                origin="lower",
                aspect="auto",
                extent=(0, len(waveform) / SAMPLE_RATE_HZ, 0, SAMPLE_RATE_HZ / 2_000),
                vmin=-100,
                vmax=-20,
            )
            axis.set_xlim(0, longest_s)
            axis.set_title(f"{name}: {kind}", fontsize=9)
        column[len(heard) - 1].tick_params(labelbottom=True)
    figure.supxlabel("seconds")
    figure.supylabel("kHz")
    figure.colorbar(image, ax=axes, label="dB", aspect=20 * n_rows, fraction=0.02)
    figure.savefig(file, dpi=80)
