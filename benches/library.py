"""The few lines of C that the benches need, compiled when they are."""

import ctypes
import shlex
import subprocess
import sysconfig
from pathlib import Path


def compiled(name, folder):
    """`<name>.c` of this folder as a library, written to `folder`; None without a C compiler."""
    source = Path(__file__).with_name(f"{name}.c")
    target = Path(folder) / f"{name}.so"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[:1]
    command = [*compiler, "-O2", "-shared", "-fPIC", "-o", target, source]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return ctypes.CDLL(str(target.resolve()))
    except (OSError, subprocess.CalledProcessError):
        return None
