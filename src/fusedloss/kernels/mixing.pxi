# Class probabilities and label smoothing of long rows: every class has a weight q_c in the loss.
#
# q_c = w_c ((1 - eps) t_c + eps/C) for class probabilities t_c, w_c for label smoothing. The scan adds q_c and
# q_c (reference - x_c); the gradient is p_factor p_c - q_factor q_c.

cdef struct Mix:
    # What the q_c of a row are made of: w_c (keep t_c + uniform) for soft targets, w_c for label smoothing.
    double keep
    double uniform


cdef inline bint mixes(const Softmax* t) noexcept nogil:
    return t.kind == CROSS_ENTROPY and (t.soft or t.smoothing > 0.0)


cdef inline Mix mix_of(const Softmax* t) noexcept nogil:
    cdef Mix mix
    mix.keep = 1.0 - t.smoothing if t.soft else 0.0
    mix.uniform = t.smoothing / <double>t.classes if t.soft else 1.0
    return mix


cdef inline void take_wide(const real* p, Py_ssize_t m, double rest, vd* a, vd* b) noexcept nogil:
    """OUT the next 16 numbers in float64; from the m-th on they are `rest`."""
    cdef vf v
    if real is float:
        if m >= 16:
            a[0] = vd_from_floats(p)
            b[0] = vd_from_floats(p + 8)
        else:
            v = vf_load_part(p, m, <float>rest)
            a[0] = vd_low(v)
            b[0] = vd_high(v)
    else:
        if m >= 16:
            a[0] = vd_load(p)
            b[0] = vd_load(p + 8)
        else:
            a[0] = vd_load_part(p, m, rest)
            b[0] = vd_load_part(p + 8, m - 8, rest)


cdef inline void take_weights(const real* target, const double* w, Py_ssize_t m, const Mix* mix, vd* a,
                              vd* b) noexcept nogil:
    """OUT q of the next 16 columns, 0 from the m-th on; target and w may be NULL."""
    cdef vd v, u
    a[0] = vd_set(mix.uniform)
    b[0] = a[0]
    if target != NULL:
        take_wide(target, m, 0.0, &v, &u)
        a[0] = vd_fma(vd_set(mix.keep), v, a[0])
        b[0] = vd_fma(vd_set(mix.keep), u, b[0])
    if w != NULL:
        take_wide(w, m, 0.0, &v, &u)
        a[0] = vd_mul(v, a[0])
        b[0] = vd_mul(u, b[0])
    elif m < 16:
        a[0] = vd_if_less(vd_low(vf_count()), vd_set(<double>m), a[0], vd_set(0.0))
        b[0] = vd_if_less(vd_high(vf_count()), vd_set(<double>m), b[0], vd_set(0.0))


cdef struct MixSums:
    # Sums of q_c and of q_c (reference - x_c), of the even and of the odd eights of columns.
    vd q_even
    vd q_odd
    vd gap_even
    vd gap_odd


cdef inline void clear_mixed(MixSums* sums) noexcept nogil:
    sums.q_even = vd_set(0.0)
    sums.q_odd = vd_set(0.0)
    sums.gap_even = vd_set(0.0)
    sums.gap_odd = vd_set(0.0)


cdef inline void add_mixed_sums(MixSums* to, const MixSums* sums) noexcept nogil:
    to.q_even = vd_add(to.q_even, sums.q_even)
    to.q_odd = vd_add(to.q_odd, sums.q_odd)
    to.gap_even = vd_add(to.gap_even, sums.gap_even)
    to.gap_odd = vd_add(to.gap_odd, sums.gap_odd)


cdef inline void add_mixed(const real* x, const real* target, const double* w, Py_ssize_t m, const Mix* mix,
                           double reference, MixSums* sums) noexcept nogil:
    """The next 16 columns, m of which exist. 0 times infinity is 0."""
    cdef vd a, b, q, r
    take_wide(x, m, reference, &a, &b)
    take_weights(target, w, m, mix, &q, &r)
    a = vd_if_equal(q, vd_set(0.0), q, vd_sub(vd_set(reference), a))
    b = vd_if_equal(r, vd_set(0.0), r, vd_sub(vd_set(reference), b))
    sums.gap_even = vd_fma(q, a, sums.gap_even)
    sums.gap_odd = vd_fma(r, b, sums.gap_odd)
    sums.q_even = vd_add(sums.q_even, q)
    sums.q_odd = vd_add(sums.q_odd, r)


cdef void mixed_sums(const real* x, const real* target, const double* w, Py_ssize_t n, const Mix* mix,
                     double reference, double* q_sum, double* q_gap) noexcept nogil:
    """OUT the sums of q_c and q_c (reference - x_c) over n columns. target and w may be NULL.

    By fours, as a tree: many small terms beside a large one would each be rounded at its size, and all the same way.
    """
    cdef MixSums sums, outer, inner
    cdef Py_ssize_t i, j, k, at
    clear_mixed(&sums)
    for i in range(0, n, 256):
        clear_mixed(&outer)
        for j in range(i, min(i + 256, n), 64):
            clear_mixed(&inner)
            if j + 64 <= n:
                for k in range(4):
                    at = j + 16 * k
                    add_mixed(x + at, target + at if target != NULL else NULL, w + at if w != NULL else NULL, 16, mix,
                              reference, &inner)
            else:
                for at in range(j, n, 16):
                    add_mixed(x + at, target + at if target != NULL else NULL, w + at if w != NULL else NULL, n - at,
                              mix, reference, &inner)
            add_mixed_sums(&outer, &inner)
        add_mixed_sums(&sums, &outer)
    q_sum[0] = fold_vectors(sums.q_even, sums.q_odd)
    q_gap[0] = fold_vectors(sums.gap_even, sums.gap_odd)


cdef inline vf eighth_of_gap(const float* x, Py_ssize_t m, double reference) noexcept nogil:
    """(reference - x) / 8 of the next 16 columns, 0 from the m-th on: four of them have room in float32."""
    cdef vf v = vf_load(x) if m >= 16 else vf_load_part(x, m, <float>reference)
    return vf_nfma(vf_set(0.125), v, vf_set(<float>(0.125 * reference)))


cdef inline void add_floats(const float* x, const float* target, Py_ssize_t m, double reference, bint even, vf* q,
                            vf* product, vf* gap) noexcept nogil:
    """Add t_c, t_c (reference - x_c) / 8 and, if `even`, (reference - x_c) / 8 of the next 16 columns, m of which
    exist."""
    cdef vf g = eighth_of_gap(x, m, reference)
    cdef vf v
    if even:
        gap[0] = vf_add(gap[0], g)
    if target != NULL:
        v = vf_load(target) if m >= 16 else vf_load_part(target, m, 0.0)
        q[0] = vf_add(q[0], v)
        product[0] = vf_fma(v, vf_if_equal(v, vf_set(0.0), v, g), product[0])


cdef inline void mixed_sums_of_floats(const float* x, const float* target, Py_ssize_t n, const Mix* mix, bint even,
                                      double reference, double* q_sum, double* q_gap) noexcept nogil:
    """As mixed_sums without class weights, as sums of t_c, t_c (reference - x_c) and, if the uniform part counts,
    reference - x_c: four terms in float32, then all in float64."""
    cdef MixSums sums
    cdef vd gap_even = vd_set(0.0), gap_odd = vd_set(0.0)
    cdef vf zero = vf_set(0.0)
    cdef vf q, r, product, other, gap, second
    cdef Py_ssize_t i, k
    cdef const float* t
    clear_mixed(&sums)
    for i in range(0, n, 64):      # WIDE
        q = r = product = other = gap = second = zero
        t = target + i if target != NULL else NULL
        if target != NULL:
            # Here, not in each vector's turn: 5 to 10 % of the time.
            fl_prefetch(target + i + FETCHED)
            fl_prefetch(target + i + FETCHED + 16)
            fl_prefetch(target + i + FETCHED + 32)
            fl_prefetch(target + i + FETCHED + 48)
        if i + 64 <= n:
            add_floats(x + i, t, 16, reference, even, &q, &product, &gap)
            add_floats(x + i + 16, t + 16 if t != NULL else NULL, 16, reference, even, &q, &product, &gap)
            add_floats(x + i + 32, t + 32 if t != NULL else NULL, 16, reference, even, &r, &other, &second)
            add_floats(x + i + 48, t + 48 if t != NULL else NULL, 16, reference, even, &r, &other, &second)
        else:
            for k in range(0, n - i, 16):
                add_floats(x + i + k, t + k if t != NULL else NULL, n - i - k, reference, even, &q, &product, &gap)
        if even:
            gap = vf_add(gap, second)
            gap_even = vd_add(gap_even, vd_low(gap))
            gap_odd = vd_add(gap_odd, vd_high(gap))
        if target != NULL:
            q = vf_add(q, r)
            product = vf_add(product, other)
            sums.q_even = vd_add(sums.q_even, vd_low(q))
            sums.q_odd = vd_add(sums.q_odd, vd_high(q))
            sums.gap_even = vd_add(sums.gap_even, vd_low(product))
            sums.gap_odd = vd_add(sums.gap_odd, vd_high(product))
    q_sum[0] = mix.keep * fold_vectors(sums.q_even, sums.q_odd) + mix.uniform * <double>n
    q_gap[0] = 8.0 * (times(mix.keep, fold_vectors(sums.gap_even, sums.gap_odd))
                      + times(mix.uniform, fold_vectors(gap_even, gap_odd)))


cdef void mix_columns(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, const real* x,
                      RowScan* out) noexcept nogil:
    """OUT q_sum and q_gap of a column block."""
    cdef real targets[CHUNK]
    cdef double weights[CHUNK]
    cdef const real* target = NULL
    cdef const double* w = NULL
    cdef Mix mix = mix_of(t)
    cdef double q_sum, q_gap
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t m
    while at < n:
        m = min(<Py_ssize_t>CHUNK, n - at)
        q_sum = q_gap = NAN
        if t.soft:
            target = load(t.target, t.target_code, row * t.classes + column + at, m, targets)
        if t.weight != NULL:
            w = load(t.weight, t.weight_code, column + at, m, weights)
        elif real is float:
            if target == NULL:
                mixed_sums_of_floats(<const float*>x + at, NULL, m, &mix, True, out.reference, &q_sum, &q_gap)
            elif mix.uniform == 0.0:
                mixed_sums_of_floats(<const float*>x + at, <const float*>target, m, &mix, False, out.reference, &q_sum,
                                     &q_gap)
            else:
                mixed_sums_of_floats(<const float*>x + at, <const float*>target, m, &mix, True, out.reference, &q_sum,
                                     &q_gap)
        # Also where float32 has no room for a sum, and where the parts of a q_c below 0 are inf - inf.
        if not isfinite(q_sum + q_gap):
            mixed_sums(x + at, target, w, m, &mix, out.reference, &q_sum, &q_gap)
        out.q_sum += q_sum
        out.q_gap += q_gap
        at += m


cdef inline void mix_step(const real* target, const double* w, Py_ssize_t m, const Mix* mix, double q_factor,
                          const real* g, real* out) noexcept nogil:
    """The next 16 columns of mix_gradient, m of which exist."""
    cdef vd a, b, q, r
    take_wide(g, m, 0.0, &a, &b)
    take_weights(target, w, m, mix, &q, &r)
    a = vd_nfma(vd_set(q_factor), q, a)
    b = vd_nfma(vd_set(q_factor), r, b)
    if real is float:
        write_vector(out, vf_narrow(a, b), m, False)
    else:
        write_vector(out, a, m, False)
        write_vector(out + 8, b, max(m - 8, <Py_ssize_t>0), False)


cdef void mix_gradient(const real* target, const double* w, Py_ssize_t n, const Mix* mix, double q_factor,
                       const real* g, real* out) noexcept nogil:
    """out[0:n] = g - q_factor q; out may be g. target and w may be NULL."""
    cdef Py_ssize_t full = n - n % 16
    cdef Py_ssize_t i
    for i in range(0, full, 16):
        mix_step(target + i if target != NULL else NULL, w + i if w != NULL else NULL, 16, mix, q_factor, g + i,
                 out + i)
    if full < n:
        mix_step(target + full if target != NULL else NULL, w + full if w != NULL else NULL, n - full, mix, q_factor,
                 g + full, out + full)


cdef struct Weights:
    # What the q_c of a row take from its gradient.
    vf q_high      # q_factor keep ...
    vf q_low       # ... and what of it a float does not hold
    vf uniform     # q_factor uniform


cdef inline Weights weights_of(const Mix* mix, double q_factor) noexcept nogil:
    cdef double factor = q_factor * mix.keep
    cdef Weights w
    w.q_high = vf_set(<float>factor)
    w.q_low = vf_set(<float>(factor - <double><float>factor))
    w.uniform = vf_set(<float>(q_factor * mix.uniform))
    return w


cdef inline vf less_weights(vf g, const float* target, Py_ssize_t m, const Weights* w) noexcept nogil:
    """The gradient of the next 16 columns, m of which exist. target may be NULL."""
    cdef vf q
    g = vf_sub(g, w.uniform)
    if target != NULL:
        q = vf_load(target) if m >= 16 else vf_load_part(target, m, 0.0)
        g = vf_nfma(w.q_high, q, vf_nfma(w.q_low, q, g))
    return g


cdef struct MixedExp:
    # What write_mixed needs of a row.
    Scaled scaled
    Weights weights


cdef inline void write_mixed(const float* x, const float* target, Py_ssize_t m, const MixedExp* of, How how, float* out,
                             float* hess) noexcept nogil:
    """Gradient and, unless `hess` is NULL, Hessian of the next 16 columns, m of which exist, without class weights.
    x: as write_scaled_exp has it. target may be NULL; out or hess may be x."""
    cdef vf g = vf_load(x) if m >= 16 else vf_load_part(x, m, 0.0)
    cdef vf q = g
    if how == KEPT_POWERS:
        q = vf_load(x + KEPT_CLASSES) if m >= 16 else vf_load_part(x + KEPT_CLASSES, m, 0.0)
    g = scaled_entry(g, q, &of.scaled, how)
    if hess != NULL:
        write_vector(hess, hess_of_grad(g, of.scaled.backs), m, False)
    write_vector(out, less_weights(g, target, m, &of.weights), m, False)


cdef inline void write_mixed_columns(const float* x, const float* target, Py_ssize_t n, const MixedExp* of, How how,
                                     float* out, float* hess) noexcept nogil:
    """write_mixed of n columns."""
    cdef Py_ssize_t full = n - n % 16
    cdef Py_ssize_t i
    for i in range(0, full, 16):
        write_mixed(x + i, target + i if target != NULL else NULL, 16, of, how, out + i,
                    hess + i if hess != NULL else NULL)
    if full < n:
        write_mixed(x + full, target + full if target != NULL else NULL, n - full, of, how, out + full,
                    hess + full if hess != NULL else NULL)


cdef inline double mixed_at_top(const Mix* mix, const Rows* r, int lane, real x, real target, double w) noexcept nogil:
    """The gradient of soft targets at the largest logit x."""
    cdef double p = exp_shifted(x, <real>r.base[lane], magic_of(r.scale[lane], <real>0),
                                floor_of(r.scale[lane], <real>0)) * (1.0 / r.total[lane])
    return soft_gradient_at_maximum(r, lane, p, w * fma(mix.keep, <double>target, mix.uniform))


cdef inline bint mixes_floats(const Softmax* t, const Rows* r, int lane) noexcept nogil:
    """Whether write_mixed can make the gradient of a row of no more than float32."""
    return mixes(t) and t.weight == NULL and holds(r.q_factor[lane])


cdef void mix_floats(const Softmax* t, const float* x, const float* target, Py_ssize_t n, const Rows* r, int lane,
                     const ScaledExp* scaled, float* out, float* hess) noexcept nogil:
    """write_mixed of n columns, by what is known of their row."""
    cdef Mix mix = mix_of(t)
    cdef MixedExp of
    of.scaled = scaled_of(scaled, <float>(1.0 / r.p_factor[lane]))
    of.weights = weights_of(&mix, r.q_factor[lane])
    if scaled.how == KEPT_POWERS:
        write_mixed_columns(x, target, n, &of, KEPT_POWERS, out, hess)
    elif scaled.how == UNSHIFTED:
        write_mixed_columns(x, target, n, &of, UNSHIFTED, out, hess)
    else:
        write_mixed_columns(x, target, n, &of, SHIFTED, out, hess)


cdef void write_mixed_chunk(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, const Rows* r, int lane,
                            const ScaledExp* scaled, const float* kept, SharedLines* lines) noexcept nogil:
    """write_chunk for soft targets or label smoothing without class weights, in float32: in one pass, and straight to
    where the entries belong if nothing is to be converted or to go past the caches. kept: NULL, or what the row has
    kept instead of logits; lines: as write_plain has them."""
    cdef float buffer[CHUNK]
    cdef float targets[CHUNK]
    cdef vf g_lines[66]      # CHUNK numbers, and a line at both ends
    cdef vf h_lines[66]
    cdef float* g = <float*>g_lines
    cdef float* h = <float*>h_lines
    cdef Py_ssize_t start = row * t.classes + column
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] - column
    cdef Py_ssize_t top = <Py_ssize_t>r.peak[lane] - column
    cdef const float* x = load(t.logits, t.code, start, n, buffer) if kept == NULL else kept + column
    cdef const float* target = NULL
    cdef bint direct = t.code == F32 and not t.stream
    cdef bint whole = t.code == F32 and t.stream and lines != NULL
    cdef float* out = <float*>t.grad + start if direct else g
    cdef float* hess = NULL
    cdef double special = r.special[lane]
    cdef Mix mix = mix_of(t)
    if t.hess != NULL:
        hess = <float*>t.hess + start if direct else h
    if whole:
        out = begin_row(&lines.grad, <float*>t.grad + start, g)
        if hess != NULL:
            hess = begin_row(&lines.hess, <float*>t.hess + start, h)
    if t.soft:
        target = load(t.target, t.target_code, start, n, targets)
        label = <Py_ssize_t>r.apart[lane] - column
        if 0 <= label < n:
            # Before anything is written: out may be x.
            special = mixed_at_top(&mix, r, lane, <float>r.logit[lane] if r.unshifted[lane] else x[label],
                                   target[label], 1.0)
    mix_floats(t, x, target, n, r, lane, scaled, out, hess)
    if 0 <= label < n:
        out[label] = <float>special
    if hess != NULL and 0 <= top < n:
        hess[top] = <float>hessian_at_peak(r, lane)
    if whole:
        end_row(&lines.grad, <float*>t.grad + start, g, n)
        if hess != NULL:
            end_row(&lines.hess, <float*>t.hess + start, h, n)
    elif not direct:
        store(t.grad, t.code, start, n, g, t.stream)
        if hess != NULL:
            store(t.hess, t.code, start, n, h, t.stream)
