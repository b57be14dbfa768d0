# Outputs that go past the caches, row by row: the line in which one row ends and the next begins.
#
# A row of 300 floats is 18.75 lines. A part of a line goes through the caches, which read that line from memory first;
# all stores after it wait for that, about as long as ten lines take. Either the line is fetched early, or a short row
# is put together in `part`, which begins where a line does, and what it has of its last line is held until the next
# row comes.

cdef enum:
    STAGED = 1024         # classes of a row that is put together before it is written


cdef struct SharedLine:
    vf numbers            # of the line in which the last row has ended
    float* end            # of that row; NULL if no line is held


cdef struct SharedLines:
    SharedLine grad
    SharedLine hess


cdef inline void fetch_row_ends(const Softmax* t, Py_ssize_t last) noexcept nogil:
    """Where rows up to `last` end, if outputs go past the caches."""
    if t.stream:
        fetch_split_line(t.grad, last * t.classes * size_of(t.code))
        fetch_split_line(t.hess, last * t.classes * size_of(t.code))


cdef inline bint joins_rows(const Softmax* t) noexcept nogil:
    """Whether rows are put together: without entries that have formulae of their own they are written faster where
    they belong."""
    return t.kind == CROSS_ENTROPY and t.classes <= STAGED and (t.weight == NULL or not mixes(t))


cdef inline void begin_lines(SharedLines* s) noexcept nogil:
    s.grad.end = NULL
    s.hess.end = NULL


cdef inline void release_line(SharedLine* s) noexcept nogil:
    """Write what is held."""
    cdef float numbers[LANES]
    cdef Py_ssize_t n
    if s.end != NULL:
        n = place_in_line(s.end, sizeof(float))
        vf_store(numbers, s.numbers)
        memcpy(s.end - n, numbers, n * sizeof(float))
        s.end = NULL


cdef inline void end_lines(SharedLines* s) noexcept nogil:
    release_line(&s.grad)
    release_line(&s.hess)


cdef inline float* begin_row(SharedLine* s, float* row, float* part) noexcept nogil:
    """Where in `part`, which has room for a line more than the row, the numbers of a row go."""
    if s.end == row:
        vf_store(part, s.numbers)
    else:
        release_line(s)
    return part + place_in_line(row, sizeof(float))


cdef inline void end_row(SharedLine* s, float* row, const float* part, Py_ssize_t n) noexcept nogil:
    """Write n > LANES numbers of a row, but those of the line in which it ends."""
    cdef Py_ssize_t lead = place_in_line(row, sizeof(float))
    cdef Py_ssize_t begin = 0
    cdef Py_ssize_t full = (lead + n) // LANES * LANES
    if lead > 0 and s.end != row:
        # Others have the line's first numbers.
        begin = LANES
        memcpy(row, part + lead, (LANES - lead) * sizeof(float))
    fl_stream(<char*>(row - lead + begin), <const char*>(part + begin), (full - begin) * sizeof(float))
    s.end = NULL
    if full < lead + n:
        s.numbers = vf_load(part + full)
        s.end = row + n
