"""The build keeps its promises: instructions, flags, contents, and installs without a compiler.

The tests of the machine code look at the modules that are installed. The others build from the
source tree, in a temporary folder, and are skipped where the suite runs without it.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import fusedloss as fl

ROOT = Path(__file__).resolve().parents[1]
TREE = (ROOT / "setup.py").exists()
KERNELS = Path(fl.__file__).parent / "kernels"
LINUX_X86 = sys.platform == "linux" and os.uname().machine == "x86_64"

needs_tree = pytest.mark.skipif(not TREE, reason="the source tree is not here")


def build_tools():
    """Skip without what a build needs; the environment of ./ci/test has it."""
    for module in ("setuptools", "Cython"):
        pytest.importorskip(module)


# ------------------------------------------------------------------------------------ machine code


def disassembly(name):
    """Return {symbol: its instructions, a list of strings} of an installed module."""
    if not LINUX_X86:
        pytest.skip("the expected instructions are those of x86-64, read with binutils")
    if not shutil.which("objdump"):
        pytest.skip("objdump is not installed")
    found = [path for path in KERNELS.glob(f"{name}.*") if path.suffix == ".so"]
    if not found and os.environ.get("FUSEDLOSS_REQUIRE_NATIVE") != "1":
        if os.environ.get("FUSEDLOSS_REQUIRE_NATIVE") == "1":
            pytest.fail(f"FUSEDLOSS_REQUIRE_NATIVE=1, but {name} is not built")
        pytest.skip(f"{name} is not built here")
    (path,) = found
    return disassemble(path)


def disassemble(path):
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions = {}
    instructions = []
    for line in text.splitlines():
        if match := re.fullmatch(r"[0-9a-f]+ <(.+)>:", line):
            instructions = functions.setdefault(match[1], [])
        elif "\t" in line:
            instructions.append(line.split("\t", 1)[1])
    assert functions, f"objdump printed no function of {path}"
    return functions


def count(functions, pattern):
    return sum(bool(re.search(pattern, line)) for lines in functions.values() for line in lines)


# AVX and later: mnemonics with a v, but for a few of protected mode and of virtual machines.
VEX = r"^v(?!err|erw|mcall|mmcall|mrun)[a-z]"


def test_cpu_has_no_instruction_above_the_baseline():
    functions = disassembly("cpu")
    assert count(functions, VEX) == 0
    assert count(functions, r"%[yz]mm") == 0
    assert count(functions, r"^cpuid") > 0  # we are looking at the right thing


def test_v3_has_256_bit_code_and_nothing_wider():
    functions = disassembly("x86_64_v3")
    assert count(functions, r"%ymm") > 100
    assert count(functions, r"%zmm|%k[0-7]") == 0
    assert count(functions, r"%[xy]mm(1[6-9]|2\d|3[01])") == 0  # registers that only AVX-512 has


# The loops over items, by part of their names. Which of them the compiler inlines into which is its
# own business; what each of the two halves of the kernels must have is vector arithmetic.
HOT = {
    "softmax": r"softmax_block|scan_columns|(float|double)_lanes|write_chunk|scan_(floats|doubles)",
    "pointwise": r"pointwise_block|[a-z]_chunk",
}


@pytest.mark.parametrize(("dtype", "suffix"), [("float32", "s"), ("float64", "d")])
@pytest.mark.parametrize("family", HOT)
@pytest.mark.parametrize(("module", "register"), [("x86_64_v3", "ymm"), ("x86_64_v4", "zmm")])
def test_loops_over_items_multiply_and_add_in_full_registers(
    module, register, family, dtype, suffix
):
    hot = {
        name: lines for name, lines in disassembly(module).items() if re.search(HOT[family], name)
    }
    assert hot, f"no function named like {HOT[family]} in {module}"
    assert count(hot, rf"^vfn?m(add|sub)\d+p{suffix}\s.*%{register}") > 10


@pytest.mark.parametrize("module", ["cpu", "x86_64_v3", "x86_64_v4"])
def test_nothing_sets_flush_to_zero(module):
    functions = disassembly(module)
    assert "set_fast_math" not in functions
    assert count(functions, r"ldmxcsr") == 0


@pytest.mark.parametrize("module", ["x86_64_v3", "x86_64_v4"])
def test_no_function_of_the_mathematical_library_is_called(module):
    """Its results depend on its release, and a call for each item ends vectorisation."""
    disassembly(module)  # skips where there is none
    (path,) = KERNELS.glob(f"{module}.*.so")
    symbols = subprocess.run(
        ["objdump", "-T", str(path)], capture_output=True, text=True, check=True
    ).stdout
    called = {line.split()[-1] for line in symbols.splitlines() if "*UND*" in line}
    assert "PyFloat_FromDouble" in called  # we are looking at the right thing
    forbidden = r"(exp|log|pow|fma|tanh|ldexp|frexp|rint|fmax|fmin)\w*|_ZGV\w+"
    assert not [name for name in called if re.fullmatch(forbidden, name)]


@pytest.mark.skipif(not LINUX_X86, reason="compares with /proc/cpuinfo")
def test_the_detected_level_is_the_one_that_the_system_reports():
    cpu = pytest.importorskip("fusedloss.kernels.cpu")
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    v3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "abm", "popcnt", "lahf_lm"} <= flags
    v4 = v3 and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags
    assert cpu.detected_isa() == ("x86-64-v4" if v4 else "x86-64-v3" if v3 else "x86-64")
    costly = v4 and "avx512_vbmi2" not in flags
    assert cpu.preferred_isa() == ("x86-64-v3" if costly else cpu.detected_isa())


# -------------------------------------------------------------------------------- choosing a level


def python(code, **environment):
    """Run code in a new interpreter that finds the same fusedloss; return the finished process."""
    inherited = {key: value for key, value in os.environ.items() if key[:10] != "FUSEDLOSS_"}
    inherited["PYTHONPATH"] = str(Path(fl.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.usefixtures("compiled")
def test_one_level_is_imported_and_no_other():
    if fl.runtime_info()["detected_isa"] != "x86-64-v4":
        pytest.skip("a CPU that could run two levels is needed")
    code = (
        "import sys, fusedloss; print(sorted(m for m in sys.modules if '.kernels.x86' in m), "
        "fusedloss.runtime_info()['isa'])"
    )
    for level, module in [("x86-64-v3", "x86_64_v3"), ("x86-64-v4", "x86_64_v4")]:
        done = python(code, FUSEDLOSS_ISA=level)
        assert done.stdout.strip() == f"['fusedloss.kernels.{module}'] {level}", done.stderr


@pytest.mark.usefixtures("compiled")
def test_a_level_that_this_cpu_cannot_run_is_refused_with_what_it_can():
    detected = fl.runtime_info()["detected_isa"]
    impossible = "x86-64-v3" if detected == "aarch64" else "aarch64"
    done = python("import fusedloss", FUSEDLOSS_ISA=impossible)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    assert impossible in done.stderr.splitlines()[-1]
    assert detected in done.stderr.splitlines()[-1]


# ------------------------------------------------------------------------- source distribution


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution of this tree, unpacked."""
    if not TREE:
        pytest.skip("the source tree is not here")
    build_tools()
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    ignored = (".git", ".venv", "build", "dist", "wheelhouse", "out", "*.so", "*.egg-info", ".*")
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*ignored, "__pycache__"))
    hook("build_sdist", tree, folder)
    (archive,) = folder.glob("fusedloss-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir() and path != tree)


def hook(name, tree, output, **environment):
    """Call a PEP 517 hook as an installer does; return the finished process."""
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from setuptools import build_meta as b; b.{name}({str(output)!r})",
        ],
        cwd=tree,
        env={k: v for k, v in os.environ.items() if k != "FUSEDLOSS_REQUIRE_NATIVE"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    if not environment:
        assert process.returncode == 0, process.stdout
    return process


def test_the_source_distribution_has_every_committed_file_that_a_build_or_test_needs(sdist):
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "src",
            "tests",
            "benches",
            "ci",
            "*.toml",
            "*.md",
            "setup.py",
            "LICEN*",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    # Deleted ones are still listed until that is committed.
    missing = [name for name in listed if (ROOT / name).exists() and not (sdist / name).exists()]
    assert missing == []


def test_the_source_distribution_has_no_build_product(sdist):
    names = [str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()]
    assert [
        name for name in names if re.search(r"\.(so|pyd|pyc|o)$|^build/|kernels/.*\.c$", name)
    ] == []


@needs_tree
def test_the_version_has_one_home():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fusedloss.__version__"}
    assert "version" not in project["project"]
    literal = re.compile(
        r"""^\s*__version__\s*=|["']""" + re.escape(fl.__version__) + """["']""", re.M
    )
    homes = [
        path for path in (ROOT / "src").rglob("*.py") if literal.search(path.read_text("utf-8"))
    ]
    assert homes == [ROOT / "src" / "fusedloss" / "__init__.py"]


def test_the_installed_version_is_that_of_the_package():
    try:
        installed = metadata.version("fusedloss")
    except metadata.PackageNotFoundError:
        pytest.skip("run from the tree, not installed")
    assert installed == fl.__version__


# ------------------------------------------------------------------ builds that lack something


def test_without_a_compiler_the_install_warns_once_and_computes(sdist, tmp_path):
    process = hook("build_wheel", sdist, tmp_path, CC="/bin/false")
    assert process.returncode == 0, process.stdout
    assert process.stdout.count("fusedloss has no compiled kernels") == 1
    assert "no C compiler was found" in process.stdout

    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]
        archive.extractall(site)
    code = f"""
import warnings
warnings.simplefilter("error")
import fusedloss as fl
info = fl.runtime_info()
assert fl.__file__.startswith({str(site)!r}), fl.__file__
assert info["isa"] is None
assert info["not_taken"]["cython"], info
with fl.use_backend("numpy"):
    value, grad = fl.cross_entropy.value_and_grad([[2.0, 1.0], [0.0, 0.0]], [0, 1])
assert abs(value - 0.5032044340) < 1e-9, value
assert abs(grad[0, 0] + 0.1344707107) < 1e-9, grad
print(info["backend"])
"""
    for setting in ["", "numpy"]:
        done = python(code, PYTHONPATH=str(site), FUSEDLOSS_BACKEND=setting)
        best = "numba" if find_spec("numba") else "numpy"
        assert done.stdout.strip() == (setting or best), done.stderr


def without_openmp(folder):
    """A compiler that does not know -fopenmp."""
    compiler = folder / "cc"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec "${REAL_CC:-cc}" "$@"\n'
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    return str(compiler)


@pytest.mark.skipif(os.name != "posix", reason="replaces the compiler by a shell script")
def test_require_native_turns_a_missing_compiler_or_openmp_into_an_error(sdist, tmp_path):
    required = {"FUSEDLOSS_REQUIRE_NATIVE": "1"}
    process = hook("build_wheel", sdist, tmp_path, CC="/bin/false", **required)
    assert process.returncode != 0
    assert "FUSEDLOSS_REQUIRE_NATIVE=1, but no C compiler was found" in process.stdout
    if sys.platform == "linux":
        process = hook("build_wheel", sdist, tmp_path, CC=without_openmp(tmp_path), **required)
        assert process.returncode != 0
        assert "FUSEDLOSS_REQUIRE_NATIVE=1, but OpenMP does not compile" in process.stdout
    assert not list(tmp_path.glob("*.whl"))


@pytest.fixture
def skeleton(sdist, tmp_path):
    """The source distribution with kernels that compile in no time: to test how they are built."""
    tree = tmp_path / "skeleton"
    shutil.copytree(sdist, tree)
    kernels = tree / "src" / "fusedloss" / "kernels"
    for path in [*kernels.glob("*.pxi"), *kernels.glob("*.pyx")]:
        if path.name != "cpu.pyx":
            path.unlink()
    for name in ("x86_64_v3", "x86_64_v4", "generic"):
        (kernels / f"{name}.pyx").write_text(
            "from cython.parallel cimport prange\n"
            "def total(int n):\n"
            "    cdef double sum = 0\n"
            "    cdef int i\n"
            "    for i in prange(n, nogil=True):\n"
            "        sum += i\n"
            "    return sum\n"
        )
    return tree


def build_in_place(tree, **environment):
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return tree / "src" / "fusedloss" / "kernels"


@pytest.mark.skipif(not LINUX_X86, reason="the flags are those of GCC and clang on x86-64")
def test_flags_from_the_environment_change_neither_results_nor_levels(skeleton):
    fast = "-Ofast -march=native -funsafe-math-optimizations"
    kernels = build_in_place(skeleton, CFLAGS=fast, LDFLAGS=fast)
    (cpu,) = kernels.glob("cpu.*.so")
    (v3,) = kernels.glob("x86_64_v3.*.so")
    if shutil.which("objdump"):
        assert count(disassemble(cpu), VEX) == 0
        assert count(disassemble(v3), r"%zmm") == 0
    code = f"""
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
for name, path in [("cpu", {str(cpu)!r}), ("x86_64_v3", {str(v3)!r})]:
    loader = ExtensionFileLoader("fusedloss.kernels." + name, path)
    loader.exec_module(module_from_spec(spec_from_loader(loader.name, loader)))
smallest = float("5e-324")
print(smallest * 1.0 != 0.0 and smallest + smallest != 0.0)
"""
    if fl.runtime_info()["detected_isa"] not in ("x86-64-v3", "x86-64-v4"):
        pytest.skip("this CPU cannot run the module")
    assert python(code).stdout.strip() == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="replaces the compiler by a shell script")
def test_without_openmp_the_kernels_are_serial(skeleton, tmp_path):
    kernels = build_in_place(skeleton, CC=without_openmp(tmp_path), FUSEDLOSS_REQUIRE_NATIVE="0")
    built = [path.name.split(".")[0] for path in kernels.glob("*.so")]
    assert len(built) >= 2
    for path in kernels.glob("*.so"):
        assert b"GOMP_" not in path.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="the flags are those of GCC and clang on Linux")
def test_two_builds_in_two_folders_are_equal(skeleton, tmp_path):
    other = tmp_path / "another folder"
    shutil.copytree(skeleton, other)
    first, second = build_in_place(skeleton), build_in_place(other)
    for path in first.glob("*.so"):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.skipif(sys.platform != "linux", reason="the list of levels is that of Linux")
def test_a_change_of_an_included_file_or_of_the_flags_rebuilds_the_modules(skeleton):
    kernels = build_in_place(skeleton)
    included = kernels / "extra.pxi"
    included.write_text("def extra():\n    return 1\n")
    for path in kernels.glob("*.pyx"):
        if path.name != "cpu.pyx":
            path.write_text(path.read_text() + 'include "extra.pxi"\n')
    build_in_place(skeleton)

    def times():
        return {path: path.stat().st_mtime_ns for path in kernels.glob("[xg]*.so")}

    before = times()
    assert before
    build_in_place(skeleton)
    assert times() == before  # nothing to do
    for changed in (included, skeleton / "setup.py"):
        before = times()
        os.utime(changed, ns=(time.time_ns(),) * 2)
        build_in_place(skeleton)
        assert all(times()[path] > before[path] for path in before), changed
