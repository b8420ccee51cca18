"""Newton-Schulz against singular value decompositions in float64; tolerances as measured."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minigpt.optim import newton_schulz
from minigpt.optim.newton_schulz import (
    EXACT,
    KELLER,
    coefficients_of,
    dtype_of,
    flops,
    orthogonalise,
)

KELLER_5 = coefficients_of("keller")


def relative(x, reference):
    return ((x.double() - reference.double()).norm() / reference.double().norm()).item()


def gaussian(rows, columns, seed=0, dtype=torch.float64):
    return torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def built(rows, columns, singular_values, seed=0):
    """U diag(s) V^T in float64, with its U and V."""
    r = len(singular_values)
    u = torch.linalg.qr(gaussian(rows, r, seed)).Q
    v = torch.linalg.qr(gaussian(columns, r, seed + 1)).Q
    return u @ torch.diag(singular_values) @ v.T, u, v


def conditioned(rows, columns, smallest):
    """One singular value of 1, the others from `smallest` to 0.1.

    Divided by the norm they nearly span [smallest, 1].
    """
    s = torch.logspace(
        torch.tensor(smallest).log10().item(), -1.0, min(rows, columns), dtype=torch.float64
    )
    s[-1] = 1.0
    return built(rows, columns, s)


@pytest.mark.parametrize("shape", [(96, 32), (32, 96), (48, 48)])
@pytest.mark.parametrize(
    ("schedule", "smallest", "band"),
    [
        ("keller", 6e-3, (0.67, 1.17)),
        ("polar_express", 2e-3, (0.84, 1.16)),
        ("exact", 6e-3, (0.999, 1.001)),
    ],
)
def test_singular_values_end_in_the_schedules_band_and_directions_stay(
    shape, schedule, smallest, band
):
    matrix, u, v = conditioned(*shape, smallest)
    o = orthogonalise(matrix, coefficients_of(schedule), torch.float64)
    inner = u.T @ o @ v  # diagonal, were U and V untouched
    s = inner.diagonal()
    assert band[0] <= s.min()
    assert s.max() <= band[1]
    assert (inner - torch.diag(s)).abs().max() < 1e-4


def test_the_bands_hold_for_every_singular_value_not_only_for_samples():
    for schedule, smallest, (low, high) in [
        ("keller", 5e-3, (0.67, 1.17)),
        ("polar_express", 1e-3, (0.84, 1.16)),
    ]:
        s = torch.logspace(torch.tensor(smallest).log10().item(), 0, 100_001, dtype=torch.float64)
        for a, b, c in coefficients_of(schedule):
            s = a * s + b * s**3 + c * s**5
        assert low < s.min()
        assert s.max() < high


def test_polar_express_survives_what_bf16_rounds_above_one():
    """Without its safety factor it explodes at 1.004; a rank-one matrix sits exactly at 1."""
    for seed in range(20):
        matrix = gaussian(64, 1, seed) @ gaussian(1, 96, seed + 100)
        o = orthogonalise(matrix, coefficients_of("polar_express"), torch.bfloat16)
        assert 0.8 < torch.linalg.matrix_norm(o.double(), 2) < 1.2


@pytest.mark.parametrize("steps", [1, 3, 5, 8, 12])
def test_schedules_give_as_many_polynomials_as_asked_and_repeat_the_last(steps):
    assert len(coefficients_of("exact", steps)) == steps
    assert coefficients_of([[2.0, -1.5, 0.5], [1.875, -1.25, 0.375]], steps)[-1] == (
        (1.875, -1.25, 0.375) if steps > 1 else EXACT
    )
    assert KELLER_5 == (KELLER,) * 5


def test_more_steps_of_polar_express_converge():
    matrix, u, v = conditioned(32, 48, 2e-3)
    o = orthogonalise(matrix, coefficients_of("polar_express", 10), torch.float64)
    assert relative(o, u @ v.T) < 1e-6


def test_a_divergent_schedule_is_refused():
    with pytest.raises(ValueError, match=r"diverges: singular value .* explodes"):
        coefficients_of([[8.0, 1.0, 1.0]], 5)
    with pytest.raises(ValueError, match="diverges"):
        coefficients_of([[float("nan"), 1.0, 1.0]])
    with pytest.raises(ValueError, match="diverges"):  # Polar Express without its safety factor
        coefficients_of([list(polynomial) for polynomial in newton_schulz._POLAR_EXPRESS[:5]])


def test_precision_by_dtype():
    matrix = gaussian(128, 256)
    reference = orthogonalise(matrix, KELLER_5, torch.float64)
    assert relative(orthogonalise(matrix, KELLER_5, torch.float32), reference) < 1e-4
    assert 1e-4 < relative(orthogonalise(matrix, KELLER_5, torch.bfloat16), reference) < 2e-2


TOLERANCE = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCE)
def test_rotating_the_input_rotates_the_output(dtype, tolerance):
    matrix = gaussian(64, 96)
    left, right = torch.linalg.qr(gaussian(64, 64, 1)).Q, torch.linalg.qr(gaussian(96, 96, 2)).Q
    rotated = orthogonalise(left @ matrix @ right, KELLER_5, dtype)
    expected = left @ orthogonalise(matrix, KELLER_5, dtype).double() @ right
    assert relative(rotated, expected) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCE[:2])
def test_transposing_commutes(dtype, tolerance):
    for shape in ((64, 64), (96, 32)):
        matrix = gaussian(*shape)
        transposed = orthogonalise(matrix.T.contiguous(), KELLER_5, dtype)
        assert relative(transposed.T, orthogonalise(matrix, KELLER_5, dtype)) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_powers_of_two_and_signs_change_no_bit(dtype):
    matrix = gaussian(48, 80, dtype=torch.float32)
    plain = orthogonalise(matrix, KELLER_5, dtype)
    for factor in (2.0**-10, 2.0**7):
        assert torch.equal(orthogonalise(matrix * factor, KELLER_5, dtype), plain)
    assert torch.equal(orthogonalise(-matrix, KELLER_5, dtype), -plain)


@pytest.mark.parametrize("shape", [(512, 448), (448, 512)])
def test_rank_is_kept(shape):
    """Rounding noise in the zero singular values grows 3.4445^5 = 485-fold.

    It reaches 1.3e-5 at 64 x 96, less where larger. The factors are exact in fp32.
    """
    matrix = (2 * gaussian(shape[0], 5, 1)).round() @ (2 * gaussian(5, shape[1], 2)).round()
    s = torch.linalg.svdvals(orthogonalise(matrix.float(), KELLER_5, torch.float32).double())
    assert s[4] > 0.67
    assert s[0] < 1.17
    assert s[5:].max() < 1e-5


def test_zero_rows_stay_exactly_zero_and_a_zero_matrix_is_fine():
    matrix = gaussian(32, 48, dtype=torch.float32)
    matrix[3:7] = 0
    for dtype in (torch.float32, torch.bfloat16):
        assert orthogonalise(matrix, KELLER_5, dtype)[3:7].abs().max() == 0
        assert orthogonalise(torch.zeros(8, 4), KELLER_5, dtype).abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)])
def test_vectors_in_matrix_shape_become_unit_vectors_within_the_band(shape):
    matrix = gaussian(*shape)
    o = orthogonalise(matrix, KELLER_5, torch.float64)
    assert 0.67 < o.norm() < 1.17
    assert relative(o / o.norm(), matrix / matrix.norm()) < 1e-12


def test_the_input_is_not_changed():
    for dtype in (torch.float32, torch.bfloat16):
        matrix = gaussian(16, 8, dtype=dtype)
        kept = matrix.clone()
        orthogonalise(matrix, KELLER_5, dtype)
        assert torch.equal(matrix, kept)


@pytest.mark.parametrize("shape", [(48, 96), (96, 48), (64, 64)])
@pytest.mark.parametrize("steps", [5, 12])
def test_flops_equal_the_count_of_the_matrix_products(shape, steps):
    with FlopCounterMode(display=False) as counter:
        orthogonalise(torch.ones(shape), coefficients_of("exact", steps))
    assert flops(*shape, steps) == counter.get_total_flops()


def test_dtype_rule(monkeypatch):
    cached = dtype_of.__wrapped__
    monkeypatch.setattr("minigpt.formats.native_bf16", lambda device: device == "cpu")
    assert cached("auto", "cpu") == torch.bfloat16
    monkeypatch.setattr("minigpt.formats.native_bf16", lambda device: False)
    assert cached("auto", "cpu") == torch.float32
    assert cached("bf16", "cpu") == torch.bfloat16
    assert cached("fp32", "cuda") == torch.float32
    assert cached("auto", "meta") == torch.float32
