"""The speed of the losses beside that of other libraries: `./ci/bench`, or `python -m benches`. See
README.md.
"""
