# Rows of float32 of up to 256 classes whose exponentials need no shift, 16 at a time, unless they are so short that
# they go side by side: as unshifted_rows.pxi has them, without what costs the same for each row, however short it is.
# Of up to 4096 where sums are all that is wanted, with the bits that unshifted_rows.pxi gives the same loss beside a
# gradient.
#
# What rows share is done in lanes. All sums of a batch come before the first of its entries, so that these need not
# wait for the end of a sum. The class that is left out has a copy of its vector. Rows that need a shift go the way of
# long_rows.pxi.

cdef enum:
    SHORT_ROW = 256       # classes at most ...
    SUMMED_ROW = 4096     # ... of plain losses without derivatives
    BATCHED = 2048        # classes of the rows of a batch that keeps its powers: with t they are 16 KiB


cdef struct Batch:
    # 16 rows, some of which are summed and written at a time: begin..end. Masks are 0 or 1.
    Py_ssize_t first           # row of the call
    int begin
    int end
    const float* x             # logits from row `begin` on
    const float* target        # likewise; NULL if there are no probabilities
    int32_t hole[LANES]        # the label, or a class of probability above 1/2; -1 if there is none
    int64_t part[LANES]        # the row exists and is not ignored ...
    int64_t taken[LANES]       # ... and needs no shift ...
    int64_t written[LANES]     # ... and its derivatives are made from its powers
    double logit[LANES]        # of the hole, ...
    double term[LANES]         # ... its exponential, ...
    float power[LANES]         # ... and the two numbers that sums would have for it
    float t[LANES]
    double sums[LANES]         # over all other classes, ...
    double parts[128]          # ... and the eight that each of these is of: 8 LANES
    double factor[LANES]       # of exponentials in gradients
    Py_ssize_t stride          # of rows in `powers`
    float powers[4096]         # 2 BATCHED: powers, and t


cdef struct ShortRow:
    # A row that is summed, and the two of its vectors that have copies.
    const float* x
    Py_ssize_t full          # whole vectors
    Py_ssize_t apart         # the vector that has the hole; -1 if there is none
    float end[LANES]         # what is beyond the end is -inf
    float without[LANES]     # the hole is


cdef inline void begin_short_row(const float* x, Py_ssize_t classes, Py_ssize_t hole, ShortRow* row) noexcept nogil:
    cdef const float* p
    row.x = x
    row.full = classes // LANES
    row.apart = -1
    if row.full * LANES < classes:
        vf_store(row.end, vf_load_part(x + row.full * LANES, classes - row.full * LANES, -INFINITY))
    if hole >= 0:
        row.apart = hole // LANES
        p = &row.end[0] if row.apart == row.full else x + row.apart * LANES
        vf_store(row.without, vf_if_equal(vf_count(), vf_set(<float>(hole % LANES)), vf_set(-INFINITY), vf_load(p)))


cdef inline const float* vector_in(const float* x, Py_ssize_t full, Py_ssize_t apart, const ShortRow* row,
                                   Py_ssize_t i) noexcept nogil:
    """Where vector i of a row is whose x, full and apart are those of `row`, which stores might have changed."""
    cdef const float* p = &row.end[0] if i == full else x + i * LANES
    return &row.without[0] if i == apart else p


cdef inline vf argument_in(const ShortRow* row, Py_ssize_t i, vf ceiling, const Exponents* k) noexcept nogil:
    """argument_of vector i."""
    return argument_of(vector_in(row.x, row.full, row.apart, row, i), ceiling, k)


cdef inline void end_short_row(RowSum* s, double* sums) noexcept nogil:
    """OUT sums: eight, whose sum is that of the row."""
    add_rests(s)
    vd_store(sums, vd_fma(s.powers, vd_set(FL_FROM_TINY), s.rests))


cdef inline void sum_short_row(const float* x, Py_ssize_t classes, Py_ssize_t hole, const Exponents* k, float* powers,
                               bint keep, double* sums) noexcept nogil:
    """OUT sums: over all classes but the hole, which may be -1. OUT powers, if `keep`: of whole vectors. The rows after
    the next 15 are fetched."""
    cdef vf ceiling = vf_set(<float>CEILING)
    cdef vf power, t
    cdef ShortRow row
    cdef RowSum s = nothing_summed()
    cdef Py_ssize_t vectors = (classes + LANES - 1) // LANES
    cdef Py_ssize_t i
    cdef const float* further = x + LANES * classes
    begin_short_row(x, classes, hole, &row)
    for i in range(vectors):
        fl_prefetch(further + i * LANES)
        exp_parts_of(argument_in(&row, i, ceiling, k), k, True, &power, &t)
        add_parts(power, t, &s, powers + i * LANES, BATCHED, keep)
        if i % GROUPED == GROUPED - 1:
            add_rests(&s)
    end_short_row(&s, sums)


cdef inline void sum_two_short_rows(const float* x, Py_ssize_t classes, const ShortRow* row, const ShortRow* next,
                                    const Exponents* k, Two* two, float* powers, Py_ssize_t stride, bint keep,
                                    double* sums) noexcept nogil:
    """sum_short_row of the row at x and the next, whose first vectors are half done: two more are when these end."""
    cdef vf ceiling = vf_set(<float>CEILING)
    cdef vf power, power_too, t, t_too
    cdef RowSum s = nothing_summed()
    cdef RowSum s_too = nothing_summed()
    cdef Py_ssize_t vectors = (classes + LANES - 1) // LANES
    cdef Py_ssize_t full = classes // LANES
    cdef Py_ssize_t apart = row[0].apart
    cdef Py_ssize_t apart_too = row[1].apart
    cdef Py_ssize_t i
    cdef const float* further = x + LANES * classes
    for i in range(vectors - 1):
        fl_prefetch(further + i * LANES)
        fl_prefetch(further + classes + i * LANES)
        two_exp_parts(argument_of(vector_in(x, full, apart, row, i + 1), ceiling, k),
                      argument_of(vector_in(x + classes, full, apart_too, row + 1, i + 1), ceiling, k), k, True,
                      False, two, &power, &power_too, &t, &t_too)
        add_parts(power, t, &s, powers + i * LANES, BATCHED, keep)
        add_parts(power_too, t_too, &s_too, powers + stride + i * LANES, BATCHED, keep)
        if i % GROUPED == GROUPED - 1:
            add_rests(&s)
            add_rests(&s_too)
    # The last ones, written out once more: as an inline function of both places it takes 19 cycles for 18.
    i = vectors - 1
    fl_prefetch(further + i * LANES)
    fl_prefetch(further + classes + i * LANES)
    two_exp_parts(argument_in(next, 0, ceiling, k), argument_in(next + 1, 0, ceiling, k), k, True,
                  False, two, &power, &power_too, &t, &t_too)
    add_parts(power, t, &s, powers + i * LANES, BATCHED, keep)
    add_parts(power_too, t_too, &s_too, powers + stride + i * LANES, BATCHED, keep)
    end_short_row(&s, sums)
    end_short_row(&s_too, sums + 8)


cdef inline void sum_rows_of(Batch* b, Py_ssize_t classes, bint keep, double* sums) noexcept nogil:
    """OUT sums: eight of each row."""
    cdef Exponents k = cut_exponents_of(0.0, True)
    cdef vf ceiling = vf_set(<float>CEILING)
    cdef vf power, power_too, t, t_too
    cdef ShortRow rows[4]
    cdef ShortRow* row = rows
    cdef ShortRow* following = &rows[2]
    cdef Two two = two_of_nothing()
    cdef const float* x = b.x
    cdef float* powers = b.powers
    cdef int i = b.begin
    if FL_WIDE and i + 1 < b.end:
        begin_short_row(x, classes, b.hole[i], row)
        begin_short_row(x + classes, classes, b.hole[i + 1], row + 1)
        two_exp_parts(argument_in(row, 0, ceiling, &k), argument_in(row + 1, 0, ceiling, &k), &k, True, False,
                      &two, &power, &power_too, &t, &t_too)
        while i + 1 < b.end:
            if i + 3 < b.end:
                begin_short_row(x + 2 * classes, classes, b.hole[i + 2], following)
                begin_short_row(x + 3 * classes, classes, b.hole[i + 3], following + 1)
            else:
                # Any will do after the last one.
                following = row
            sum_two_short_rows(x, classes, row, following, &k, &two, powers, b.stride, keep, sums + 8 * i)
            following = row
            row = &rows[2] if row == rows else rows
            x += 2 * classes
            powers += 2 * b.stride
            i += 2
    while i < b.end:
        sum_short_row(x, classes, b.hole[i], &k, powers, keep, sums + 8 * i)
        x += classes
        powers += b.stride
        i += 1


cdef void sum_batch(Batch* b, Py_ssize_t classes, bint keep) noexcept nogil:
    """OUT sums of its rows."""
    cdef int i
    if keep:
        sum_rows_of(b, classes, True, b.parts)
    else:
        sum_rows_of(b, classes, False, b.parts)
    # Those of earlier batches, too, and of rows that are not there yet.
    vd_store(b.sums, vd_folded(b.parts))
    vd_store(b.sums + 8, vd_folded(b.parts + 64))


cdef void find_holes(const Softmax* t, Batch* b, Py_ssize_t n, Rows* r, int64_t* count) noexcept nogil:
    """OUT part, and hole, but that of probabilities."""
    cdef float labels[LANES]
    cdef int i
    if t.kind != CROSS_ENTROPY or t.soft:
        for i in range(LANES):
            b.part[i] = i < n
            b.hole[i] = -1
    elif n == LANES and count[0] != MISTAKEN and usual_labels(t, b.first, labels):
        count[0] += LANES
        for i in range(LANES):
            b.hole[i] = <int32_t>labels[i]
            b.part[i] = 1
    else:
        take_labels(t, b.first, n, r.label, count)
        for i in range(LANES):
            b.part[i] = r.label[i] >= 0
            b.hole[i] = <int32_t>r.label[i] if r.label[i] >= 0 else -1


cdef inline int32_t large_class(const float* target, Py_ssize_t n) noexcept nogil:
    """The first of probability above 1/2; -1 if there is none."""
    cdef vf half = vf_set(0.5)
    cdef vf v
    cdef Py_ssize_t i, k
    for i in range(0, n, 16):      # LANES
        v = vf_load(target + i) if n - i >= LANES else vf_load_part(target + i, n - i, 0.0)
        if vf_any_less(half, v):
            for k in range(i, n):
                if target[k] > <float>0.5:
                    return <int32_t>k
    return -1


cdef void set_holes(const Softmax* t, Batch* b) noexcept nogil:
    """OUT hole of probabilities; logit and what is made of it, taken."""
    cdef float logits[LANES]
    cdef Py_ssize_t at[LANES]
    cdef Exponents k = cut_exponents_of(0.0, False)
    cdef Exponents of_sums = cut_exponents_of(0.0, True)
    cdef vf y, e, low, power, rest
    cdef int64_t good
    cdef int i
    if t.soft:
        for i in range(b.begin, b.end):
            b.hole[i] = large_class(b.target + (i - b.begin) * t.classes, t.classes)
    # Those of earlier batches stay: gradients may have taken the place of what they were read from. Without a hole the
    # first class stands in.
    for i in range(LANES):
        at[i] = (i - b.begin) * t.classes + max(b.hole[i], <int32_t>0)
    if b.end - b.begin == LANES:
        for i in range(LANES):
            logits[i] = b.x[at[i]]
    else:
        for i in range(LANES):
            logits[i] = b.x[at[i]] if b.begin <= i < b.end else <float>b.logit[i]
    y = vf_min(vf_set(<float>CEILING), vf_max(k.floor, vf_load(logits)))
    e = exp_with_low(y, &k, &low)
    set_terms(e, low, b.term)
    if t.grad != NULL:
        exp_parts_of(y, &of_sums, True, &power, &rest)
        vf_store(b.power, power)
        vf_store(b.t, rest)
    for i in range(LANES):
        b.logit[i] = logits[i]
        b.term[i] = b.term[i] if b.hole[i] >= 0 else 0.0
    for i in range(LANES):
        good = (b.hole[i] < 0) | ((b.logit[i] >= LOWEST_LABEL) & (b.logit[i] <= HIGHEST_LABEL))
        b.taken[i] = b.part[i] & good if b.begin <= i < b.end else b.taken[i]


cdef void take_sums(const Softmax* t, Batch* b, Rows* r) noexcept nogil:
    """Which rows of a batch need no shift. OUT total."""
    cdef int i
    # Those of earlier batches, again: loops of 16 rows become vectors.
    for i in range(LANES):
        b.taken[i] &= (b.sums[i] < LARGEST_SUM) & (b.sums[i] >= SMALLEST_SUM)
        r.total[i] = b.sums[i] + b.term[i]
    if t.kind == LOGSUMEXP or t.z_loss > 0.0:
        for i in range(LANES):
            # The logarithm of a sum near 1 has fewer digits than the sum.
            b.taken[i] &= (r.total[i] <= 0.6) | (r.total[i] >= 1.7)


cdef void mix_short_row(const float* x, const float* target, Py_ssize_t n, const Mix* mix, double reference,
                        double* q_sum, double* q_gap) noexcept nogil:
    """mixed_sums_of_floats of a short row: up to four vectors in float32, then all in float64."""
    cdef vf zero = vf_set(0.0)
    cdef vf q = zero, product = zero, gap = zero
    cdef vd q_even = vd_set(0.0), q_odd = vd_set(0.0), product_even = vd_set(0.0), product_odd = vd_set(0.0)
    cdef vd gap_even = vd_set(0.0), gap_odd = vd_set(0.0)
    cdef Py_ssize_t i
    for i in range(0, n, 16):      # LANES
        add_floats(x + i, target + i if target != NULL else NULL, n - i, reference, True, &q, &product, &gap)
        if i % WIDE == WIDE - LANES or i + LANES >= n:
            gap_even = vd_add(gap_even, vd_low(gap))
            gap_odd = vd_add(gap_odd, vd_high(gap))
            gap = zero
            if target != NULL:
                q_even = vd_add(q_even, vd_low(q))
                q_odd = vd_add(q_odd, vd_high(q))
                product_even = vd_add(product_even, vd_low(product))
                product_odd = vd_add(product_odd, vd_high(product))
                q = zero
                product = zero
    q_sum[0] = mix.uniform * <double>n
    q_gap[0] = times(mix.uniform, fold_vectors(gap_even, gap_odd))
    if target != NULL:
        q_sum[0] += mix.keep * fold_vectors(q_even, q_odd)
        q_gap[0] += times(mix.keep, fold_vectors(product_even, product_odd))
    q_gap[0] *= 8.0
    # As mix_columns has it.
    if not isfinite(q_sum[0] + q_gap[0]):
        mixed_sums(x, target, NULL, n, mix, reference, q_sum, q_gap)


cdef void set_batch_options(const Softmax* t, Batch* b, Rows* r) noexcept nogil:
    """Losses and factors with smoothing, class probabilities or z-loss, as take_options has them: of all 16 rows, since
    those of earlier batches become what they were."""
    cdef double anchor[LANES]
    cdef double term[LANES]
    cdef double rest[LANES]
    cdef double logs[LANES]
    cdef Mix mix = mix_of(t)
    cdef Py_ssize_t at
    cdef int i
    for i in range(LANES):
        log_parts(r.total[i], 0.0, b.hole[i] >= 0, b.logit[i], b.term[i], b.sums[i], anchor + i, term + i, rest + i)
        set_reference(b.logit[i], (b.hole[i] >= 0) & (b.term[i] >= b.sums[i]), r, i)
        r.rest[i] = b.sums[i]
    logs_of_batch(rest, term, 1.0, logs)
    if mixes(t):
        for i in range(b.begin, b.end):
            at = (i - b.begin) * t.classes
            mix_short_row(b.x + at, b.target + at if t.soft else NULL, t.classes, &mix, r.maximum[i], r.q_sum + i,
                          r.q_gap + i)
    for i in range(LANES):
        r.log_total[i] = logs[i] + (anchor[i] - r.maximum[i])
    finish_options(t, r, logs, b.term, 0, LANES)
    for i in range(LANES):
        r.loss[i] = r.loss[i] if b.taken[i] else 0.0
        r.z[i] = r.z[i] if b.taken[i] else 0.0


cdef void set_batch_factors(const Softmax* t, Batch* b, const double* weights, Rows* r) noexcept nogil:
    """OUT what the derivatives of a batch are made of."""
    cdef double divisor = t.divisor
    cdef bint gradient = t.hess == NULL
    cdef bint options = has_options(t)
    cdef int i
    if not options:
        for i in range(LANES):
            r.p_factor[i] = weights[i] / divisor
    for i in range(LANES):
        b.factor[i] = r.p_factor[i] / r.total[i]
        b.written[i] = b.taken[i] & scales_powers(b.factor[i])
        b.written[i] &= holds(r.p_factor[i]) | ((r.p_factor[i] == 0.0) & gradient)
    if not options:
        for i in range(LANES):
            r.special[i] = -(b.sums[i] * b.factor[i])
    elif mixes(t):
        for i in range(LANES):
            b.written[i] &= holds(r.q_factor[i])


cdef void find_batch_peaks(const Softmax* t, const Batch* b, Rows* r) noexcept nogil:
    cdef int i
    for i in range(LANES):
        r.peak[i] = -1
    for i in range(b.begin, b.end):
        if b.taken[i]:
            find_peak(t, b.first + i, b.hole[i], b.term[i], b.sums[i], largest_of_eight(&b.parts[8 * i]), r, i)


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


cdef void write_mixed_row(const Softmax* t, const Batch* b, const Rows* r, int i, const float* powers, float* out,
                          float* hess, bint over) noexcept nogil:
    """Gradient and Hessian of row i with smoothing, class probabilities or z-loss. over: as write_short_row has it."""
    cdef Py_ssize_t classes = t.classes
    cdef const float* target = b.target + (i - b.begin) * classes if b.target != NULL else NULL
    cdef Mix mix = mix_of(t)
    cdef Weights w = weights_of(&mix, r.q_factor[i])
    cdef vf high = vf_set(<float>b.factor[i])
    cdef vf low = vf_set(<float>(b.factor[i] - <double><float>b.factor[i]))
    cdef vf backs = vf_set(<float>(1.0 / r.p_factor[i]))
    cdef vf pp = vf_set(<float>r.pp_factor[i])
    cdef vf g, h, p
    cdef Py_ssize_t at, n
    for at in range(0, classes, 16):      # LANES
        n = classes - at
        g = kept_entry(powers + at, high, low)
        if hess != NULL:
            p = vf_mul(g, backs)
            h = vf_fma(vf_mul(pp, p), p, hess_of_grad(g, backs))
            if n >= LANES or over:
                vf_store(hess + at, h)
            else:
                vf_store_part(hess + at, h, n)
        g = less_weights(g, target + at if target != NULL else NULL, n, &w)
        if n >= LANES or over:
            vf_store(out + at, g)
        else:
            vf_store_part(out + at, g, n)


cdef void write_batch(const Softmax* t, Batch* b, const Rows* r, float* grad, float* hess) noexcept nogil:
    """Outputs of those of its rows that are written here, or ignored: grad and hess are where the first one goes."""
    cdef Py_ssize_t classes = t.classes
    cdef float* powers = b.powers
    cdef float high, low
    cdef double special
    cdef Mix mix = mix_of(t)
    cdef bint options = has_options(t)
    cdef bint over
    # Outputs that replace logits must leave those of the next row alone until it is its turn.
    cdef bint apart = <const float*>grad != b.x
    cdef Py_ssize_t at
    cdef int i
    for i in range(b.begin, b.end):
        over = i + 1 < b.end and (b.written[i + 1] or not b.part[i + 1])
        at = (i - b.begin) * classes
        if not b.part[i]:
            memset(grad, 0, classes * sizeof(float))
            if hess != NULL:
                memset(hess, 0, classes * sizeof(float))
        elif b.written[i] and t.kind == LOG_SOFTMAX:
            two_floats(r.maximum[i], r.log_total[i], &high, &low)
            write_short_logarithms(b.x + at, classes, high, low, grad, over and apart)
            if r.peak[i] >= 0:
                grad[r.peak[i]] = <float>-r.log_total[i]
        elif b.written[i]:
            special = r.special[i]
            if b.hole[i] >= 0:
                powers[b.hole[i]] = b.power[i]
                powers[BATCHED + b.hole[i]] = b.t[i]
                if b.target != NULL:
                    special = soft_gradient_at_maximum(r, i, b.term[i] / r.total[i],
                                                       fma(mix.keep, <double>b.target[at + b.hole[i]], mix.uniform))
            if options:
                write_mixed_row(t, b, r, i, powers, grad, hess, over)
            elif hess == NULL:
                write_short_row(powers, classes, b.factor[i], 0.0, grad, NULL, False, over)
            else:
                write_short_row(powers, classes, b.factor[i], <float>(1.0 / r.p_factor[i]), grad, hess, True, over)
            if hess != NULL and r.peak[i] >= 0:
                hess[r.peak[i]] = <float>hessian_at_peak(r, i)
            if b.hole[i] >= 0:
                grad[b.hole[i]] = <float>special
        grad += classes
        if hess != NULL:
            hess += classes
        powers += b.stride


cdef void store_batch(const Softmax* t, const Batch* b, char* data, const float* rows) noexcept nogil:
    """Its rows from where write_batch has put them: together, if it has put them all."""
    cdef int step = b.end - b.begin
    cdef int i
    for i in range(b.begin, b.end):
        if b.part[i] and not b.written[i]:
            step = 1
    i = b.begin
    while i < b.end:
        if b.written[i] or not b.part[i]:
            store(data, t.code, (b.first + i) * t.classes, step * t.classes, rows + (i - b.begin) * t.classes,
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
    """Without options."""
    cdef double rest[LANES]
    cdef double term[LANES]
    cdef bint hard = t.kind == CROSS_ENTROPY
    cdef int i
    for i in range(LANES):
        rest[i] = b.sums[i] if b.taken[i] else 0.0
        term[i] = b.term[i] if hard and b.taken[i] else 1.0
        r.z[i] = 0.0
    logs_of_batch(rest, term, 1.0 if hard else 0.0, r.loss)
    if weighted:
        for i in range(LANES):
            r.loss[i] = times(weights[i], r.loss[i]) if b.taken[i] else 0.0


cdef void read_batch_weights(const Softmax* t, const Batch* b, double* weights, Rows* r) noexcept nogil:
    """OUT s w_y, 1 where there is none, and both apart."""
    cdef int i
    for i in range(LANES):
        r.sample[i] = 1.0
        r.class_weight[i] = 1.0
        if b.part[i]:
            if t.sample_weight != NULL:
                r.sample[i] = load_one(t.sample_weight, t.sample_code, b.first + i)
            if t.weight != NULL and not t.soft:
                r.class_weight[i] = load_one(t.weight, t.weight_code, b.hole[i])
        weights[i] = r.sample[i] * r.class_weight[i]


cdef void clear_extras(Rows* r) noexcept nogil:
    """What losses and derivatives without options do not set."""
    cdef int i
    for i in range(LANES):
        r.maximum[i] = 0.0
        r.log_total[i] = 0.0
        r.pp_factor[i] = 0.0
        r.z[i] = 0.0
        r.q_sum[i] = 0.0
        r.q_gap[i] = 0.0
        r.peak_low[i] = 0.0
        r.rest_of_peak_low[i] = 0.0


cdef bint batched_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, bint weighted, Product* product,
                       int64_t* count, Rows* r) noexcept nogil:
    """Up to 16 rows of up to SHORT_ROW or SUMMED_ROW classes. OUT losses, in r, unless they are all in the product
    instead: True then."""
    cdef float buffer[2048]           # BATCHED, each
    cdef float hess_buffer[2048]
    cdef float targets[2048]
    cdef double weights[LANES]
    cdef double v[LANES]
    cdef Batch b
    cdef bint options = has_options(t)
    cdef bint keep = t.grad != NULL and t.kind != LOG_SOFTMAX
    cdef bint straight = t.code == F32 and (t.grad == NULL or not t.stream)
    # Not of longer rows: with a gradient they go another way, for the same value.
    cdef bint multiplied = t.sums != NULL and not weighted and not options and t.classes <= SHORT_ROW
    cdef int64_t left = 0
    cdef int size = LANES
    cdef Py_ssize_t begin, rows
    cdef int i
    cdef float* g
    cdef float* h = NULL
    b.first = first
    b.begin = 0
    b.target = NULL
    b.stride = (t.classes + LANES - 1) // LANES * LANES
    if keep or t.soft or not straight:
        size = <int>min(<Py_ssize_t>LANES, BATCHED // b.stride)
    find_holes(t, &b, n, r, count)
    if weighted or options:
        read_batch_weights(t, &b, weights, r)
    else:
        for i in range(LANES):
            weights[i] = 1.0
    if n > size or n < LANES:
        memset(b.parts, 0, sizeof(b.parts))
        for i in range(LANES):
            b.logit[i] = 0.0
            b.parts[8 * i] = 1.0
            b.taken[i] = 0
    if options or t.hess != NULL or t.kind == LOG_SOFTMAX:
        clear_extras(r)
    while b.begin < n:
        b.end = <int>min(<Py_ssize_t>(b.begin + size), n)
        begin = (first + b.begin) * t.classes
        rows = b.end - b.begin
        b.x = load(t.logits, t.code, begin, rows * t.classes, buffer)
        if t.soft:
            b.target = load(t.target, t.target_code, begin, rows * t.classes, targets)
        if size < LANES:
            fetch_row_ends(t, first + b.end)
        if t.far:
            for i in range(b.begin, b.end):
                fetch_row(t, t.grad, first + i)
                fetch_row(t, t.hess, first + i)
        if t.kind == CROSS_ENTROPY:
            set_holes(t, &b)
        else:
            for i in range(LANES):
                b.term[i] = 0.0
                b.taken[i] = b.part[i]
        sum_batch(&b, t.classes, keep)
        take_sums(t, &b, r)
        if options:
            set_batch_options(t, &b, r)
        if t.grad != NULL:
            if t.kind == LOG_SOFTMAX or t.hess != NULL:
                find_batch_peaks(t, &b, r)
            if t.kind != LOG_SOFTMAX:
                set_batch_factors(t, &b, weights, r)
            else:
                for i in range(LANES):
                    b.written[i] = b.taken[i]
                set_log_totals(&b, r)
            g = <float*>t.grad + begin if straight else &buffer[0]
            if t.hess != NULL:
                h = <float*>t.hess + begin if straight else &hess_buffer[0]
            write_batch(t, &b, r, g, h)
            if not straight:
                store_batch(t, &b, t.grad, g)
                if h != NULL:
                    store_batch(t, &b, t.hess, h)
        b.begin = b.end
    if multiplied:
        for i in range(LANES):
            v[i] = b.sums[i] / b.term[i] if b.taken[i] else 0.0
        multiply(product, vd_load(v), vd_load(v + 8))
    elif not options and (t.sums != NULL or t.losses != NULL):
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
