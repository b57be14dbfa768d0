# Rows side by side: short rows, and classes that are not on the last axis, 16 rows at a time, lane = row.
#
# A short row costs more in starting and ending loops than in its classes. Here nothing is per row: columns of 16 rows
# are transposed in registers, all lanes have the same work, and the logarithms at the end are made in lanes too.
#
# float32: sums are those of column_sums.pxi; for gradients and Hessians e^x is carried with what its last rounding has
# lost. `direct_rows` is the short way of the plain loss, `lanes_block` the way of everything else; a row has the same
# bits on both.

cdef enum:
    # Classes up to which 16 rows go side by side:
    SIDE_ROW = 63         # float32 without options
    MIXED_ROW = 15        # ... with them. batched_rows.pxi takes no less than a vector.
    FEW_CLASSES = 40      # float64, and class weights beside others
    TILE = 64             # classes of 16 rows held in scratch at a time; even, as sum_columns wants it
    MULTIPLIED = 8        # rows in each lane for one logarithm
    COPIED = 16           # classes from which on outputs go past the caches, by way of a copy; of fewer it would wait
    DIRECT = 60           # up to this gap between the maximum and the label E_y is far from underflow


cdef inline bint batches(const Softmax* t) noexcept nogil:
    """Whether batched_rows.pxi has these rows, if they are neither few nor long."""
    return unshiftable(t) and not (mixes(t) and t.weight != NULL)


cdef inline bint few_classes(const Softmax* t) noexcept nogil:
    """Whether 16 rows go side by side."""
    if t.inner > 1:
        return True
    if batches(t):
        return t.classes <= (MIXED_ROW if has_options(t) else SIDE_ROW)
    return t.classes <= FEW_CLASSES


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
        for c in range(width, 4):
            v[c] = v[0]
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


cdef void gather_weights(const Softmax* t, const Tile* tile, Py_ssize_t first, Py_ssize_t classes, double* q,
                         real* scratch) noexcept nogil:
    """q[class, lane], as Mix has it."""
    cdef double keep = 1.0 - t.smoothing
    cdef double uniform = t.smoothing / <double>t.classes
    cdef double w
    cdef Py_ssize_t c
    cdef int i
    if t.soft:
        gather(t.target, t.target_code, tile, first, classes, scratch)
        for c in range(classes * LANES):
            q[c] = fma(keep, <double>scratch[c], uniform)
    else:
        for c in range(classes * LANES):
            q[c] = 1.0
    if t.weight != NULL:
        for c in range(classes):
            w = load_one(t.weight, t.weight_code, first + c)
            for i in range(LANES):
                q[c * LANES + i] = w * q[c * LANES + i]


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
            for c in range(4):
                v[c] = scaled_column(f, e + min(c, classes - 1) * LANES, low + min(c, classes - 1) * LANES, label,
                                     at_label, <float>c)
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
                              Columns* s, float* out) noexcept nogil:
    """All classes of 16 rows that lie one after the other; OUT out[class, lane]: arguments. What lies `further` on is
    fetched."""
    cdef vf columns[4]
    cdef Py_ssize_t at, start, c
    s.label = label
    s.logit = vf_set(0.0)
    s.smallest = vf_set(0.0)
    if classes < 4:
        vf_load_columns(x, classes, classes, columns)
        for c in range(classes):
            fl_prefetch(further + c * LANES)
            vf_store(out + c * LANES, take_column(columns[c], k, s))
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
        vf_store(out + start * LANES, take_column(columns[0], k, s))
        vf_store(out + (start + 1) * LANES, take_column(columns[1], k, s))
        vf_store(out + (start + 2) * LANES, take_column(columns[2], k, s))
        vf_store(out + (start + 3) * LANES, take_column(columns[3], k, s))


cdef struct Product:
    # Of 1 + v in each lane, v > -1, as high + low: its logarithm is the sum of log1p(v), tiny ones included.
    double high[LANES]
    double low[LANES]
    int factors


cdef inline void clear_product(Product* p) noexcept nogil:
    cdef int i
    p.factors = 0
    for i in range(LANES):
        p.high[i] = 1.0
        p.low[i] = 0.0


cdef inline void multiply(Product* p, const double* v) noexcept nogil:
    cdef int i
    cdef double high
    for i in range(LANES):
        high = fma(p.high[i], v[i], p.high[i])
        p.low[i] = fma(p.low[i], v[i], p.low[i]) + fma(p.high[i], v[i], p.high[i] - high)
        p.high[i] = high
    p.factors += 1


cdef void add_logarithm(Product* p, LaneSums* total) noexcept nogil:
    """Add log(product) in each lane and begin anew."""
    cdef double logs[LANES]
    cdef int i
    for i in range(LANES):
        logs[i] = log1p_accurate((p.high[i] - 1.0) + p.low[i])
    add_lanes(total, logs)
    clear_product(p)


cdef void find_peaks(const float* x, Py_ssize_t classes, vf label, const float* e, const float* low,
                     const double* label_term, Rows* r) noexcept nogil:
    """The largest class of 16 rows, and the sum of all others; e and low are 0 at the labels."""
    cdef Exponents k = cut_exponents_of(0.0, False)
    cdef vf columns[4]
    cdef vf top = vf_set(-INFINITY)
    cdef vf top_at = vf_set(-1.0)
    cdef vf v, lost
    cdef vd sum_0 = vd_set(0.0), sum_1 = vd_set(0.0), low_0 = vd_set(0.0), low_1 = vd_set(0.0)
    cdef float tops[LANES]
    cdef float tops_at[LANES]
    cdef double top_term[LANES]
    cdef double lows[LANES]
    cdef Py_ssize_t at, start, c
    cdef int i
    for at in range(0, classes, 4):
        start = at if at + 4 <= classes else max(classes - 4, <Py_ssize_t>0)
        vf_load_columns(x + start, classes, min(classes, <Py_ssize_t>4), columns)
        for c in range(at, min(at + 4, classes)):
            v = vf_if_equal(label, vf_set(<float>c), vf_set(-INFINITY), columns[c - start])
            top_at = vf_if_less(top, v, vf_set(<float>c), top_at)
            top = vf_max(v, top)
    for c in range(classes):
        v = vf_if_equal(top_at, vf_set(<float>c), vf_set(0.0), vf_load(e + c * LANES))
        lost = vf_if_equal(top_at, vf_set(<float>c), vf_set(0.0), vf_load(low + c * LANES))
        sum_0 = vd_add(sum_0, vd_low(v))
        sum_1 = vd_add(sum_1, vd_high(v))
        low_0 = vd_add(low_0, vd_low(lost))
        low_1 = vd_add(low_1, vd_high(lost))
    vf_store(tops, top)
    vf_store(tops_at, top_at)
    vd_store(r.others, sum_0)
    vd_store(r.others + 8, sum_1)
    vd_store(lows, low_0)
    vd_store(lows + 8, low_1)
    top = exp_with_low(vf_max(k.floor, top), &k, &lost)
    set_terms(top, lost, top_term)
    for i in range(LANES):
        r.top[i] = tops[i]
        r.top_at[i] = <int64_t><int32_t>tops_at[i]
        r.others[i] = r.others[i] + lows[i]
        r.pp_factor[i] = 0.0
        r.log_total[i] = 0.0
    set_peaks(r, label_term, top_term)


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


cdef inline bint read_weights(const Softmax* t, Py_ssize_t first, const float* labels, double* weights) noexcept nogil:
    """OUT s w_y of 16 rows, 1 where the label is negative: False if the gradients of one need float64 on the way."""
    cdef double w
    cdef int i
    cdef bint small = True
    for i in range(LANES):
        w = 1.0
        if labels[i] >= <float>0.0:
            if t.sample_weight != NULL:
                w = load_one(t.sample_weight, t.sample_code, first + i)
            if t.weight != NULL:
                w = w * load_one(t.weight, t.weight_code, <Py_ssize_t>labels[i])
            small = small and holds(w / t.divisor)
        weights[i] = w
    return small


cdef bint direct_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, bint weighted, Product* product,
                      int64_t* count, Rows* r) noexcept nogil:
    """Up to 16 short rows, the plain loss and what it wants of derivatives: False if a logit is larger than 30 in size,
    or a gradient's factor too large or too small. The bits of each row are those of `lanes_block`.

    Then no exponential needs a shift, and none can be lost: no maximum is looked for, and each class is read once. OUT
    losses, in r; or, of a sum without weights, factors into the product. Rows that take part are added to count.
    """
    cdef float buffer[SIDE_ROW * LANES]
    cdef float e[TILE * LANES]
    cdef float low[TILE * LANES]
    cdef float labels[LANES]
    cdef float logits[LANES]
    cdef double weights[LANES]
    cdef double rest[LANES]
    cdef double label_term[LANES]
    cdef double v[LANES]
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
    cdef int64_t counted = count[0] + LANES
    cdef bint usual = n == LANES and count[0] != MISTAKEN and usual_labels(t, first, labels)
    cdef int i

    if not usual:
        counted = count[0]
        take_labels(t, first, n, r.label, &counted)
        for i in range(LANES):
            # Short rows have few classes, and x86-64-v3 can convert no wider integers in lanes.
            labels[i] = <float><int32_t>r.label[i]
    if weighted and not read_weights(t, first, labels, weights) and keep:
        return False

    # 1. Sums.
    label = vf_load(labels)
    take_columns(x, classes, further, &k, label, &s, e)
    label_e = exp_with_low(vf_max(k.floor, s.logit), &k, &label_low)
    set_terms(label_e, label_low, label_term)
    sum_columns(e, classes, &k, &sums, e if keep else NULL, low)

    # 2. Losses.
    if vf_any_less(s.smallest, vf_set(-30.0)):
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
        for i in range(LANES):
            v[i] = rest[i] / label_term[i]
        multiply(product, v)
    elif t.sums != NULL or t.losses != NULL:
        losses_from_sums(rest, label_term, 1.0, r.loss)
        for i in range(LANES):
            r.z[i] = 0.0
        if weighted:
            for i in range(LANES):
                r.loss[i] = times(weights[i], r.loss[i])
    if not keep:
        return True
    for i in range(LANES):
        r.total[i] = rest[i] + label_term[i]
        r.p_factor[i] = (weights[i] if weighted else 1.0) / t.divisor
    if t.hess != NULL:
        # What needs the logits, which the gradient may replace.
        vf_store(logits, s.logit)
        for i in range(LANES):
            r.label[i] = <int64_t><int32_t>labels[i]
            r.rest[i] = rest[i]
            r.logit[i] = logits[i]
        find_peaks(x, classes, label, e, low, label_term, r)

    # 3. Gradient and Hessian.
    at_label = set_small_factors(&factors, r.p_factor, rest, r.total)
    if not usual:
        leave_ignored_at_zero(&factors, r.label)
    write_short_rows(t, first, n, r, &factors, label, at_label, label_e, label_low, e, low, buffer)
    return True


# ------------------------------------------------------------------------------------------- all kinds of rows

cdef void read_tile(const Softmax* t, const Tile* tile, const float* rows, Py_ssize_t first, Py_ssize_t classes,
                    real* x) noexcept nogil:
    """A tile of the logits: from `rows`, which may be NULL, or from where they lie."""
    if real is float:
        if rows != NULL:
            columns_of_rows(rows, t.classes, first, classes, x)
            return
    gather(t.logits, t.code, tile, first, classes, x)


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


cdef void sum_others(const double* e, const double* low, Py_ssize_t classes, const int32_t* label,
                     const int32_t* top_at, double* sums, double* lows) noexcept nogil:
    """Add the classes of 16 rows but label and top, with the rounding errors. low: what e have lost, or NULL; then only
    the top is left out of it."""
    cdef double labels[LANES]
    cdef double places[LANES]
    cdef vd v, a, b, high, lost, number
    cdef Py_ssize_t c
    cdef int i, half
    for i in range(LANES):
        labels[i] = label[i]
        places[i] = top_at[i]
    for half in range(0, 16, 8):
        a = vd_load(labels + half)
        b = vd_load(places + half)
        high = vd_load(sums + half)
        lost = vd_load(lows + half)
        for c in range(classes):
            number = vd_set(<double>c)
            v = vd_if_equal(a, number, vd_set(0.0), vd_load(e + c * LANES + half))
            add_vector(&high, &lost, vd_if_equal(b, number, vd_set(0.0), v))
        if low != NULL:
            for c in range(classes):
                v = vd_if_equal(b, vd_set(<double>c), vd_set(0.0), vd_load(low + c * LANES + half))
                lost = vd_add(lost, v)
        vd_store(sums + half, high)
        vd_store(lows + half, lost)


cdef void sum_others_directly(const float* x, Py_ssize_t classes, const int32_t* label, const float* logit,
                              const float* base, const float* magic, const float* floor, ColumnSums* sums, float* e,
                              float* low) noexcept nogil:
    """Add the classes of 16 rows but the labels, as direct_rows does. OUT e and low of all, labels too."""
    cdef float labels[LANES]
    cdef float label_e[LANES]
    cdef float label_low[LANES]
    cdef Exponents k = cut_exponents_of(0.0, False)
    cdef vf bases = vf_load(base)
    cdef vf places, v, lost
    cdef Py_ssize_t c
    cdef int i
    k.magic = vf_load(magic)
    k.floor = vf_load(floor)
    for i in range(LANES):
        labels[i] = label[i]
    places = vf_load(labels)
    for c in range(classes):
        v = vf_sub(vf_load(x + c * LANES), bases)
        vf_store(e + c * LANES, vf_clamp_unless_zero(vf_sub(places, vf_set(<float>c)), k.floor, v))
    sum_columns(e, classes, &k, sums, e, low)
    v = exp_with_low(vf_max(k.floor, vf_sub(vf_load(logit), bases)), &k, &lost)
    vf_store(label_e, v)
    vf_store(label_low, lost)
    for i in range(LANES):
        if 0 <= label[i] < classes:
            e[label[i] * LANES + i] = label_e[i]
            low[label[i] * LANES + i] = label_low[i]


cdef void scan_lanes(const Softmax* t, const Tile* tile, const float* rows, Py_ssize_t first, Rows* r, bint careful,
                     real* x, real* e, real* low) noexcept nogil:
    """Maxima and sums of 16 rows. `careful`, or for the Hessian: sums that leave out the largest class, too."""
    cdef double q[TILE * LANES]
    cdef real base[LANES]
    cdef real magic[LANES]
    cdef real floor[LANES]
    cdef real best[LANES]
    cdef real top[LANES]
    cdef int32_t here[LANES]
    cdef int32_t label[LANES]
    cdef real logit[LANES]
    cdef ColumnSums sums = no_columns()
    cdef double others[LANES]
    cdef double other_lows[LANES]
    cdef double reference[LANES]
    cdef double without[LANES]
    cdef double without_too[LANES]
    cdef double term, rest, number
    cdef bint left_out
    cdef real v
    cdef LaneSums q_sum
    cdef Shift shift
    cdef Py_ssize_t part, at, m, c
    cdef int i
    cdef Py_ssize_t tiles = (t.classes + TILE - 1) // TILE
    cdef bint hard = t.kind == CROSS_ENTROPY and not t.soft
    cdef bint mixing = t.kind == CROSS_ENTROPY and (t.soft or t.smoothing > 0.0)
    cdef bint want_top = careful or t.hess != NULL

    # 1. The maximum, and the first class that has it but for the label.
    for i in range(LANES):
        best[i] = -INFINITY
        top[i] = -INFINITY
        r.top_at[i] = -1
    for part in range(tiles):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        read_tile(t, tile, rows, at, m, x)
        if want_top:
            for i in range(LANES):
                here[i] = -1
                label[i] = <int32_t>(r.label[i] - at) if hard else -1
            if real is double:
                find_tops(x, m, label, best, top, here)
            else:
                for c in range(m):
                    for i in range(LANES):
                        best[i] = x[c * LANES + i] if x[c * LANES + i] > best[i] else best[i]
                        v = <real>-INFINITY if <int32_t>c == label[i] else x[c * LANES + i]
                        here[i] = <int32_t>c if v > top[i] else here[i]
                        top[i] = v if v > top[i] else top[i]
            for i in range(LANES):
                r.top_at[i] = at + here[i] if here[i] >= 0 else r.top_at[i]
        else:
            for c in range(m):
                for i in range(LANES):
                    best[i] = x[c * LANES + i] if x[c * LANES + i] > best[i] else best[i]
    for i in range(LANES):
        r.maximum[i] = best[i]
        r.top[i] = top[i]
        shift = shift_of(<double>best[i], <real>0)
        r.base[i] = shift.base
        r.scale[i] = shift.scale
    for i in range(LANES):
        base[i] = <real>r.base[i]
        magic[i] = magic_of_lane(r.scale[i], <real>0)
        floor[i] = floor_of_lane(r.scale[i], <real>0)
        reference[i] = r.maximum[i] if r.maximum[i] > -INFINITY else 0.0
    memset(others, 0, sizeof(others))
    memset(other_lows, 0, sizeof(other_lows))
    memset(&q_sum, 0, sizeof(LaneSums))
    if hard:
        for i in range(tile.lanes):
            if r.label[i] != IGNORED:
                r.logit[i] = load_one(t.logits, t.code, tile.start[i] + r.label[i] * t.inner)
    for i in range(LANES):
        logit[i] = <real>r.logit[i]

    # 2. Sums.
    for part in range(tiles):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if tiles > 1:
            read_tile(t, tile, rows, at, m, x)
        for i in range(LANES):
            label[i] = <int32_t>(r.label[i] - at) if hard else -1
            here[i] = <int32_t>(r.top_at[i] - at) if r.top_at[i] >= 0 else -1
        if careful:
            exp_lanes(x, m, base, magic, floor, e, low)
        else:
            # float64 is always careful.
            if real is float:
                sum_others_directly(x, m, label, logit, base, magic, floor, &sums, e, low)
        if want_top:
            if real is double:
                # log p of the top is a sum that one term may be most of.
                sum_others(e, low if t.kind == LOG_SOFTMAX else NULL, m, label, here, others, other_lows)
            else:
                for i in range(LANES):
                    # As numbers of the width of the sums, so that comparing them costs no conversion.
                    without[i] = label[i]
                    without_too[i] = here[i]
                number = 0.0
                for c in range(m):
                    for i in range(LANES):
                        left_out = (without[i] == number) | (without_too[i] == number)
                        others[i] = others[i] + (0.0 if left_out else <double>e[c * LANES + i])
                        rest = <double>low[c * LANES + i]
                        other_lows[i] = other_lows[i] + (0.0 if left_out else rest)
                    number += 1.0
        if mixing:
            gather_weights(t, tile, at, m, q, e)
            for c in range(m):
                add_lanes(&q_sum, &q[c * LANES])
                for i in range(LANES):
                    term = q[c * LANES + i] * (reference[i] - <double>x[c * LANES + i])
                    r.q_gap[i] = r.q_gap[i] + (0.0 if q[c * LANES + i] == 0.0 else term)
    for i in range(LANES):
        r.q_sum[i] = q_sum.high[i] + q_sum.low[i]
        r.others[i] = others[i] + other_lows[i]
        r.others_low[i] = (others[i] - r.others[i]) + other_lows[i]
    if not careful:
        store_sums(&sums, r.rest)
    if t.kind == LOGSUMEXP:
        for i in range(tile.lanes):
            if r.maximum[i] == INFINITY and row_has_nan(t, first + i):
                r.maximum[i] = NAN


cdef void lanes_block(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r, real tag) noexcept nogil:
    """All three phases for up to 16 rows."""
    cdef real x[TILE * LANES]
    cdef real e[TILE * LANES]
    cdef real low[TILE * LANES]
    cdef float buffer[SIDE_ROW * LANES]
    cdef const float* rows = NULL
    cdef Rows again
    cdef Tile tile
    cdef int i
    cdef bint careful = t.code == F64 or not plain(t)
    place(t, first, n, &tile)
    if real is float:
        if t.inner == 1:
            rows = whole_rows(t.logits, t.code, t.classes, first, n, buffer)
    scan_lanes(t, &tile, rows, first, r, careful, x, e, low)
    if careful:
        finish(t, r)
    elif not finish_direct(t, r):
        # Which way a row goes depends on itself alone.
        again = r[0]
        scan_lanes(t, &tile, rows, first, &again, True, x, e, low)
        finish(t, &again)
        for i in range(LANES):
            if not (r.maximum[i] - r.logit[i] <= <double>DIRECT):
                take_lane(r, &again, i)
    if t.grad == NULL and t.hess == NULL:
        return
    write_lanes(t, &tile, r, rows, x, e, low)


cdef inline void take_lane(Rows* r, const Rows* other, int i) noexcept nogil:
    """What finish has set."""
    r.total[i] = other.total[i]
    r.total_low[i] = other.total_low[i]
    r.log_total[i] = other.log_total[i]
    r.rest_of_peak[i] = other.rest_of_peak[i]
    r.rest_of_peak_low[i] = other.rest_of_peak_low[i]
    r.peak_term[i] = other.peak_term[i]
    r.peak_low[i] = other.peak_low[i]
    r.loss[i] = other.loss[i]
    r.p_factor[i] = other.p_factor[i]
    r.q_factor[i] = other.q_factor[i]
    r.special[i] = other.special[i]


cdef void write_lanes(const Softmax* t, const Tile* tile, const Rows* r, const float* rows, real* x, real* e,
                      real* low) noexcept nogil:
    """Gradient and Hessian of 16 rows. x and e hold the tile if there is but one."""
    cdef real g[TILE * LANES]
    cdef double q[TILE * LANES]
    cdef real base[LANES]
    cdef real magic[LANES]
    cdef real floor[LANES]
    cdef double inverse[LANES]
    cdef double factor[LANES]
    cdef double at_peak[LANES]
    cdef double inverse_low[LANES]
    cdef double factor_low[LANES]
    cdef double p, own
    cdef float back[LANES]
    cdef bint from_grad
    cdef LaneFactors factors
    cdef Py_ssize_t part, at, m, c
    cdef int i
    cdef bint mixing = t.kind == CROSS_ENTROPY and (t.soft or t.smoothing > 0.0)
    cdef bint one_tile = t.classes <= TILE
    for i in range(LANES):
        base[i] = <real>r.base[i]
        magic[i] = magic_of_lane(r.scale[i], <real>0)
        floor[i] = floor_of_lane(r.scale[i], <real>0)
        inverse[i] = 1.0 / r.total[i]
        factor[i] = r.p_factor[i] / r.total[i]
        p = (fma(-factor[i], r.total[i], r.p_factor[i]) - factor[i] * r.total_low[i]) * inverse[i]
        factor_low[i] = p if isfinite(p) else 0.0
        p = (fma(-inverse[i], r.total[i], 1.0) - inverse[i] * r.total_low[i]) * inverse[i]
        inverse_low[i] = p if isfinite(p) else 0.0
    if real is float:
        set_factors(&factors, r.p_factor, r.total)
    for part in range((t.classes + TILE - 1) // TILE):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if not one_tile:
            read_tile(t, tile, rows, at, m, x)
        if t.kind == LOG_SOFTMAX:
            for c in range(m):
                for i in range(LANES):
                    if real is float:
                        g[c * LANES + i] = <float>-((r.maximum[i] - <double>x[c * LANES + i]) + r.log_total[i])
                    else:
                        g[c * LANES + i] = minus_sum(r.maximum[i], x[c * LANES + i], r.log_total[i])
            scatter(t, t.grad, tile, at, m, g)
            continue
        if mixing:
            gather_weights(t, tile, at, m, q, e)
        if mixing or not one_tile:
            exp_lanes(x, m, base, magic, floor, e, low)
        if t.grad != NULL:
            if mixing:
                for c in range(m):
                    for i in range(LANES):
                        own = <double>e[c * LANES + i] + <double>low[c * LANES + i]
                        g[c * LANES + i] = <real>(own * factor[i] - r.q_factor[i] * q[c * LANES + i])
            elif real is float:
                scale_lanes(&factors, e, low, m, g)
            else:
                for c in range(m):
                    for i in range(LANES):
                        g[c * LANES + i] = fma(e[c * LANES + i], factor[i],
                                               fma(e[c * LANES + i], factor_low[i], low[c * LANES + i] * factor[i]))
            if t.kind == CROSS_ENTROPY:
                for i in range(LANES):
                    if r.label[i] == IGNORED:
                        for c in range(m):
                            g[c * LANES + i] = <real>0.0
                    elif t.soft:
                        c = r.peak[i] - at
                        if 0 <= c < m:
                            p = <double>e[c * LANES + i] * inverse[i]
                            g[c * LANES + i] = <real>soft_gradient_at_maximum(r, i, p, q[c * LANES + i])
                    elif at <= r.label[i] < at + m:
                        g[(r.label[i] - at) * LANES + i] = <real>r.special[i]
            scatter(t, t.grad, tile, at, m, g)
        if t.hess != NULL:
            if real is float:
                from_grad = True
                for i in range(LANES):
                    from_grad = from_grad and (hess_from_grad(r, i) or r.label[i] == IGNORED)
                    back[i] = <float>(1.0 / r.p_factor[i])
            for c in range(m):
                if real is float and from_grad:
                    # As long rows have it.
                    vf_store(g + c * LANES, hess_of_grad(scaled_lanes(&factors, vf_load(e + c * LANES),
                                                                      vf_load(low + c * LANES)), vf_load(back)))
                    continue
                for i in range(LANES):
                    if real is float:
                        if hess_from_grad(r, i):
                            g[c * LANES + i] = scaled_lane(&factors, e[c * LANES + i], low[c * LANES + i], i)
                            g[c * LANES + i] = multiply_add(-(g[c * LANES + i] * back[i]), g[c * LANES + i],
                                                            g[c * LANES + i])
                            continue
                        # Only the largest p can be near 1, and it is replaced below.
                        p = (<double>e[c * LANES + i] + <double>low[c * LANES + i]) * inverse[i]
                        own = r.p_factor[i] * (p * (1.0 - p))
                    else:
                        p = e[c * LANES + i] * inverse[i]
                        own = hessian_entry(e[c * LANES + i], low[c * LANES + i], inverse[i], inverse_low[i],
                                            r.p_factor[i])
                    g[c * LANES + i] = <real>(own + r.pp_factor[i] * p * p)
            hessians_at_peaks(r, at_peak)
            for i in range(LANES):
                if r.label[i] == IGNORED:
                    for c in range(m):
                        g[c * LANES + i] = <real>0.0
                elif at <= r.peak[i] < at + m:
                    g[(r.peak[i] - at) * LANES + i] = <real>at_peak[i]
            scatter(t, t.hess, tile, at, m, g)
