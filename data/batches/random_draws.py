"""Random numbers as a pure function of a seed and of what they are for."""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # step of splitmix64


def mix(values: np.ndarray) -> np.ndarray:
    """Spread uint64 values evenly over uint64 (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw(*coordinates: np.ndarray | int) -> np.ndarray:
    """Random uint64 that depends on nothing but the coordinates (integers or integer arrays, broadcast together)."""
    state = np.zeros(1, np.uint64)
    for coordinate in coordinates:
        state = mix(state + (np.atleast_1d(coordinate).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return state


def draw_at(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The number at each place of the splitmix64 stream that each key seeds: one draw for many places of a row."""
    return mix(keys + (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _share(bits: np.ndarray) -> np.ndarray:
    """uint64 -> float64 in [0, 1)."""
    return (bits >> np.uint64(11)) * 2.0**-53
