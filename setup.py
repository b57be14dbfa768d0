"""Build of the compiled kernels; everything else about the package is in pyproject.toml.

There is one extension module per instruction set level, compiled from the same Cython source with
other flags, and `fusedloss.kernels.cpu`, compiled for the plain baseline, which says which of them
this CPU can run.

Environment:

FUSEDLOSS_REQUIRE_NATIVE=1
    A missing compiler, Cython, NumPy or OpenMP is an error. Otherwise the package is installed
    without what could not be built, with one warning, and computes with Numba or NumPy.
CC, CFLAGS, LDFLAGS
    As usual. Flags that would change floating-point results are cancelled.
LIBOMP_PREFIX
    macOS: the folder with include/omp.h and lib/libomp.dylib, if it is not one of Homebrew's.
"""

import os
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

REQUIRE = os.environ.get("FUSEDLOSS_REQUIRE_NATIVE") == "1"
SANITIZE = "-fsanitize" in os.environ.get("CFLAGS", "")
PLATFORM = (os.environ.get("_PYTHON_HOST_PLATFORM") or sysconfig.get_platform()).lower()
LINUX, MACOS = PLATFORM.startswith("linux"), PLATFORM.startswith("macosx")

KERNELS = "src/fusedloss/kernels"

# Module name -> (flags for GCC and clang, flags for MSVC). The baseline is stated too: a
# -march=native in the user's CFLAGS would otherwise put instructions into `cpu` that the machines
# it must run on do not have.
BASELINE = ([], [])
LEVELS = {}
if "aarch64" in PLATFORM or "arm64" in PLATFORM:
    BASELINE = ([] if MACOS else ["-march=armv8-a"], [])
    LEVELS = {"generic": BASELINE}
elif ("x86_64" in PLATFORM or "amd64" in PLATFORM) and not MACOS:
    BASELINE = (["-march=x86-64"], [])
    LEVELS = {
        "x86_64_v3": (["-march=x86-64-v3"], ["/arch:AVX2"]),
        # Without the second flag some -mtune settings prefer 256-bit registers.
        "x86_64_v4": (["-march=x86-64-v4", "-mprefer-vector-width=512"], ["/arch:AVX512"]),
    }

# A shared object linked with -ffast-math or its relatives sets flush-to-zero for the whole process
# (GCC < 13). The flags may come from the environment; these three, last on the compile and on the
# link line, cancel all of them.
NO_FTZ = ["-O1" if SANITIZE else "-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"]
GCC_COMPILE = [
    "-std=c11",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    f"-ffile-prefix-map={os.getcwd()}=.",  # the same bytes from any directory
    "-Wno-unused-function",  # Cython's helpers, of which no module uses all
    *NO_FTZ,
    "-fno-math-errno",  # errno is never read
    "-fno-trapping-math",  # nor are exception flags: both sides of a select may be evaluated
    "-ffp-contract=off",  # fma only where the source says so: the same bits on every level
    # GCC unrolls loops of up to 16 steps before it looks for vectors; our lanes are 16.
    "--param=max-completely-peel-times=15",
    # With its own 40 % of growth by inlining GCC calls logarithms from loops, for twice the time.
    "--param=inline-unit-growth=65",
    # GCC 12 takes (double)(float)x for x where it makes vectors of straight-line code.
    "-fno-tree-slp-vectorize",
]
# GCC for x86-64 alone. It clears the 128 bytes of 16 doubles by `rep stos`, which takes 40 cycles.
GCC_IF_KNOWN = ["-mmemset-strategy=vector_loop:2048:noalign,libcall:-1:noalign"]
GCC_LINK = [*NO_FTZ, *(["-Wl,--strip-debug"] if LINUX and not SANITIZE else [])]
MSVC_COMPILE = ["/O2", "/fp:precise", "/std:c11"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}

PYTHON_PROBE = "#include <Python.h>\nint fl_probe(void) { return PY_MAJOR_VERSION; }\n"
OPENMP_PROBE = "#include <omp.h>\nint fl_probe(void) { return omp_get_max_threads(); }\n"


class SourceDistribution(sdist):
    """What setuptools does not find by itself: Cython sources, tests, benches and scripts."""

    def make_distribution(self):
        for folder in ("src/fusedloss", "tests", "benches", "ci"):
            self.filelist.graft(folder)
        self.filelist.include("CHANGELOG.md")
        for built in ("*.py[cod]", "*.so", "*.pyd"):
            self.filelist.global_exclude(built)
        super().make_distribution()


class Unavailable(Exception):
    """Something that the kernels need is missing; the message says what."""


class BuildExt(build_ext):
    """Compile what this machine can compile, and say once what it could not."""

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = min(len(self.extensions or ()), os.cpu_count() or 1)

    def build_extensions(self):
        try:
            self.prepare()
        except Unavailable as missing:
            if REQUIRE:
                raise RuntimeError(f"FUSEDLOSS_REQUIRE_NATIVE=1, but {missing}") from missing
            self.warn(
                f"fusedloss has no compiled kernels, because {missing}: "
                "it will compute with Numba where that is installed, and with NumPy elsewhere"
            )
            self.extensions = []
        super().build_extensions()

    def prepare(self):
        """Check compiler, NumPy and Cython; translate the .pyx files; set each module's flags."""
        if not self.links(PYTHON_PROBE):
            raise Unavailable("no C compiler was found that can build extension modules")
        try:
            import numpy
            from Cython.Build import cythonize
        except ImportError as error:
            raise Unavailable(f"{error.name} is not installed") from error

        msvc = self.compiler.compiler_type == "msvc"
        openmp_compile, openmp_link = self.openmp(msvc)
        known = [flag for flag in GCC_IF_KNOWN if not msvc and self.links(PYTHON_PROBE, [flag])]
        for ext in self.extensions:
            level = LEVELS.get(ext.name.rpartition(".")[2])
            ext.extra_compile_args = [
                *(level or BASELINE)[msvc],
                *(openmp_compile if level else []),
                *(MSVC_COMPILE if msvc else GCC_COMPILE),
                *known,
            ]
            ext.extra_link_args = [*(openmp_link if level else []), *([] if msvc else GCC_LINK)]
            ext.include_dirs = [numpy.get_include(), KERNELS]

        # In processes, since Cython's compiler holds the GIL. Only the sources are taken over:
        # cythonize() returns new objects, without what setuptools has noted on these.
        translated = cythonize(
            [Extension(ext.name, ext.sources, depends=ext.depends) for ext in self.extensions],
            build_dir="build/cython",
            compiler_directives=DIRECTIVES,
            nthreads=int(self.parallel) if self.parallel and os.name == "posix" else 0,
            force=self.force,
        )
        sources = {ext.name: ext.sources for ext in translated}
        for ext in self.extensions:
            ext.sources = sources[ext.name]

    def openmp(self, msvc):
        """Compile and link flags for OpenMP; none where it does not work: serial kernels."""
        if msvc:
            candidates = [(["/openmp"], [])]
        elif MACOS:
            # Apple's clang knows the pragmas, but ships neither the header nor the library.
            prefixes = [os.environ.get("LIBOMP_PREFIX"), "/opt/homebrew/opt/libomp"]
            candidates = [
                (["-Xpreprocessor", "-fopenmp", f"-I{at}/include"], [f"-L{at}/lib", "-lomp"])
                for at in prefixes
                if at
            ]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
        for flags in candidates:
            if self.links(OPENMP_PROBE, *flags):
                return flags
        if REQUIRE:
            raise Unavailable("OpenMP does not compile and link")
        self.warn("OpenMP does not compile and link: fusedloss's kernels will use one thread")
        return [], []

    def links(self, source, compile_args=(), link_args=()):
        """Whether `source` gives a shared object; LDFLAGS are applied to nothing less."""
        exported = ["/EXPORT:fl_probe"] if self.compiler.compiler_type == "msvc" else []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            try:
                objects = self.compiler.compile(
                    [str(path)], output_dir=folder, extra_postargs=list(compile_args)
                )
                self.compiler.link_shared_object(
                    objects, str(path.with_suffix(".so")), extra_postargs=[*link_args, *exported]
                )
            except Exception:  # each compiler class has errors of its own
                return False
        return True


# Optional: where a compiler does not know the flags of a level, that module alone is left out.
EXTENSIONS = [
    Extension(
        f"fusedloss.kernels.{name}",
        [f"{KERNELS}/{name}.pyx"],
        depends=["setup.py"],  # its flags; included files are found by Cython
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        optional=not REQUIRE,
    )
    for name in ("cpu", *LEVELS)
]

setup(ext_modules=EXTENSIONS, cmdclass={"build_ext": BuildExt, "sdist": SourceDistribution})
