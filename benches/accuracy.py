"""How far the results are from the truth: worst errors in ulp, and the inputs that show them.

    python -m benches.accuracy            prints a table; the report goes to out/bench/accuracy.md
    python -m benches.accuracy --smoke    tiny: does it run
    python -m benches.accuracy --readme   writes the table into README.md too

The data and their truths are those of the tests, tests/regimes.py: hard labels and no options, for
which the bounds are stated, and the mean with options. `./ci/bench` measures it for its report too.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np

import fusedloss as fl

from .axes import add_plans

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"

# What is measured -> classes of rows, items of rows and of the binary loss, items in long sums
SIZES = {
    "smoke": ((3,), 100, 100, 1000),
    "quick": (None, 20_000, 100_000, 10_000_000),
    "full": (None, 200_000, 1_000_000, 10_000_000),
}
OPTION_CLASSES = (2, 3, 10, 41, 130, 1000)


def regimes():
    """The data, which live with the tests."""
    sys.path.insert(0, str(TESTS))
    import regimes

    return regimes


def all_data(plan):
    r = regimes()
    classes, row_items, items, sums = SIZES[plan]
    for dtype in r.DTYPES:
        for regime, count in r.ROW_CASES:
            if not classes or count in classes:
                yield r.rows(regime, count, dtype, row_items)
        for regime in r.ITEM_REGIMES:
            yield r.items(regime, dtype, items)
        for regime in r.PROBABILITY_REGIMES:
            yield r.probabilities(regime, dtype, items)
        for regime in r.ERROR_REGIMES:
            yield r.errors(regime, dtype, items)
        for option in r.ROW_OPTIONS:
            for regime in r.OPTION_REGIMES:
                for count in classes or OPTION_CLASSES:
                    yield r.rows_with_options(option, regime, count, dtype)
        for option in r.ITEM_OPTIONS:
            for regime in r.FINITE_ITEM_REGIMES:
                yield r.items_with_options(option, regime, dtype)
        for loss in (r.BCE, r.MSE):
            yield r.sums(loss, dtype, sums)


class Backend:
    def __init__(self, name):
        self.name = name
        with fl.use_backend(name):
            pass

    def results(self, data):
        with fl.use_backend(self.name):
            return regimes().ours(data)


def contenders(with_peers=True):
    from .accuracy_peers import peers

    found = []
    for name in ("cython", "numba", "numpy"):
        try:
            found.append(Backend(name))
        except ImportError:
            continue
    return found + (peers() if with_peers else [])


def measure(plan, with_peers=True):
    """The worst of each output, dtype, regime and contender, as what JSON can hold.

    An error is None where a number was due and nan came, or the reverse.
    """
    worst = {}
    chosen = contenders(with_peers)
    for data in all_data(plan):
        for contender in chosen:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # overflow in what users write
                results = contender.results(data)
            for output in results.keys() & data.truths.keys():
                error = data.error(output, results[output])
                at = np.unravel_index(np.argmax(error), error.shape) if error.ndim else ()
                key = (*named(data, output), data.dtype, data.regime, contender.name)
                if key not in worst or error[at] > worst[key][0]:
                    worst[key] = (float(error[at]), data.where(output, at))
    return {
        "contenders": [contender.name for contender in chosen],
        "worst": [
            [*key, error if np.isfinite(error) else None, where]
            for key, (error, where) in worst.items()
        ],
    }


def named(data, output):
    """The loss or function, and which of its outputs."""
    r = regimes()
    if output in (*r.ROW_FUNCTIONS, *r.ITEM_FUNCTIONS):
        return output, ""
    if not data.plain:
        return data.loss, "mean with options"
    return data.loss, "mean, sum" if output in r.REDUCED else output


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="./ci/accuracy", description=__doc__.partition("\n")[0])
    add_plans(
        parser,
        smoke="tiny: does it run",
        quick="two minutes (default)",
        full="ten times the data",
    )
    parser.add_argument("--readme", action="store_true", help="write the table into README.md too")
    parser.add_argument(
        "--without-peers", action="store_true", help="only the backends of fusedloss"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE.parent / "out" / "bench",
        help="folder of the report and its JSON",
    )
    options = parser.parse_args(arguments)

    from .accuracy_report import markdown, summary
    from .readme import put

    found = measure(options.plan or "quick", not options.without_peers)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "accuracy.json").write_text(json.dumps(found), encoding="utf-8")
    (options.out / "accuracy.md").write_text(markdown(found) + "\n", encoding="utf-8")
    print(summary(found))
    if options.readme:
        put("accuracy table", summary(found))


if __name__ == "__main__":
    main()
