"""The constants of the kernels: made by their script, and as accurate as their comments say."""

import importlib.util
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

mpmath = pytest.importorskip("mpmath")

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "ci" / "fit_polynomials.py"
KERNELS = ROOT / "src" / "fusedloss" / "kernels"

if not SCRIPT.exists() or not KERNELS.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

TEXT = (KERNELS / "coefficients.pxi").read_text(encoding="utf-8")


def load(path):
    """The script as a module; ci/ is not a package. It sets mpmath's precision, which is global."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    with mpmath.workprec(mpmath.mp.prec):
        specification.loader.exec_module(module)
    return module


script = load(SCRIPT)
VALUES = script.committed_values(TEXT)
with mpmath.workprec(240):
    FITS = {fit.prefix: fit for fit in script.fits()}


@pytest.fixture(autouse=True)
def precision():
    with mpmath.workprec(240):
        yield


def stated_bound(fit):
    """The relative error that the comment above the coefficients of `fit` states."""
    comment = TEXT[: TEXT.index(f"#define {fit.prefix}{fit.powers[0]} ")].rpartition("/*")[2]
    return mpmath.mpf(2) ** mpmath.mpf(re.search(r"relative error <= 2\^(-\d+\.\d+)", comment)[1])


def committed(fit):
    """Power -> committed coefficient of `fit`."""
    return {k: mpmath.mpf(VALUES[f"{fit.prefix}{k}"]) for k in fit.powers}


@pytest.mark.parametrize("prefix", FITS)
def test_polynomial_keeps_its_stated_bound(prefix):
    # Equal steps: other points than the script's own grid.
    fit = FITS[prefix]
    coefficients, bound = committed(fit), stated_bound(fit)
    points = [fit.low + (fit.high - fit.low) * i / 701 for i in range(702)]
    errors = [abs(fit.error(coefficients, u)) for u in points if u != 0]
    assert max(errors) <= bound
    assert max(errors) > bound / 2, "the stated bound is not the error of these coefficients"


def test_every_committed_polynomial_is_a_fit_of_the_script():
    numbered = {m[1] for name in VALUES if (m := re.fullmatch(r"(FL_\w+_C)\d+", name))}
    assert numbered == set(FITS)
    for fit in FITS.values():
        names = {name for name in VALUES if re.fullmatch(rf"{fit.prefix}\d+", name)}
        assert names == {f"{fit.prefix}{k}" for k in fit.powers}


def test_float32_exp_coefficients_are_what_the_script_fits():
    comment, bits, values = script.solved(FITS["FL_EXPF_C"])
    assert comment.replace("\n", "\n       ") in TEXT
    for name, value in values.items():
        assert f"    #define {name} ({script.literal(value, bits)})\n" in TEXT


@pytest.mark.slow
def test_file_is_what_the_script_writes():
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_macro_is_declared_with_the_type_of_its_literal():
    found = re.findall(r"^    const (float|double) (\w+)$", TEXT, re.M)
    declared = {name: kind for kind, name in found}
    macros = re.findall(r"#define (\w+) \((-?0x[0-9a-f.]+p[+-]\d+)(f?)\)", TEXT)
    assert declared == {name: "float" if suffix else "double" for name, _, suffix in macros}
    for name, digits, suffix in macros:
        value = float.fromhex(digits)
        assert script.is_float32(name) == bool(suffix)
        assert not suffix or float(np.float32(value)) == value, f"{name} is no float32"


def test_kernels_use_only_constants_that_exist():
    used = set()
    for path in [*KERNELS.glob("*.pxi"), *KERNELS.glob("*.pyx"), *KERNELS.glob("*.h")]:
        if path.name != "coefficients.pxi":
            kinds = r"LOG2E|LN2|EXP|EXPT|LOG|LOGT|LOG1P"
            names = rf"\bFL_(?:{kinds})F?(?:_(?:SPLIT_)?(?:HI|LO)|_[CTEL]\d+)?\b"
            used.update(re.findall(names, path.read_text(encoding="utf-8")))
    assert used <= set(VALUES)


def test_parts_of_ln_2_add_up_and_leave_room_for_the_product():
    ln2 = mpmath.log(2)
    for prefix, bits in [("FL_LN2F", 24), ("FL_LN2", 53), ("FL_LN2_SPLIT", 53)]:
        high, low = mpmath.mpf(VALUES[f"{prefix}_HI"]), mpmath.mpf(VALUES[f"{prefix}_LO"])
        assert low == script.rounded(ln2 - high, bits)
    high = Fraction(VALUES["FL_LN2_SPLIT_HI"])
    for k in (1, 1023, 2047, 2099, 2100):
        assert Fraction(float(k * high)) == k * high


def test_emulated_fma_rounds_once():
    # The measurements below mean nothing if the emulation is wrong. Exact values: fractions.
    fma32, fma64 = script.float_parts(np)
    generator = np.random.default_rng(5)
    for fma, dtype, bits in [(fma32, np.float32, 24), (fma64, np.float64, 53)]:
        a, b = (generator.uniform(-2, 2, 3000).astype(dtype) for _ in range(2))
        c = (-a * b * generator.choice([1, 1, 0.5, 1e-3, 1e5], 3000)).astype(dtype)  # cancels
        c[::7] = dtype(2.0) ** (bits - 1) * np.sign(c[::7])
        once = [
            script.rounded(mpmath.mpf(float(x)) * mpmath.mpf(float(y)) + mpmath.mpf(float(z)), bits)
            for x, y, z in zip(a, b, c, strict=True)
        ]
        assert [mpmath.mpf(float(v)) for v in fma(a, b, c)] == once
        assert not np.array_equal(fma(a, b, c), a * b + c)


# Largest errors in ulp that the recipes of the kernels may have with these coefficients, with the
# inputs that came out worst in exhaustive (float32) or random (float64) runs of --measure.
RECIPES = {
    "expf": (0.9, ["-0x1.765026p+2", "0x1.86ec5cp+5"], (-87, 87)),
    "exptf": (0.6, ["0x1.8c5eb2p+2", "-0x1.a62e8cp+4"], (-87, 87)),
    "log1pexpf": (1.03, ["-0x1.473986p+1", "-0x1.48bfaep+1"], (-87, 0)),
    "log1pf": (1.15, ["0x1.fec266p-1", "0x1.fca2a8p-1"], (2**-13, 1)),
    "exp": (0.9, ["0x1.a40ffe4d12f8p+6", "-0x1.6660e9face444p-2"], (-700, 700)),
    "expt": (0.62, ["0x1.202ee6aec6ad6p-1", "-0x1.2ea12b5f98046p+9"], (-700, 700)),
    "log": (0.9, ["0x1.69c12d02d1289p+0", "0x1.677baf70f13d5p+0"], (0.5, 2)),
    "log1p": (0.9, ["0x1.9dda557754b3cp-2", "0x1.a00778f9043ccp-2"], (0, 1)),
}

SAME = {"expf": "exp", "exptf": "exp", "expt": "exp", "log1pf": "log1p"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_stays_below_its_error_in_emulated_arithmetic(name):
    bound, worst, (low, high) = RECIPES[name]
    dtype, bits = (np.float32, 24) if name.endswith("f") else (np.float64, 53)
    function = script.log1pexp if name == "log1pexpf" else getattr(mpmath, SAME.get(name, name))
    random = np.random.default_rng(11).uniform(low, high, 1500)
    x = np.concatenate([[float.fromhex(v) for v in worst], random]).astype(dtype)
    got = getattr(script.Recipes(VALUES), name)(x)
    errors = [script.exact_ulps(g, v, function, bits) for g, v in zip(got, x, strict=True)]
    assert max(errors) <= bound, x[int(np.argmax(errors))].item().hex()
