"""A trained classifier as one graph: padded waveforms and their lengths in, logits out."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from abhinaya.data.audio import MIN_DURATION_S, SAMPLE_RATE_HZ
from abhinaya.errors import BadValueError
from abhinaya.export.folder import run_session, start_session
from abhinaya.nn.classifier import EmotionClassifier

__all__ = [
    "MIN_SAMPLES",
    "OPSET",
    "MaskedExtractor",
    "WaveformClassifier",
    "WaveformFrontEnd",
    "quiet_exporter",
    "write_graph",
]

OPSET = 18
"""Version of ONNX's operators; onnxruntime has known it since 1.14, of early 2023."""

MIN_SAMPLES = round(MIN_DURATION_S * SAMPLE_RATE_HZ)
"""Shortest waveform that the graph takes."""

_TOLERANCE = 1e-4


class WaveformFrontEnd(nn.Module):
    """What encoders of waveforms take: the waveforms, and where they are signal."""

    max_samples: int | None = None

    def forward(self, waveforms: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return `waveforms` and `mask`, both of shape (B, S), as they are."""
        return {"waveforms": waveforms, "mask": mask}


class MaskedExtractor(nn.Module):
    """The convolutions of a group-norm encoder, whose statistics pass over padding.

    A batch of different lengths then equals single clips. Padding would otherwise enter the mean
    and variance over time of the first layer, the only one that looks beyond its window.

    Args:
        extractor: the `feature_extractor` of transformers' WavLM, HuBERT or wav2vec 2.0.
    """

    conv_layers: Any

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.conv_layers = extractor.conv_layers

    def forward(self, stacked: Tensor) -> Tensor:
        """Return features, shape (B, D, T).

        Args:
            stacked: waveforms above their mask, shape (B, 2, S): one tensor, because the encoder
                hands on no other.
        """
        waveforms, mask = stacked.unbind(dim=1)
        first, *others = self.conv_layers
        hidden = first.conv(waveforms.unsqueeze(1))  # (B, D, T)
        (kernel,), (stride,) = first.conv.kernel_size, first.conv.stride
        n_frames = (mask.sum(dim=1).long() - kernel) // stride + 1
        is_real = torch.arange(hidden.shape[2], device=hidden.device) < n_frames.unsqueeze(1)
        centred, variance = _centre(hidden, is_real.unsqueeze(1))
        norm = first.layer_norm
        hidden = centred * torch.rsqrt(variance + norm.eps)
        hidden = first.activation(hidden * norm.weight.unsqueeze(1) + norm.bias.unsqueeze(1))
        for layer in others:
            hidden = layer(hidden)
        return cast("Tensor", hidden)


class WaveformClassifier(nn.Module):
    """A classifier from padded waveforms to logits.

    Args:
        front_end: from waveforms and mask, both (B, S), to the inputs of the classifier.
        classifier: backbone, pooling and head.
        normalize: scale each waveform to zero mean and unit variance, as `normalize_waveform`.
    """

    front_end: Any

    def __init__(
        self, front_end: nn.Module, classifier: EmotionClassifier, *, normalize: bool
    ) -> None:
        super().__init__()
        self.front_end = front_end
        self.classifier = classifier
        self.normalize = normalize

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Return logits, shape (B, K).

        Args:
            waveforms: 16 kHz, shape (B, S); what stands behind a row's end is never heard.
            lengths: samples of each row, shape (B,), from `MIN_SAMPLES` to S.
        """
        mask = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths.unsqueeze(1)
        if self.normalize:
            centred, variance = _centre(waveforms, mask)
            waveforms = centred / torch.sqrt(variance + 1e-7)
        else:
            waveforms = waveforms.masked_fill(~mask, 0.0)
        logits = self.classifier(self.front_end(waveforms, mask)).logits
        assert isinstance(logits, Tensor)
        return logits


def _centre(signal: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signal minus its mean along the last axis, zero outside the mask; its variance."""
    count = mask.sum(dim=-1, keepdim=True)
    mean = signal.masked_fill(~mask, 0.0).sum(dim=-1, keepdim=True) / count
    centred = (signal - mean).masked_fill(~mask, 0.0)
    return centred, centred.square().sum(dim=-1, keepdim=True) / count


def write_graph(model: WaveformClassifier, file: Path) -> float:
    """Write a model as ONNX in float32, and compare it with torch.

    Args:
        model: in evaluation mode, on the CPU; its backbone is changed to what ONNX can hold.
        file: the .onnx file to write.

    Returns:
        Largest difference of a logit between torch, before that change, and onnxruntime, on a batch
        of noise of two lengths; where logits are above 1, as a share of the largest.

    Raises:
        BadValueError: if ONNX cannot hold it, or computes something else.
    """
    import onnx

    longest = min(SAMPLE_RATE_HZ, model.front_end.max_samples or SAMPLE_RATE_HZ)
    lengths = torch.tensor([longest, 2 * longest // 3])
    waveforms = 0.1 * torch.randn(2, longest, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(waveforms, lengths)
        model.classifier.backbone.prepare_export()
        _fuse_parametrizations(model)
        try:
            with quiet_exporter():
                program = torch.onnx.export(
                    model,
                    (waveforms, lengths),
                    dynamo=True,
                    dynamic_shapes={
                        "waveforms": {0: "batch", 1: "samples"},
                        "lengths": {0: "batch"},
                    },
                    input_names=["waveforms", "lengths"],
                    output_names=["logits"],
                    external_data=False,
                    opset_version=OPSET,
                    verbose=False,
                )
            assert program is not None
            graph = _strip(program.model_proto)
            onnx.checker.check_model(graph, full_check=True)
        except Exception as err:  # whatever a model does that ONNX has no operator for
            raise BadValueError(f"ONNX cannot hold this model: {_root_of(err)}.") from err
    onnx.save(graph, file)
    logits = run_session(start_session(file), waveforms.numpy(), lengths.numpy())
    largest = max(1.0, float(expected.abs().max()))
    difference = float((expected - torch.from_numpy(logits)).abs().max()) / largest
    if not difference <= _TOLERANCE:
        raise BadValueError(
            "The ONNX graph of this model gives logits that differ from torch by "
            f"{difference:.2g}, expected at most {_TOLERANCE:g}. Report it with the versions of "
            "torch and onnxscript."
        )
    return difference


def _strip(model: Any) -> Any:
    """Return the model without notes on where each node came from: names of files of this machine.

    Shapes in between go too; the quantizer would trip over them.
    """
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def _fuse_parametrizations(model: nn.Module) -> None:
    """Replace weights that are computed from others, such as weight norm's, by their values."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            found = module.get_submodule("parametrizations")
            for name, _ in list(found.named_children()):
                parametrize.remove_parametrizations(module, name)


def _root_of(err: BaseException) -> str:
    """Return the first line of the first error of a chain, which names what does not go."""
    while err.__cause__ is not None:
        err = err.__cause__
    line = next((line.strip() for line in str(err).splitlines() if line.strip()), "")
    return f"{type(err).__name__}: {line}".rstrip(". ")


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the remarks of exporter and quantizer, which nobody can act on, from the user."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
