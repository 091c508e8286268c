"""An episode to look at: a video, or eight frames in a row, by Gymnasium's own rendering."""

import contextlib
import gc
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from common import InputError
from common.physics import make_env

FRAMES = 8  # of a strip


def check(world: tuple, video: Path | None) -> None:
    """InputError, in one line: nothing can draw this task here, or nothing can write a video. `world`: as make_env."""
    def draw():
        env = _stage(world)
        env.reset(seed=0)
        if np.ndim(env.render()) != 3:
            raise ValueError("it draws no picture")
        env.close()

    if video:
        _encoder()
    _drawing(world[0], draw)


def _drawing(task, draw):
    """What draw() gives. InputError: whatever a renderer raises. MuJoCo needs no display if MUJOCO_GL says how."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    hook, sys.unraisablehook = sys.unraisablehook, lambda *_: None  # half a viewer complains when it is freed
    try:
        try:
            return draw()
        except InputError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        gc.collect()
    finally:
        sys.unraisablehook = hook
    raise InputError(f"{task}: cannot be drawn here ({why}); MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}, try egl, "
                     "osmesa or glfw, or leave --video and --frames out")


def _stage(world):
    """The environment, seen by the camera that follows its robot; Gymnasium's own choice stays where an episode began.
    """
    env = make_env(*world, typed=True, render=True)
    if renderer := getattr(env.unwrapped, "mujoco_renderer", None):
        import mujoco
        camera = mujoco.mj_name2id(env.unwrapped.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        renderer.camera_id = renderer.camera_id if camera < 0 else camera
    return env


def _encoder():
    try:
        import imageio_ffmpeg
    except ImportError:
        raise InputError("--video needs an encoder: pip install imageio-ffmpeg; or --frames strip.png, which needs "
                         "none") from None
    return imageio_ffmpeg


@torch.no_grad()
def episode(actor, world: tuple, seed: int, rows: int):
    """Yield (environment, step) at the start of reset(seed + 100) and after each step of the episode.

    The actor sees its observation in `rows` equal rows, as many as in an evaluation: that is the same arithmetic.
    """
    env, step, over = _stage(world), 0, False
    obs, _ = env.reset(seed=seed + 100)
    yield env, step
    while not over:
        seen = torch.from_numpy(np.tile(np.asarray(obs, np.float32), (rows, 1)))
        obs, _, terminated, truncated, _ = env.step(actor.act(seen).numpy()[0])
        step, over = step + 1, terminated or truncated
        yield env, step
    env.close()


def record(actor, world: tuple, seed: int, rows: int, video: Path | None, strip: Path | None) -> None:
    """Play the first episode of an evaluation and write it to `video` and to `strip`, where they are given."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in an evaluation
    try:
        length, shown = _drawing(world[0], lambda: _film(actor, world, seed, rows, video))
    finally:
        torch.set_num_threads(threads)
    if strip:
        with _writing(strip):
            strip.write_bytes(png(np.concatenate(shown, 1)))
    print(f"reset({seed + 100}), {length - 1:,} steps: {' and '.join(map(str, filter(None, (video, strip))))}")


def _film(actor, world, seed, rows, video):
    """How many frames the episode has, and those of a strip; all of them go to `video`, if it is given."""
    length = sum(1 for _ in episode(actor, world, seed, rows))
    chosen, shown, writer = np.linspace(0, length - 1, FRAMES).round().astype(int).tolist(), {}, None
    for env, step in episode(actor, world, seed, rows):
        if video or step in chosen:
            frame = np.ascontiguousarray(env.render(), np.uint8)
            shown |= {step: frame} if step in chosen else {}
        if video and not writer:
            with _writing(video):
                fps = env.metadata.get("render_fps", 30)
                writer = _encoder().write_frames(str(video), frame.shape[1::-1], fps=fps, macro_block_size=2)
                writer.send(None)
        writer and writer.send(frame)
    writer and writer.close()
    return length, [shown[step] for step in chosen]


@contextlib.contextmanager
def _writing(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); free space, or choose another folder") from None


def png(image: np.ndarray) -> bytes:
    """A PNG file of (height, width, 3) uint8."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = image.shape
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits for each of red, green and blue
    lines = b"".join(b"\0" + line.tobytes() for line in image)  # 0: a line as it is
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
