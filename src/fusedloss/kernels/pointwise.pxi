# Pointwise losses and functions: what happens to a block of items.
#
# Items are staged in chunks of CHUNK: the shared part first (e = exp(-|x|)), then a loop for each output that is
# wanted. Nothing is stored before all outputs of the chunk are computed, so an output may be the input.

cdef enum:
    ITEMS = 16384         # items in a block; part of the order of summation, hence of the bits

cdef enum PointwiseKind:
    BINARY_CROSS_ENTROPY_WITH_LOGITS
    BINARY_CROSS_ENTROPY
    MSE_LOSS
    SIGMOID
    LOG_SIGMOID
    SOFTPLUS

cdef struct Pointwise:
    # One call. Pointers marked OUT may be NULL.
    PointwiseKind kind
    const char* x
    Code code
    Py_ssize_t n
    Operand target
    Operand weight
    Operand pos_weight
    double divisor        # D of the mean, 1 otherwise
    bint stream           # outputs go past the caches
    char* values          # OUT (n,): the items' losses, or the function
    char* grad            # OUT (n,)
    char* hess            # OUT (n,)
    Sum* sums             # OUT (blocks,)
    char* bad             # OUT (blocks,): a probability or target outside [0, 1], or an integer but 0 and 1, was met


cdef inline Factor reciprocal(double numerator, double divisor) noexcept nogil:
    """numerator / divisor in twice the precision; IEEE quotient where that is not finite."""
    cdef Factor f
    f.high = numerator / divisor
    f.low = fma(-f.high, divisor, numerator) / divisor
    if not isfinite(f.low):
        f.low = 0.0
    return f


cdef inline real scale_by(real value, real high, real low) noexcept nogil:
    """value * (high + low), rounded once; infinities as by a plain product."""
    cdef real scaled = multiply_add(value, high, value * low)
    return scaled if scaled - scaled == <real>0.0 else value * high


# ----------------------------------------------------------------------- binary cross-entropy with logits

cdef inline bint any_beyond_one(const integer* x, Py_ssize_t n) noexcept nogil:
    """Of unsigned integers: all their bits together are beyond 1 if one of them is."""
    cdef integer seen = 0
    cdef Py_ssize_t i
    for i in range(n):
        seen |= x[i]
    return seen > 1


cdef inline bint beyond_one(const Operand* a, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Whether integer targets, contiguous, hold anything but 0 and 1."""
    cdef const char* at = a.data + first * size_of(a.code)
    if a.code <= U8:
        return any_beyond_one(<const uint8_t*>at, n)
    if a.code <= U16:
        return any_beyond_one(<const uint16_t*>at, n)
    if a.code <= U32:
        return any_beyond_one(<const uint32_t*>at, n)
    return any_beyond_one(<const uint64_t*>at, n)


cdef inline bint as_bytes(const Pointwise* t, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Whether the sum of losses is all that is wanted, and targets are bytes side by side, which are their numbers: as
    a bool, each byte but 0 is 1. Of int8, what is negative is a mistake that has been seen."""
    return (t.target.code <= U8 and t.target.contiguous and t.weight.data == NULL and t.pos_weight.data == NULL
            and t.values == NULL and t.grad == NULL and t.sums != NULL
            and not (t.target.code == BOOL and beyond_one(&t.target, first, n)))


cdef inline void bce_with_logits_chunk(const Pointwise* t, Py_ssize_t first, Py_ssize_t n, Sum* total,
                                       LogProducts* products, char* bad, bint* wide, real tag) noexcept nogil:
    """a softplus(x) + b softplus(-x) with a = w (1 - t), b = w pos_weight t; e = exp(-|x|):
    value     a max(x, 0) + b max(-x, 0) + (a + b) log1p(e), zero factors masked
    gradient  (a - b e) / (1 + e) for x >= 0, (a e - b) / (1 + e) below: no cancellation for t in {0, 1}
    Hessian   (a + b) e / (1 + e)^2, never sigma (1 - sigma)
    """
    cdef real x_buffer[CHUNK]
    cdef real buffer[CHUNK]
    cdef real w_buffer[CHUNK]
    cdef real pos_buffer[CHUNK]
    cdef vf lines[128]            # CHUNK numbers, which begin where a line does
    cdef real* e = <real*>lines
    cdef real v[CHUNK]
    cdef real h[CHUNK]
    cdef const real* x = load(t.x, t.code, first, n, x_buffer)
    cdef const real* y
    cdef const real* w = NULL
    cdef const real* pos_weight = NULL
    cdef Factor f = reciprocal(1.0, t.divisor)
    cdef real high, low
    cdef bint moderate
    if BOOL < t.target.code < F16 and beyond_one(&t.target, first, n):
        bad[0] = 1
    if real is float:
        if as_bytes(t, first, n):
            # They are read but once, and need no floats for that.
            exp_of_minus_size(x, n, e, wide)
            add(total, add_binary_losses(x, <const uint8_t*>t.target.data + first, e, n, products, False, NULL))
            return
    y = load_operand(&t.target, first, n, buffer)
    if t.weight.data == NULL and t.pos_weight.data == NULL and isfinite(f.high):
        if real is double or t.sums != NULL or t.grad != NULL:
            exp_of_minus_size(x, n, e, wide)
        if t.sums != NULL:
            if real is float:
                add(total, add_binary_losses(x, y, e, n, products, False, &moderate if t.grad != NULL else NULL))
            else:
                add_binary_losses_double(x, y, e, n, products, False, total)
        if t.values != NULL:
            # Items' losses of 16-bit logits are float32.
            if real is float:
                binary_values(x, y, n, <float*>t.values + first, t.stream, wide)
            else:
                binary_values_double(x, y, e, n, v)
                store(t.values, F64, first, n, v, t.stream)
        if t.grad == NULL:
            return
        high = <real>f.high
        low = <real>(f.low if real is double else f.high - <double>high)
        if real is double or t.sums == NULL:
            moderate = all_moderate(y, n)
        if t.code == F32 or real is double:
            write_derivatives(x, y, e, n, high, low, moderate, <real*>t.grad + first,
                              <real*>t.hess + first if t.hess != NULL else NULL, t.stream)
            return
        write_derivatives(x, y, e, n, high, low, moderate, v, h if t.hess != NULL else NULL, False)
        store(t.grad, t.code, first, n, v, t.stream)
        if t.hess != NULL:
            store(t.hess, t.code, first, n, h, t.stream)
        return
    exp_of_minus_size(x, n, e, wide)
    if t.weight.data != NULL:
        w = load_operand(&t.weight, first, n, w_buffer)
    if t.pos_weight.data != NULL:
        pos_weight = load_operand(&t.pos_weight, first, n, pos_buffer)
    if t.values != NULL or t.sums != NULL:
        if real is float:
            log1p_of_floats(e, n, v)
        else:
            log1p_of_units(e, n, v)
        weighted_losses(x, y, v, w, pos_weight, n, v if t.values != NULL else NULL,
                        total if t.sums != NULL else NULL)
        if t.values != NULL:
            store(t.values, F32 if real is float else F64, first, n, v, t.stream)
    if t.grad != NULL:
        high = <real>f.high
        low = <real>(f.low if real is double else f.high - <double>high)
        if not isfinite(low):
            low = <real>0.0
        write_weighted_derivatives(x, y, e, w, pos_weight, n, high, low, v, h if t.hess != NULL else NULL)
        store(t.grad, t.code, first, n, v, t.stream)
    if t.hess != NULL:
        store(t.hess, t.code, first, n, h, t.stream)


# ---------------------------------------------------------------- binary cross-entropy from probabilities

cdef void clamped_logs(double* u, double* c, Py_ssize_t n) noexcept nogil:
    """OUT u = max(log(u) + c, -100), for whole vectors; the smallest u that matters is e^-100. nan
    must be in c too."""
    cdef vd least = vd_set(1e-45)
    cdef vd floor = vd_set(-100.0)
    cdef vd a, b
    cdef Py_ssize_t i, k
    for k in range((n + LANES - 1) // LANES):
        i = k * LANES
        a = vd_max(least, vd_load(u + i))
        b = vd_max(least, vd_load(u + i + 8))
        log_vectors(&a, &b, vd_load(c + i), vd_load(c + i + 8))
        vd_store(u + i, vd_max(floor, a))
        vd_store(u + i + 8, vd_max(floor, b))


cdef inline void bce_chunk(const Pointwise* t, Py_ssize_t first, Py_ssize_t n, Sum* total, Likelihood* products,
                           char* bad, real tag) noexcept nogil:
    """-w (t max(log p, -100) + (1 - t) max(log1p(-p), -100)), in float64 for both dtypes.

    Gradient and Hessian clamp p and 1 - p at 1e-12 where they divide by them, each term on its own.
    """
    cdef real x_buffer[CHUNK]
    cdef real y_buffer[CHUNK]
    cdef double w_buffer[CHUNK]
    cdef double v[CHUNK]
    cdef double w[CHUNK]
    cdef double lost[CHUNK]
    cdef real out[CHUNK]
    cdef real h[CHUNK]
    cdef const real* x = load(t.x, t.code, first, n, x_buffer)
    cdef const real* y = load_operand(&t.target, first, n, y_buffer)
    cdef const real* given
    cdef double p, q, u, c, label, other, term
    cdef real high, low
    cdef Factor f = reciprocal(1.0, t.divisor)
    cdef Py_ssize_t i
    cdef bint outside
    cdef int strange = 0
    cdef int some = 0
    cdef bint hard = labels_are_hard(x, y, n, &outside)
    cdef bint add_up = t.sums != NULL
    if not hard:
        for i in range(n):
            strange |= (y[i] < <real>0.0) | (y[i] > <real>1.0)
    if outside or strange:
        bad[0] = 1
    hard = hard and t.weight.data == NULL and isfinite(f.high)
    if hard and add_up and add_likelihoods(x, y, n, products):
        add_up = False
    if t.weight.data != NULL:
        given = load_operand(&t.weight, first, n, out)
        for i in range(n):
            w_buffer[i] = given[i]
    elif not hard:
        for i in range(n):
            w_buffer[i] = 1.0

    if t.values != NULL or add_up:
        for i in range(n):
            p = x[i]
            q = 1.0 - p
            c = (1.0 - q) - p             # what 1 - p has lost: for float32 nothing, unless q is nearly 1
            if real is double:
                c = c / (1e-45 if q < 1e-45 else q)
            v[i] = p
            w[i] = q
            lost[i] = c
        if hard:
            for i in range(n):
                label = y[i]
                lost[i] = v[i] - v[i] if label > 0.0 else lost[i]     # 0, or nan, which the logarithm does not see
                v[i] = v[i] if label > 0.0 else w[i]
            clamped_logs(v, lost, n)
            for i in range(n):
                v[i] = 0.0 - v[i]         # -0.0 would be a loss that prints with a sign
        else:
            clamped_logs(w, lost, n)
            for i in range(n):
                lost[i] = 0.0
            clamped_logs(v, lost, n)
            for i in range(n):
                label = w_buffer[i] * <double>y[i]
                other = w_buffer[i] * (1.0 - <double>y[i])
                v[i] = -(label * v[i] + other * w[i]) + 0.0
        if t.values != NULL:
            for i in range(n):
                out[i] = <real>v[i]
            store(t.values, F32 if real is float else F64, first, n, out, t.stream)
        if add_up:
            if real is float:
                add(total, tree_sum(v, n))
            else:
                add_carefully(total, v, n)
    if t.grad == NULL and t.hess == NULL:
        return
    high = <real>f.high
    low = <real>(f.low if real is double else f.high - <double>high)
    if hard:
        if t.code == F32 or real is double:
            write_derivatives(x, y, <const real*>NULL, n, high, low, True, <real*>t.grad + first,
                              <real*>t.hess + first if t.hess != NULL else NULL, t.stream)
            return
        write_derivatives(x, y, <const real*>NULL, n, high, low, True, out, <real*>h if t.hess != NULL else NULL, False)
    elif real is float:
        # One division for 1/p and 1/q; float64 has digits to spare.
        for i in range(n):
            p = x[i]
            q = 1.0 - p
            p = 1e-12 if p < 1e-12 else p
            q = 1e-12 if q < 1e-12 else q
            u = 1.0 / (p * q)
            p = p * u
            q = q * u
            label = <double>y[i]
            out[i] = <float>(w_buffer[i] * ((1.0 - label) * p - label * q) * f.high)
            if t.hess != NULL:
                h[i] = <float>(w_buffer[i] * ((1.0 - label) * (p * p) + label * (q * q)) * f.high)
    else:
        if t.hess != NULL:
            for i in range(n):
                p = x[i]
                q = 1.0 - p
                p = 1e-12 if p < 1e-12 else p
                q = 1e-12 if q < 1e-12 else q
                term = (1.0 - <double>y[i]) / (q * q) + <double>y[i] / (p * p)
                h[i] = <real>scale_by(w_buffer[i] * term, f.high, f.low)
        if t.grad != NULL:
            for i in range(n):
                p = x[i]
                q = 1.0 - p
                p = 1e-12 if p < 1e-12 else p
                q = 1e-12 if q < 1e-12 else q
                term = (1.0 - <double>y[i]) / q - <double>y[i] / p
                out[i] = <real>scale_by(w_buffer[i] * term, f.high, f.low)
    if not hard and t.weight.data == NULL and isfinite(f.high):
        # Labels get the bits that they have in chunks of labels alone.
        for i in range(n):
            some |= (y[i] == <real>0.0) | (y[i] == <real>1.0)
        if some:
            write_derivatives(x, y, <const real*>NULL, n, high, low, True, <real*>v,
                              <real*>w if t.hess != NULL else NULL, False)
            for i in range(n):
                out[i] = (<real*>v)[i] if (y[i] == <real>0.0) | (y[i] == <real>1.0) else out[i]
            if t.hess != NULL:
                for i in range(n):
                    h[i] = (<real*>w)[i] if (y[i] == <real>0.0) | (y[i] == <real>1.0) else h[i]
    if t.grad != NULL:
        store(t.grad, t.code, first, n, out, t.stream)
    if t.hess != NULL:
        store(t.hess, t.code, first, n, h, t.stream)


# -------------------------------------------------------------------------------------- mean squared error

cdef inline void mse_chunk(const Pointwise* t, Py_ssize_t first, Py_ssize_t n, Sum* total,
                           real tag) noexcept nogil:
    """w d^2 with d = x - t in float64: exact for float32; for float64 the rounding error of d is carried
    into the square. Gradient 2 w d / D with one rounding for the scale; Hessian 2 w / D."""
    cdef real x_buffer[CHUNK]
    cdef real y_buffer[CHUNK]
    cdef real w_buffer[CHUNK]
    cdef real out[CHUNK]
    cdef double v[CHUNK]
    cdef const real* x = load(t.x, t.code, first, n, x_buffer)
    cdef const real* y = load_operand(&t.target, first, n, y_buffer)
    cdef const real* w = NULL
    cdef double d, back, square
    cdef bint direct = t.code == F32 or real is double
    cdef real* grad = NULL
    cdef Factor f = reciprocal(2.0, t.divisor)
    cdef Py_ssize_t i
    if t.weight.data != NULL:
        w = load_operand(&t.weight, first, n, w_buffer)
    if t.values != NULL:
        for i in range(n):
            d = <double>x[i] - <double>y[i]
            square = d * d
            if real is double:
                back = d - x[i]
                back = (x[i] - (d - back)) - (y[i] + back)
                back = fma(d, d, 2.0 * d * back)
                square = back if back - back == 0.0 else square      # inf - inf where d is infinite
            v[i] = square
        if w != NULL:
            for i in range(n):
                v[i] = <double>w[i] * v[i]
        for i in range(n):
            out[i] = <real>v[i]
        store(t.values, F32 if real is float else F64, first, n, out, t.stream)
    if t.grad != NULL:
        grad = out
        if direct and (t.sums == NULL or real is double or not t.stream):
            grad = <real*>t.grad + first
    if t.sums != NULL:
        if real is float:
            # Value and gradient share what is converted. The sum's vectors begin where the chunk does, lines in the
            # output elsewhere, so that a gradient that goes past the caches is staged.
            add(total, squared_errors(x, y, w, n, f.high, grad))
        else:
            add_squared_errors(total, x, y, w, n, grad != NULL)
    if grad != NULL:
        if real is double or t.sums == NULL:
            write_differences(x, y, w, n, f, grad, direct and t.stream)
        if grad == out:
            store(t.grad, t.code, first, n, out, t.stream)
    if t.hess == NULL:
        return
    # After the gradient: it may be x.
    if w != NULL:
        for i in range(n):
            out[i] = <real>scale_by(<double>w[i], f.high, f.low) if real is double else <real>(<double>w[i] * f.high)
        store(t.hess, t.code, first, n, out, t.stream)
    elif direct:
        write_constant(<real>f.high, n, <real*>t.hess + first, t.stream)
    else:
        write_constant(<real>f.high, n, out, False)
        store(t.hess, t.code, first, n, out, t.stream)


# ------------------------------------------------------------------------------------------------ functions

cdef inline void function_chunk(const Pointwise* t, Py_ssize_t first, Py_ssize_t n, bint* wide,
                                real tag) noexcept nogil:
    """sigmoid: 1/(1 + e) or e/(1 + e); softplus: max(x, 0) + log1p(e); log_sigmoid(x) = -softplus(-x)."""
    cdef real x_buffer[CHUNK]
    cdef real e[CHUNK]
    cdef real v[CHUNK]
    cdef const real* x = load(t.x, t.code, first, n, x_buffer)
    cdef Py_ssize_t i
    # Straight to the output, if that has the chunk's dtype.
    cdef bint direct = t.code == F32 or real is double
    cdef real* out = v
    if direct:
        out = <real*>t.values + first
    if t.kind == SIGMOID:
        sigmoids(x, n, out, direct and t.stream, wide)
    elif real is float:
        softpluses(t.kind == LOG_SIGMOID, x, n, out, direct and t.stream, wide)
    else:
        direct = False
        exp_of_minus_size(x, n, e, wide)
        log1p_of_units(e, n, e)
        if t.kind == SOFTPLUS:
            for i in range(n):
                v[i] = (x[i] if x[i] > <real>0.0 else <real>0.0) + e[i]
        else:
            for i in range(n):
                v[i] = -((-x[i] if x[i] < <real>0.0 else <real>0.0) + e[i])
    if direct:
        return
    store(t.values, t.code, first, n, v, t.stream)


# --------------------------------------------------------------------------------------- a block of items

cdef void pointwise_block(Pointwise* t, Py_ssize_t block, real tag) noexcept nogil:
    cdef Py_ssize_t first = block * ITEMS
    cdef Py_ssize_t last = min(first + ITEMS, t.n)
    cdef Py_ssize_t n
    cdef Sum total
    cdef LogProducts products
    cdef Likelihood likelihood
    cdef bint wide = False        # the chunk before had logits of large size, so that the next may have, too
    cdef bint logits = t.kind == BINARY_CROSS_ENTROPY_WITH_LOGITS
    cdef bint probabilities = t.kind == BINARY_CROSS_ENTROPY
    memset(&total, 0, sizeof(Sum))
    if logits:
        begin_products(&products, 0.0 if real is float else 1.0)
    if probabilities:
        begin_likelihood(&likelihood)
    while first < last:
        n = min(<Py_ssize_t>CHUNK, last - first)
        if t.stream and size_of(t.code) == sizeof(real):
            fetch_split_line(t.values, (first + n) * sizeof(real))
            fetch_split_line(t.grad, (first + n) * sizeof(real))
            fetch_split_line(t.hess, (first + n) * sizeof(real))
        if logits:
            bce_with_logits_chunk(t, first, n, &total, &products, t.bad + block, &wide, <real>0)
        elif t.kind == MSE_LOSS:
            mse_chunk(t, first, n, &total, <real>0)
        elif probabilities:
            bce_chunk(t, first, n, &total, &likelihood, t.bad + block, <real>0)
        else:
            function_chunk(t, first, n, &wide, <real>0)
        first += n
    if t.stream:
        fl_fence()
    if t.sums != NULL:
        if logits:
            add_products(&total, &products, real is double)
        if probabilities:
            add_log_likelihood(&total, &likelihood)
        t.sums[block] = total


cdef void pointwise_block_float(void* task, Py_ssize_t block) noexcept nogil:
    pointwise_block(<Pointwise*>task, block, <float>0)


cdef void pointwise_block_double(void* task, Py_ssize_t block) noexcept nogil:
    pointwise_block(<Pointwise*>task, block, <double>0)


# ------------------------------------------------------------------------------- sweeps over one operand

cdef struct Sweep:
    const Operand* operand
    Py_ssize_t n
    Sum* sums             # OUT (blocks,): sum of the items
    char* bad             # OUT (blocks,): an item is neither 0 nor 1


cdef void sum_block_float(void* task, Py_ssize_t block) noexcept nogil:
    """Sum of a weight array of at most 32 bits, the denominator of the weighted mean, in float64."""
    cdef Sweep* t = <Sweep*>task
    cdef Py_ssize_t first = block * ITEMS
    cdef Py_ssize_t last = min(first + ITEMS, t.n)
    cdef Py_ssize_t n, i
    cdef float buffer[CHUNK]
    cdef const float* x
    cdef vd sum_0 = vd_set(0.0), sum_1 = vd_set(0.0)
    cdef vf a
    memset(&t.sums[block], 0, sizeof(Sum))
    while first < last:
        n = min(<Py_ssize_t>CHUNK, last - first)
        x = load_operand(t.operand, first, n, buffer)
        for i in range(0, n, 16):      # LANES
            fl_prefetch(x + i + CHUNK)
            a = load_first(x + i, n - i)
            sum_0 = vd_add(sum_0, vd_low(a))
            sum_1 = vd_add(sum_1, vd_high(a))
        first += n
    add(&t.sums[block], fold_vectors(sum_0, sum_1))


cdef void sum_block_double(void* task, Py_ssize_t block) noexcept nogil:
    """The same of any numbers, to nearly the last bit."""
    cdef Sweep* t = <Sweep*>task
    cdef Py_ssize_t first = block * ITEMS
    cdef Py_ssize_t last = min(first + ITEMS, t.n)
    cdef Py_ssize_t n, i
    cdef double buffer[CHUNK]
    cdef double scratch[CHUNK]
    cdef const double* x
    memset(&t.sums[block], 0, sizeof(Sum))
    while first < last:
        n = min(<Py_ssize_t>CHUNK, last - first)
        x = load_operand(t.operand, first, n, buffer)
        for i in range(n):
            scratch[i] = x[i]
        add(&t.sums[block], tree_sum(scratch, n))
        first += n


cdef void zero_or_one_block(void* task, Py_ssize_t block) noexcept nogil:
    """Whether a block of integer targets holds anything but 0 and 1."""
    cdef Sweep* t = <Sweep*>task
    cdef Py_ssize_t first = block * ITEMS
    t.bad[block] = beyond_one(t.operand, first, min(<Py_ssize_t>ITEMS, t.n - first))
