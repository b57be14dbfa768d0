"""Build of the compiled kernels; everything else about the package is in pyproject.toml.

There is one extension module per instruction set level, compiled from the same Cython source with other flags, and
`fusedloss.kernels.cpu`, compiled for the plain baseline, which says which of them this CPU can run.

Environment:

FUSEDLOSS_REQUIRE_NATIVE=1
    A missing compiler, Cython, NumPy or OpenMP is an error. Otherwise the package is installed without what could not
    be built, with one warning, and computes with Numba or NumPy.
CC, CFLAGS, LDFLAGS
    As usual. Flags that would change floating-point results are cancelled.
"""

import os
import sysconfig
import tempfile
import warnings
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REQUIRE = os.environ.get("FUSEDLOSS_REQUIRE_NATIVE") == "1"
SANITIZE = "-fsanitize" in os.environ.get("CFLAGS", "")
PLATFORM = (os.environ.get("_PYTHON_HOST_PLATFORM") or sysconfig.get_platform()).lower()

KERNELS = "src/fusedloss/kernels"

# Module name -> (flags for GCC and clang, flags for MSVC). The baseline is stated too: a -march=native in the user's
# CFLAGS would otherwise put instructions into `cpu` that the machines it must run on do not have.
BASELINE = ([], [])
LEVELS = {}
if "aarch64" in PLATFORM or "arm64" in PLATFORM:
    BASELINE = ([] if PLATFORM.startswith("macosx") else ["-march=armv8-a"], [])
    LEVELS = {"generic": BASELINE}
elif ("x86_64" in PLATFORM or "amd64" in PLATFORM) and not PLATFORM.startswith("macosx"):
    BASELINE = (["-march=x86-64"], [])
    LEVELS = {
        "x86_64_v3": (["-march=x86-64-v3"], ["/arch:AVX2"]),
        # Without the second flag some -mtune settings prefer 256-bit registers.
        "x86_64_v4": (["-march=x86-64-v4", "-mprefer-vector-width=512"], ["/arch:AVX512"]),
    }

# A shared object linked with -ffast-math or its relatives sets flush-to-zero for the whole process (GCC < 13). The flags
# may come from the environment; these three, last on the compile and on the link line, cancel all of them.
NO_FTZ = ["-O1" if SANITIZE else "-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"]
GCC_FLAGS = [
    "-std=c11",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    f"-ffile-prefix-map={os.getcwd()}=.",  # the same bytes from any directory
    "-fno-math-errno",  # we never read errno
    "-fno-trapping-math",  # nor floating-point exceptions: selects inside lane loops may be evaluated on both sides
    "-ffp-contract=off",  # fma only where the source says so: the same bits on every level
    *NO_FTZ,
]
GCC_LINK = [*NO_FTZ, *(["-Wl,--strip-debug"] if PLATFORM.startswith("linux") and not SANITIZE else [])]
MSVC_FLAGS = ["/O2", "/fp:precise", "/std:c11"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}


class Unavailable(Exception):
    """Something that the kernels need is missing; the message says what."""


class BuildExt(build_ext):
    """Compile what this machine can compile, and say once what it could not."""

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = min(len(self.extensions or [1]), os.cpu_count() or 1)

    def build_extensions(self):
        try:
            self.prepare()
        except Unavailable as missing:
            if REQUIRE:
                raise RuntimeError(f"FUSEDLOSS_REQUIRE_NATIVE=1, but {missing}") from missing
            warnings.warn(
                f"fusedloss is built without compiled kernels, because {missing}. "
                "It will compute with Numba where that is installed, and with NumPy elsewhere.",
                stacklevel=2,
            )
            self.extensions = []
        super().build_extensions()

    def prepare(self):
        """Check compiler, NumPy and Cython; translate the .pyx files; set each module's flags."""
        if not self.links("int fl_probe(void) { return 0; }\n", [], []):
            raise Unavailable("no working C compiler was found")
        try:
            import numpy
            from Cython.Build import cythonize
        except ImportError as error:
            raise Unavailable(f"{error.name} is not installed") from error

        msvc = self.compiler.compiler_type == "msvc"
        openmp_compile, openmp_link = self.openmp(msvc)
        for ext in self.extensions:
            level = LEVELS.get(ext.name.rpartition(".")[2])
            ext.extra_compile_args = [
                *(level or BASELINE)[msvc],
                *(openmp_compile if level else []),
                *(MSVC_FLAGS if msvc else GCC_FLAGS),
            ]
            ext.extra_link_args = [*(openmp_link if level else []), *([] if msvc else GCC_LINK)]
            ext.include_dirs = [numpy.get_include(), KERNELS]

        # In processes, since Cython's compiler holds the GIL. Only the sources are taken over: cythonize() returns
        # new objects without the attributes that setuptools has put on these.
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
        """Compile and link flags for OpenMP, empty where it does not work: then the kernels are serial."""
        if msvc:
            candidates = [(["/openmp"], [])]
        elif PLATFORM.startswith("macosx"):
            # Apple's clang knows the pragmas, but ships neither header nor library; LIBOMP_PREFIX says where they are.
            prefixes = [os.environ.get("LIBOMP_PREFIX"), "/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"]
            candidates = [
                (["-Xpreprocessor", "-fopenmp", f"-I{prefix}/include"], [f"-L{prefix}/lib", "-lomp"])
                for prefix in prefixes
                if prefix
            ]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
        for compile_args, link_args in candidates:
            if self.links(
                "#include <omp.h>\nint fl_probe(void) { return omp_get_max_threads(); }\n", compile_args, link_args
            ):
                return compile_args, link_args
        if REQUIRE:
            raise Unavailable("OpenMP does not compile and link")
        warnings.warn("fusedloss: OpenMP does not compile and link, so the kernels will use one thread", stacklevel=2)
        return [], []

    def links(self, source, compile_args, link_args):
        """Whether `source` compiles and links to a shared object (LDFLAGS are applied to nothing else)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            try:
                objects = self.compiler.compile([str(path)], output_dir=folder, extra_postargs=compile_args)
                exported = ["/EXPORT:fl_probe"] if self.compiler.compiler_type == "msvc" else []
                self.compiler.link_shared_object(
                    objects, str(path.with_suffix(".so")), extra_postargs=[*link_args, *exported]
                )
            except Exception:  # each compiler class has errors of its own
                return False
        return True


# A change in any of these files rebuilds all modules; listed by hand, since each level module includes nearly all of them.
INCLUDED = sorted(glob(f"{KERNELS}/*.pxi") + glob(f"{KERNELS}/*.pxd") + glob(f"{KERNELS}/*.h"))

EXTENSIONS = [
    Extension("fusedloss.kernels.cpu", [f"{KERNELS}/cpu.pyx"], optional=not REQUIRE),
    *(
        Extension(
            f"fusedloss.kernels.{level}",
            [f"{KERNELS}/{level}.pyx"],
            depends=INCLUDED,
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            optional=not REQUIRE,
        )
        for level in LEVELS
    ),
]

setup(ext_modules=EXTENSIONS, cmdclass={"build_ext": BuildExt})
