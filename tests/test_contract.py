"""The house rules as tests: what a loss needs and where, and who may import whom."""

import ast
import re
import sys
from pathlib import Path

import cases
import magnitudes
import pytest
import truth_tables

import fusedloss as fl
from fusedloss import arguments
from fusedloss.functions import ERROR_BOUNDS
from fusedloss.losses import REGISTRY

PACKAGE = Path(fl.__file__).parent
TESTS = Path(__file__).parent
PROJECT = TESTS.parent
OUTPUTS = ("value", "grad", "hess")
DTYPES = ("float32", "float64")

BACKEND_FILES = ("backends/reference.py", "backends/jit.py")


def parsed(file):
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def functions_of(file):
    """{name: [argument names]} of the functions that a file defines at its top level."""
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in parsed(file).body
        if isinstance(node, ast.FunctionDef)
    }


def names_in_bench_axes():
    text = (PROJECT / "benches" / "axes.py").read_text(encoding="utf-8")
    return {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}


def kernel_functions():
    """Names of the public functions in the Cython sources, which wheels do not carry."""
    text = "".join(
        file.read_text(encoding="utf-8") for file in sorted((PACKAGE / "kernels").glob("*.p*x*"))
    )
    return set(re.findall(r"^def (\w+)\(", text, re.MULTILINE))


def shared_lacks(name):
    """What a loss or function of this name still lacks, as (file, what)."""
    if name not in fl.__all__ or not hasattr(fl, name):
        yield "src/fusedloss/__init__.py", f"the public name {name}"
    if not hasattr(arguments, name):
        yield "src/fusedloss/arguments.py", f"a function {name} that checks its arguments"
    for file in BACKEND_FILES:
        # `functions_of` misses an assignment such as `log_softmax = ...`: any binding will do.
        if not re.search(rf"^(def )?{name}\b", (PACKAGE / file).read_text(), re.MULTILINE):
            yield f"src/fusedloss/{file}", f"a function {name}"
    if f'"{name}"' not in (PACKAGE / "backends/compiled.py").read_text(encoding="utf-8"):
        yield "src/fusedloss/backends/compiled.py", f"the name {name}"
    if (PACKAGE / "kernels" / "driver.pxi").exists() and name not in kernel_functions():
        yield "src/fusedloss/kernels/driver.pxi", f"an entry {name}"
    if (PROJECT / "benches").exists() and name not in names_in_bench_axes():
        yield "benches/axes.py", f"the work {name}"
    readme = PROJECT / "README.md"
    if readme.exists() and f"`{name}" not in readme.read_text(encoding="utf-8"):
        yield "README.md", f"a line about {name}"


def loss_lacks(name):
    yield from shared_lacks(name)
    loss = REGISTRY.get(name)
    if loss is None:
        yield "src/fusedloss/losses/__init__.py", f"{name} in REGISTRY"
    else:
        yield from loss_object_lacks(name, loss)
    if name not in truth_tables.LOSSES or not (TESTS / "tables" / f"{name}.json").exists():
        yield "tests/tables/make_tables.py and tests/truth_tables.py", f"a table of {name}"
    kinds = cases.KINDS.get(name)
    if not kinds or any((name, kind) not in cases.OPTIONS for kind in kinds):
        yield "tests/cases.py", f"{name} in KINDS and OPTIONS"
    if not hasattr(cases, f"_draw_{name}"):
        yield "tests/cases.py", f"a function _draw_{name}"
    if not hasattr(magnitudes, name):
        yield "tests/magnitudes.py", f"a function {name}"


def loss_object_lacks(name, loss):
    file = f"src/fusedloss/losses/{type(loss).__module__.rpartition('.')[2]}.py"
    if getattr(fl, name, None) is not loss or loss.name != name:
        yield file, f"one object that is fl.{name}, REGISTRY[{name!r}] and has that name"
    for output in ("mean", *OUTPUTS):
        for dtype in DTYPES:
            bound = loss.error_bounds.get(output, {}).get(dtype)
            if not (isinstance(bound, float) and 0.5 <= bound < 10):
                yield file, f"error_bounds[{output!r}][{dtype!r}]"
    sections = ("Parameters", "Returns")
    documents = {
        "class": (type(loss), (*sections, "Raises", "Notes", "Examples")),
        "__call__": (type(loss).__call__, sections),
        "value_and_grad": (type(loss).value_and_grad, (*sections, "Examples")),
        "grad_and_hess": (type(loss).grad_and_hess, (*sections, "Examples")),
    }
    for where, (thing, wanted) in documents.items():
        for section in wanted:
            if not re.search(rf"^ *{section}\n *-+$", thing.__doc__ or "", re.MULTILINE):
                yield file, f"the section {section} in the docstring of {where}"


def report(lacks):
    return "\n".join(f"{file} lacks {what}" for file, what in lacks)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_loss_is_complete(name):
    lacks = list(loss_lacks(name))
    assert not lacks, report(lacks)


@pytest.mark.parametrize("name", ERROR_BOUNDS)
def test_every_function_is_complete(name):
    lacks = list(shared_lacks(name))
    tabled = {one for case in truth_tables.load("functions") for one in case.results}
    if name not in tabled:
        lacks.append(("tests/tables/make_tables.py", f"results of {name} in functions.json"))
    if set(ERROR_BOUNDS[name]) != set(DTYPES):
        lacks.append(("src/fusedloss/functions.py", f"ERROR_BOUNDS[{name!r}] of both dtypes"))
    assert not lacks, report(lacks)


def test_a_loss_that_exists_nowhere_lacks_something_in_every_file():
    """So that the two tests above cannot pass by looking at nothing."""
    files = {file for file, _ in loss_lacks("no_such_loss")}
    wanted = {
        "src/fusedloss/__init__.py",
        "src/fusedloss/arguments.py",
        "src/fusedloss/backends/reference.py",
        "src/fusedloss/backends/jit.py",
        "src/fusedloss/backends/compiled.py",
        "src/fusedloss/losses/__init__.py",
        "tests/cases.py",
        "tests/magnitudes.py",
    }
    assert wanted <= files, wanted - files


def test_the_public_functions_are_those_with_error_bounds():
    """A new public name is a loss, a function with a bound, or one of the settings."""
    settings = {
        "__version__",
        "get_num_threads",
        "runtime_info",
        "set_num_threads",
        "show_config",
        "use_backend",
    }
    assert set(fl.__all__) == settings | set(REGISTRY) | set(ERROR_BOUNDS)


@pytest.mark.parametrize("name", [*REGISTRY, *ERROR_BOUNDS])
def test_backends_take_the_same_arguments_in_the_same_order(name):
    """They are called with positional arguments."""
    signatures = {}
    for file in ("arguments.py", *BACKEND_FILES):
        found = functions_of(file)
        if name in found:
            signatures[file] = found[name]
    assert len(set(map(tuple, signatures.values()))) == 1, signatures


# --------------------------------------------------------------------------------- import arrows

# Who may import whom, inside the package: losses -> arguments, runtime -> backends -> kernels.
ARROWS = {
    "kernels": set(),
    "backends": {"kernels"},
    "arguments": {"backends"},
    "runtime": {"arguments", "backends"},
    "dispatch": {"arguments", "runtime"},
    "losses": {"backends", "dispatch"},
    "functions": {"dispatch", "losses"},
    "__init__": {"functions", "losses", "runtime"},
    "demo": {"__init__", "losses"},
    "__main__": {"__init__", "demo"},
}


def room_of(file):
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(file):
    """The rooms of the package that a Python file imports, at any depth of its code."""
    package = ["fusedloss", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            targets = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "fusedloss" and parts != ["fusedloss", "__version__"]:
                room = parts[1] if len(parts) > 1 else "__init__"
                yield room if room in ARROWS else "__init__"


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_imports_point_down(file):
    room = room_of(file)
    assert room in ARROWS, f"{room} is a new room: say in ARROWS what it may import"
    allowed = ARROWS[room] | {room}
    upward = set(imported_rooms(file)) - allowed
    assert not upward, f"{file.name} may import {sorted(allowed)}, not {sorted(upward)}"


def outside_imports(file):
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_the_three_backends_share_no_code():
    """So that agreement between them means something: only the constants of the contract."""
    assert set(outside_imports("backends/reference.py")) <= {"functools", "numpy"}
    numba = {"numba", "llvmlite"}  # the second is how the first names what LLVM should do
    assert set(outside_imports("backends/jit.py")) <= {"__future__", "math", "numpy"} | numba
    for file in BACKEND_FILES:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = {alias.name for alias in node.names}
                assert (node.level, node.module) == (1, None), f"{file}: {ast.unparse(node)}"
                assert names <= {"VALUE", "VALUE_AND_GRAD", "GRAD_AND_HESS"}, f"{file}: {names}"


def test_numpy_is_the_only_dependency_that_is_imported():
    """Others are extras: imported where they are used, inside functions or by the one backend."""
    standard = {"numpy", "fusedloss"}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name in ("jit.py",):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {node.module.split(".")[0]}
            else:
                continue
            outside = names - standard - set(sys.stdlib_module_names)
            assert not outside, f"{file.name} imports {outside} when it is imported itself"


@pytest.mark.skipif(
    not (PACKAGE / "kernels" / "driver.pxi").exists(), reason="wheels carry no Cython sources"
)
def test_kernels_import_nothing_of_ours():
    files = [*(PACKAGE / "kernels").glob("*.pxi"), *(PACKAGE / "kernels").glob("*.pyx")]
    assert files
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            match = re.match(r"\s*(?:from\s+(\S+)\s+c?import|c?import\s+(\S+))\b", line)
            module = match and (match[1] or match[2])
            if module and not module.startswith(("(", '"')):
                root = module.split(".")[0]
                outside = ("cpython", "cython", "inspect", "libc", "numpy")
                assert root in outside, f"{file.name}: {line}"
