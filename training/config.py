"""The configuration of a run."""

from __future__ import annotations

import dataclasses

from training.augmentation import Augmentation
from training.flags import setting
from training.views import Surroundings

EARLIER = {"band_gains": 0.0, "evenness": 0.0}  # fields that older runs lack, as they were trained


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults are those of the published run."""

    name: str = setting("e0", "the output goes to runs/NAME")
    data: str = setting("data/chest_xray", "the data set: images, or records of training.dataset")
    masks: str = setting("", "the lung masks; lung_masks beside the data set unless given")
    weights: str = setting(
        "efficientnetb0_imagenet_notop.h5", "initial weights: FILE.h5, imagenet (downloaded) or none"
    )
    padding: str = setting(
        "torchvision", "padding that the initial weights were trained with: torchvision or keras"
    )
    backbone: str = setting("efficientnet_b0", "a key of BACKBONES in training/model.py")
    # 224 px has the same validation AUROC for twice the arithmetic (models/README.md)
    image_size: int = setting(160, "side of the network's input, px")
    film_size: int = setting(224, "side of the image that augmentation crops from, px")
    batch_size: int = setting(32, "images in a batch")
    head_epochs: int = setting(1, "epochs of the first stage, which trains the heads alone")
    epochs: int = setting(8, "epochs of the second stage, which trains all weights")
    head_learning_rate: float = setting(1e-3, "peak learning rate of the first stage")
    # 1e-3 is unstable with frozen BatchNorm
    learning_rate: float = setting(5e-4, "peak learning rate of the second stage")
    warmup_share: float = setting(0.1, "share of a stage's steps over which the learning rate rises")
    weight_decay: float = setting(1e-4, "weight decay of AdamW")
    dropout: float = setting(0.2, "dropout rate before the heads")
    evenness: float = setting(
        0.8, "how far the weights of cells are evened out in training, at random: 0 for not at all, to 1"
    )
    # keeps logits small, which makes them easier to calibrate and to quantize
    label_smoothing: float = setting(0.05, "share of each label that is divided between both labels")
    cause_weight: float = setting(0.3, "weight of the loss of virus against bacteria; pneumonia has 1")
    mixup: float = setting(0.0, "alpha of MixUp's Beta distribution; 0 for no MixUp")
    one_cycle: bool = setting(False, "a longer rise of the learning rate, over 30 % of the steps")
    # must be off for training from scratch
    freeze_norms: bool = setting(True, "keep BatchNorm as it is in the initial weights")
    freeze_until: str = setting("", "first backbone layer that is trained; empty for all layers")
    average_steps: int = setting(100, "steps that the averaged weights look back; they are what is kept")
    patience: int = setting(4, "epochs without a better validation score before a stage stops")
    seed: int = setting(0, "seed of the initial weights, the batches and the augmentation")
    augmentation: Augmentation = dataclasses.field(default=Augmentation())
    surroundings: Surroundings = dataclasses.field(default=Surroundings())
