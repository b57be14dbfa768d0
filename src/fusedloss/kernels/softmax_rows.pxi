# softmax, log_softmax and logsumexp of short rows of float32, 16 rows side by side, lane = row.
#
# Columns of 16 rows are transposed in registers and kept; the maximum of each lane sets its shift. As with long rows
# the sum (column_sums.pxi) leaves the maximum out where its logarithm is wanted: log S = m + log1p(rest / E_m).

cdef enum:
    LARGE = 1048576       # maxima from here on leave no room for log S in a second float


cdef struct Lanes:
    # 16 rows: maximum, and what exp needs for their shifts.
    vf top
    vf base
    Exponents exponents


cdef Lanes read_lanes(const float* rows, Py_ssize_t classes, float* x) noexcept nogil:
    """OUT x[class, lane]: 16 rows that lie one after the other; nan is passed over by the maximum. What comes 4 KiB
    later, or with the next 16 rows, is fetched."""
    cdef const float* further = rows + LANES * max(classes, <Py_ssize_t>64)
    cdef Lanes lanes
    cdef float tops[LANES]
    cdef float bases[LANES]
    cdef float magic[LANES]
    cdef float floor[LANES]
    cdef vf v[4]
    cdef vf top = vf_set(-INFINITY)
    cdef Py_ssize_t width = min(classes, <Py_ssize_t>4)
    cdef Py_ssize_t at, start, c
    cdef Shift shift
    cdef int i
    for at in range(0, classes, 4):
        # The last group of four starts early.
        start = max(min(at, classes - 4), <Py_ssize_t>0)
        fl_prefetch(further + at * LANES)
        fl_prefetch(further + (at + 1) * LANES)
        fl_prefetch(further + (at + 2) * LANES)
        fl_prefetch(further + (at + 3) * LANES)
        vf_load_columns(rows + start, classes, width, v)
        for c in range(width):
            vf_store(x + (start + c) * LANES, v[c])
            top = vf_max(v[c], top)
    vf_store(tops, top)
    for i in range(LANES):
        shift = shift_of(<double>tops[i], <float>0)
        bases[i] = <float>shift.base
        magic[i] = eighths_magic(shift.scale)
        floor[i] = eighths_floor(shift.scale)
    lanes.top = top
    lanes.base = vf_load(bases)
    lanes.exponents = cut_exponents_of(0.0, False)
    lanes.exponents.magic = vf_load(magic)
    lanes.exponents.floor = vf_load(floor)
    return lanes


cdef inline vf take_class(vf x, const Lanes* lanes, bint all_of_them, vf* tops) noexcept nogil:
    """The argument of its exponential. The maximum is counted instead, unless `all_of_them`."""
    cdef vf y = vf_max(lanes.exponents.floor, vf_sub(x, lanes.base))
    if not all_of_them:
        y = vf_if_equal(x, lanes.top, lanes.exponents.floor, y)
        tops[0] = vf_add(tops[0], vf_if_equal(x, lanes.top, vf_set(1.0), vf_set(0.0)))
    return y


cdef void sum_lanes(float* x, Py_ssize_t classes, const Lanes* lanes, bint softmax, float* y, double* sums,
                    double* tops) noexcept nogil:
    """OUT sums: of e^(x - base) / 2^scale in each lane, in float64. For the softmax all of them, which are left in x;
    else without the maximum, OUT tops: how many there are. y is spoilt, and may be x."""
    cdef ColumnSums s = no_columns()
    cdef float counts[LANES]
    cdef vf count = vf_set(0.0)
    cdef Py_ssize_t c
    cdef int i
    for c in range(classes):
        vf_store(y + c * LANES, take_class(vf_load(x + c * LANES), lanes, softmax, &count))
    sum_columns(y, classes, &lanes.exponents, &s, x if softmax else NULL, NULL)
    store_sums(&s, sums)
    vf_store(counts, count)
    for i in range(LANES):
        tops[i] = <double>counts[i]


cdef inline vf softmax_column(const float* e, vf high, vf low) noexcept nogil:
    cdef vf v = vf_load(e)
    return vf_fma(v, high, vf_mul(v, low))


cdef inline vf log_softmax_of(vf x, vf lse, vf lse_low, vf top, vf at_top) noexcept nogil:
    """x - lse: one rounding where it matters. That of x - lse is exact where much cancels."""
    return vf_if_equal(x, top, at_top, vf_sub(vf_sub(x, lse), lse_low))


cdef void write_columns_of_lanes(const float* x, Py_ssize_t classes, bint softmax, vf a, vf b, vf top, vf at_top,
                                 float* rows) noexcept nogil:
    """All of 16 rows, one after the other."""
    cdef vf v[4]
    cdef Py_ssize_t width = min(classes, <Py_ssize_t>4)
    cdef Py_ssize_t at, start, c
    cdef const float* column
    for at in range(0, classes, 4):
        start = max(min(at, classes - 4), <Py_ssize_t>0)
        for c in range(4):
            column = x + (start + min(c, width - 1)) * LANES
            v[c] = softmax_column(column, a, b) if softmax else log_softmax_of(vf_load(column), a, b, top, at_top)
        vf_store_columns(rows + start, classes, width, v)


cdef void write_log_softmax(const float* x, Py_ssize_t classes, Py_ssize_t n, const float* lse, const float* lse_low,
                            const float* top, const float* at_top, float* rows) noexcept nogil:
    """n rows of at least 16 classes, which may replace their logits. Nothing has to be transposed."""
    cdef vf a, b, c, d, last
    cdef Py_ssize_t i, at
    for i in range(n):
        a = vf_set(lse[i])
        b = vf_set(lse_low[i])
        c = vf_set(top[i])
        d = vf_set(at_top[i])
        # The last vector starts early: it is read before anything is stored.
        last = log_softmax_of(vf_load(x + classes - LANES), a, b, c, d)
        for at in range(0, classes - 16, 16):      # LANES
            vf_store(rows + at, log_softmax_of(vf_load(x + at), a, b, c, d))
        vf_store(rows + classes - LANES, last)
        x += classes
        rows += classes


cdef void softmax_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """One of the three functions of up to 16 rows of up to SIDE_ROW classes."""
    cdef float x[TILE * LANES]
    cdef float arguments[TILE * LANES]
    cdef float buffer[SIDE_ROW * LANES]
    cdef double rest[LANES]
    cdef double tops[LANES]
    cdef double term[LANES]
    cdef double log_total[LANES]
    cdef float top[LANES]
    cdef float high[LANES]
    cdef float low[LANES]
    cdef float at_top[LANES]
    cdef Py_ssize_t classes = t.classes
    cdef const float* logits = whole_rows(t.logits, t.code, classes, first, n, buffer)
    cdef Lanes lanes = read_lanes(logits, classes, x)
    cdef bint softmax = t.kind == SOFTMAX
    cdef bint large = False
    cdef double total
    cdef float at
    cdef float* rows = buffer
    # The logits are wanted once more by log_softmax alone.
    cdef float* y = <float*>arguments if t.kind == LOG_SOFTMAX else <float*>x
    cdef Py_ssize_t c
    cdef vf e, lost
    cdef int i
    memset(at_top, 0, sizeof(at_top))
    sum_lanes(x, classes, &lanes, softmax, y, rest, tops)
    vf_store(top, lanes.top)
    if softmax:
        for i in range(LANES):
            # No row with infinities at its top has a softmax.
            total = rest[i] if (top[i] < INFINITY) & (top[i] > -INFINITY) else NAN
            high[i] = <float>(1.0 / total)
            low[i] = <float>(1.0 / total - <double>high[i])
    else:
        e = exp_with_low(vf_max(lanes.exponents.floor, vf_sub(lanes.top, lanes.base)), &lanes.exponents, &lost)
        set_terms(e, lost, term)
        for i in range(LANES):
            rest[i] = rest[i] + (tops[i] - 1.0) * term[i]
            large |= not (-LARGE < top[i] < LARGE)
        losses_from_sums(rest, term, 1.0, log_total)
        for i in range(LANES):
            total = log_total[i] if (top[i] < INFINITY) & (top[i] > -INFINITY) else NAN
            log_total[i] = total
            two_floats(<double>top[i], total, high + i, low + i)
            at_top[i] = <float>-total
    if t.kind == LOGSUMEXP:
        for i in range(<int>n):
            if top[i] == -INFINITY:
                high[i] = top[i] + <float>rest[i]      # nan if the sum has met one
            elif top[i] == INFINITY:
                high[i] = NAN if row_has_nan(t, first + i) else INFINITY
        store(t.losses, t.loss_code, first, n, high, False)
        return
    if goes_straight(t, n):
        rows = <float*>t.grad + first * classes
    if not softmax and not large and classes >= LANES:
        write_log_softmax(logits, classes, n, high, low, top, at_top, rows)
    elif softmax or not large:
        write_columns_of_lanes(x, classes, softmax, vf_load(high), vf_load(low), lanes.top, vf_load(at_top), rows)
    else:
        # Each row as it would be among others: only those that need it in float64.
        for c in range(classes):
            for i in range(LANES):
                at = x[c * LANES + i]
                if -LARGE < top[i] < LARGE:
                    at = at_top[i] if at == top[i] else (at - high[i]) - low[i]
                else:
                    at = <float>-((<double>top[i] - <double>at) + log_total[i])
                x[c * LANES + i] = at
        rows_of_columns(x, classes, rows)
    if rows == buffer:
        store(t.grad, t.code, first * classes, n * classes, <const float*>buffer, t.stream)
