"""Flags from dataclasses, and the help of every command's flags."""

import argparse
import dataclasses
import importlib

import pytest

import training  # noqa: F401  before tensorflow
from training.augmentation import Augmentation
from training.config import TrainConfig
from training.flags import add_flags, from_flat, to_flat
from training.views import Surroundings

COMMANDS = [
    "training.dataset", "training.train", "training.evaluate", "training.composites",
    "training.convert_torchvision", "training.lungs",
    "export.__main__", "export.lungs", "export.measure", "export.saved_model",
    "experiments.ablate", "experiments.backbones", "experiments.shortcuts", "experiments.explanation",
    "experiments.finder", "experiments.whole_frame", "experiments.resolution",
    "experiments.formats", "experiments.layers", "experiments.sparsity",
]  # fmt: skip


def list_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options and arguments of a parser and of its commands."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found += list_options(command)
        else:
            found.append(action)
    return found


@pytest.mark.parametrize("module", COMMANDS)
def test_every_flag_has_help(module, monkeypatch):
    parsers = []

    def stop(parser):
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(SystemExit):
        importlib.import_module(module).main()
    (parser,) = parsers
    assert parser.format_help()
    without = [a.dest for a in list_options(parser) if not (a.help or "").strip()]
    assert not without


def test_a_nested_default_of_the_config_wins_over_that_of_its_class():
    @dataclasses.dataclass(frozen=True)
    class Gentle:
        augmentation: Augmentation = dataclasses.field(default=Augmentation(crop_area=0.9))

    parser = argparse.ArgumentParser()
    add_flags(parser, Gentle)
    assert Gentle().augmentation != Augmentation()
    assert from_flat(Gentle, vars(parser.parse_args([]))) == Gentle()


def test_flags_are_flat_and_augmentation_is_held():
    parser = argparse.ArgumentParser()
    add_flags(parser, TrainConfig)
    options = vars(parser.parse_args(["--crop-area", "0.5", "--epochs", "3", "--no-freeze-norms"]))
    config = from_flat(TrainConfig, options)
    assert config == TrainConfig(epochs=3, freeze_norms=False, augmentation=Augmentation(crop_area=0.5))
    assert not isinstance(config, Augmentation)
    assert to_flat(config) == options
    kinds = (TrainConfig, Augmentation, Surroundings)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert set(options) == names - {"augmentation", "surroundings"}


def test_fields_that_are_left_out_have_their_defaults():
    assert from_flat(TrainConfig, {}) == TrainConfig()
    with pytest.raises(TypeError, match="crop_areas"):
        from_flat(TrainConfig, {"crop_areas": 0.1})
