"""Build the kernels for aarch64 on another Linux machine, and run them under qemu-user.

    python ci/emulate_aarch64.py                     hashes of results, then the tests below
    python ci/emulate_aarch64.py --hashes            compare the hashes alone
    python ci/emulate_aarch64.py tests/test_ulp.py   arguments go to pytest instead of these tests
    python ci/emulate_aarch64.py --missing           name what is not there yet, and do nothing

What it needs is downloaded at the first run, by apt and pip: a cross compiler and an emulator,
Debian's or Ubuntu's Python for arm64 with its libraries, and a few wheels. It is unpacked into
build/aarch64 and not installed, so nobody has to be root; FUSEDLOSS_AARCH64 names another folder.
Delete the folder to have newer ones.

The hashes say that aarch64 gives the same bits as x86-64. Times mean nothing under emulation, and
races that come of the weaker order of memory on a real aarch64 do not show.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("FUSEDLOSS_AARCH64") or ROOT / "build" / "aarch64").resolve()
TOOLS, TARGET, SITE, DONE = (FOLDER / name for name in ("tools", "target", "site", "complete"))
BUILT = FOLDER / "package"

TRIPLET = "aarch64-linux-gnu"
TOOL_PACKAGES = (f"gcc-{TRIPLET}", "qemu-user-static")
TARGET_PACKAGES = ("python3-minimal", "libpython3-dev", "libgomp1", "libstdc++6")
WHEELS = ("numpy", "ml_dtypes", "pytest", "hypothesis", "mpmath", "threadpoolctl")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")

# The kernels' arithmetic and its corners; the rest of the suite does not depend on the processor.
TESTS = ("tests/test_tables.py", "tests/test_corner_cases.py", "-k", "cython or compiled")


def run(command, **options):
    """Run it, and show what it said if it failed."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{command[0]} failed, with status {done.returncode}")
    return done.stdout


# ---------------------------------------------------------------------------------- what it needs


def unpack(packages, folder, settings):
    """Download Debian packages and what they depend on, and lay out their files in `folder`.

    apt gets a state of its own: it needs no rights, and does not know what was unpacked before.
    """
    state = FOLDER / "apt" / folder.name
    for part in ("state/lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    configuration = state / "apt.conf"
    lines = {
        "Dir::State": state / "state",
        "Dir::Cache": state / "cache",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
        **settings,
    }
    configuration.write_text("".join(f'{name} "{value}";\n' for name, value in lines.items()))
    environment = {
        **os.environ,
        "APT_CONFIG": str(configuration),
        "DEBIAN_FRONTEND": "noninteractive",
    }
    run(["apt-get", "update"], env=environment)
    options = ("--yes", "--download-only", "--no-install-recommends")
    run(["apt-get", "install", *options, *packages], env=environment)
    for archive in sorted((state / "cache" / "archives").glob("*.deb")):
        run(["dpkg", "-x", archive, folder])


def fetch():
    say(f"downloading what is needed into {FOLDER}")
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        sys.exit("apt-get and dpkg are needed to fetch a compiler and a Python for arm64")
    for folder in (TOOLS, TARGET, SITE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    unpack(TOOL_PACKAGES, TOOLS, {"Dir::State::status": "/var/lib/dpkg/status"})
    # Nothing is there yet in the target: with an empty list, everything it needs is taken.
    nothing = FOLDER / "apt" / "nothing"
    nothing.touch()
    unpack(TARGET_PACKAGES, TARGET, {"Dir::State::status": nothing, "APT::Architecture": "arm64"})
    run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        + ["--target", SITE, "--only-binary", ":all:", "--implementation", "cp"]
        + ["--python-version", ".".join(map(str, target_version()))]
        + [word for platform in PLATFORMS for word in ("--platform", platform)]
        + list(WHEELS)
    )
    shutil.rmtree(FOLDER / "apt")
    DONE.touch()


def found(*names):
    """The first of these programs that was unpacked or is installed."""
    for name in names:
        unpacked = TOOLS / "usr" / "bin" / name
        path = str(unpacked) if unpacked.exists() else shutil.which(name)
        if path:
            return path
    return None


def missing():
    """What a build and a run would lack, as words; nothing if all is there."""
    parts = {
        f"{TRIPLET}-gcc": found(f"{TRIPLET}-gcc"),
        "qemu-aarch64": found("qemu-aarch64-static", "qemu-aarch64"),
        f"Python and wheels for aarch64 in {FOLDER}": DONE.exists(),
    }
    return [name for name, there in parts.items() if not there]


def target_version():
    """(3, minor) of the target's Python."""
    names = (path.name for path in (TARGET / "usr" / "bin").glob("python3.*"))
    return next((3, int(m[1])) for name in names if (m := re.fullmatch(r"python3\.(\d+)", name)))


# ---------------------------------------------------------------------------------- build and run


def build():
    """The package with kernels for aarch64, from this tree, in `BUILT`."""
    say("building the kernels for aarch64")
    python = f"python{target_version()[0]}.{target_version()[1]}"
    # distutils asks this module which compiler and which file names the target's Python wants. Only
    # the module: with all of the target's library on the path the host's Python would not start.
    data = f"_sysconfigdata__{TRIPLET}"
    sysconfig = FOLDER / "sysconfig"
    sysconfig.mkdir(exist_ok=True)
    shutil.copy(TARGET / "usr" / "lib" / python / f"{data}.py", sysconfig)
    headers = (
        SITE / "numpy" / "_core" / "include",
        TARGET / "usr" / "include" / python,
        TARGET / "usr" / "include",  # where the former refers to the headers of one architecture
    )
    compiler = f"{found(f'{TRIPLET}-gcc')} --sysroot={TARGET}"
    if TOOLS / "usr" / "bin" in Path(compiler.split()[0]).parents:
        compiler += f" -B{TOOLS}/usr/bin/{TRIPLET}-"
    environment = {
        **os.environ,
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "_PYTHON_SYSCONFIGDATA_NAME": data,
        "PYTHONPATH": str(sysconfig),
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared",
        "CFLAGS": " ".join(f"-isystem {folder}" for folder in headers[:1]),
        "CPPFLAGS": " ".join(f"-I{folder}" for folder in headers[1:]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, TOOLS.glob("usr/lib/*-linux-gnu"))),
        "FUSEDLOSS_REQUIRE_NATIVE": "1",
    }
    shutil.rmtree(BUILT, ignore_errors=True)
    work = FOLDER / "work"
    run(
        [
            sys.executable,
            "setup.py",
            "--quiet",
            "build",
            "--build-base",
            work,
            "--build-lib",
            BUILT,
        ],
        cwd=ROOT,
        env=environment,
    )
    modules = {path.name.partition(".")[0] for path in BUILT.glob(f"*/kernels/*{TRIPLET}.so")}
    if modules != {"cpu", "generic"}:
        sys.exit(f"the kernels for aarch64 were not built, only {sorted(modules)}")


def emulate(*arguments):
    """The status of the target's Python with these arguments, run from the root of the tree."""
    python = TARGET / "usr" / "bin" / f"python{target_version()[0]}.{target_version()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{BUILT}{os.pathsep}{SITE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "FUSEDLOSS_BACKEND": "cython",
        "FUSEDLOSS_ISA": "aarch64",
        "FUSEDLOSS_REQUIRE_NATIVE": "1",
    }
    command = [found("qemu-aarch64-static", "qemu-aarch64"), "-L", TARGET, python, *arguments]
    return subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=environment, check=False
    ).returncode


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(
        prog="./ci/aarch64", description=__doc__.partition("\n")[0], usage="%(prog)s [pytest ...]"
    )
    parser.add_argument("--hashes", action="store_true", help="compare hashes alone")
    parser.add_argument("--missing", action="store_true", help="name what must be downloaded")
    options, for_pytest = parser.parse_known_args()
    if options.missing:
        for name in missing():
            print(name)
        return 0
    if missing():
        fetch()
    build()
    say("comparing the hashes of results with the committed ones")
    status = emulate("tests/digest.py", "--check")
    if not options.hashes:
        say("running tests")
        status |= emulate("-m", "pytest", "-q", "-p", "no:cacheprovider", *(for_pytest or TESTS))
    return status


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
