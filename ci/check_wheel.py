"""Check what is inside the given wheels: contents, tags, and what their modules ask of a system.

    python ci/check_wheel.py wheelhouse/*.whl

Needs `packaging` and `pyelftools`.
"""

import io
import re
import sys
import zipfile
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from packaging.utils import parse_wheel_filename

# Part of a platform tag -> the kernel modules that a wheel with that tag must have.
MODULES = {
    "x86_64": {"cpu", "x86_64_v3", "x86_64_v4"},
    "win_amd64": {"cpu", "x86_64_v3", "x86_64_v4"},
    "aarch64": {"cpu", "generic"},
    "arm64": {"cpu", "generic"},
}
PORTABLE = ("manylinux", "musllinux", "macosx", "win_amd64")
SOURCES = (".pyx", ".pxi", ".pxd", ".c", ".h")
# Our own modules keep to this, whatever the tag says: the tag covers the bundled libgomp too, which
# is newer where the wheel was built on a newer system.
GLIBC = (2, 28)
LIBRARIES = re.compile(r"lib(c|m|pthread|gomp(-\w+)?|c\.musl-\w+)\.so[.\d]*|ld-(linux|musl).*")
MEBIBYTES = 8


def check(path):
    """Return what is wrong with one wheel, a list of sentences."""
    wrong = []
    _, _, _, tags = parse_wheel_filename(path.name)
    platforms = {tag.platform for tag in tags}
    if not all(platform.startswith(PORTABLE) for platform in platforms):
        wrong.append(f"platform tags must be portable ones, not {sorted(platforms)}")
    if {tag.interpreter for tag in tags} == {"py3"} or {tag.abi for tag in tags} == {"none"}:
        wrong.append("the tags must name an interpreter: the wheel has no compiled modules")
    if path.stat().st_size > MEBIBYTES * 2**20:
        wrong.append(f"size must be at most {MEBIBYTES} MiB, not {path.stat().st_size / 2**20:.1f}")

    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        wrong += [f"{name}: a source file" for name in names if name.endswith(SOURCES)]
        for needed in ("fusedloss/py.typed", "fusedloss/data/iris.csv"):
            if needed not in names:
                wrong.append(f"{needed} is missing")
        for needed in ("licenses/LICENSE", "licenses/ci/licenses/libgomp.txt"):
            if not any(name.endswith(f".dist-info/{needed}") for name in names):
                wrong.append(f"{needed} is missing")
        strange = {name.split("/")[0] for name in names}
        strange = {top for top in strange if not re.fullmatch(r"fusedloss(\.libs|-.*)?", top)}
        if strange:
            wrong.append(f"top level must be fusedloss alone, not also {sorted(strange)}")

        compiled = {
            match[1]: name
            for name in names
            if (match := re.fullmatch(r"fusedloss/kernels/(\w+)\.[^/]*(?:so|pyd)", name))
        }
        expected = next(
            modules for part, modules in MODULES.items() if any(part in p for p in platforms)
        )
        if set(compiled) != expected:
            wrong.append(f"kernel modules must be {sorted(expected)}, not {sorted(compiled)}")
        if any("linux" in platform for platform in platforms):
            for name in compiled.values():
                wrong += [f"{name}: {what}" for what in check_elf(wheel.read(name))]
            bundled = [name for name in names if re.search(r"\.libs/libgomp[^/]*$", name)]
            if len(bundled) != 1:
                wrong.append(f"exactly one libgomp must be bundled, not {bundled}")
    return wrong


def check_elf(data):
    """Return what is wrong with one shared object."""
    wrong = []
    elf = ELFFile(io.BytesIO(data))
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED" and not LIBRARIES.fullmatch(tag.needed):
                    wrong.append(f"needs {tag.needed}")
                if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                    run_path = tag.rpath if tag.entry.d_tag == "DT_RPATH" else tag.runpath
                    if any(not part.startswith("$ORIGIN") for part in run_path.split(":")):
                        wrong.append(f"run path must start at $ORIGIN, not {run_path}")
        elif isinstance(section, GNUVerNeedSection):
            for _, auxiliaries in section.iter_versions():
                for auxiliary in auxiliaries:
                    match = re.fullmatch(r"GLIBC_([\d.]+)", auxiliary.name)
                    if match and tuple(map(int, match[1].split("."))) > GLIBC:
                        wrong.append(f"needs {auxiliary.name}, which is newer than {GLIBC}")
    if elf.get_section_by_name(".debug_info"):
        wrong.append("contains debug data, and with it the paths of the build")
    return wrong


def main():
    failed = False
    for argument in sys.argv[1:]:
        path = Path(argument)
        wrong = check(path)
        failed |= bool(wrong)
        print(f"{path.name}: {'; '.join(wrong) if wrong else 'contents as they should be'}")
    if len(sys.argv) < 2:
        sys.exit("name at least one wheel")
    sys.exit(failed)


if __name__ == "__main__":
    main()
