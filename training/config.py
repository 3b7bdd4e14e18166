"""The configuration of a run."""

from __future__ import annotations

import dataclasses

from training.augmentation import Augmentation


@dataclasses.dataclass(frozen=True)
class TrainConfig(Augmentation):
    """A training run: its augmentation, and the rest. The defaults are the published one."""

    name: str = "b0"  # output goes to runs/<name>
    data: str = "data/chest_xray"  # a folder that training.dataset reads
    weights: str = "efficientnetb0_imagenet_notop.h5"  # FILE.h5, imagenet (download), or none
    padding: str = "torchvision"  # keras with --weights imagenet; see build_model
    backbone: str = "efficientnet_b0"
    image_size: int = 160  # px; 224 validated alike, for twice the arithmetic (models/README.md)
    film_size: int = 224  # px; what augmentation crops from
    batch_size: int = 32
    head_epochs: int = 1
    epochs: int = 10  # of fine-tuning
    head_learning_rate: float = 1e-3
    learning_rate: float = 5e-4  # peak, after warm-up; 1e-3 is unstable with frozen BatchNorm
    warmup_share: float = 0.1  # of a stage's steps
    weight_decay: float = 1e-4
    dropout: float = 0.2
    label_smoothing: float = 0.05  # keeps logits small, which calibrates and quantizes better
    cause_weight: float = 0.3  # of the loss of virus against bacteria, beside that of pneumonia
    mixup: float = 0.0  # alpha of MixUp's Beta distribution; 0 for none
    one_cycle: bool = False  # warm-up over 30 % of the steps, from and to lower rates
    freeze_norms: bool = True  # BatchNorm stays as in the initial weights; not for training from scratch
    freeze_until: str = ""  # first backbone layer that is trained; empty for all
    average_steps: int = 100  # steps that the averaged weights look back; they are what is kept
    patience: int = 4  # epochs without a better validation score
    seed: int = 0
