# Rows of float32 of up to 256 classes whose exponentials need no shift, 16 at a time: as unshifted_rows.pxi has them,
# without what costs the same for each row, however short it is.
#
# What rows share is done in lanes. All sums of a batch come before the first of its entries, so that these need not
# wait for the end of a sum. The label is left out by a copy of the vector that has it. Rows that need a shift go the
# way of long_rows.pxi.

cdef enum:
    SHORT_ROW = 256       # classes
    BATCHED = 2048        # classes of the rows of a batch that keeps its powers: with t they are 16 KiB


cdef struct Batch:
    # 16 rows. Masks are 0 or 1.
    const float* x             # logits, row after row
    Py_ssize_t first           # row of the call
    int32_t hole[LANES]        # the label; -1 if there is none
    int64_t part[LANES]        # the row exists and is not ignored ...
    int64_t taken[LANES]       # ... and needs no shift ...
    int64_t written[LANES]     # ... and its derivatives are made from its powers
    double term[LANES]         # exponential of the label, ...
    float power[LANES]         # ... and the two numbers that sums would have for it
    float t[LANES]
    double sums[LANES]         # over all other classes, ...
    double most[LANES]         # ... none of which has a larger term
    double factor[LANES]       # of exponentials in gradients
    Py_ssize_t stride          # of rows in `powers`
    float powers[4096]         # 2 BATCHED: powers, and t


cdef inline void sum_short_row(const float* x, Py_ssize_t classes, Py_ssize_t hole, const Exponents* k, float* powers,
                               bint keep, double* sums) noexcept nogil:
    """OUT sums: eight, whose sum is that over all classes but the hole, which may be -1. OUT powers, if `keep`: of
    whole vectors. The rows after the next 15 are fetched."""
    cdef float end[LANES]
    cdef float without[LANES]
    cdef vf ceiling = vf_set(<float>CEILING)
    cdef vf power, t
    cdef RowSum s = nothing_summed()
    cdef Py_ssize_t full = classes // LANES
    cdef Py_ssize_t vectors = (classes + LANES - 1) // LANES
    cdef Py_ssize_t apart = -1
    cdef Py_ssize_t i
    cdef const float* p
    cdef const float* further = x + LANES * classes
    if full < vectors:
        vf_store(end, vf_load_part(x + full * LANES, classes - full * LANES, -INFINITY))
    if hole >= 0:
        apart = hole // LANES
        p = &end[0] if apart == full else x + apart * LANES
        vf_store(without, vf_if_equal(vf_count(), vf_set(<float>(hole % LANES)), vf_set(-INFINITY), vf_load(p)))
    for i in range(vectors):
        fl_prefetch(further + i * LANES)
        p = &end[0] if i == full else x + i * LANES
        p = &without[0] if i == apart else p
        exp_parts_of(argument_of(p, ceiling, k), k, True, &power, &t)
        s.powers = vd_add(s.powers, vd_add(vd_even_tiny(power), vd_odd_tiny(power)))
        s.rest = vf_fma(power, t, s.rest)
        if keep:
            vf_store(powers + i * LANES, power)
            vf_store(powers + BATCHED + i * LANES, t)
        if i == GROUPED - 1:
            add_rests(&s)
    add_rests(&s)
    vd_store(sums, vd_fma(s.powers, vd_set(FL_FROM_TINY), s.rests))


cdef void sum_batch(Batch* b, Py_ssize_t classes, int begin, int end, bint keep) noexcept nogil:
    """OUT sums of rows begin..end."""
    cdef double parts[128]      # 8 LANES
    cdef Exponents k = cut_exponents_of(0.0, True)
    cdef int i
    if keep:
        for i in range(begin, end):
            sum_short_row(b.x + i * classes, classes, b.hole[i], &k, b.powers + (i - begin) * b.stride, True,
                          parts + 8 * i)
    else:
        for i in range(begin, end):
            sum_short_row(b.x + i * classes, classes, b.hole[i], &k, NULL, False, parts + 8 * i)
    for i in range(begin, end):
        b.sums[i] = fold_eight(&parts[8 * i])
        b.most[i] = largest_of_eight(&parts[8 * i])


cdef void begin_batch(const Softmax* t, Batch* b, Py_ssize_t n, Rows* r, int64_t* count) noexcept nogil:
    """Labels and their exponentials."""
    cdef float labels[LANES]
    cdef float logits[LANES]
    cdef Exponents k = cut_exponents_of(0.0, False)
    cdef Exponents of_sums = cut_exponents_of(0.0, True)
    cdef vf y, e, low, power, rest
    cdef int i
    if t.kind != CROSS_ENTROPY:
        for i in range(LANES):
            b.hole[i] = -1
            b.part[i] = i < n
            b.taken[i] = b.part[i]
            b.term[i] = 0.0
        return
    if n == LANES and count[0] != MISTAKEN and usual_labels(t, b.first, labels):
        count[0] += LANES
        for i in range(LANES):
            b.hole[i] = <int32_t>labels[i]
            b.part[i] = 1
    else:
        take_labels(t, b.first, n, r.label, count)
        for i in range(LANES):
            b.part[i] = r.label[i] >= 0
            b.hole[i] = <int32_t>r.label[i] if r.label[i] >= 0 else -1
    for i in range(LANES):
        logits[i] = b.x[i * t.classes + max(b.hole[i], <int32_t>0)]
    y = vf_min(vf_set(<float>CEILING), vf_max(k.floor, vf_load(logits)))
    e = exp_with_low(y, &k, &low)
    set_terms(e, low, b.term)
    exp_parts_of(y, &of_sums, True, &power, &rest)
    vf_store(b.power, power)
    vf_store(b.t, rest)
    for i in range(LANES):
        b.term[i] = b.term[i] if b.part[i] else 1.0
        b.taken[i] = b.part[i] & (logits[i] >= <float>LOWEST_LABEL) & (logits[i] <= <float>HIGHEST_LABEL)


cdef void take_sums(const Softmax* t, Batch* b, int begin, int end) noexcept nogil:
    """Which of rows begin..end need no shift."""
    cdef double total
    cdef int i
    for i in range(begin, end):
        b.taken[i] &= (b.sums[i] < LARGEST_SUM) & (b.sums[i] >= SMALLEST_SUM)
    if t.kind == LOGSUMEXP:
        for i in range(begin, end):
            # The logarithm of a sum near 1 has fewer digits than the sum.
            b.taken[i] &= (b.sums[i] <= 0.6) | (b.sums[i] >= 1.7)


cdef void set_batch_factors(const Softmax* t, Batch* b, const double* weights, Rows* r) noexcept nogil:
    """OUT what the derivatives of a whole batch are made of."""
    cdef double p, f
    cdef bint gradient = t.hess == NULL
    cdef int i
    for i in range(LANES):
        r.total[i] = b.sums[i] + b.term[i]
        r.p_factor[i] = weights[i] / t.divisor
        b.factor[i] = r.p_factor[i] / r.total[i]
        r.special[i] = -(b.sums[i] * b.factor[i])
    for i in range(LANES):
        p = max(r.p_factor[i], -r.p_factor[i])
        f = max(b.factor[i], -b.factor[i])
        b.written[i] = (b.taken[i] & (((p > 9.1e-13) & (p < 1.1e12) & (f > 1e-30) & (f < 1e30))
                                      | ((p == 0.0) & gradient)))


cdef inline float largest_of(const float* x, Py_ssize_t n) noexcept nogil:
    """nan is passed over."""
    cdef vf best = vf_set(-INFINITY)
    cdef Py_ssize_t i
    for i in range(0, n - 15, 16):      # LANES
        best = vf_max(vf_load(x + i), best)
    return vf_largest(vf_max(vf_load_part(x + n // 16 * 16, n % 16, -INFINITY), best))


cdef double sum_without(Batch* b, Py_ssize_t classes, int row, int32_t other) noexcept nogil:
    """The sum of a row over all classes but another one."""
    cdef int32_t hole = b.hole[row]
    cdef double sum = b.sums[row]
    cdef double other_sum
    b.hole[row] = other
    sum_batch(b, classes, row, row + 1, False)
    other_sum = b.sums[row]
    b.hole[row] = hole
    b.sums[row] = sum
    return other_sum


cdef void find_batch_peaks(const Softmax* t, Batch* b, int begin, int end, Rows* r) noexcept nogil:
    """The class whose p is above 1/2, if there is one, and the sum over all others: of rows begin..end."""
    cdef const float* x
    cdef float top
    cdef Py_ssize_t c
    cdef int i
    for i in range(LANES):
        r.peak[i] = -1
        r.peak_low[i] = 0.0
        r.rest_of_peak_low[i] = 0.0
        r.pp_factor[i] = 0.0
        r.log_total[i] = 0.0
        r.maximum[i] = 0.0
    for i in range(begin, end):
        if b.hole[i] >= 0 and b.term[i] >= b.sums[i]:
            r.peak[i] = b.hole[i]
            r.peak_term[i] = b.term[i]
            r.rest_of_peak[i] = b.sums[i]
        elif b.taken[i] and b.most[i] > 0.499 * r.total[i]:
            x = b.x + i * t.classes
            top = largest_of(x, t.classes)
            r.peak_term[i] = exp_shifted(<double>top, <double>0.0, magic_of(0.0, <double>0), floor_of(0.0, <double>0))
            if r.peak_term[i] > 0.5 * r.total[i]:
                for c in range(t.classes):
                    if x[c] == top:
                        r.peak[i] = c
                        break
                r.maximum[i] = top
                r.rest_of_peak[i] = sum_without(b, t.classes, i, <int32_t>r.peak[i])


cdef void logs_of_batch(const double* rest, const double* term, double one, double* logs) noexcept nogil:
    """losses_from_sums. Called from more places, GCC would no longer put the logarithm in line in any of them."""
    losses_from_sums(rest, term, one, logs)


cdef void set_log_totals(const Batch* b, Rows* r) noexcept nogil:
    """log S, or of a row with a peak what log S is above it."""
    cdef double rest[LANES]
    cdef double term[LANES]
    cdef double logs[LANES]
    cdef int i
    cdef int64_t peaks = 0
    for i in range(LANES):
        rest[i] = r.total[i]
        term[i] = 1.0
        peaks |= r.peak[i] >= 0
    logs_of_batch(rest, term, 0.0, r.log_total)
    if peaks:
        logs_of_batch(r.rest_of_peak, r.peak_term, 1.0, logs)
        for i in range(LANES):
            r.log_total[i] = logs[i] if r.peak[i] >= 0 else r.log_total[i]


cdef inline vf kept_entry(const float* powers, vf high, vf low) noexcept nogil:
    cdef vf power = vf_load(powers)
    return vf_fma(vf_cut(power), high, vf_mul(power, vf_fma(vf_load(powers + BATCHED), high, low)))


cdef inline void write_short_row(const float* powers, Py_ssize_t classes, double factor, float back, float* out,
                                 float* hess, bint with_hess, bint over) noexcept nogil:
    """Gradient and Hessian of a row that has kept its powers. over: what follows may be overwritten."""
    cdef vf high = vf_set(<float>factor)
    cdef vf low = vf_set(<float>(factor - <double><float>factor))
    cdef vf backs = vf_set(back)
    cdef vf g
    cdef Py_ssize_t whole = classes // LANES
    cdef Py_ssize_t n = classes - whole * LANES
    cdef Py_ssize_t i
    if n > 0 and over:
        whole += 1
    for i in range(whole):
        g = kept_entry(powers + i * LANES, high, low)
        vf_store(out + i * LANES, g)
        if with_hess:
            vf_store(hess + i * LANES, hess_of_grad(g, backs))
    if n > 0 and not over:
        g = kept_entry(powers + whole * LANES, high, low)
        vf_store_part(out + whole * LANES, g, n)
        if with_hess:
            vf_store_part(hess + whole * LANES, hess_of_grad(g, backs), n)


cdef inline void write_short_logarithms(const float* x, Py_ssize_t classes, float log_sum, float log_sum_low,
                                        float* out, bint over) noexcept nogil:
    """x - (log_sum + log_sum_low) of a row, with one rounding where it matters: that of x - log_sum is exact where much
    cancels. over: as write_short_row has it; then what follows x may be read, too."""
    cdef vf high = vf_set(log_sum)
    cdef vf low = vf_set(log_sum_low)
    cdef Py_ssize_t whole = classes // LANES * LANES
    cdef vf v
    cdef Py_ssize_t i
    if whole < classes and over:
        whole += LANES
    for i in range(0, whole, 16):      # LANES
        vf_store(out + i, vf_sub(vf_sub(vf_load(x + i), high), low))
    if whole < classes:
        v = vf_load_part(x + whole, classes - whole, 0.0)
        vf_store_part(out + whole, vf_sub(vf_sub(v, high), low), classes - whole)


cdef void write_batch(const Softmax* t, Batch* b, int begin, int end, const Rows* r, float* grad,
                      float* hess) noexcept nogil:
    """Outputs of those of rows begin..end that are written here, or ignored: grad and hess are where row `begin`
    goes."""
    cdef Py_ssize_t classes = t.classes
    cdef float* powers = b.powers
    cdef float high, low
    cdef bint over
    # Outputs that replace logits must leave those of the next row alone until it is its turn.
    cdef bint apart = <const float*>grad != b.x + begin * classes
    cdef int i
    for i in range(begin, end):
        over = i + 1 < end and (b.written[i + 1] or not b.part[i + 1])
        if not b.part[i]:
            memset(grad, 0, classes * sizeof(float))
            if hess != NULL:
                memset(hess, 0, classes * sizeof(float))
        elif b.written[i] and t.kind == LOG_SOFTMAX:
            two_floats(r.maximum[i], r.log_total[i], &high, &low)
            write_short_logarithms(b.x + i * classes, classes, high, low, grad, over and apart)
            if r.peak[i] >= 0:
                grad[r.peak[i]] = <float>-r.log_total[i]
        elif b.written[i]:
            if b.hole[i] >= 0:
                powers[b.hole[i]] = b.power[i]
                powers[BATCHED + b.hole[i]] = b.t[i]
            if hess == NULL:
                write_short_row(powers, classes, b.factor[i], 0.0, grad, NULL, False, over)
            else:
                write_short_row(powers, classes, b.factor[i], <float>(1.0 / r.p_factor[i]), grad, hess, True, over)
                if r.peak[i] >= 0:
                    hess[r.peak[i]] = <float>hessian_at_peak(r, i)
            if b.hole[i] >= 0:
                grad[b.hole[i]] = <float>r.special[i]
        grad += classes
        if hess != NULL:
            hess += classes
        powers += b.stride


cdef void store_batch(const Softmax* t, const Batch* b, int begin, int end, char* data,
                      const float* rows) noexcept nogil:
    """Those rows from where write_batch has put them: together, if it has put them all."""
    cdef int step = end - begin
    cdef int i = begin
    for i in range(begin, end):
        if b.part[i] and not b.written[i]:
            step = 1
    i = begin
    while i < end:
        if b.written[i] or not b.part[i]:
            store(data, t.code, (b.first + i) * t.classes, step * t.classes, rows + (i - begin) * t.classes,
                  t.stream and step > 1)
        i += step


cdef void finish_left(const Softmax* t, const Batch* b, Py_ssize_t n, Rows* r) noexcept nogil:
    """Rows that need a shift, or whose derivatives do."""
    cdef Rows others
    cdef int64_t count = 0
    cdef int i
    read_row_options(t, b.first, n, &others, &count)
    for i in range(LANES):
        if not b.part[i] or (b.taken[i] and (t.grad == NULL or b.written[i])):
            others.label[i] = DONE
    scan_rows(t, b.first, n, NULL, &others, <float>0)
    finish(t, &others)
    if t.grad != NULL:
        write_rows(t, b.first, n, NULL, &others, <float>0)
    for i in range(LANES):
        if b.part[i] and not b.taken[i]:
            r.loss[i] = others.loss[i]
            r.z[i] = others.z[i]


cdef void set_batch_losses(const Softmax* t, const Batch* b, const double* weights, bint weighted,
                           Rows* r) noexcept nogil:
    cdef double rest[LANES]
    cdef double term[LANES]
    cdef bint hard = t.kind == CROSS_ENTROPY
    cdef int i
    for i in range(LANES):
        rest[i] = b.sums[i] if b.taken[i] else 0.0
        term[i] = b.term[i] if hard else 1.0
        r.z[i] = 0.0
    logs_of_batch(rest, term, 1.0 if hard else 0.0, r.loss)
    if weighted:
        for i in range(LANES):
            r.loss[i] = times(weights[i], r.loss[i]) if b.taken[i] else 0.0


cdef bint batched_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, bint weighted, Product* product,
                       int64_t* count, Rows* r) noexcept nogil:
    """Up to 16 rows of up to SHORT_ROW classes, without options. OUT losses, in r, whether they are all in the product
    instead."""
    cdef float buffer[4096]           # SHORT_ROW LANES
    cdef float hess_buffer[2048]      # BATCHED
    cdef double weights[LANES]
    cdef double v[LANES]
    cdef Batch b
    cdef bint keep = t.grad != NULL and t.kind != LOG_SOFTMAX
    cdef bint straight = t.code == F32 and not t.stream
    cdef bint multiplied = t.sums != NULL and not weighted
    cdef int64_t left = 0
    cdef int size = LANES
    cdef int begin = 0
    cdef int i, end
    cdef float* g
    cdef float* h = NULL
    b.first = first
    b.stride = (t.classes + LANES - 1) // LANES * LANES
    if keep:
        size = <int>min(<Py_ssize_t>LANES, BATCHED // b.stride)
    b.x = whole_rows(t.logits, t.code, t.classes, first, n, buffer)
    begin_batch(t, &b, n, r, count)
    for i in range(LANES):
        weights[i] = 1.0
        b.sums[i] = 1.0
    if weighted:
        for i in range(n):
            if b.part[i]:
                if t.sample_weight != NULL:
                    weights[i] = load_one(t.sample_weight, t.sample_code, first + i)
                if t.weight != NULL:
                    weights[i] = weights[i] * load_one(t.weight, t.weight_code, b.hole[i])
    while begin < n:
        end = <int>min(<Py_ssize_t>(begin + size), n)
        if t.far:
            for i in range(begin, end):
                fetch_row(t, t.grad, first + i)
                fetch_row(t, t.hess, first + i)
        sum_batch(&b, t.classes, begin, end, keep)
        take_sums(t, &b, begin, end)
        if t.grad != NULL:
            set_batch_factors(t, &b, weights, r)
            if t.kind == LOG_SOFTMAX or t.hess != NULL:
                find_batch_peaks(t, &b, begin, end, r)
            if t.kind == LOG_SOFTMAX:
                for i in range(LANES):
                    b.written[i] = b.taken[i]
                set_log_totals(&b, r)
            g = <float*>t.grad + (first + begin) * t.classes if straight else &buffer[0] + begin * t.classes
            if t.hess != NULL:
                h = <float*>t.hess + (first + begin) * t.classes if straight else &hess_buffer[0]
            write_batch(t, &b, begin, end, r, g, h)
            if not straight:
                store_batch(t, &b, begin, end, t.grad, g)
                if h != NULL:
                    store_batch(t, &b, begin, end, t.hess, h)
        begin = end
    if multiplied:
        for i in range(LANES):
            v[i] = b.sums[i] / b.term[i] if b.taken[i] else 0.0
        multiply(product, v)
    elif t.sums != NULL or t.losses != NULL:
        set_batch_losses(t, &b, weights, weighted, r)
    for i in range(LANES):
        left |= b.part[i] & (1 - (b.taken[i] & (b.written[i] if t.grad != NULL else 1)))
    if left:
        if multiplied:
            for i in range(LANES):
                r.loss[i] = 0.0
                r.z[i] = 0.0
        finish_left(t, &b, n, r)
    return multiplied and not left
