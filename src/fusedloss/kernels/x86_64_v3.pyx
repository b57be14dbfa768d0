# cython: language_level=3
include "driver.pxi"
