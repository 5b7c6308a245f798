"""Measures too dear for every epoch, for the generators that are left at the end: is it a copy, could anybody tell?

Pure functions of windows, the same for the same seed, on either device; letters such as (K) as in `metrics`.
Shapes: N window, C component, T sample, B pair of windows, P and Q point of an envelope, D feature.
"""

import math

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn import functional as F

from trainables import metrics
from trainables.fidelity import Band, appearance

# Copies are closer to the training windows than held-out ones are, beyond chance, and by much: a generator of typical
# windows is somewhat closer than rare real ones without having copied any.
CHANCE, COPIED = 1e-3, 0.5

# The classifier: strided convolutions of nine taps, and how long it learns from how many windows of each kind.
TAPS, STRIDE = 9, 4
WIDTHS = (16, 32, 32, 32)
STEPS, BATCH, RATE = 200, 16, 2e-3

# Points of an envelope, and windows of a set, at most; more windows tell little and cost their square.
POINTS = 128
COMPARED = 64
# Softness of soft-DTW, in units of a squared envelope, which is about 1: alignments this much worse still count.
GAMMA = 0.01
# An exponential that underflows is ten times slower than one that does not, and adds nothing.
NEGLIGIBLE = -60.0

# Windows, and pairs of envelopes, looked at together, which bounds memory.
CHUNK = 32
PAIRS = 128


def closer_look(train_NCT: Tensor, real_NCT: Tensor, fake_NCT: Tensor, band: Band, seed: int) -> dict[str, float]:
    """Measures (K), (L) and (N) of generated windows' shapes, against training windows and real ones held out.

    Real windows are z-scored already; generated ones come as the generator gives them, their scale being judged
    elsewhere.

    Raises:
        ValueError: for fewer than two real or generated windows, or no training windows.
    """
    fake_NCT = metrics.z_score(fake_NCT)
    copied = memorisation(train_NCT, real_NCT, fake_NCT, band)
    return {
        **{f"finalist/memorisation_{name}": value for name, value in copied.items()},
        "finalist/classifier_auc": classifier_auc(real_NCT, fake_NCT, seed),
        "finalist/soft_dtw": envelope_dtw(real_NCT, fake_NCT, seed),
    }


def memorisation(train_NCT: Tensor, real_NCT: Tensor, fake_NCT: Tensor, band: Band) -> dict[str, float]:
    """(K) Whether generated windows are closer to the training windows than held-out ones are (Meehan et al. 2020).

    Distances are between envelopes and spectra as they would be drawn, where faint noise does not hide a copy.

    Returns:
        `closer`, the share of pairs in which the generated window is the closer one (0.5 is chance); `p`, the chance of
        such a share or a larger one among windows of one kind (Mann-Whitney, normal approximation); `ratio` of the
        median distances, generated over held out; and `memorised`, 1 or 0.
    """
    _require(real_NCT, fake_NCT, train_NCT)
    train = _looks(train_NCT, band)
    real, fake = (_nearest(_looks(wave, band), train).cpu() for wave in (real_NCT, fake_NCT))
    found = mannwhitneyu(real.numpy(), fake.numpy(), alternative="greater", method="asymptotic")
    # Where all distances are equal there is no evidence of anything, and no p.
    p = 1.0 if math.isnan(found.pvalue) else float(found.pvalue)
    ratio = float(fake.median() / real.median().clamp_min(metrics.EPS))
    closer = float(found.statistic) / (len(real) * len(fake))
    return {"closer": closer, "p": p, "ratio": ratio, "memorised": float(p < CHANCE and ratio < COPIED)}


def classifier_auc(real_NCT: Tensor, fake_NCT: Tensor, seed: int) -> float:
    """(L) How often a small network, of a generated and a real window, knows the generated one; 0.5 is guessing.

    It learns from a random half of each and is asked about the other half: the area under the ROC curve.
    """
    _require(real_NCT, fake_NCT)
    rng = torch.Generator().manual_seed(seed)
    halves = [torch.randperm(len(wave), generator=rng).tensor_split(2) for wave in (real_NCT, fake_NCT)]
    network = _Network(real_NCT, rng)
    optimizer = torch.optim.Adam(network.weights, lr=RATE)
    target = (torch.arange(2 * BATCH, device=real_NCT.device) >= BATCH).to(real_NCT)
    for _ in range(STEPS):
        batch = [
            wave[learnt[torch.randint(len(learnt), (BATCH,), generator=rng)]]
            for wave, (_, learnt) in zip((real_NCT, fake_NCT), halves, strict=True)
        ]
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(torch.cat(batch)), target).backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = (
            torch.cat([network(wave[some]) for some in asked.split(CHUNK)])
            for wave, (asked, _) in zip((real_NCT, fake_NCT), halves, strict=True)
        )
    return float(((fake[:, None] > real).float() + (fake[:, None] == real).float() / 2).mean())


class _Network:
    """Strided convolutions, their mean over time and a linear layer; drawn from a generator of its own."""

    def __init__(self, like_NCT: Tensor, rng: torch.Generator):
        shapes = [(to, of, TAPS) for of, to in zip((2 * like_NCT.shape[1], *WIDTHS), WIDTHS, strict=False)]
        drawn = [torch.randn(shape, generator=rng) * math.sqrt(2 / (shape[1] * TAPS)) for shape in shapes]
        zeros = [torch.zeros(size) for size in (*WIDTHS, WIDTHS[-1], 1)]
        self.weights = [weight.to(like_NCT).requires_grad_() for weight in (*drawn, *zeros)]

    def __call__(self, wave_NCT: Tensor) -> Tensor:
        """Logits (N,)."""
        convolutions, biases = self.weights[: len(WIDTHS)], self.weights[len(WIDTHS) : -2]
        # Without the log it hardly sees that a record is quiet at both ends (0.72 of 1.0 for stationary noise).
        quiet = (wave_NCT.abs() + metrics.ENVELOPE_FLOOR).log()
        wave_NCT = torch.cat([wave_NCT, (quiet + 1) / 2], dim=1)
        for weight, bias in zip(convolutions, biases, strict=True):
            wave_NCT = F.leaky_relu(F.conv1d(wave_NCT, weight, bias, STRIDE, padding=TAPS // 2), 0.2)
        return wave_NCT.mean(-1) @ self.weights[-2] + self.weights[-1]


def envelope_dtw(real_NCT: Tensor, fake_NCT: Tensor, seed: int) -> float:
    """(N) How far, in soft-DTW between envelopes, a generated window is from the nearest real one; real ones are at 1.

    The median over generated windows, over that of real windows to other real ones. Less than 1 is closer than real
    windows are to each other. Each distance is what soft-DTW has more than the mean of either window's with itself,
    which is 0 for two that are equal (Blondel et al. 2021). Of many windows a random choice is compared.
    """
    _require(real_NCT, fake_NCT)
    rng = torch.Generator().manual_seed(seed)
    chosen = [wave[torch.randperm(len(wave), generator=rng)[:COMPARED]] for wave in (real_NCT, fake_NCT)]
    real, fake = (_envelopes(wave) for wave in chosen)
    own = [_softly(each, each) for each in (real, fake)]
    row, column = torch.triu_indices(len(real), len(real), offset=1, device=real.device)
    among = real.new_full((len(real), len(real)), math.inf)
    among[row, column] = among[column, row] = _excess(real, real, own[0], own[0], row, column)
    row, column = torch.cartesian_prod(*(torch.arange(len(each), device=real.device) for each in (fake, real))).T
    between = _excess(fake, real, own[1], own[0], row, column).view(len(fake), len(real))
    return float(between.amin(1).median() / among.amin(1).median().clamp_min(metrics.EPS))


def soft_dtw(cost_PQB: Tensor, gamma: float) -> Tensor:
    """Soft-DTW (B,) of matrices of costs: -γ ln Σ exp(-cost / γ) over all alignments (Cuturi and Blondel 2017).

    Alignments go from corner to corner by steps right, down or both; γ = 0 is DTW, the least cost of any. The gradient
    is the expected alignment.
    """
    points, others = cost_PQB.shape[:2]
    flat, step = cost_PQB.flatten(0, 1), others - 1  # so many rows on is one on along an anti-diagonal
    nowhere = torch.full_like(flat[:1], math.inf).expand(points + 1, -1)
    # Row i + 1 of a diagonal is its place in row i of the matrix; row 0 is outside, where alignments begin.
    before, last = torch.cat([torch.zeros_like(flat[:1]), nowhere[1:]]), nowhere
    for diagonal in range(points + others - 1):
        low, high = max(0, diagonal - others + 1), min(diagonal + 1, points)
        cost = flat[diagonal + low * step : diagonal + (high - 1) * step + 1 : max(1, step)]
        here = cost + _soft_minimum(last[low:high], last[low + 1 : high + 1], before[low:high], gamma)
        before, last = last, torch.cat([nowhere[: low + 1], here, nowhere[: points - high]])
    return last[points]


def _soft_minimum(a: Tensor, b: Tensor, c: Tensor, gamma: float) -> Tensor:
    least = torch.minimum(torch.minimum(a, b), c)
    if not gamma:
        return least
    a, b, c = (((least - each) / gamma).clamp_min(NEGLIGIBLE).exp() for each in (a, b, c))
    return least - gamma * (a + b + c).log()


def _excess(a_NCP: Tensor, b_NCP: Tensor, own_a: Tensor, own_b: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Soft-DTW of chosen pairs beyond that of either with itself, a few pairs at a time: (B,)."""
    pairs = zip(row.split(PAIRS), column.split(PAIRS), strict=True)
    between = torch.cat([_softly(a_NCP[one], b_NCP[other]) for one, other in pairs])
    return (between - (own_a[row] + own_b[column]) / 2).clamp_min(0)


def _softly(a_BCP: Tensor, b_BCQ: Tensor) -> Tensor:
    """Soft-DTW (B,) of pairs of envelopes, the cost being their squared distance."""
    cost = a_BCP.new_zeros(a_BCP.shape[2], b_BCQ.shape[2], len(a_BCP))
    # Pairs side by side in memory, as all of them take each step together.
    for a, b in zip(*(each.permute(1, 2, 0).contiguous() for each in (a_BCP, b_BCQ)), strict=True):
        gap = a[:, None] - b
        cost.addcmul_(gap, gap)
    return soft_dtw(cost, GAMMA)


def _envelopes(wave_NCT: Tensor) -> Tensor:
    """Root mean squares over up to 128 equal stretches of time, (N, C, P)."""
    return F.adaptive_avg_pool1d(wave_NCT.square(), min(POINTS, wave_NCT.shape[-1])).sqrt()


def _looks(wave_NCT: Tensor, band: Band) -> Tensor:
    return torch.cat([_look(chunk, band) for chunk in wave_NCT.split(CHUNK)])


def _look(wave_NCT: Tensor, band: Band) -> Tensor:
    envelope = metrics.log_envelope(wave_NCT, band.fs_hz)
    spectrum = metrics.log_psd(wave_NCT, band.fs_hz, band.low_hz, band.high_hz)
    return appearance({"envelope": envelope.flatten(1), "log_psd": spectrum.flatten(1)})


def _nearest(one_ND: Tensor, other_ND: Tensor) -> Tensor:
    """Distance of each to its nearest neighbour among others, exact however small: (N,)."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(some, other_ND, compute_mode=exact).amin(1) for some in one_ND.split(CHUNK)])


def _require(real_NCT: Tensor, fake_NCT: Tensor, train_NCT: Tensor | None = None) -> None:
    for name, wave in (("real", real_NCT), ("generated", fake_NCT)):
        if len(wave) < 2:
            raise ValueError(f"only {len(wave)} {name} windows to compare; expected at least 2")
    if train_NCT is not None and not len(train_NCT):
        raise ValueError("no training windows to compare with; expected at least 1")
