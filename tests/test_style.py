"""The repository's habits: order inside a file, equations, budgets, equal copies, floors, README."""

import ast
import csv
import difflib
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import tyro

from benchmark.engine.grid import make
from common.args import READS, RunArgs, parse
from common.sources import D4RL
from tests.helpers import ROOT

ALGORITHMS = sorted((ROOT / "algorithms").glob("*.py"))
COMMON = sorted((ROOT / "common").glob("*.py"))
SCRIPTS = sorted(path for path in (ROOT / "benchmark").glob("*.py") if path.stem != "__init__")
ENGINE = sorted((ROOT / "benchmark/engine").glob("*.py"))
@@@    assert sum(lines.values()) - lines["physics.py"] <= 1950 and max(lines.values()) <= 370, lines  # a simulator has the lines that it needs
