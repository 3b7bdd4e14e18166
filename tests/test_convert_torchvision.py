"""The converted network is held to torchvision's, whose forward pass is spelled out here."""

import os
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import training  # noqa: F401  before tensorflow
from tests.conftest import run_module
from training import convert_torchvision
from training.convert_torchvision import convert, estimate_statistics, main, read_state
from training.model import IMAGENET_MEAN, IMAGENET_STD, pad_both_sides

tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")

STAGES = (  # expansion, kernel, stride, channels in and out, blocks: of torchvision's source
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class Reference:
    """torchvision's EfficientNet_B0 without its classifier: symmetric padding, epsilon of 1e-5.

    It draws an array the first time that it needs it, so that a forward pass also makes a checkpoint.
    """

    def __init__(self) -> None:
        self.state: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(0)
        self.inputs: dict[str, np.ndarray] = {}  # of each BatchNorm, in the last pass

    def features(self, images: np.ndarray) -> np.ndarray:
        """Color images float32 (B, S, S, 3), 0..255, to float32 (B, S/32, S/32, 1280)."""
        x = tf.constant((images / 255 - IMAGENET_MEAN) / IMAGENET_STD, tf.float32)
        x = tf.nn.silu(self._conv_norm("features.0", x, 32, 3, 2))
        for stage, (expansion, kernel, stride, fan_in, fan_out, blocks) in enumerate(STAGES, 1):
            for i in range(blocks):
                block = (expansion, kernel, 1 if i else stride, fan_out if i else fan_in, fan_out)
                x = self._block(f"features.{stage}.{i}.block", x, *block)
        return tf.nn.silu(self._conv_norm("features.8", x, 1280, 1, 1)).numpy()

    def _block(self, name, x, expansion, kernel, stride, fan_in, fan_out):
        parts = (f"{name}.{i}" for i in range(4))
        before, width = x, fan_in * expansion
        if expansion > 1:
            x = tf.nn.silu(self._conv_norm(next(parts), x, width, 1, 1))
        x = tf.nn.silu(self._conv_norm(next(parts), x, width, kernel, stride, depthwise=True))
        squeeze = next(parts)
        scale = tf.reduce_mean(x, (1, 2), keepdims=True)
        scale = tf.nn.silu(self._conv(f"{squeeze}.fc1", scale, fan_in // 4, 1, 1, bias=True))
        x *= tf.nn.sigmoid(self._conv(f"{squeeze}.fc2", scale, width, 1, 1, bias=True))
        x = self._conv_norm(next(parts), x, fan_out, 1, 1)
        return x + before if stride == 1 and fan_in == fan_out else x

    def _conv_norm(self, name, x, channels, kernel, stride, depthwise=False):
        return self._norm(f"{name}.1", self._conv(f"{name}.0", x, channels, kernel, stride, depthwise))

    def _conv(self, name, x, channels, kernel, stride, depthwise=False, bias=False):
        shape = (channels, 1 if depthwise else x.shape[-1], kernel, kernel)
        # variances of the size of Keras' epsilon, where BatchNorm follows
        scale = (1.0 if bias else 0.05) * np.prod(shape[1:]) ** -0.5
        weight = self._draw(f"{name}.weight", 0, scale, shape)
        x = tf.pad(x, [[0, 0], [kernel // 2] * 2, [kernel // 2] * 2, [0, 0]])
        if depthwise:
            y = tf.nn.depthwise_conv2d(x, weight.transpose(2, 3, 0, 1), [1, stride, stride, 1], "VALID")
        else:
            y = tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), stride, "VALID")
        return y + self._draw(f"{name}.bias", 0, 1, (channels,)) if bias else y

    def _norm(self, name, x):
        self.inputs[name] = x.numpy()
        mean, variance = (moment.numpy() for moment in tf.nn.moments(x, (0, 1, 2)))
        size = mean.shape
        weight, bias = (self._draw(f"{name}.{k}", k == "weight", 0.2, size) for k in ("weight", "bias"))
        mean = self._draw(f"{name}.running_mean", mean, 0.2 * np.sqrt(variance), size)
        variance = self._draw(f"{name}.running_var", variance, 0.1 * variance, size)
        return (x - mean) / tf.sqrt(variance + 1e-5) * weight + bias

    def _draw(self, name, mean, deviation, shape):
        if name not in self.state:
            self.state[name] = self.rng.normal(mean, deviation, shape).astype(np.float32)
        return self.state[name]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def reference(images) -> Reference:
    reference = Reference()
    reference.features(images)
    return reference


def test_the_converted_network_computes_what_torchvision_computes(reference, images, tmp_path):
    np.savez(tmp_path / "checkpoint.npz", **reference.state)
    files = tmp_path / "checkpoint.npz", tmp_path / "weights.h5"
    assert run_module("training.convert_torchvision", *files).returncode == 0
    build = tf_keras.applications.EfficientNetB0
    keras = build(weights=str(tmp_path / "weights.h5"), include_top=False, input_shape=(64, 64, 3))
    symmetric = tf_keras.models.clone_model(keras, clone_function=pad_both_sides)
    symmetric.set_weights(keras.get_weights())
    expected = reference.features(images)
    errors = [np.abs(n.predict(images, verbose=0) - expected).max() for n in (symmetric, keras)]
    assert errors[0] < 1e-3 * np.abs(expected).max()
    assert errors[1] > 0.1 * np.abs(expected).max()  # Keras' own padding is another network


def test_statistics_are_those_of_the_images(reference, tmp_path, monkeypatch):
    """With the statistics of one batch, every BatchNorm of the reference standardizes that batch."""
    rng = np.random.default_rng(2)
    for i in range(6):
        pixels = rng.integers(0, 256, (7, 9, 3), np.uint8)
        Image.fromarray(pixels).resize((300, 260), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    statistics = estimate_statistics(reference.state, tmp_path)
    other = Reference()
    other.state = reference.state | statistics
    batch = np.stack([convert_torchvision._read_color(p) for p in sorted(tmp_path.glob("*.png"))])
    other.features(batch)
    assert len(statistics) == 2 * len(other.inputs) == 98
    for name, x in other.inputs.items():
        deviation = x.std((0, 1, 2), ddof=1)
        error = np.abs(statistics[f"{name}.running_mean"] - x.mean((0, 1, 2))) / (deviation + 1e-3)
        assert np.median(error) < 0.05, name
        ratio = np.sqrt(statistics[f"{name}.running_var"]) / (deviation + 1e-6)
        assert np.median(np.abs(ratio - 1)) < 0.05, name  # training divides by n, not by n - 1

    monkeypatch.setattr(convert_torchvision, "BATCH_SIZE", 4)
    averaged = estimate_statistics(reference.state, tmp_path)
    stem = other.inputs["features.0.1"]
    first, second = (part.var((0, 1, 2), ddof=1) for part in (stem[:4], stem[4:]))
    expected = (4 * first + 2 * second) / 6
    assert averaged["features.0.1.running_var"] == pytest.approx(expected, rel=1e-3)
    assert np.abs(expected / statistics["features.0.1.running_var"] - 1).max() > 0.01


def find_weights() -> Path | None:
    """The folder of the published run's initial weights: CXR_WEIGHTS, or near the real data set."""
    if "CXR_WEIGHTS" in os.environ:
        return Path(os.environ["CXR_WEIGHTS"])
    near = Path(os.environ.get("CXR_DATA", "missing")).resolve().parent.parent / "weights"
    return near if near.is_dir() else None


@pytest.mark.skipif(find_weights() is None, reason="the published run's initial weights are not here")
def test_the_published_weights_are_met_bit_by_bit(tmp_path):
    folder = find_weights()
    arrays = read_state(folder / "efficientnetb0_imagenet_torchvision.npz")
    suffix = "_imagenet1000"
    statistics = {k.removesuffix(suffix): v for k, v in arrays.items() if k.endswith(suffix)}
    assert len(statistics) == 98
    convert(arrays | statistics).save_weights(tmp_path / "weights.h5")

    def read(path: Path) -> dict[str, np.ndarray]:
        found = {}
        with h5py.File(path) as file:
            file.visititems(lambda n, v: found.update({n: v[()]}) if hasattr(v, "dtype") else None)
        # Keras numbers what it does not name, by what was built before in the same process
        return {k: v for k, v in found.items() if not k.startswith("normalization")} | {
            k.rsplit("/", 1)[1]: v for k, v in found.items() if k.startswith("normalization")
        }

    expected = read(folder / "efficientnetb0_imagenet_notop.h5")
    received = read(tmp_path / "weights.h5")
    assert len(expected) == 312
    assert received.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(received[name], values), name


def run_main(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["convert_torchvision", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_statistics_of_a_file_replace_the_checkpoints_own(reference, tmp_path, monkeypatch):
    mean = np.full(1280, 7, np.float32)
    np.savez(tmp_path / "checkpoint.npz", **reference.state)
    np.savez(tmp_path / "statistics.npz", **{"features.8.1.running_mean": mean})
    arguments = [tmp_path / "checkpoint.npz", tmp_path / "weights.h5"]
    arguments += ["--statistics", tmp_path / "statistics.npz"]
    monkeypatch.setattr(sys, "argv", ["convert_torchvision", *map(str, arguments)])
    main()
    with h5py.File(tmp_path / "weights.h5") as file:
        assert np.array_equal(file["top_bn/top_bn/moving_mean:0"], mean)
        assert not np.array_equal(file["stem_bn/stem_bn/moving_mean:0"], np.full(32, 7))


def test_a_pth_file_is_read_as_tensors_alone(tmp_path, monkeypatch):
    calls = []

    def load(path, **options):
        calls.append((path, options))
        return {"features.0.0.weight": types.SimpleNamespace(numpy=lambda: np.ones(3, np.float32))}

    (tmp_path / "checkpoint.pth").touch()
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    state = read_state(tmp_path / "checkpoint.pth")
    assert np.array_equal(state["features.0.0.weight"], np.ones(3))
    assert calls == [(tmp_path / "checkpoint.pth", {"map_location": "cpu", "weights_only": True})]


def test_what_cannot_be_converted_is_refused(reference, tmp_path, monkeypatch, capsys):
    out = tmp_path / "weights.h5"
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    pth = tmp_path / "checkpoint.pth"
    pth.touch()
    assert "pip install torch" in run_main(monkeypatch, capsys, pth, out)

    def refuse(path, **options):
        raise KeyError(101)  # one of many errors that PyTorch raises for a damaged file

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=refuse))
    assert "accepted is a state dict" in run_main(monkeypatch, capsys, pth, out)
    missing = tmp_path / "missing.npz"
    assert "which is no file" in run_main(monkeypatch, capsys, missing, out)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\3\4 not an archive")
    assert "cannot be read" in run_main(monkeypatch, capsys, broken, out)
    np.savez(tmp_path / "pickled.npz", features=np.array([{}], object))
    assert "cannot be read" in run_main(monkeypatch, capsys, tmp_path / "pickled.npz", out)

    shapes = tmp_path / "shapes.npz"
    np.savez(shapes, **reference.state | {"features.8.0.weight": np.zeros((9, 9, 1, 1), np.float32)})
    assert "received arrays of shape" in run_main(monkeypatch, capsys, shapes, out)
    state = dict(reference.state)
    del state["features.3.1.block.2.fc1.bias"]
    np.savez(tmp_path / "part.npz", **state)
    expected = "received a checkpoint without features.3.1.block.2.fc1.bias"
    assert expected in run_main(monkeypatch, capsys, tmp_path / "part.npz", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    np.savez(tmp_path / "whole.npz", **reference.state)
    whole = (tmp_path / "whole.npz", out, "--images", empty)
    assert "accepted is a folder of JPEG or PNG images" in run_main(monkeypatch, capsys, *whole)
    assert not out.exists()
