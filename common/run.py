"""A run: its folder, logs, checkpoints, progress and final report."""

import contextlib
import copy
import csv
import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import distributions
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import InputError, RunError, friendly, in_main_thread, keep_memory, lock, plain_streams  # noqa: F401
from common.args import FREE, RunArgs, parse, read_config  # noqa: F401  files copied from older versions look here
from common.checkpoint import check_fit, facts, lengthen, read_checkpoint, save_sealed, snapshot, whole, writing
from common.evaluation import Evaluator, evaluation_task, normalized_score
from common.loading import start_from
