# Binary cross-entropy with logits of items that have weights: losses and derivatives, each in one loop over vectors.
#
# With a = w (1 - t) and b = w pos_weight t, what the losses of the two labels count, an item's loss is
# a max(x, 0) + b max(-x, 0) + (a + b) log(1 + e) with e = e^-|x|. A loss that counts 0 is 0 where it is infinite, too.

cdef inline void both_shares(const real* t, const real* w, const real* pos_weight, Py_ssize_t m, vector* a,
                             vector* b) noexcept nogil:
    """OUT a and b of one vector, or of the first m items of it. w or pos_weight may be NULL: 1."""
    cdef vector one = v_same(1.0, a[0])
    b[0] = v_load_first(t, m, one)
    a[0] = v_minus(one, b[0])
    if pos_weight != NULL:
        b[0] = v_times(b[0], v_load_first(pos_weight, m, one))
    if w != NULL:
        a[0] = v_times(a[0], v_load_first(w, m, one))
        b[0] = v_times(b[0], v_load_first(w, m, one))


cdef inline vector weighted_loss(vector x, vector a, vector b, vector logarithm) noexcept nogil:
    cdef vector zero = v_same(0.0, x)
    cdef vector up = v_if_equal(a, zero, zero, v_times(a, v_maximum(x, zero)))
    cdef vector down = v_if_equal(b, zero, zero, v_times(b, v_maximum(v_opposite(x), zero)))
    return v_times_plus(v_plus(a, b), logarithm, v_plus(up, down))


cdef inline void weighted_loss_at(const real* x, const real* t, const real* logs, const real* w, const real* pos_weight,
                                  Py_ssize_t m, real* out, vd* sum_0, vd* sum_1) noexcept nogil:
    """One vector of weighted_losses, or the first m items of it."""
    cdef vf a, b
    cdef vd c, d
    fl_prefetch(t + CHUNK)
    if w != NULL:
        fl_prefetch(w + CHUNK)
    if real is float:
        a = vf_set(0.0)
        b = a
        both_shares(t, w, pos_weight, m, &a, &b)
        a = weighted_loss(v_load_first(x, m, a), a, b, v_load_first(logs, m, a))
        sum_0[0] = vd_add(sum_0[0], vd_low(a))
        sum_1[0] = vd_add(sum_1[0], vd_high(a))
        if out != NULL:
            write_vector(out, a, m, False)
    else:
        c = vd_set(0.0)
        d = c
        both_shares(t, w, pos_weight, m, &c, &d)
        c = weighted_loss(v_load_first(x, m, c), c, d, v_load_first(logs, m, c))
        add_vector(sum_0, sum_1, c)
        if out != NULL:
            write_vector(out, c, m, False)


cdef void weighted_losses(const real* x, const real* t, const real* logs, const real* w, const real* pos_weight,
                          Py_ssize_t n, real* out, Sum* total) noexcept nogil:
    """OUT out, unless NULL: the losses of n <= CHUNK items. Unless total is NULL, add their sum, in float64. `logs` are
    log(1 + e), and may be out. Made by a loop of their own: one for all takes 7 cycles longer for 16 items, as the
    chain of their operations is longer than what a processor looks ahead."""
    cdef vd sum_0 = vd_set(0.0)
    cdef vd sum_1 = vd_set(0.0)
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t i, k
    for k in range(n // width):
        i = k * width
        weighted_loss_at(x + i, t + i, logs + i, w + i if w != NULL else NULL,
                         pos_weight + i if pos_weight != NULL else NULL, width,
                         out + i if out != NULL else NULL, &sum_0, &sum_1)
    if n % width:
        # Beyond the end the logarithm is 0, and so is what a and b are multiplied by.
        i = n - n % width
        weighted_loss_at(x + i, t + i, logs + i, w + i if w != NULL else NULL,
                         pos_weight + i if pos_weight != NULL else NULL, n - i,
                         out + i if out != NULL else NULL, &sum_0, &sum_1)
    if total == NULL:
        return
    if real is float:
        add(total, fold_vectors(sum_0, sum_1))
    else:
        add_vectors(total, sum_0, sum_1)


cdef inline void weighted_derivatives(vector x, vector a, vector b, vector e, vector high, vector low, bint second,
                                      vector* g, vector* h) noexcept nogil:
    """Gradient and Hessian with the factor high + low:
    g = (a - b e) / (1 + e) for x >= 0, (a e - b) / (1 + e) below: no cancellation for t of 0 or 1;
    h = (a + b) e / (1 + e)^2.

    One division for both: s (1 + lacking) is 1 / (1 + e), p + p_low = e / (1 + e), and r + r_low the factor, times
    a + b, times p. Infinities as by plain products.
    """
    cdef vector one = v_same(1.0, x)
    cdef vector zero = v_same(0.0, x)
    cdef vector numerator = v_if_negative(x, v_times_minus(a, e, b), v_less_times(b, e, a))
    cdef vector d = v_plus(one, e)
    cdef vector rest = v_minus(e, v_minus(d, one))
    cdef vector s = v_over(one, d)
    cdef vector q = v_times(numerator, s)
    cdef vector tail = v_times(v_less_times(q, rest, v_less_times(q, d, numerator)), s)
    cdef vector lacking, p, p_low, k, r, r_low
    tail = v_times_plus(q, high, v_times_plus(tail, high, v_times(q, low)))
    g[0] = v_if_equal(v_minus(tail, tail), zero, tail, v_times(q, high))
    if second:
        lacking = v_less_times(s, rest, v_less_times(s, d, one))
        p = v_times(e, s)
        p_low = v_times_plus(p, lacking, v_times_minus(e, s, p))
        k = v_plus(a, b)
        r = v_times(k, high)
        k = v_times_plus(k, high, v_times(k, low))
        k = v_if_equal(v_minus(k, k), zero, k, r)
        r = v_times(k, p)
        r_low = v_times_plus(k, p_low, v_times_minus(k, p, r))
        tail = v_times_plus(r, s, v_times_plus(r, v_times(s, lacking), v_times(r_low, s)))
        h[0] = v_if_equal(v_minus(tail, tail), zero, tail, v_times(r, s))


cdef inline void weighted_derivatives_at(const real* x, const real* t, const real* e, const real* w,
                                         const real* pos_weight, Py_ssize_t m, vector high, vector low, real* grad,
                                         real* hess) noexcept nogil:
    """One vector of write_weighted_derivatives, or the first m items of it."""
    cdef vector a = high
    cdef vector b = high
    cdef vector g
    cdef vector h = high
    fl_prefetch(t + CHUNK)
    if w != NULL:
        fl_prefetch(w + CHUNK)
    both_shares(t, w, pos_weight, m, &a, &b)
    weighted_derivatives(v_load_first(x, m, high), a, b, v_load_first(e, m, high), high, low, hess != NULL, &g, &h)
    write_vector(grad, g, m, False)
    if hess != NULL:
        write_vector(hess, h, m, False)


cdef inline void weighted_derivatives_of(const real* x, const real* t, const real* e, const real* w,
                                         const real* pos_weight, Py_ssize_t n, vector high, vector low, real* grad,
                                         real* hess) noexcept nogil:
    cdef Py_ssize_t width = 64 // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t i, k
    for k in range(n // width):
        i = k * width
        weighted_derivatives_at(x + i, t + i, e + i, w + i if w != NULL else NULL,
                                pos_weight + i if pos_weight != NULL else NULL, width, high, low, grad + i,
                                hess + i if hess != NULL else NULL)
    if n % width:
        i = n - n % width
        weighted_derivatives_at(x + i, t + i, e + i, w + i if w != NULL else NULL,
                                pos_weight + i if pos_weight != NULL else NULL, n - i, high, low, grad + i,
                                hess + i if hess != NULL else NULL)


cdef void write_weighted_derivatives(const real* x, const real* t, const real* e, const real* w, const real* pos_weight,
                                     Py_ssize_t n, real high, real low, real* grad, real* hess) noexcept nogil:
    """OUT grad, and hess, which may be NULL, of n <= CHUNK items; one of them may be x."""
    if real is float:
        weighted_derivatives_of(x, t, e, w, pos_weight, n, vf_set(high), vf_set(low), grad, hess)
    else:
        weighted_derivatives_of(x, t, e, w, pos_weight, n, vd_set(high), vd_set(low), grad, hess)
