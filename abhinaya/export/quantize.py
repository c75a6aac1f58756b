"""Eight bits for the weights of an exported graph."""

from __future__ import annotations

from pathlib import Path

from abhinaya.export.graph import quiet_exporter

__all__ = ["quantize_int8"]


def quantize_int8(file: Path) -> None:
    """Replace a graph by one that multiplies and convolves in integers of eight bits.

    Weights are unsigned, one scale per matrix; what is multiplied with them is scaled by its own
    range, anew in each run, so no data is needed beforehand. In float32 stay what costs next to no
    room and most of the precision: the spectrogram, and the convolution that hears the waveform.

    Unsigned weights are exact on every processor; signed ones overflow where there is no VNNI.

    Args:
        file: the .onnx file; replaced.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file)
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}

    def is_precise(node: onnx.NodeProto) -> bool:
        hears = node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] == 1
        return hears or any(name.startswith("front_end.") for name in node.input)

    with quiet_exporter():
        quantize_dynamic(
            model,
            file,
            weight_type=QuantType.QUInt8,
            # By default it also rounds what is merely picked or turned, the waveform's frames too.
            op_types_to_quantize=["Conv", "MatMul"],
            nodes_to_exclude=[node.name for node in model.graph.node if is_precise(node)],
        )
    onnx.checker.check_model(str(file))
