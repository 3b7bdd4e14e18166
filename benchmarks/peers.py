"""Convert the same trained network to the formats of other runtimes.

Command, with ``benchmarks/requirements.txt`` installed; 3 minutes a size on two cores::

    python -m benchmarks.peers --run runs/NAME --out runs/peers

Each input size gets a folder with LiteRT float32, float16 and int8 by ``export``, Keras, a SavedModel,
ONNX float32 and static int8 (QDQ), and OpenVINO float32 and int8 by NNCF. All are calibrated on the same
films.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino
import tensorflow as tf
import tf_keras
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cxr.classifier import INPUT
from export.convert import build_export_model, save_with_signature, to_tflite
from export.quantize import choose_calibration_films, quantize, vary
from export.structure import load_exported
from training.masks import load_masked
from training.model import CUSTOM_LAYERS, STRIDE, LungWeights
from training.views import view_films

SIZES = (160, 224)


def make_peers(run: Path, out: Path, size: int, data: str | None) -> None:
    """Write a run's pruned network in all formats into ``out``.

    Args:
        run: an exported run, with ``exported.keras``.
        out: the folder, which is made if it does not exist.
        size: side of the input, px; the weights fit any multiple of 32.
        data: where the calibration films are, if not at the path of the run.
    """
    config, exported = load_exported(run)
    model = resize(exported, size)
    train = load_masked(data or config.data, config.masks, "train", config.film_size)
    films = view_films(vary(choose_calibration_films(train)), size)[..., :1]
    out.mkdir(parents=True, exist_ok=True)
    build_export_model(model).save(out / "keras.h5")
    write_litert(model, films, out)
    write_saved_model(model, out / "saved_model")
    floats = [film[np.newaxis].astype(np.float32) for film in films]
    write_onnx(out, floats)
    write_openvino(out, floats)


def resize(model: tf_keras.Model, size: int) -> tf_keras.Model:
    """Build a network of another input size, px, with the same weights."""
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "InputLayer":
            layer["config"]["batch_input_shape"] = (None, size, size, 2)
        if layer["class_name"] == LungWeights.__name__:
            layer["config"]["cells"] = size // STRIDE
    resized = tf_keras.Model.from_config(config, CUSTOM_LAYERS)
    resized.set_weights(model.get_weights())
    return resized


def write_litert(model: tf_keras.Model, films: np.ndarray, out: Path) -> None:
    """Write float32, float16 and int8 as ``export`` makes them, but without fitting the heads again.
    Films are uint8 (N, S, S, 1)."""
    float32 = to_tflite(model)
    (out / "litert_float32.tflite").write_bytes(float32)
    (out / "litert_int8.tflite").write_bytes(quantize(float32, films))
    with save_with_signature(model) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        (out / "litert_float16.tflite").write_bytes(converter.convert())


def write_saved_model(model: tf_keras.Model, out: Path) -> None:
    """Write a SavedModel with the outputs of the contract for a float32 image."""
    network, size = build_export_model(model), model.input_shape[1]

    @tf.function(input_signature=[tf.TensorSpec((1, size, size, 1), tf.float32, name=INPUT)])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return network(image, training=False)

    tf.saved_model.save(network, str(out), signatures={"serving_default": serve})


def write_onnx(out: Path, films: list[np.ndarray]) -> None:
    """Convert the SavedModel in ``out`` to float32, and to static int8 by ONNX Runtime's x86 recipe."""
    float32, prepared = out / "onnx_float32.onnx", out / "onnx_prepared.onnx"
    command = ["-m", "tf2onnx.convert", "--saved-model", out / "saved_model", "--output", float32]
    subprocess.run([sys.executable, *map(str, command), "--opset", "17"], check=True)
    quant_pre_process(str(float32), str(prepared))
    quantize_static(
        str(prepared),
        str(out / "onnx_int8.onnx"),
        _Reader(films),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


class _Reader(CalibrationDataReader):
    def __init__(self, films: list[np.ndarray]) -> None:
        self._films = iter(films)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next film as input of the session, or None after the last."""
        film = next(self._films, None)
        return None if film is None else {INPUT: film}


def write_openvino(out: Path, films: list[np.ndarray]) -> None:
    """Convert the ONNX file in ``out`` to float32, and to int8 by NNCF with its defaults."""
    network = openvino.convert_model(str(out / "onnx_float32.onnx"))
    openvino.save_model(network, out / "openvino_float32.xml", compress_to_fp16=False)
    quantized = nncf.quantize(network, nncf.Dataset(films), subset_size=len(films))
    openvino.save_model(quantized, out / "openvino_int8.xml")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="The same network in the formats of its peers."
    )
    parser.add_argument("--run", type=Path, required=True, help="runs/NAME, exported")
    parser.add_argument("--data", help="the data set, where it has moved since training")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    args = parser.parse_args()
    for size in args.sizes:
        make_peers(args.run, args.out / str(size), size, args.data)


if __name__ == "__main__":
    main()
