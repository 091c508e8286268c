"""A place where a run waits to be stopped, so that a test need not be quicker than it.

$PAUSE names a folder; a run that has made update N, its log and its evaluation, but not yet its checkpoint, takes a file `N.*`
from it, and then waits until there is a file `N-go-on`, it is asked to stop, or killed. With this folder in PYTHONPATH an interpreter does so too.
"""

import importlib.util
import os
import sys
import time
from pathlib import Path


def patch(Run):
    evaluate = Run.evaluate

    def wait(self, step, last=False):
        evaluate(self, step, last)
        for token in () if last else Path(os.environ["PAUSE"]).glob(f"{step}.*"):
            try:
                token.unlink()
            except FileNotFoundError:  # another run was quicker
                continue
            while not self.stop and not token.with_name(f"{step}-go-on").exists():
                time.sleep(0.02)
            break
    Run.evaluate = wait


class Finder:
    """Patches common.run when it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "common.run":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            patch(module.Run)
        spec.loader.exec_module = exec_module
        return spec


if "PAUSE" in os.environ:
    sys.meta_path.insert(0, Finder())
