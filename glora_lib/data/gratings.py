"""Gratings: the smoke profile's task, generated in milliseconds and easy to learn. It says nothing about any method."""

import numpy as np
from jaxtyping import Int, UInt8

from glora_lib.data.task import Task, from_arrays

SIZES = {"train": 64, "val": 32, "test": 64}
ANGLES = (0, 45, 90, 135)  # degrees between the direction in which brightness changes and the horizontal


def gratings(split: str) -> tuple[UInt8[np.ndarray, "images 32 32"], Int[np.ndarray, " images"]]:
    """Return `split`'s images, uint8 (N, 32, 32), and labels, int (N,): class-balanced, the same at every call."""
    rng = np.random.default_rng(list(SIZES).index(split))
    labels = np.arange(SIZES[split]) % len(ANGLES)
    angle = np.deg2rad(np.array(ANGLES)[labels])[:, None, None]
    period, phase = rng.uniform(5, 9, (2, len(labels), 1, 1)) * [[[[1]]], [[[2 * np.pi]]]]
    y, x = np.mgrid[:32, :32]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
    return np.clip(128 + 70 * wave + rng.normal(0, 20, wave.shape), 0, 255).astype(np.uint8), labels


def load_gratings(size: int) -> Task:
    """Return the task: 64 / 32 / 64 images of four orientations."""
    names = [f"{angle} degrees" for angle in ANGLES]
    return from_arrays("gratings", "smoke", "", names, {split: gratings(split) for split in SIZES}, size)
