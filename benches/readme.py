"""Puts generated tables between their markers in README.md."""

from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def put(name, text):
    """Replace what stands between `<!-- name: begin -->` and `<!-- name: end -->`."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")
