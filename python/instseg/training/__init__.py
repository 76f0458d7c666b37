# SPDX-License-Identifier: Apache-2.0
"""Training of instseg models from recipes."""

from instseg.training.optim import build_optimizer, learning_rate, parameter_groups
from instseg.training.trainer import Trainer, TrainingError

__all__ = ["Trainer", "TrainingError", "build_optimizer", "learning_rate", "parameter_groups"]
