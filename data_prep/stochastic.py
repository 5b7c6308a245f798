"""Three-component accelerograms by the stochastic method, at rock sites of central Italy.

Method: D. M. Boore (2003), Simulation of ground motion using the stochastic method, Pure Appl. Geophys. 160,
635-676. Windowed Gaussian noise takes the Fourier spectrum of an omega-squared point source (Brune 1970) seen
through geometrical spreading, Q(f) and kappa. P and S waves are simulated apart and added.

Region: L. Malagnini and R. B. Herrmann (2000), Ground-motion scaling in the region of the 1997 Umbria-Marche
earthquake (Italy), BSSA 90, 1041-1051, from records within 40 km. Its abstract gives the spreading 1/r and the
shear velocity 3.5 km/s; Q = 47 f^0.87, stress drop 200 bar and kappa 0.04 s are quoted from it at second hand.

Shapes: C component (E, N, Z), T sample, F frequency.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

Array = NDArray[np.float64]

COMPONENTS = "ENZ"
FS_HZ = 100.0
MAX_DISTANCE_KM = 40.0
NOISE_CM_S2 = 0.01

STRESS_DROP_BAR = 200.0
DENSITY_G_CM3 = 2.8  # of Boore's examples
Q_AT_1_HZ, Q_EXPONENT = 47.0, 0.87
KAPPA_S = 0.04
FREE_SURFACE = 2.0
# Boore's exponential window: its peak stands at this share of its length, where it falls to that height.
PEAK_SHARE, END_HEIGHT = 0.2, 0.05


@dataclass(frozen=True)
class Phase:
    """A body wave: velocity, root-mean-square radiation pattern, share of its amplitude on E, N and Z."""

    velocity_km_s: float
    radiation: float
    partition: tuple[float, float, float]


# Radiation: Boore and Boatwright (1984). The horizontal share of S is Boore's 1/sqrt(2), its vertical has 2/3
# of that (the V/H of Newmark and Hall 1982). P, in a Poisson solid, arrives 30 degrees from the vertical.
S_WAVE = Phase(3.5, 0.55, (0.707, 0.707, 0.707 * 2 / 3))
P_WAVE = Phase(3.5 * 3**0.5, 0.52, (0.354, 0.354, 0.866))


def seismic_moment(magnitude: float) -> float:
    """Seismic moment in dyne cm of a moment magnitude (Hanks and Kanamori 1979)."""
    return float(10 ** (1.5 * magnitude + 16.05))


def corner_frequency(magnitude: float) -> float:
    """Corner frequency in Hz of the Brune source (Boore 2003, eq. 4)."""
    moment = seismic_moment(magnitude)
    return float(4.9e6 * S_WAVE.velocity_km_s * (STRESS_DROP_BAR / moment) ** (1 / 3))


def arrival_s(phase: Phase, distance_km: float) -> float:
    """Travel time in s of a phase over a hypocentral distance in km, along a straight ray."""
    return distance_km / phase.velocity_km_s


def fourier_spectrum(freq_hz: ArrayLike, magnitude: float, distance_km: float, component: str) -> Array:
    """Fourier amplitude of acceleration that `ground_motion` is drawn from, in cm/s, of one component.

    It is the root mean square over many records: a single one scatters about it as a Rayleigh variable.
    P and S have independent phases, so their powers add. The result has the shape of `freq_hz`; `component`
    is E, N or Z, `distance_km` hypocentral.
    """
    row = COMPONENTS.index(component)
    powers = [_spectrum(np.asarray(freq_hz), magnitude, distance_km, p)[row] ** 2 for p in (P_WAVE, S_WAVE)]
    return np.asarray(np.sqrt(np.sum(powers, axis=0)), dtype=np.float64)


def noise_spectrum(duration_s: float) -> float:
    """Root mean square Fourier amplitude, in cm/s and the same at all frequencies, of `background_noise`."""
    return NOISE_CM_S2 * float(np.sqrt(duration_s / FS_HZ))


def ground_motion(
    magnitude: float, distance_km: float, onset_s: float, n_samples: int, rng: np.random.Generator
) -> Array:
    """Acceleration (C, T) in cm/s2 of an earthquake, sampled at `FS_HZ`, without background noise.

    P arrives `onset_s` after the first sample; `distance_km` is hypocentral.
    Raises ValueError beyond the distance that the regional parameters were found for.
    """
    if not 0 < distance_km <= MAX_DISTANCE_KM:
        raise ValueError(f"hypocentral distance {distance_km} km: expected 0 < distance <= {MAX_DISTANCE_KM}")
    s_onset_s = onset_s + arrival_s(S_WAVE, distance_km) - arrival_s(P_WAVE, distance_km)
    p_motion = _phase_motion(P_WAVE, magnitude, distance_km, onset_s, n_samples, rng)
    return p_motion + _phase_motion(S_WAVE, magnitude, distance_km, s_onset_s, n_samples, rng)


def background_noise(n_samples: int, rng: np.random.Generator) -> Array:
    """Stationary white noise (C, T) of `NOISE_CM_S2` root mean square."""
    return rng.normal(scale=NOISE_CM_S2, size=(len(COMPONENTS), n_samples))


def window(time_s: Array, duration_s: float) -> Array:
    """Envelope of a motion that starts at time 0 (Saragoni and Hart 1974; Boore 2003, eqs. 24-28), peak 1."""
    b = -PEAK_SHARE * np.log(END_HEIGHT) / (1 + PEAK_SHARE * (np.log(PEAK_SHARE) - 1))
    x = np.maximum(time_s, 0) / (2 * duration_s * PEAK_SHARE)
    return np.asarray((x * np.exp(1 - x)) ** b, dtype=np.float64)


def _spectrum(freq_F: Array, magnitude: float, distance_km: float, phase: Phase) -> Array:
    """Acceleration spectrum (C, F...) of one phase in cm/s (Boore 2003, eqs. 1-10 and 20)."""
    velocity = phase.velocity_km_s
    # 1e-20 takes moment in dyne cm, density in g/cm3, velocity in km/s and distance in km to cm s.
    scale = 1e-20 * phase.radiation * FREE_SURFACE / (4 * np.pi * DENSITY_G_CM3 * velocity**3 * distance_km)
    source = (2 * np.pi * freq_F) ** 2 / (1 + (freq_F / corner_frequency(magnitude)) ** 2)
    # f/Q(f) as one power, so that the spectrum is 0 rather than undefined at 0 Hz
    frequency_over_q = freq_F ** (1 - Q_EXPONENT) / Q_AT_1_HZ
    path = np.exp(-np.pi * frequency_over_q * distance_km / velocity - np.pi * KAPPA_S * freq_F)
    return np.multiply.outer(phase.partition, scale * seismic_moment(magnitude) * source * path)


def _phase_motion(
    phase: Phase,
    magnitude: float,
    distance_km: float,
    onset_s: float,
    n_samples: int,
    rng: np.random.Generator,
) -> Array:
    """Boore's steps: window noise, transform, set its level to 1, shape its spectrum, transform back."""
    n_fft = fft.next_fast_len(2 * n_samples, real=True)
    # source and path duration: 1/fc and 0.05 s/km (Herrmann 1985)
    duration_s = 1 / corner_frequency(magnitude) + 0.05 * distance_km
    envelope_T = window(np.arange(n_samples) / FS_HZ - onset_s, duration_s)
    # Boore divides by each sample's own mean square amplitude. Its expected value instead makes the mean
    # power of many records equal the theory at every frequency, and leaves each record its natural scatter.
    envelope_T /= np.sqrt(np.sum(envelope_T**2))
    noise_CF = fft.rfft(envelope_T * rng.normal(size=(len(COMPONENTS), n_samples)), n_fft)
    shape_CF = _spectrum(fft.rfftfreq(n_fft, 1 / FS_HZ), magnitude, distance_km, phase)
    return np.asarray(fft.irfft(noise_CF * shape_CF * FS_HZ, n_fft)[:, :n_samples], dtype=np.float64)
