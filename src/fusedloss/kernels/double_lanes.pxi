# Few classes of float64, and such that are not on the last axis: 16 rows side by side, in the three phases of
# cross_entropy.pxi. Label and top are left out of the sum.

cdef void gather_weights(const Softmax* t, const Tile* tile, Py_ssize_t first, Py_ssize_t classes, double* q,
                         double* scratch) noexcept nogil:
    """q[class, lane], as Mix has it."""
    cdef double keep = 1.0 - t.smoothing
    cdef double uniform = t.smoothing / <double>t.classes
    cdef double w
    cdef Py_ssize_t c
    cdef int i
    if t.soft:
        gather(t.target, t.target_code, tile, first, classes, scratch)
        for c in range(classes * LANES):
            q[c] = fma(keep, scratch[c], uniform)
    else:
        for c in range(classes * LANES):
            q[c] = 1.0
    if t.weight != NULL:
        for c in range(classes):
            w = load_one(t.weight, t.weight_code, first + c)
            for i in range(LANES):
                q[c * LANES + i] = w * q[c * LANES + i]


cdef void find_tops(const double* x, Py_ssize_t classes, const int32_t* label, double* best, double* top,
                    int32_t* top_at) noexcept nogil:
    """Go on with the maximum of 16 rows, best, and that of all classes but the label, whose first place is top_at. In
    lanes of one width, which x86-64-v3 needs."""
    cdef double labels[LANES]
    cdef double places[LANES]
    cdef vd v, w, a, b, at
    cdef Py_ssize_t c
    cdef int i, half
    for i in range(LANES):
        labels[i] = label[i]
        places[i] = top_at[i]
    for half in range(0, 16, 8):
        w = vd_load(labels + half)
        at = vd_load(places + half)
        a = vd_load(best + half)
        b = vd_load(top + half)
        for c in range(classes):
            v = vd_load(x + c * LANES + half)
            a = vd_max(v, a)
            v = vd_if_equal(w, vd_set(<double>c), vd_set(-INFINITY), v)
            at = vd_if_less(b, v, vd_set(<double>c), at)
            b = vd_max(v, b)
        vd_store(places + half, at)
        vd_store(best + half, a)
        vd_store(top + half, b)
    for i in range(LANES):
        top_at[i] = <int32_t>places[i]


cdef struct DoubleLanes:
    # 16 rows: where they are, and their shifts.
    Tile tile
    double base[LANES]
    double magic[LANES]
    double floor[LANES]


cdef struct HalfLanes:
    # Eight of the rows while they are summed.
    DoubleExp of
    OneWide one
    vd base
    vd label
    vd top
    vd sum
    vd lost


cdef inline HalfLanes begin_half(const DoubleLanes* s, int half, const double* x, const double* labels,
                                 const double* places, const double* sums, const double* lows) noexcept nogil:
    cdef HalfLanes h
    cdef vd power, t
    h.of = double_exp_of_lanes(s.magic + half, s.floor + half)
    h.one = one_of_nothing()
    h.base = vd_load(s.base + half)
    h.label = vd_load(labels + half)
    h.top = vd_load(places + half)
    h.sum = vd_load(sums + half)
    h.lost = vd_load(lows + half)
    exp_of_one(vd_sub(vd_load(x + half), h.base), False, &h.of, &h.one, &power, &t)
    return h


cdef inline void add_class(HalfLanes* h, vd following, vd number, bint with_lows, double* e, double* low,
                           bint keep) noexcept nogil:
    """Class `number` of eight rows, after which comes `following`."""
    cdef vd v, rest, power, t
    exp_of_one(vd_sub(following, h.base), False, &h.of, &h.one, &power, &t)
    v = vd_fma(power, t, power)
    if keep or with_lows:
        # The difference is exact: both are within a factor of two.
        rest = vd_fma(power, t, vd_sub(power, v))
        if keep:
            vd_store(e, v)
            vd_store(low, rest)
        if with_lows:
            h.lost = vd_add(h.lost, vd_if_equal(h.top, number, vd_set(0.0), rest))
    v = vd_if_equal(h.label, number, vd_set(0.0), v)
    add_vector(&h.sum, &h.lost, vd_if_equal(h.top, number, vd_set(0.0), v))


cdef inline void sum_others(const DoubleLanes* s, const double* x, Py_ssize_t classes, const int32_t* label,
                            const int32_t* top_at, bint with_lows, double* sums, double* lows, double* e, double* low,
                            bint keep) noexcept nogil:
    """Add the exponentials of 16 rows but those of label and top, with the rounding errors; `with_lows`: and with what
    their own last roundings have lost. OUT e and low, if `keep`: all of them, and that."""
    cdef double labels[LANES]
    cdef double places[LANES]
    cdef HalfLanes a, b
    cdef vd number
    cdef Py_ssize_t c, then
    cdef int i, half
    for i in range(LANES):
        labels[i] = label[i]
        places[i] = top_at[i]
    if FL_WIDE:
        # Both halves together, so that neither waits for itself.
        a = begin_half(s, 0, x, labels, places, sums, lows)
        b = begin_half(s, 8, x, labels, places, sums, lows)
        for c in range(classes):
            number = vd_set(<double>c)
            then = min(c + 1, classes - 1) * LANES
            add_class(&a, vd_load(x + then), number, with_lows, e + c * LANES, low + c * LANES, keep)
            add_class(&b, vd_load(x + then + 8), number, with_lows, e + c * LANES + 8, low + c * LANES + 8, keep)
        vd_store(sums, a.sum)
        vd_store(lows, a.lost)
        vd_store(sums + 8, b.sum)
        vd_store(lows + 8, b.lost)
        return
    for half in range(0, 16, 8):
        a = begin_half(s, half, x, labels, places, sums, lows)
        for c in range(classes):
            then = min(c + 1, classes - 1) * LANES + half
            add_class(&a, vd_load(x + then), vd_set(<double>c), with_lows, e + c * LANES + half,
                      low + c * LANES + half, keep)
        vd_store(sums + half, a.sum)
        vd_store(lows + half, a.lost)


cdef void sum_tile(const Softmax* t, const DoubleLanes* s, const double* x, Py_ssize_t classes, const int32_t* label,
                   const int32_t* top_at, double* sums, double* lows, double* e, double* low) noexcept nogil:
    """sum_others, with a loop for each case."""
    if t.kind == LOG_SOFTMAX:
        # log p of the top is a sum that one term may be most of.
        sum_others(s, x, classes, label, top_at, True, sums, lows, NULL, NULL, False)
    elif t.grad == NULL:
        sum_others(s, x, classes, label, top_at, False, sums, lows, NULL, NULL, False)
    else:
        sum_others(s, x, classes, label, top_at, False, sums, lows, e, low, True)


cdef void scan_doubles(const Softmax* t, DoubleLanes* s, Rows* r, double* x, double* e, double* low) noexcept nogil:
    """Maxima and sums of 16 rows. OUT e and low: the exponentials of their only tile."""
    cdef double q[TILE * LANES]
    cdef int32_t here[LANES]
    cdef int32_t label[LANES]
    cdef double others[LANES]
    cdef double other_lows[LANES]
    cdef double reference[LANES]
    cdef double term
    cdef LaneSums q_sum
    cdef Shift shift
    cdef Py_ssize_t part, at, m, c
    cdef int i
    cdef Py_ssize_t tiles = (t.classes + TILE - 1) // TILE
    cdef bint hard = t.kind == CROSS_ENTROPY and not t.soft

    # 1. The maximum, and the first class that has it but for the label.
    for i in range(LANES):
        r.maximum[i] = -INFINITY
        r.top[i] = -INFINITY
        r.top_at[i] = -1
    for part in range(tiles):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        gather(t.logits, t.code, &s.tile, at, m, x)
        for i in range(LANES):
            here[i] = -1
            label[i] = <int32_t>(r.label[i] - at) if hard else -1
        find_tops(x, m, label, r.maximum, r.top, here)
        for i in range(LANES):
            r.top_at[i] = at + here[i] if here[i] >= 0 else r.top_at[i]
    for i in range(LANES):
        shift = shift_of(r.maximum[i], <double>0)
        r.base[i] = shift.base
        r.scale[i] = shift.scale
    for i in range(LANES):
        s.base[i] = r.base[i]
        s.magic[i] = wide_eighths_magic(r.scale[i])
        s.floor[i] = wide_eighths_floor(r.scale[i])
        reference[i] = r.maximum[i] if r.maximum[i] > -INFINITY else 0.0
    memset(others, 0, sizeof(others))
    memset(other_lows, 0, sizeof(other_lows))
    memset(&q_sum, 0, sizeof(LaneSums))
    if hard:
        for i in range(s.tile.lanes):
            if r.label[i] != IGNORED:
                r.logit[i] = load_one(t.logits, t.code, s.tile.start[i] + r.label[i] * t.inner)

    # 2. Sums.
    for part in range(tiles):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if tiles > 1:
            gather(t.logits, t.code, &s.tile, at, m, x)
        for i in range(LANES):
            label[i] = <int32_t>(r.label[i] - at) if hard else -1
            here[i] = <int32_t>(r.top_at[i] - at) if r.top_at[i] >= 0 else -1
        sum_tile(t, s, x, m, label, here, others, other_lows, e, low)
        if mixes(t):
            gather_weights(t, &s.tile, at, m, q, e)
            for c in range(m):
                add_lanes(&q_sum, &q[c * LANES])
                for i in range(LANES):
                    term = q[c * LANES + i] * (reference[i] - x[c * LANES + i])
                    r.q_gap[i] = r.q_gap[i] + (0.0 if q[c * LANES + i] == 0.0 else term)
    for i in range(LANES):
        r.q_sum[i] = q_sum.high[i] + q_sum.low[i]
        r.others[i] = others[i] + other_lows[i]
        r.others_low[i] = (others[i] - r.others[i]) + other_lows[i]


cdef void write_doubles(const Softmax* t, const DoubleLanes* s, const Rows* r, double* x, double* e,
                        double* low) noexcept nogil:
    """Outputs of 16 rows. x, e and low hold the tile if there is but one."""
    cdef double g[TILE * LANES]
    cdef double q[TILE * LANES]
    cdef double inverse[LANES]
    cdef double factor[LANES]
    cdef double at_peak[LANES]
    cdef double inverse_low[LANES]
    cdef double factor_low[LANES]
    cdef double p, own
    cdef Py_ssize_t part, at, m, c
    cdef int i
    cdef bint mixing = mixes(t)
    cdef bint one_tile = t.classes <= TILE
    for i in range(LANES):
        inverse[i] = 1.0 / r.total[i]
        factor[i] = r.p_factor[i] / r.total[i]
        p = (fma(-factor[i], r.total[i], r.p_factor[i]) - factor[i] * r.total_low[i]) * inverse[i]
        factor_low[i] = p if isfinite(p) else 0.0
        p = (fma(-inverse[i], r.total[i], 1.0) - inverse[i] * r.total_low[i]) * inverse[i]
        inverse_low[i] = p if isfinite(p) else 0.0
    for part in range((t.classes + TILE - 1) // TILE):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if not one_tile:
            gather(t.logits, t.code, &s.tile, at, m, x)
        if t.kind == LOG_SOFTMAX:
            for c in range(m):
                for i in range(LANES):
                    g[c * LANES + i] = minus_sum(r.maximum[i], x[c * LANES + i], r.log_total[i])
            scatter(t, t.grad, &s.tile, at, m, g)
            continue
        if mixing:
            gather_weights(t, &s.tile, at, m, q, e)
        if mixing or not one_tile:
            exp_lanes(x, m, s.base, s.magic, s.floor, e, low)
        if mixing:
            for c in range(m):
                for i in range(LANES):
                    own = e[c * LANES + i] + low[c * LANES + i]
                    g[c * LANES + i] = own * factor[i] - r.q_factor[i] * q[c * LANES + i]
        else:
            for c in range(m):
                for i in range(LANES):
                    g[c * LANES + i] = fma(e[c * LANES + i], factor[i],
                                           fma(e[c * LANES + i], factor_low[i], low[c * LANES + i] * factor[i]))
        if t.kind == CROSS_ENTROPY:
            for i in range(LANES):
                if r.label[i] == IGNORED:
                    for c in range(m):
                        g[c * LANES + i] = 0.0
                elif t.soft:
                    c = r.peak[i] - at
                    if 0 <= c < m:
                        p = e[c * LANES + i] * inverse[i]
                        g[c * LANES + i] = soft_gradient_at_maximum(r, i, p, q[c * LANES + i])
                elif at <= r.label[i] < at + m:
                    g[(r.label[i] - at) * LANES + i] = r.special[i]
        scatter(t, t.grad, &s.tile, at, m, g)
        if t.hess != NULL:
            for c in range(m):
                for i in range(LANES):
                    # Only the largest p can be near 1, and it is replaced below.
                    p = e[c * LANES + i] * inverse[i]
                    own = hessian_entry(e[c * LANES + i], low[c * LANES + i], inverse[i], inverse_low[i],
                                        r.p_factor[i])
                    g[c * LANES + i] = own + r.pp_factor[i] * p * p
            hessians_at_peaks(r, at_peak)
            for i in range(LANES):
                if r.label[i] == IGNORED:
                    for c in range(m):
                        g[c * LANES + i] = 0.0
                elif at <= r.peak[i] < at + m:
                    g[(r.peak[i] - at) * LANES + i] = at_peak[i]
            scatter(t, t.hess, &s.tile, at, m, g)


cdef void double_lanes(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r, int64_t* count) noexcept nogil:
    """Losses, in r, and outputs of up to 16 rows. Rows that take part are added to count."""
    cdef double x[TILE * LANES]
    cdef double e[TILE * LANES]
    cdef double low[TILE * LANES]
    cdef DoubleLanes s
    cdef int i
    place(t, first, n, &s.tile)
    read_lane_options(t, first, n, r, count)
    # Of all that is in r, what nothing else sets.
    for i in range(LANES):
        r.logit[i] = -INFINITY
        r.pp_factor[i] = 0.0
        r.z[i] = 0.0
    scan_doubles(t, &s, r, x, e, low)
    if t.kind == LOGSUMEXP:
        mark_nan_beside_infinity(t, first, n, r)
    finish(t, r)
    if t.grad != NULL:
        write_doubles(t, &s, r, x, e, low)
