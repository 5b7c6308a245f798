"""Near-duplicates: the same shaking under two names, told by the waveforms themselves.

Shapes: N window, C component, T sample, K band.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import fft

from data_prep.archive import PROCESSING_RANK
from data_prep.dataset import StoredWindows

CORRELATION = 0.99
BANDS = 128
SAME_TIME_S = 60.0
_KNOWN_NS = 366 * 86400 * 10**9  # archives write 1970 where they do not know the time
_BLOCK = 512


def signatures(waves_NCT: np.ndarray) -> np.ndarray:
    """Amplitudes of each window in bands of its components, (N, K), of unit length.

    By the inequality of Cauchy and Schwarz the product of two signatures is never below the windows' normalised
    (circular) cross-correlation, whatever the lag: so pairs whose signatures agree less need not be correlated.
    """
    spectrum = fft.rfft(waves_NCT)  # of many windows at once three times as fast as one by one
    power = spectrum.real**2 + spectrum.imag**2
    power[..., 1:-1] *= 2
    bands = np.sqrt(np.add.reduceat(power, _edges(power.shape[2]), axis=2)).reshape(len(power), -1)
    return (bands / np.linalg.norm(bands, axis=1, keepdims=True)).astype(np.float32)


@lru_cache
def _edges(frequencies: int) -> np.ndarray:
    """First frequency of each band, spaced like a logarithm."""
    return np.append(0, np.unique(np.geomspace(1, frequencies, BANDS).astype(int))[:-1])


def near_duplicates(rows: pd.DataFrame, signatures_NK: np.ndarray, waves_NCT: np.ndarray | StoredWindows) -> pd.Series:
    """Reason against each window that is another's near-duplicate, empty for those to keep.

    Two windows are near-duplicates if they are of one event, or start within a minute, and correlate at 0.99 or more
    at some common lag of the components. The better processed one stays, then the one above its noise, then the first.
    """
    rank = rows["processing"].map(PROCESSING_RANK)
    order = np.lexsort((-rows["snr"].fillna(0), rank))  # the best first
    name, reason = rows["record"].to_numpy(), np.full(len(rows), "", dtype=object)
    for first, second in _candidates(signatures_NK[order], rows.iloc[order]):
        better, worse = order[first], order[second]
        if not reason[better] and not reason[worse]:
            correlation = _correlation(waves_NCT[better], waves_NCT[worse])
            if correlation >= CORRELATION:
                reason[worse] = f"the same waveform as {name[better]} (correlation {correlation:.4f})"
    return pd.Series(reason, index=rows.index)


def _candidates(signatures_NK: np.ndarray, rows: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """Pairs of positions, each lower one first, that share the time and whose signatures do not exclude them."""
    named = rows["event_id"].mask(rows["event_id"] == "")  # noise is of no event
    event, start_ns = pd.factorize(named)[0], rows["start_ns"].to_numpy()
    for begin in range(0, len(rows), _BLOCK):
        alike = signatures_NK[begin : begin + _BLOCK] @ signatures_NK[begin:].T >= CORRELATION - 1e-4
        first, second = (index + begin for index in np.nonzero(np.triu(alike, 1)))
        apart_ns = np.abs(start_ns[first] - start_ns[second])
        same_event = (event[first] == event[second]) & (event[first] >= 0)
        together = same_event | ((apart_ns < SAME_TIME_S * 1e9) & (start_ns[first] > _KNOWN_NS))
        yield from zip(first[together].tolist(), second[together].tolist(), strict=True)


def _correlation(wave_CT: np.ndarray, other_CT: np.ndarray) -> float:
    cross = fft.irfft((fft.rfft(wave_CT) * fft.rfft(other_CT).conj()).sum(axis=0), wave_CT.shape[1])
    return float(cross.max() / np.linalg.norm(wave_CT) / np.linalg.norm(other_CT))
