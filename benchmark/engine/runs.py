"""Run folders as algorithms leave them: flags, progress, scores, and the agents in their checkpoints.

A run folder may be somebody else's: what it holds is data. Nothing that it names is opened, loaded or started.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path

from common import InputError, loading
from common.args import RunArgs, parse, read_config
from common.checkpoint import check_fit, read_checkpoint
from common.files import text_of
from common.loading import agent_class, load_script  # noqa: F401
from common.physics import version, with_version

ROOT = Path(__file__).parents[2]
IGNORED = {"config", "seeds", "runs", "device", "eval_workers", "save_seconds", "log_every", "track", "standin",
           "resume"}
SCORES = {"last": "the last evaluation", "mean_of_last_10": "the mean of the last 10 evaluations",
          "best": "the best evaluation"}  # of result.json
TIMES = ("training_seconds", "updates_per_second", "evaluation_seconds", "evaluation_waited", "evaluation_after",
         "pretraining_seconds")  # of result.json


def settings(args: dict) -> dict:
    """The arguments of a run that change a score, as config.json has them; `config` only chose their defaults."""
    plain = json.loads(json.dumps(args, default=str))
    return {name: value for name, value in plain.items() if name not in IGNORED}


def script_of(algorithm: str) -> Path:
    return ROOT / f"algorithms/{algorithm}.py"


@cache
def defaults(algorithm: str) -> dict:
    """What the project's file of this name has for every flag of which a command line says nothing; for another file,
    which is not loaded, the flags that all share."""
    path = script_of(algorithm)
    known = load_script(path).Args if path in path.parent.glob("*.py") else RunArgs
    return settings({flag.name: flag.default for flag in fields(known)})


def flags(words: list[str]) -> dict[str, str]:
    """{flag: its values, joined} of a command line: `--x=1`, `--x 1`, `--x`, `--no-x` (False); numbers alike."""
    found, name = {}, None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, _, value = word[2:].partition("=")
            name = name.replace("_", "-")
            if name.startswith("no-"):
                name, value = name[3:], "False"
            found[name] = [value] * bool(value)
        elif name:
            found[name].append(word)
    return {name: " ".join(map(_spelling, values)) or "True" for name, values in found.items()}


def _spelling(word):
    try:
        return f"{float(word):g}"
    except ValueError:
        return word


@dataclass
class Run:
    """A run's folder and its config.json; everything else is read when it is asked for."""
    folder: Path
    config: dict

    @property
    def algorithm(self) -> str:
        return self.config["algorithm"]

    def age(self) -> tuple[str, str]:
        """Sorts older runs first: its start to the second, and its name, which has the milliseconds."""
        return str(self.config.get("started", "")), self.folder.name

    @property
    def seeds(self) -> list[int]:
        return self.config["args"]["seeds"]

    @property
    def script(self) -> str:
        """The name of the file that trained it (common/loading.py)."""
        return loading.trained_by(self.config)

    @property
    def flags(self) -> dict[str, str]:
        """The flags of its command that change a score, `config` among them."""
        given, without = flags(loading.words(self.config)[1:]), IGNORED - {"config"}
        return {name: value for name, value in given.items() if name.replace("-", "_") not in without}

    @property
    def settings(self) -> dict:
        """Its arguments that change a score; a flag that is younger than the run has its default."""
        args = settings(self.config["args"])
        return args | {flag: value for flag, value in defaults(self.algorithm).items() if flag not in args}

    @property
    def standin(self) -> bool:
        return self.config["dataset_source"] == "standin"

    @cached_property
    def result(self) -> dict | None:
        """result.json, which a run writes when it is finished; None before, and where a kill has torn it.

        InputError: it is not what a run writes.
        """
        path, advice = self.folder / "result.json", f"delete it, --resume {self.folder} writes it anew"
        try:
            result = json.loads(text_of(path))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error}); {advice}") from None
        try:
            rows = result["seeds"].values()
            sound = (type(result["step"]) is int and isinstance(result.get("unit", ""), str) and not deeper(result, 3)
                     and all(_number(row[score]) for row in rows for score in SCORES)
                     and all(_number(result[name]) for name in TIMES if name in result))
        except (LookupError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise InputError(f"{path}: is not what a run writes when it is finished; {advice}")
        return result

    @cached_property
    def checkpoint(self) -> dict:
        """checkpoint.pt, its tensors left on the disk until they are used. InputError: it has none, or a broken one."""
        path = self.folder / "checkpoint.pt"
        if not os.path.lexists(path):
            raise InputError(f"{self.folder}: has no checkpoint yet; let it train (--resume {self.folder})")
        saved = read_checkpoint(path, mmap=True)
        try:
            check_fit(saved, self.config)
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(f"{path}: {error}; one is of another run, or changed") from None
        return saved

    @cached_property
    def damaged(self) -> bool:
        """Has it a checkpoint that cannot be read, and no result? Told once."""
        if self.result or not os.path.lexists(self.folder / "checkpoint.pt"):
            return False
        try:
            return not self.checkpoint
        except InputError as error:
            return pass_over(error)

    @property
    def physics(self) -> tuple[str, str]:
        """Those of its evaluations, and of an evaluation today, with their versions (common/physics.py)."""
        kind = "stock" if self.config["args"].get("physics") == "stock" else "d4rl"
        return with_version(self.config["physics"]), version(self.config["task"], kind)

    @cached_property
    def outdated(self) -> bool:
        """Is it evaluated under a physics that this version does not simulate? Told once."""
        its, now = self.physics
        return its != now and pass_over(InputError(f"{self.folder}: is evaluated under the physics {its}, this version "
                                                   f"simulates {now}; no table mixes them"))

    @property
    def progress(self) -> int:
        """Updates done, as far as they are saved."""
        try:
            return self.result["step"] if self.result else self.checkpoint["step"]
        except InputError:
            return 0

    @property
    def speed(self) -> float | None:
        """Updates per second."""
        try:
            if self.result:
                return self.result.get("updates_per_second")
            return self.checkpoint["step"] / self.checkpoint["seconds"]
        except (InputError, ZeroDivisionError):
            return None

    @property
    def pretraining(self) -> float:
        """Seconds that came before its first update, for all of its seeds: those of a model, whoever trained it."""
        try:
            found = self.result.get("pretraining_seconds") if self.result else self.checkpoint.get("pretraining")
        except InputError:
            return 0.0
        return max(0.0, found) if _number(found) else 0.0

    @property
    def model(self) -> str:
        """"the model of seed 1, 12 epochs so far", where that is all it has done yet (its log has no row); or empty."""
        if any(os.path.lexists(self.folder / name) for name in ("log.csv", "checkpoint.pt", "result.json")):
            return ""
        try:
            seed, epoch, *_ = text_of(self.folder / "model.csv").splitlines()[-1].split(",")
            return f"the model of seed {int(seed)}, {int(epoch) + 1:,} epochs so far"
        except (OSError, ValueError, IndexError):
            return ""


def _number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # not nan


def deeper(value, levels: int) -> bool:
    """Are there more levels of lists and dictionaries in it?"""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
    return inside is not None and (levels < 1 or any(deeper(item, levels - 1) for item in inside))


def read_run(folder: Path) -> Run:
    """InputError: no run folder, or one whose config.json or result.json is broken."""
    run = Run(folder, read_config(folder))
    if deeper(run.config, 8):
        raise InputError(f"{folder}: no run folder, its config.json has lists within lists within lists")
    run.result  # read here, where a broken one can be passed over
    return run


def find_runs(folder: Path) -> list[Run]:
    """All runs in a folder of run folders, oldest first; what is broken, not ours to read or gone is passed over.

    InputError: the folder itself cannot be read.
    """
    found = []
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error}); choose another folder with --runs") from None
    for path in (folder / name for name in names):
        try:
            os.stat(path / "config.json")
        except (FileNotFoundError, NotADirectoryError):
            continue  # nobody's run
        except OSError as error:
            pass_over(InputError(f"{path}: cannot be read ({error})"))
            continue
        try:
            found.append(read_run(path))
        except InputError as error:
            pass_over(error)
    return sorted(found, key=Run.age)


_told = set()


def pass_over(error: InputError) -> bool:
    """Tell, once, that something is passed over; True."""
    if str(error) not in _told:
        print(f"passed over: {error}", file=sys.stderr, flush=True)
    _told.add(str(error))
    return True


def plain(text: str, most: int = 100) -> str:
    """For a table or a figure: no line breaks or other signs that do not print, and not too long; still one of a kind.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= most else f"{shown[:most - 9]}~{digest(shown)}"


def digest(*facts) -> str:
    """Eight digits that change with the facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def named(runs: list[Run], *facts) -> str:
    """For files: a name after what they hold, hence another for other runs, more of them, or other facts."""
    which = runs[0].folder.resolve().name if len(runs) == 1 else f"{len(runs)}-runs"
    return f"{plain(which)}.{digest(sorted((run.folder.resolve().name, repr(run.config)) for run in runs), *facts)}"


def label(run: Run) -> str:
    """A run's name in a figure: its algorithm, and its flags beyond the dataset and the number of updates."""
    other = [f"{name}={value}" for name, value in run.flags.items() if name not in ("env", "updates", "eval-env")]
    return plain(" ".join([run.algorithm, *other]))


def duration(seconds: float | None) -> str:
    """For people: 2.5 h."""
    if seconds is None:
        return "-"
    units = ((86400, "days"), (3600, "h"), (60, "min"))
    size, unit = next((pair for pair in units if seconds >= 2 * pair[0]), (1, "s"))
    return f"{seconds / size:.1f} {unit}"


def load_agent(run: Run, seed: int, action_size: int, device: str = "cpu", scripts: dict[str, Path] = {}):
    """The agent of one seed, as common/loading.py has it. InputError: no checkpoint, no such seed, another file."""
    return loading.load_agent(run.folder, run.config, run.checkpoint["agents"], seed, action_size, device, scripts)


def arguments(algorithm: str, words: list[str]):
    """Args of an algorithm's file for a command line, of a run that may be on another machine.

    InputError: no such flag, value or --config, or none for this dataset.
    """
    module = load_script(script_of(algorithm))
    configs = {name.lower().replace("_", "-"): table for name, table in vars(module).items()
               if name.isupper() and isinstance(table, dict) and name != "PAPER"}
    with contextlib.redirect_stdout(io.StringIO()):
        return parse(module.Args, module.PAPER, words, here=False, **configs)
