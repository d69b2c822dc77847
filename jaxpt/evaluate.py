"""Runs suites of evaluators over checkpoints, and writes one record for each that is made."""

import os
import pathlib
from typing import Any, Callable, NamedTuple, Sequence

import ml_collections
import numpy as np

from jaxpt import __version__, records
from jaxpt.backbones import Backbone, open_backbone
from jaxpt.bench import Bench
from jaxpt.configs.pretrain import defaults
from jaxpt.data import protocols
from jaxpt.errors import InputError, require
from jaxpt.evaluation import suites
from jaxpt.evaluation.feature_cache import FeatureCache
from jaxpt.evaluation.features import BATCH_SIZE, extract, extract_layers
from jaxpt.evaluation.task import PARTS
from jaxpt.train.parallel import Devices
from jaxpt.train.progress import JobLine
