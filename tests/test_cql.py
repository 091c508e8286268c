"""What pins CQL: Delta by hand, its gradient, its limits SAC and SARSA-like max, the multiplier, cloning, and CQL-smooth."""

import math

import pytest
import torch

from algorithms.cql import AUTHORS, CQL, PAPER, YOUNG_GENG, Args, jeffreys
from common import InputError
from common.args import parse
from tests.helpers import make_data, parameters, twin
