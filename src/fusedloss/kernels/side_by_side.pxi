# Rows side by side: short rows, and classes that are not on the last axis, 16 rows at a time, lane = row.
#
# A short row costs more in starting and ending loops than in its classes. Here nothing is per row: columns of 16 rows
# are transposed in registers, all lanes have the same work, and the logarithms at the end are made in lanes too.
#
# float32: sums are those of column_sums.pxi; for gradients and Hessians e^x is carried with what its last rounding has
# lost. `direct_rows` is the short way of the plain loss, `direct_groups` that of some groups of rows together;
# float_lanes.pxi and double_lanes.pxi have everything else.

cdef enum:
    # Classes up to which 16 rows go side by side:
    SIDE_ROW = 63         # float32 without options
    MIXED_ROW = 31        # ... with them
    WIDE_ROW = 64         # float64 without options
    WIDE_MIXED_ROW = 48   # ... with them
    TILE = 64             # classes of 16 rows held in scratch at a time; even, as sum_columns wants it
    MULTIPLIED = 8        # rows in each lane for one logarithm
    WAITING = 64          # columns of groups of 16 rows that go through direct_groups together, or those of two groups
    COPIED = 16           # classes from which on outputs go past the caches, by way of a copy; of fewer it would wait


cdef inline bint batches(const Softmax* t) noexcept nogil:
    """Whether batched_rows.pxi has these rows, if they are neither few nor long."""
    return unshiftable(t) and not (mixes(t) and t.weight != NULL)


cdef inline bint few_classes(const Softmax* t) noexcept nogil:
    """Whether 16 rows go side by side."""
    if t.inner > 1:
        return True
    if batches(t):
        return t.classes <= (MIXED_ROW if has_options(t) else SIDE_ROW)
    if t.code == F64:
        return t.classes <= (WIDE_MIXED_ROW if has_options(t) else WIDE_ROW)
    return t.classes <= SIDE_ROW


cdef inline bint plain(const Softmax* t) noexcept nogil:
    """Hard labels and no option that mixes other classes in."""
    return t.kind == CROSS_ENTROPY and not t.soft and t.smoothing == 0.0 and t.z_loss == 0.0


cdef struct Tile:
    # Where 16 rows lie: item (class c, lane i) is number start[i] + c * stride of the array.
    Py_ssize_t start[LANES]
    Py_ssize_t stride
    int lanes                    # rows that exist
    bint adjacent                # the lanes of a class lie side by side


cdef void place(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Tile* tile) noexcept nogil:
    cdef Py_ssize_t outer = first // t.inner
    cdef Py_ssize_t within = first - outer * t.inner
    cdef int i
    tile.lanes = <int>n
    tile.stride = t.inner
    for i in range(LANES):
        tile.start[i] = outer * t.classes * t.inner + within
        if i + 1 < n:
            within += 1
            if within == t.inner:
                within = 0
                outer += 1
    tile.adjacent = n == LANES and tile.start[LANES - 1] == tile.start[0] + LANES - 1


cdef inline void columns_of_rows(const float* rows, Py_ssize_t classes, Py_ssize_t first, Py_ssize_t n,
                                 float* out) noexcept nogil:
    """OUT out[class, lane]: classes first..first+n of 16 rows that lie one after the other."""
    cdef vf v[4]
    cdef Py_ssize_t at = first
    cdef Py_ssize_t start, c
    while at < first + n:
        # The last group of four starts early: it repeats classes rather than read beyond the row.
        start = at if at + 4 <= classes else max(classes - 4, <Py_ssize_t>0)
        vf_load_columns(rows + start, classes, min(classes, <Py_ssize_t>4), v)
        for c in range(at, min(at + 4, first + n)):
            vf_store(out + (c - first) * LANES, v[c - start])
        at += 4


cdef inline void rows_of_columns(const float* values, Py_ssize_t classes, float* rows) noexcept nogil:
    """The reverse, of all classes."""
    cdef vf v[4]
    cdef Py_ssize_t width = min(classes, <Py_ssize_t>4)
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t start, c
    while at < classes:
        start = at if at + 4 <= classes else max(classes - 4, <Py_ssize_t>0)
        for c in range(width):
            v[c] = vf_load(values + (start + c) * LANES)
        vf_store_columns(rows + start, classes, width, v)
        at += 4


cdef inline void fetch_further(const Softmax* t, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Of large derivatives of very few classes, which go through the caches, what comes 4 KiB later than n rows."""
    cdef Py_ssize_t size = t.classes * size_of(t.code)
    cdef Py_ssize_t at
    if t.kind == CROSS_ENTROPY and t.stream and t.classes < COPIED:
        for at in range(first * size, (first + n) * size, 64):
            if t.grad != NULL:
                fl_fetch(t.grad + 4096 + at)
            if t.hess != NULL:
                fl_fetch(t.hess + 4096 + at)


cdef inline bint goes_straight(const Softmax* t, Py_ssize_t n) noexcept nogil:
    """Whether outputs of whole rows are transposed to where they belong, without a copy."""
    return t.code == F32 and n == LANES and not (t.stream and t.classes >= COPIED)


cdef inline const float* whole_rows(const char* data, Code code, Py_ssize_t classes, Py_ssize_t first, Py_ssize_t n,
                                    float* buffer) noexcept nogil:
    """16 rows of short rows that lie one after the other, the missing ones zero: in place if they can be."""
    cdef const float* x
    if n == LANES:
        return load(data, code, first * classes, LANES * classes, buffer)
    x = load(data, code, first * classes, n * classes, buffer)
    if x != buffer:
        memcpy(buffer, x, n * classes * sizeof(float))
    memset(buffer + n * classes, 0, (LANES - n) * classes * sizeof(float))
    return buffer


cdef inline void gather(const char* data, Code code, const Tile* tile, Py_ssize_t first, Py_ssize_t classes,
                        real* out) noexcept nogil:
    """Classes first..first+classes of 16 rows to OUT out[class, lane]; lanes without a row repeat the last."""
    cdef real buffer[CHUNK]
    cdef const real* x
    cdef Py_ssize_t c, at
    cdef int i
    if real is double:
        if code == F64 and tile.stride == 1 and tile.lanes == LANES and classes >= 4:
            # Whole rows, one after the other. The last four columns start early.
            for c in range(0, classes, 4):
                at = min(c, classes - 4)
                for i in range(0, 16, 4):      # LANES
                    fl_four_columns(<const double*>data + tile.start[i] + first + at, tile.start[1] - tile.start[0],
                                    out + at * LANES + i)
            return
    if tile.stride == 1:
        for i in range(LANES):
            x = load(data, code, tile.start[i] + first, classes, buffer)
            for c in range(classes):
                out[c * LANES + i] = x[c]
    elif tile.adjacent:
        for c in range(classes):
            x = load(data, code, tile.start[0] + (first + c) * tile.stride, LANES, buffer)
            for i in range(LANES):
                out[c * LANES + i] = x[i]
    else:
        for i in range(LANES):
            at = tile.start[i] + first * tile.stride
            for c in range(classes):
                out[c * LANES + i] = load(data, code, at + c * tile.stride, 1, buffer)[0]


cdef inline void scatter(const Softmax* t, char* data, const Tile* tile, Py_ssize_t first, Py_ssize_t classes,
                         const real* values) noexcept nogil:
    """The reverse of gather."""
    cdef real buffer[TILE * LANES]
    cdef real* out
    cdef Py_ssize_t c
    cdef int i
    if tile.stride == 1:
        out = buffer
        if real is float:
            # Straight into the array where it may go through the caches.
            if t.code == F32 and tile.lanes == LANES and not t.stream:
                out = <float*>data + tile.start[0]
            rows_of_columns(values, classes, out)
        else:
            for i in range(tile.lanes):
                for c in range(classes):
                    out[i * classes + c] = values[c * LANES + i]
        if out == buffer:
            store(data, t.code, tile.start[0], tile.lanes * classes, out, t.stream)
    elif tile.adjacent:
        for c in range(classes):
            store(data, t.code, tile.start[0] + (first + c) * tile.stride, LANES, values + c * LANES, False)
    else:
        for i in range(tile.lanes):
            for c in range(classes):
                store(data, t.code, tile.start[i] + (first + c) * tile.stride, 1, values + c * LANES + i,
                      False)


# ------------------------------------------------------------------------------------------- gradients in float32

cdef struct LaneFactors:
    # p_factor / S of 16 rows: in float32 as high + low, and in float64 for rows whose factors that cannot hold.
    float high[LANES]
    float low[LANES]
    double factor[LANES]
    bint wide                # some row needs float64
    bint needs[LANES]


cdef inline void leave_ignored_at_zero(LaneFactors* f, const int64_t* label) noexcept nogil:
    cdef int i
    for i in range(LANES):
        f.high[i] = <float>0.0 if label[i] < 0 else f.high[i]
        f.low[i] = <float>0.0 if label[i] < 0 else f.low[i]


cdef inline void set_quotients(LaneFactors* f, const double* p_factor, const double* total) noexcept nogil:
    cdef vd a = vd_div(vd_load(p_factor), vd_load(total))
    cdef vd b = vd_div(vd_load(p_factor + 8), vd_load(total + 8))
    cdef vf high = vf_narrow(a, b)
    vd_store(f.factor, a)
    vd_store(f.factor + 8, b)
    vf_store(f.high, high)
    vf_store(f.low, vf_narrow(vd_sub(a, vd_low(high)), vd_sub(b, vd_high(high))))


cdef inline void set_factors(LaneFactors* f, const double* p_factor, const double* total) noexcept nogil:
    cdef int i
    cdef int wide = 0
    set_quotients(f, p_factor, total)
    for i in range(LANES):
        # By p_factor, which no shift of the exponentials changes.
        f.needs[i] = not holds(p_factor[i])
        wide |= f.needs[i]
    f.wide = wide


cdef inline vf set_small_factors(LaneFactors* f, const double* p_factor, const double* rest,
                                 const double* total) noexcept nogil:
    """set_factors where float32 is known to hold all. The gradients at the labels."""
    set_quotients(f, p_factor, total)
    f.wide = False
    memset(f.needs, 0, sizeof(f.needs))
    return vf_narrow(vd_neg(vd_mul(vd_load(rest), vd_load(f.factor))),
                     vd_neg(vd_mul(vd_load(rest + 8), vd_load(f.factor + 8))))


cdef inline vf set_direct_factors(LaneFactors* f, const double* weights, double divisor, const double* rest,
                                  const double* label_term, Rows* r) noexcept nogil:
    """set_small_factors of rows whose sums are these. weights: NULL if there are none. OUT total and p_factor of r."""
    cdef int i
    for i in range(LANES):
        r.total[i] = rest[i] + label_term[i]
        r.p_factor[i] = (weights[i] if weights != NULL else 1.0) / divisor
    return set_small_factors(f, r.p_factor, rest, r.total)


cdef inline vf scaled_lanes(const LaneFactors* f, vf e, vf low) noexcept nogil:
    """factor (e + low), rounded once."""
    return vf_fma(e, vf_load(f.high), vf_fma(e, vf_load(f.low), vf_mul(low, vf_load(f.high))))


cdef inline float scaled_lane(const LaneFactors* f, float e, float low, int lane) noexcept nogil:
    """The same in one of the lanes."""
    return fmaf(e, f.high[lane], fmaf(e, f.low[lane], low * f.high[lane]))


cdef inline void scale_lanes(const LaneFactors* f, const float* e, const float* low, Py_ssize_t classes,
                             float* g) noexcept nogil:
    """g[class, lane] = factor (e + low), rounded once. g may be e."""
    cdef Py_ssize_t c
    cdef int i
    for c in range(classes):
        if f.wide:
            for i in range(LANES):
                g[c * LANES + i] = (<float>((<double>e[c * LANES + i] + <double>low[c * LANES + i]) * f.factor[i])
                                    if f.needs[i] else
                                    scaled_lane(f, e[c * LANES + i], low[c * LANES + i], i))
        else:
            vf_store(g + c * LANES, scaled_lanes(f, vf_load(e + c * LANES), vf_load(low + c * LANES)))


cdef inline vf scaled_column(const LaneFactors* f, const float* e, const float* low, vf label, vf at_label,
                             float column) noexcept nogil:
    """A column of the gradient: factor (e + low), rounded once, or the label's entry."""
    return vf_if_equal(label, vf_set(column), at_label, scaled_lanes(f, vf_load(e), vf_load(low)))


cdef void write_gradient(const LaneFactors* f, const float* e, const float* low, Py_ssize_t classes, vf label,
                         vf at_label, float* rows) noexcept nogil:
    """Gradients of 16 rows of the plain loss, one after the other: scaled exponentials, transposed back. A label's
    entry is put in on the way, in registers: a load that follows a store of a part of it waits for the store."""
    cdef vf v[4]
    cdef Py_ssize_t width = min(classes, <Py_ssize_t>4)
    cdef Py_ssize_t groups = (classes + 3) // 4
    cdef Py_ssize_t k, at, c
    for k in range(groups):
        # The last group of four starts early.
        at = max(min(4 * k, classes - 4), <Py_ssize_t>0)
        if width == 4:
            v[0] = scaled_column(f, e + at * LANES, low + at * LANES, label, at_label, <float>at)
            v[1] = scaled_column(f, e + (at + 1) * LANES, low + (at + 1) * LANES, label, at_label, <float>(at + 1))
            v[2] = scaled_column(f, e + (at + 2) * LANES, low + (at + 2) * LANES, label, at_label, <float>(at + 2))
            v[3] = scaled_column(f, e + (at + 3) * LANES, low + (at + 3) * LANES, label, at_label, <float>(at + 3))
            vf_store_columns(rows + at, classes, 4, v)
        else:
            for c in range(width):
                v[c] = scaled_column(f, e + c * LANES, low + c * LANES, label, at_label, <float>c)
            vf_store_columns(rows, classes, width, v)


# ---------------------------------------------------------------------------------- the plain loss, without a shift

cdef struct Columns:
    # What the classes of 16 rows have shown, in order.
    vf label             # the label less the number of the next class
    vf logit             # x_y
    vf smallest          # -max |x|; nan is passed over, and seen by the sums


cdef inline vf take_column(vf x, const Exponents* k, Columns* s) noexcept nogil:
    """The argument of its exponential, which is 0 at the labels."""
    cdef vf label = s.label
    s.label = vf_sub(label, vf_set(1.0))
    s.logit = vf_if_equal(label, vf_set(0.0), x, s.logit)
    s.smallest = vf_min(vf_neg_abs(x), s.smallest)
    return vf_clamp_unless_zero(label, k.floor, x)


cdef inline void take_columns(const float* x, Py_ssize_t classes, const float* further, const Exponents* k, vf label,
                              Columns* s, float* out, Py_ssize_t apart) noexcept nogil:
    """All classes of 16 rows that lie one after the other; OUT their arguments: out[class, lane], where classes are so
    many numbers `apart`. What lies `further` on is fetched."""
    cdef vf columns[4]
    cdef Py_ssize_t at, start, c
    s.label = label
    s.logit = vf_set(0.0)
    s.smallest = vf_set(0.0)
    if classes < 4:
        vf_load_columns(x, classes, classes, columns)
        for c in range(classes):
            fl_prefetch(further + c * LANES)
            vf_store(out + c * apart, take_column(columns[c], k, s))
        return
    for at in range(0, classes, 4):
        fl_prefetch(further + at * LANES)
        fl_prefetch(further + (at + 1) * LANES)
        fl_prefetch(further + (at + 2) * LANES)
        fl_prefetch(further + (at + 3) * LANES)
        start = at
        if at + 4 > classes:
            # The last four start early.
            start = classes - 4
            s.label = vf_sub(label, vf_set(<float>start))
        vf_load_columns(x + start, classes, 4, columns)
        vf_store(out + start * apart, take_column(columns[0], k, s))
        vf_store(out + (start + 1) * apart, take_column(columns[1], k, s))
        vf_store(out + (start + 2) * apart, take_column(columns[2], k, s))
        vf_store(out + (start + 3) * apart, take_column(columns[3], k, s))


cdef inline bint are_near(const float* x, Py_ssize_t classes, const Columns* s) noexcept nogil:
    """Whether the logits of 16 rows are at most 30 in size, but for those so far below that their exponentials are 0
    whatever the shift, as of masked classes: a label is not among these."""
    cdef vf smallest = vf_neg_abs(s.logit)
    cdef vf v
    cdef Py_ssize_t c
    if not vf_any_less(s.smallest, vf_set(-30.0)):
        return True
    for c in range(classes):
        v = vf_load(x + c * LANES)
        smallest = vf_min(vf_neg_abs(vf_if_less(v, vf_set(-200.0), vf_set(0.0), v)), smallest)
    return not vf_any_less(smallest, vf_set(-30.0))


cdef struct Product:
    # Of 1 + v in each lane, v > -1, as high + low: its logarithm is the sum of log1p(v), tiny ones included.
    vd high_0
    vd high_1
    vd low_0
    vd low_1
    int factors


cdef inline void clear_product(Product* p) noexcept nogil:
    p.factors = 0
    p.high_0 = vd_set(1.0)
    p.high_1 = p.high_0
    p.low_0 = vd_set(0.0)
    p.low_1 = p.low_0


cdef inline void multiply_half(vd v, vd* high, vd* low) noexcept nogil:
    cdef vd product = vd_fma(high[0], v, high[0])
    low[0] = vd_add(vd_fma(low[0], v, low[0]), vd_fma(high[0], v, vd_sub(high[0], product)))
    high[0] = product


cdef inline void multiply(Product* p, vd a, vd b) noexcept nogil:
    """By 1 + v in each lane, v being a in the first eight and b in the others."""
    multiply_half(a, &p.high_0, &p.low_0)
    multiply_half(b, &p.high_1, &p.low_1)
    p.factors += 1


cdef void add_logarithm(Product* p, LaneSums* total) noexcept nogil:
    """Add log(product) in each lane and begin anew."""
    cdef double logs[LANES]
    cdef vd one = vd_set(1.0)
    cdef int i
    vd_store(logs, vd_add(vd_sub(p.high_0, one), p.low_0))
    vd_store(logs + 8, vd_add(vd_sub(p.high_1, one), p.low_1))
    for i in range(LANES):
        logs[i] = log1p_accurate(logs[i])
    add_lanes(total, logs)
    clear_product(p)


cdef inline vf places_in(const int64_t* place, Py_ssize_t first) noexcept nogil:
    """Places in the tile that begins at `first`; -1 is none."""
    cdef float places[LANES]
    cdef int64_t at
    cdef int i
    for i in range(LANES):
        at = place[i] - first
        at = at if (at >= 0) & (at < TILE) else <int64_t>-1
        places[i] = <float><int32_t>at
    return vf_load(places)


cdef inline void keep_places(vf places, Py_ssize_t first, int64_t* place) noexcept nogil:
    """The reverse: those of a tile that are not -1."""
    cdef float here[LANES]
    cdef int i
    vf_store(here, places)
    for i in range(LANES):
        place[i] = first + <int64_t><int32_t>here[i] if here[i] >= <float>0.0 else place[i]


cdef struct Others:
    # Of the exponentials of 16 rows: the largest, and the sum of all others.
    vf top
    vf top_low
    vd sum_0
    vd sum_1
    vf lows              # of what they have lost


cdef inline Others no_others() noexcept nogil:
    cdef Others o
    o.top = vf_set(0.0)
    o.top_low = vf_set(0.0)
    o.sum_0 = vd_set(0.0)
    o.sum_1 = vd_set(0.0)
    o.lows = vf_set(0.0)
    return o


cdef inline void add_others(const float* e, const float* low, Py_ssize_t first, Py_ssize_t classes, Others* others,
                            int64_t* top_at) noexcept nogil:
    """Go on with classes first..first+classes, of a tile. top_at: the place of the largest, -1 before the first tile.
    What is larger than the largest so far takes its place, which is added instead."""
    cdef Others o = others[0]
    cdef vf place = vf_set(-1.0)
    cdef vf v, lost, smaller
    cdef Py_ssize_t c
    for c in range(classes):
        v = vf_load(e + c * LANES)
        lost = vf_load(low + c * LANES)
        smaller = vf_if_less(o.top, v, o.top, v)
        o.lows = vf_add(o.lows, vf_if_less(o.top, v, o.top_low, lost))
        place = vf_if_less(o.top, v, vf_set(<float>c), place)
        o.top_low = vf_if_less(o.top, v, lost, o.top_low)
        o.top = vf_if_less(o.top, v, v, o.top)
        o.sum_0 = vd_add(o.sum_0, vd_low(smaller))
        o.sum_1 = vd_add(o.sum_1, vd_high(smaller))
    others[0] = o
    keep_places(place, first, top_at)


cdef void set_peaks(const Others* o, const int64_t* hole, const double* hole_term, Rows* r) noexcept nogil:
    """OUT the largest class, which the others have or is left out of them, its exponential, and the sum of the rest."""
    cdef double top_term[LANES]
    cdef double others[LANES]
    cdef int i
    set_terms(o.top, o.top_low, top_term)
    vd_store(others, vd_add(o.sum_0, vd_low(o.lows)))
    vd_store(others + 8, vd_add(o.sum_1, vd_high(o.lows)))
    for i in range(LANES):
        r.peak[i] = hole[i] if hole_term[i] >= top_term[i] else r.top_at[i]
        r.rest_of_peak[i] = r.rest[i] if hole_term[i] >= top_term[i] else others[i] + hole_term[i]
        r.peak_term[i] = hole_term[i] if hole_term[i] >= top_term[i] else top_term[i]
        r.rest_of_peak_low[i] = 0.0
        r.peak_low[i] = 0.0


cdef void find_peaks(Py_ssize_t classes, const float* e, const float* low, const double* label_term,
                     Rows* r) noexcept nogil:
    """Of 16 rows of the plain loss, whose e and low are 0 at the labels."""
    cdef Others others = no_others()
    cdef int i
    for i in range(LANES):
        r.top_at[i] = -1
        r.pp_factor[i] = 0.0
        r.log_total[i] = 0.0
    add_others(e, low, 0, classes, &others, r.top_at)
    set_peaks(&others, r.label, label_term, r)


cdef void make_hessian(const Rows* r, const LaneFactors* f, Py_ssize_t classes, vf label, vf label_e, vf label_low,
                       float* e, const float* low) noexcept nogil:
    """OUT e: the Hessian of 16 rows of the plain loss, from e and low, for which label_e and label_low stand in at the
    labels. As long rows have it, g - g p with p = g / p_factor; only the largest p can be near 1, and it has a formula
    of its own."""
    cdef double at_peak[LANES]
    cdef float peaks[LANES]
    cdef float at_peaks[LANES]
    cdef float backs[LANES]
    cdef vf peak, at, back, v, lost
    cdef Py_ssize_t c
    cdef int i
    hessians_at_peaks(r, at_peak)
    for i in range(LANES):
        at_peaks[i] = <float>at_peak[i]
        peaks[i] = <float><int32_t>(r.peak[i] if r.label[i] >= 0 else <int64_t>-2)
        backs[i] = <float>(1.0 / r.p_factor[i] if r.label[i] >= 0 else 0.0)
    peak = vf_load(peaks)
    at = vf_load(at_peaks)
    back = vf_load(backs)
    for c in range(classes):
        v = vf_if_equal(label, vf_set(<float>c), label_e, vf_load(e + c * LANES))
        lost = vf_if_equal(label, vf_set(<float>c), label_low, vf_load(low + c * LANES))
        v = hess_of_grad(scaled_lanes(f, v, lost), back)
        vf_store(e + c * LANES, vf_if_equal(peak, vf_set(<float>c), at, v))


cdef void write_short_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const Rows* r, const LaneFactors* f,
                           vf label, vf at_label, vf label_e, vf label_low, float* e, const float* low,
                           float* buffer) noexcept nogil:
    """Gradient and Hessian of up to 16 short rows of the plain loss, from e, which is spoilt, and low; those of the
    labels, which a sum may have left out, in label_e and label_low."""
    cdef bint straight = goes_straight(t, n)
    write_gradient(f, e, low, t.classes, label, at_label, <float*>t.grad + first * t.classes if straight else buffer)
    if not straight:
        store(t.grad, t.code, first * t.classes, n * t.classes, <const float*>buffer, t.stream)
    if t.hess == NULL:
        return
    make_hessian(r, f, t.classes, label, label_e, label_low, e, low)
    rows_of_columns(e, t.classes, <float*>t.hess + first * t.classes if straight else buffer)
    if not straight:
        store(t.hess, t.code, first * t.classes, n * t.classes, <const float*>buffer, t.stream)


cdef inline double weight_of(const char* weight, Code code, int32_t label) noexcept nogil:
    # The usual dtypes first: load_one looks for them among all.
    if code == F32:
        return (<const float*>weight)[label]
    if code == F64:
        return (<const double*>weight)[label]
    return load_one(weight, code, label)


cdef inline bint read_weights(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const float* labels,
                              double* weights) noexcept nogil:
    """OUT s w_y of n <= 16 rows, 1 where there is no row or its label is negative: False if the gradients of one need
    float64 on the way."""
    cdef double buffer[LANES]
    cdef const double* samples
    cdef int i
    cdef bint small = True
    for i in range(LANES):
        weights[i] = 1.0
    if t.sample_weight != NULL:
        samples = load(t.sample_weight, t.sample_code, first, n, buffer)
        for i in range(<int>n):
            weights[i] = samples[i]
    if t.weight != NULL:
        for i in range(LANES):
            if labels[i] >= <float>0.0:
                weights[i] = weights[i] * weight_of(t.weight, t.weight_code, <int32_t>labels[i])
    for i in range(LANES):
        weights[i] = weights[i] if labels[i] >= <float>0.0 else 1.0
        small &= (labels[i] < <float>0.0) | holds(weights[i] / t.divisor)
    return small


cdef struct Groups:
    # What groups of 16 rows have of each row, or column, from one step to the next.
    float y[2 * 64 * 16]             # arguments, as sum_pairs wants them: 2 TILE LANES
    float labels[8 * 16]             # MULTIPLIED LANES
    float logits[8 * 16]             # of the labels ...
    double term[8 * 16]              # ... and their exponentials
    double rest[8 * 16]              # the sum of all others
    double weights[8 * 16]           # s w_y, if there are any


cdef inline Py_ssize_t sum_groups(const Softmax* t, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t end, bint weighted,
                                  const Exponents* k, Groups* s, float* e, float* low) noexcept nogil:
    """The sums of the groups begin..end, from row `first` on. OUT e and low, unless NULL. Where they end: at the first
    that is not as direct_groups wants it."""
    cdef float buffer[SIDE_ROW * LANES]
    cdef Columns found
    cdef Py_ssize_t classes = t.classes
    cdef Py_ssize_t done = 0
    cdef Py_ssize_t c
    cdef const float* x
    while begin + done < end and usual_labels(t, first, s.labels + (begin + done) * LANES):
        fetch_row_ends(t, first + LANES)
        fetch_further(t, first, LANES)
        x = whole_rows(t.logits, t.code, classes, first, LANES, buffer)
        take_columns(x, classes, x + LANES * max(classes, <Py_ssize_t>64), k,
                     vf_load(s.labels + (begin + done) * LANES), &found,
                     s.y + (done // 2 * classes * 2 + done % 2) * LANES, 2 * LANES)
        if not are_near(x, classes, &found):
            break
        if weighted and not read_weights(t, first, LANES, s.labels + (begin + done) * LANES,
                                         s.weights + (begin + done) * LANES) and e != NULL:
            break
        vf_store(s.logits + (begin + done) * LANES, found.logit)
        done += 1
        first += LANES
    if done == 0:
        return begin
    if done % 2 == 1:
        # The other half of the last pair is nothing.
        for c in range(classes):
            vf_store(s.y + ((done // 2 * classes + c) * 2 + 1) * LANES, k.floor)
    sum_pairs(s.y, classes, (done + 1) // 2, k, s.rest + begin * LANES, e, low)
    return begin + done


cdef inline void set_label_terms(Groups* s, Py_ssize_t begin, Py_ssize_t end, const Exponents* k) noexcept nogil:
    cdef vf e, low
    cdef Py_ssize_t at
    for at in range(begin * LANES, end * LANES, 16):      # LANES
        e = exp_with_low(vf_max(k.floor, vf_load(s.logits + at)), k, &low)
        set_terms(e, low, s.term + at)


cdef inline void multiply_groups(const Groups* s, Py_ssize_t end, Product* product) noexcept nogil:
    """The product takes the factors of the groups up to `end`."""
    cdef Product p = product[0]      # in registers, perhaps
    cdef Py_ssize_t at
    for at in range(0, end * LANES, 16):      # LANES
        multiply(&p, vd_div(vd_load(s.rest + at), vd_load(s.term + at)),
                 vd_div(vd_load(s.rest + at + 8), vd_load(s.term + at + 8)))
    product[0] = p


cdef void add_group_losses(const Softmax* t, Py_ssize_t first, const Groups* s, Py_ssize_t end, bint weighted,
                           LaneSums* total) noexcept nogil:
    """Losses of the groups up to `end`, from row `first` on: to their array, if there is one, and to the total, if sums
    are wanted."""
    cdef double loss[LANES]
    cdef float out[LANES]
    cdef Py_ssize_t at
    cdef int i
    for at in range(0, end * LANES, 16):      # LANES
        losses_from_sums(s.rest + at, s.term + at, 1.0, loss)
        if weighted:
            for i in range(LANES):
                loss[i] = times(s.weights[at + i], loss[i])
        if t.losses != NULL:
            for i in range(LANES):
                out[i] = <float>(loss[i] + 0.0)      # -0.0 would be a loss that prints with a sign
            store(t.losses, t.loss_code, first + at, LANES, &out[0], False)
        if t.sums != NULL:
            add_lanes(total, loss)


cdef Py_ssize_t direct_groups(const Softmax* t, Py_ssize_t first, Py_ssize_t groups, bint weighted, Product* product,
                              LaneSums* total, Rows* r) noexcept nogil:
    """direct_rows of up to MULTIPLIED whole groups of usual labels, of which no Hessians are wanted, nor gradients of
    more than WAITING // 2 classes: the product takes the losses, or the total, if there are weights. How many there
    are before the first that is not so.

    What a group does beside its sums takes as long as they do, and each step of it waits for the one before: here the
    steps of some groups are taken together."""
    cdef float e[WAITING * LANES]
    cdef float low[WAITING * LANES]
    cdef float buffer[WAITING * LANES]
    cdef float at_labels[MULTIPLIED * LANES]
    cdef LaneFactors factors[MULTIPLIED]
    cdef Groups s
    cdef Exponents k = cut_exponents_of(0.0, False)
    cdef Py_ssize_t size = t.classes * LANES
    cdef Py_ssize_t together = max(WAITING // (2 * t.classes), <Py_ssize_t>1) * 2
    cdef Py_ssize_t end = 0
    cdef Py_ssize_t stop = 0
    cdef Py_ssize_t begin, g
    cdef bint keep = t.grad != NULL
    cdef double divisor = t.divisor
    while end == stop and end < groups:
        begin = end
        stop = min(groups, begin + together)
        end = sum_groups(t, first + begin * LANES, begin, stop, weighted, &k, &s, e if keep else NULL, low)
        if not keep:
            continue
        set_label_terms(&s, begin, end, &k)
        for g in range(begin, end):
            vf_store(at_labels + g * LANES,
                     set_direct_factors(factors + g, s.weights + g * LANES if weighted else NULL, divisor,
                                        s.rest + g * LANES, s.term + g * LANES, r))
        for g in range(begin, end):
            write_short_rows(t, first + g * LANES, LANES, r, factors + g, vf_load(s.labels + g * LANES),
                             vf_load(at_labels + g * LANES), k.floor, k.floor, e + (g - begin) * size,
                             low + (g - begin) * size, buffer)
    if not keep:
        set_label_terms(&s, 0, end, &k)
    if weighted or t.losses != NULL:
        if t.losses != NULL or t.sums != NULL:
            add_group_losses(t, first, &s, end, weighted, total)
    elif t.sums != NULL:
        multiply_groups(&s, end, product)
    return end


cdef bint direct_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, bint weighted, Product* product,
                      int64_t* count, Rows* r) noexcept nogil:
    """Up to 16 short rows, the plain loss and what it wants of derivatives: False if a logit is too large or too small,
    or a gradient's factor. The bits of each row are those of `float_lanes`.

    Then no exponential needs a shift, and none can be lost: no maximum is looked for, and each class is read once. OUT
    losses, in r; or, of a sum without weights, factors into the product. Rows that take part are added to count.
    """
    cdef float buffer[SIDE_ROW * LANES]
    cdef float e[TILE * LANES]
    cdef float low[TILE * LANES]
    cdef float labels[LANES]
    cdef double weights[LANES]
    cdef double rest[LANES]
    cdef double label_term[LANES]
    cdef LaneFactors factors
    cdef Columns s
    cdef ColumnSums sums = no_columns()
    cdef vf label, at_label, label_e, label_low
    cdef Exponents k = cut_exponents_of(0.0, False)
    cdef Py_ssize_t classes = t.classes
    cdef const float* x = whole_rows(t.logits, t.code, classes, first, n, buffer)
    cdef bint keep = t.grad != NULL
    # What comes 4 KiB later, or with the next group of rows, is fetched meanwhile.
    cdef const float* further = x + LANES * max(classes, <Py_ssize_t>64)
    cdef double divisor = t.divisor
    cdef int64_t counted = count[0] + LANES
    cdef bint usual = n == LANES and count[0] != MISTAKEN and usual_labels(t, first, labels)
    cdef int i

    if not usual:
        counted = count[0]
        take_labels(t, first, n, r.label, &counted)
        for i in range(LANES):
            # Short rows have few classes, and x86-64-v3 can convert no wider integers in lanes.
            labels[i] = <float><int32_t>r.label[i]
    if weighted and not read_weights(t, first, n, labels, weights) and keep:
        return False

    # 1. Sums.
    label = vf_load(labels)
    take_columns(x, classes, further, &k, label, &s, e, LANES)
    label_e = exp_with_low(vf_max(k.floor, s.logit), &k, &label_low)
    set_terms(label_e, label_low, label_term)
    sum_columns(e, classes, &k, &sums, e if keep else NULL, low)

    # 2. Losses.
    if not are_near(x, classes, &s):
        return False
    store_sums(&sums, rest)
    if not usual:
        for i in range(LANES):
            if r.label[i] == IGNORED:
                # Not with a nan, which 0 times it would keep.
                if rest[i] != rest[i]:
                    return False
                rest[i] = 0.0
    count[0] = counted
    if t.sums != NULL and not weighted:
        multiply(product, vd_div(vd_load(rest), vd_load(label_term)),
                 vd_div(vd_load(rest + 8), vd_load(label_term + 8)))
    elif t.sums != NULL or t.losses != NULL:
        losses_from_sums(rest, label_term, 1.0, r.loss)
        for i in range(LANES):
            r.z[i] = 0.0
        if weighted:
            for i in range(LANES):
                r.loss[i] = times(weights[i], r.loss[i])
    if not keep:
        return True
    if t.hess != NULL:
        for i in range(LANES):
            r.label[i] = <int64_t><int32_t>labels[i]
            r.rest[i] = rest[i]
        find_peaks(classes, e, low, label_term, r)

    # 3. Gradient and Hessian.
    at_label = set_direct_factors(&factors, weights if weighted else NULL, divisor, rest, label_term, r)
    if not usual:
        leave_ignored_at_zero(&factors, r.label)
    write_short_rows(t, first, n, r, &factors, label, at_label, label_e, label_low, e, low, buffer)
    return True
