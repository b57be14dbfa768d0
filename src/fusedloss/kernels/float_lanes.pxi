# Few classes of float32, 16 rows side by side, where direct_rows cannot go: rows that need a shift, class
# probabilities, smoothing, z-loss, class weights beside these, and classes that are not on the last axis.
#
# One class is left out of the sum (column_sums.pxi), and its exponential added with more digits: the label, a class of
# probability above 1/2, or else the largest. It is most of the sum where losses are small, and they keep all their
# digits. Gaps are measured from the maximum, so that nothing cancels. Each row of the plain loss has the bits that
# direct_rows gives it.

cdef enum:
    DIRECT = 60           # of a label further below the maximum, E_y may leave float32, and adds nothing to S


cdef struct FloatLanes:
    # 16 rows: where they are, and what their scan finds beside what is in Rows.
    Tile tile
    const float* rows         # whole rows, one after the other, or NULL ...
    const float* targets      # ... and those of their probabilities
    int64_t hole[LANES]       # the class that is left out; -1 if there is none
    double term[LANES]        # its exponential, 0 if there is none ...
    float hole_e[LANES]       # ... in float32, ...
    float hole_low[LANES]     # ... and what that has lost
    double hole_q[LANES]      # its q_c
    float base[LANES]         # shifts
    float magic[LANES]
    float floor[LANES]


cdef void read_floats(const Softmax* t, const FloatLanes* s, Py_ssize_t first, Py_ssize_t classes,
                      float* x) noexcept nogil:
    """OUT x[class, lane]: a tile of the logits."""
    if s.rows != NULL:
        columns_of_rows(s.rows, t.classes, first, classes, x)
    else:
        gather(t.logits, t.code, &s.tile, first, classes, x)


cdef void read_probabilities(const Softmax* t, const FloatLanes* s, Py_ssize_t first, Py_ssize_t classes,
                             float* target) noexcept nogil:
    if s.targets != NULL:
        columns_of_rows(s.targets, t.classes, first, classes, target)
    else:
        gather(t.target, t.target_code, &s.tile, first, classes, target)


cdef void find_large_probabilities(const Softmax* t, FloatLanes* s, float* target) noexcept nogil:
    """OUT hole: the first class of each row with a probability above 1/2. OUT target: the first tile of them."""
    cdef vf half = vf_set(0.5)
    cdef vf place
    cdef Py_ssize_t at, m, c
    at = (t.classes - 1) // TILE * TILE
    # From the end, so that the first one is what stays.
    while at >= 0:
        m = min(<Py_ssize_t>TILE, t.classes - at)
        read_probabilities(t, s, at, m, target)
        place = vf_set(-1.0)
        for c in range(m - 1, -1, -1):
            place = vf_if_less(half, vf_load(target + c * LANES), vf_set(<float>c), place)
        keep_places(place, at, s.hole)
        at -= TILE


cdef void find_maxima(const Softmax* t, const FloatLanes* s, bint want_top, Rows* r, float* x) noexcept nogil:
    """OUT maximum, and top_at, if it is wanted: the first class that has it, -1 if all are -inf or nan. nan is passed
    over: sums see it. OUT x: the last tile."""
    cdef float maxima[LANES]
    cdef vf best = vf_set(-INFINITY)
    cdef vf v, place
    cdef Py_ssize_t at, m, c
    cdef int i
    for i in range(LANES):
        r.top_at[i] = -1
    for at in range(0, t.classes, 64):      # TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        read_floats(t, s, at, m, x)
        place = vf_set(-1.0)
        for c in range(m):
            v = vf_load(x + c * LANES)
            if want_top:
                place = vf_if_less(best, v, vf_set(<float>c), place)
            best = vf_max(v, best)
        if want_top:
            keep_places(place, at, r.top_at)
    vf_store(maxima, best)
    for i in range(LANES):
        r.maximum[i] = maxima[i]


cdef void set_shifts(FloatLanes* s, Rows* r) noexcept nogil:
    cdef Shift shift
    cdef int i
    for i in range(LANES):
        shift = shift_of(r.maximum[i], <float>0)
        r.base[i] = shift.base
        r.scale[i] = shift.scale
    for i in range(LANES):
        s.base[i] = <float>r.base[i]
        s.magic[i] = eighths_magic(r.scale[i])
        s.floor[i] = eighths_floor(r.scale[i])


cdef inline Exponents exponents_of_lanes(const FloatLanes* s) noexcept nogil:
    cdef Exponents k = cut_exponents_of(0.0, False)
    k.magic = vf_load(s.magic)
    k.floor = vf_load(s.floor)
    return k


cdef void add_classes(const FloatLanes* s, Py_ssize_t first, Py_ssize_t classes, const float* x, ColumnSums* sums,
                      float* logit, float* e, float* low, bint keep) noexcept nogil:
    """Add the classes of a tile but the holes. OUT e, which is spoilt if it is not to be kept, and low; logit of the
    holes in this tile."""
    cdef Exponents k = exponents_of_lanes(s)
    cdef vf base = vf_load(s.base)
    cdef vf hole = places_in(s.hole, first)
    cdef vf of_hole = vf_load(logit)
    cdef vf v, here
    cdef Py_ssize_t c
    for c in range(classes):
        v = vf_load(x + c * LANES)
        here = vf_sub(hole, vf_set(<float>c))
        of_hole = vf_if_equal(here, vf_set(0.0), v, of_hole)
        vf_store(e + c * LANES, vf_clamp_unless_zero(here, k.floor, vf_sub(v, base)))
    vf_store(logit, of_hole)
    sum_columns(e, classes, &k, sums, e if keep else NULL, low)


cdef void set_hole_exponentials(FloatLanes* s, const float* logit, Rows* r) noexcept nogil:
    cdef Exponents k = exponents_of_lanes(s)
    cdef vf base = vf_load(s.base)
    cdef vf low
    cdef vf e = exp_with_low(vf_max(k.floor, vf_sub(vf_load(logit), base)), &k, &low)
    cdef int i
    set_terms(e, low, s.term)
    vf_store(s.hole_e, e)
    vf_store(s.hole_low, low)
    for i in range(LANES):
        r.logit[i] = logit[i]
        s.term[i] = s.term[i] if s.hole[i] >= 0 else 0.0


cdef struct LaneMix:
    # What the q_c of a column of 16 rows are made of.
    Mix mix
    const float* target          # NULL: all are 1
    const char* weight           # NULL: none
    Code weight_code


cdef inline LaneMix lane_mix(const Softmax* t, const float* target) noexcept nogil:
    cdef LaneMix of
    of.mix = mix_of(t)
    of.target = target if t.soft else NULL
    of.weight = t.weight
    of.weight_code = t.weight_code
    return of


cdef inline void take_q(const LaneMix* of, Py_ssize_t c, Py_ssize_t column, vd* a, vd* b) noexcept nogil:
    """OUT q of 16 rows: class `column`, number c of its tile."""
    cdef vd w
    a[0] = vd_set(of.mix.uniform)
    b[0] = a[0]
    if of.target != NULL:
        a[0] = vd_fma(vd_set(of.mix.keep), vd_from_floats(of.target + c * LANES), a[0])
        b[0] = vd_fma(vd_set(of.mix.keep), vd_from_floats(of.target + c * LANES + 8), b[0])
    if of.weight != NULL:
        w = vd_set(load_one(of.weight, of.weight_code, column))
        a[0] = vd_mul(w, a[0])
        b[0] = vd_mul(w, b[0])


cdef void add_gaps(const Softmax* t, FloatLanes* s, Py_ssize_t first, Py_ssize_t classes, const float* x,
                   const float* target, Rows* r) noexcept nogil:
    """Add q_c and q_c (m - x_c) of a tile: 0 times infinity is 0. OUT hole_q of the holes in it."""
    cdef LaneMix of = lane_mix(t, target)
    cdef double reference[LANES]
    cdef vd q_0 = vd_load(r.q_sum), q_1 = vd_load(r.q_sum + 8)
    cdef vd gap_0 = vd_load(r.q_gap), gap_1 = vd_load(r.q_gap + 8)
    cdef vd own_0 = vd_load(s.hole_q), own_1 = vd_load(s.hole_q + 8)
    cdef vd m_0, m_1, a, b, u, v, hole_0, hole_1, number
    cdef vf hole = places_in(s.hole, first)
    cdef vd zero = vd_set(0.0)
    cdef Py_ssize_t c
    cdef int i
    for i in range(LANES):
        # A row of nothing but -inf has no softmax, whatever its gaps are.
        reference[i] = r.maximum[i] if r.maximum[i] > -INFINITY else 0.0
    m_0 = vd_load(reference)
    m_1 = vd_load(reference + 8)
    hole_0 = vd_low(hole)
    hole_1 = vd_high(hole)
    for c in range(classes):
        number = vd_set(<double>c)
        take_q(&of, c, first + c, &a, &b)
        u = vd_sub(m_0, vd_from_floats(x + c * LANES))
        v = vd_sub(m_1, vd_from_floats(x + c * LANES + 8))
        gap_0 = vd_fma(a, vd_if_equal(a, zero, zero, u), gap_0)
        gap_1 = vd_fma(b, vd_if_equal(b, zero, zero, v), gap_1)
        q_0 = vd_add(q_0, a)
        q_1 = vd_add(q_1, b)
        own_0 = vd_if_equal(hole_0, number, a, own_0)
        own_1 = vd_if_equal(hole_1, number, b, own_1)
    vd_store(r.q_sum, q_0)
    vd_store(r.q_sum + 8, q_1)
    vd_store(r.q_gap, gap_0)
    vd_store(r.q_gap + 8, gap_1)
    vd_store(s.hole_q, own_0)
    vd_store(s.hole_q + 8, own_1)


cdef void scan_floats(const Softmax* t, FloatLanes* s, Rows* r, float* x, float* e, float* low,
                      float* target) noexcept nogil:
    """Maxima and sums of 16 rows. OUT e and low: the exponentials of their only tile, 0 at the holes; its target."""
    cdef float logit[LANES]
    cdef ColumnSums sums = no_columns()
    cdef Others others = no_others()
    cdef bint hard = t.kind == CROSS_ENTROPY and not t.soft
    cdef bint by_top = t.soft or t.kind == LOG_SOFTMAX or t.kind == LOGSUMEXP
    cdef bint keep = t.grad != NULL
    cdef Py_ssize_t at, m
    cdef int i
    for i in range(LANES):
        s.hole[i] = r.label[i] if hard and r.label[i] >= 0 else <int64_t>-1
        s.hole_q[i] = 0.0
        logit[i] = -INFINITY
    if t.soft:
        find_large_probabilities(t, s, target)
    find_maxima(t, s, by_top, r, x)
    for i in range(LANES):
        s.hole[i] = r.top_at[i] if by_top and s.hole[i] < 0 else s.hole[i]
        # From here on of the others.
        r.top_at[i] = -1
    set_shifts(s, r)
    for at in range(0, t.classes, 64):      # TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if t.classes > TILE:
            read_floats(t, s, at, m, x)
            if t.soft:
                read_probabilities(t, s, at, m, target)
        add_classes(s, at, m, x, &sums, logit, e, low, keep)
        if t.hess != NULL:
            add_others(e, low, at, m, &others, r.top_at)
        if mixes(t):
            add_gaps(t, s, at, m, x, target, r)
    store_sums(&sums, r.rest)
    set_hole_exponentials(s, logit, r)
    if t.hess != NULL:
        set_peaks(&others, s.hole, s.term, r)


cdef void finish_floats(const Softmax* t, FloatLanes* s, Rows* r) noexcept nogil:
    """Losses and gradient factors of 16 rows."""
    cdef double anchor[LANES]
    cdef double term[LANES]
    cdef double rest[LANES]
    cdef double logs[LANES]
    cdef double own[LANES]
    cdef int64_t near[LANES]
    cdef double divisor = t.divisor
    cdef double hard
    cdef int i
    for i in range(LANES):
        r.total[i] = r.rest[i] + s.term[i]
        near[i] = (s.hole[i] >= 0) & (r.maximum[i] - r.logit[i] <= <double>DIRECT)
        log_parts(r.total[i], r.scale[i], near[i] != 0, r.logit[i], s.term[i], r.rest[i], anchor + i, term + i,
                  rest + i)
        anchor[i] = anchor[i] - r.maximum[i] if near[i] else anchor[i] + (r.base[i] - r.maximum[i])
    losses_from_sums(rest, term, 1.0, logs)
    for i in range(LANES):
        r.log_total[i] = logs[i] + anchor[i]
        own[i] = logs[i] if near[i] else r.log_total[i] + (r.maximum[i] - r.logit[i])
        r.z[i] = 0.0
        r.pp_factor[i] = 0.0
    if plain(t):
        for i in range(LANES):
            hard = r.sample[i] * r.class_weight[i]
            r.loss[i] = times(hard, own[i])
            r.p_factor[i] = hard / divisor
            # As set_small_factors has it, to the bit.
            r.special[i] = -(r.rest[i] * (r.p_factor[i] / r.total[i]))
    elif t.kind == CROSS_ENTROPY:
        finish_options(t, r, own, s.term, 0, LANES)
    else:
        for i in range(LANES):
            r.others[i] = r.rest[i]
        finish_logsumexp(r)
    for i in range(LANES):
        r.loss[i] = 0.0 if r.label[i] == IGNORED else r.loss[i]
        r.z[i] = 0.0 if r.label[i] == IGNORED else r.z[i]


cdef void put_holes(const FloatLanes* s, Py_ssize_t classes, float* e, float* low) noexcept nogil:
    """Their exponentials where they belong."""
    cdef vf hole = places_in(s.hole, 0)
    cdef vf hole_e = vf_load(s.hole_e)
    cdef vf hole_low = vf_load(s.hole_low)
    cdef Py_ssize_t c
    for c in range(classes):
        vf_store(e + c * LANES, vf_if_equal(hole, vf_set(<float>c), hole_e, vf_load(e + c * LANES)))
        vf_store(low + c * LANES, vf_if_equal(hole, vf_set(<float>c), hole_low, vf_load(low + c * LANES)))


cdef inline void put_entries(vf place, vf entries, vf ignored, Py_ssize_t classes, float* g) noexcept nogil:
    """One entry of each lane in its place; nothing but 0 in lanes that are ignored, which are -1."""
    cdef vf v
    cdef Py_ssize_t c
    for c in range(classes):
        v = vf_if_equal(place, vf_set(<float>c), entries, vf_load(g + c * LANES))
        vf_store(g + c * LANES, vf_if_equal(ignored, vf_set(-1.0), vf_set(0.0), v))


cdef void mix_lanes(const Softmax* t, const Rows* r, Py_ssize_t first, Py_ssize_t classes, const float* e,
                    const float* low, const float* target, float* g) noexcept nogil:
    """g[class, lane] = p_factor p_c - q_factor q_c."""
    cdef LaneMix of = lane_mix(t, target)
    cdef vd factor_0 = vd_div(vd_load(r.p_factor), vd_load(r.total))
    cdef vd factor_1 = vd_div(vd_load(r.p_factor + 8), vd_load(r.total + 8))
    cdef vd less_0 = vd_load(r.q_factor)
    cdef vd less_1 = vd_load(r.q_factor + 8)
    cdef vd a, b, u, v
    cdef Py_ssize_t c
    for c in range(classes):
        take_q(&of, c, first + c, &a, &b)
        u = vd_add(vd_from_floats(e + c * LANES), vd_from_floats(low + c * LANES))
        v = vd_add(vd_from_floats(e + c * LANES + 8), vd_from_floats(low + c * LANES + 8))
        u = vd_nfma(less_0, a, vd_mul(u, factor_0))
        v = vd_nfma(less_1, b, vd_mul(v, factor_1))
        vf_store(g + c * LANES, vf_narrow(u, v))


cdef void write_hessian(const Rows* r, const LaneFactors* factors, bint with_z, Py_ssize_t classes, const float* e,
                        const float* low, float* g) noexcept nogil:
    """Of a tile, but for the peaks: only the largest p can be near 1. From the gradient, as long rows have it, unless
    its factor is too large or too small, or the part of the z-loss may cancel it."""
    cdef float back[LANES]
    cdef double inverse[LANES]
    cdef double p, own
    cdef vf backs
    cdef Py_ssize_t c
    cdef int i
    for i in range(LANES):
        back[i] = <float>(1.0 / r.p_factor[i])
        inverse[i] = 1.0 / r.total[i]
    backs = vf_load(back)
    for c in range(classes):
        vf_store(g + c * LANES, hess_of_grad(scaled_lanes(factors, vf_load(e + c * LANES), vf_load(low + c * LANES)),
                                             backs))
    if not (with_z or factors.wide):
        return
    for c in range(classes):
        for i in range(LANES):
            p = (<double>e[c * LANES + i] + <double>low[c * LANES + i]) * inverse[i]
            own = r.p_factor[i] * (p * (1.0 - p))
            g[c * LANES + i] = <float>(own + r.pp_factor[i] * p * p) if with_z or factors.needs[i] else g[c * LANES + i]


cdef void write_floats(const Softmax* t, FloatLanes* s, Rows* r, float* x, float* e, float* low,
                       float* target) noexcept nogil:
    """Outputs of 16 rows. x, e, low and target hold the tile if there is but one."""
    cdef float g[TILE * LANES]
    cdef float special[LANES]
    cdef float at_peak[LANES]
    cdef float labels[LANES]
    cdef double peaks[LANES]
    cdef LaneFactors factors
    cdef bint one_tile = t.classes <= TILE
    cdef Py_ssize_t at, m, c
    cdef int i
    cdef vf ignored
    if t.hess != NULL or not mixes(t):
        set_factors(&factors, r.p_factor, r.total)
    for i in range(LANES):
        labels[i] = <float>-1.0 if r.label[i] == IGNORED else <float>0.0
        special[i] = <float>r.special[i]
        at_peak[i] = <float>0.0
    if t.soft:
        for i in range(LANES):
            special[i] = <float>soft_gradient_at_maximum(r, i, s.term[i] / r.total[i], s.hole_q[i])
    ignored = vf_load(labels)
    if t.hess != NULL:
        hessians_at_peaks(r, peaks)
        for i in range(LANES):
            at_peak[i] = <float>peaks[i]
    if one_tile and t.hess != NULL:
        put_holes(s, t.classes, e, low)
    for at in range(0, t.classes, 64):      # TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if not one_tile:
            read_floats(t, s, at, m, x)
            if t.soft:
                read_probabilities(t, s, at, m, target)
        if t.kind == LOG_SOFTMAX:
            for c in range(m):
                for i in range(LANES):
                    g[c * LANES + i] = <float>-((r.maximum[i] - <double>x[c * LANES + i]) + r.log_total[i])
            scatter(t, t.grad, &s.tile, at, m, g)
            continue
        if not one_tile:
            exp_lanes(x, m, s.base, s.magic, s.floor, e, low)
        if mixes(t):
            mix_lanes(t, r, at, m, e, low, target, g)
        else:
            scale_lanes(&factors, e, low, m, g)
        if t.kind == CROSS_ENTROPY:
            put_entries(places_in(s.hole, at), vf_load(special), ignored, m, g)
        scatter(t, t.grad, &s.tile, at, m, g)
        if t.hess != NULL:
            write_hessian(r, &factors, t.z_loss > 0.0, m, e, low, g)
            put_entries(places_in(r.peak, at), vf_load(at_peak), ignored, m, g)
            scatter(t, t.hess, &s.tile, at, m, g)


cdef void float_lanes(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r, int64_t* count) noexcept nogil:
    """Losses, in r, and outputs of up to 16 rows. Rows that take part are added to count."""
    cdef float x[TILE * LANES]
    cdef float e[TILE * LANES]
    cdef float low[TILE * LANES]
    cdef float target[TILE * LANES]
    cdef float buffer[SIDE_ROW * LANES]
    cdef float targets[SIDE_ROW * LANES]
    cdef FloatLanes s
    place(t, first, n, &s.tile)
    s.rows = NULL
    s.targets = NULL
    if t.inner == 1:
        s.rows = whole_rows(t.logits, t.code, t.classes, first, n, buffer)
        if t.soft:
            s.targets = whole_rows(t.target, t.target_code, t.classes, first, n, targets)
    read_lane_options(t, first, n, r, count)
    scan_floats(t, &s, r, x, e, low, target)
    if t.kind == LOGSUMEXP:
        mark_nan_beside_infinity(t, first, n, r)
    finish_floats(t, &s, r)
    if t.grad != NULL:
        write_floats(t, &s, r, x, e, low, target)
