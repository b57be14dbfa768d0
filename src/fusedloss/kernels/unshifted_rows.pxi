# Long rows of float32 whose exponentials need no shift: each class is read once.
#
# No maximum is looked for. Arguments are kept to where a float32 holds their exponential, and the sum tells whether one
# was above that; then, or if it is so small that terms below may count, or if a label is far from what float32 holds,
# the row goes the way of long_rows.pxi. Which way a row goes depends on the row alone.
#
# e^x is a power 2^n T_j, cut, and power * t. The sum is that of the cut powers, in float64, and that of power * t,
# in float32, which is at most 1/22 of it: no exponential is rounded for it. Its error is below 2^-25.6, of
# the cubic in t, and 2^-25.4, of eight roundings by 2^-24 of 1/22 of it; 0.8 ulp together, at most.
#
# One class is left out of the sum, and its exponential added with more digits: the label, or the class of a large
# probability. If it is most of the sum, its loss is small, and has all its digits; if another one is, losses are not.
#
# For gradients, powers and t of rows that are not too long are kept. An entry of the gradient is three operations then,
# and is rounded once.

cdef enum:
    DONE = -3             # the label of a row that is done

# What exponentials are made of ends at 88: a row that has more has a sum above e^87, and is not summed here.
cdef double CEILING = 88.0
cdef double LARGEST_SUM = 6.07e37
# Of a sum from 2^-64 on, 2^31 terms below 2^-127, which count as 0, are less than 2^-32.
cdef double SMALLEST_SUM = 5.5e-20
# Labels between these have an exponential that is a normal float, and so is what its rounding has lost.
cdef double LOWEST_LABEL = -60.0
cdef double HIGHEST_LABEL = 87.0


cdef struct RowSum:
    vd powers             # times 2^-896
    vd rests              # of power * t, up to a few columns ago
    vf rest               # ... since then


cdef inline bint unshiftable(const Softmax* t) noexcept nogil:
    """Whether rows of this call, if they are long, may need no shift."""
    return t.code != F64 and t.inner == 1


cdef inline bint has_options(const Softmax* t) noexcept nogil:
    """Whether its loss takes more than the sum."""
    return t.kind == CROSS_ENTROPY and not plain(t)


cdef inline RowSum nothing_summed() noexcept nogil:
    cdef RowSum s
    s.powers = vd_set(0.0)
    s.rests = vd_set(0.0)
    s.rest = vf_set(0.0)
    return s


cdef inline void add_parts(vf power, vf t, RowSum* s, float* kept, Py_ssize_t apart, bint keep) noexcept nogil:
    """OUT kept, if `keep`: the power, and t that far `apart`."""
    s.powers = vd_add(s.powers, vd_add(vd_even_tiny(power), vd_odd_tiny(power)))
    s.rest = vf_fma(power, t, s.rest)
    if keep:
        vf_store(kept, power)
        vf_store(kept + apart, t)


cdef inline void add_rests(RowSum* s) noexcept nogil:
    s.rests = vd_add(s.rests, vd_add(vd_low(s.rest), vd_high(s.rest)))
    s.rest = vf_set(0.0)


cdef inline vf argument_of(const float* x, vf ceiling, const Exponents* k) noexcept nogil:
    """nan stays."""
    return vf_min(ceiling, vf_max(k.floor, vf_load(x)))


cdef inline RowSum plus_block(RowSum s, Block* b, const char* ahead, int size, float* kept, bint keep) noexcept nogil:
    """s and a block but its hole. OUT kept, if `keep`: what it is the sum of, t KEPT_CLASSES after the powers. Numbers
    of `size` bytes are fetched from `ahead` on."""
    cdef Exponents k = cut_exponents_of(0.0, True)
    cdef vf ceiling = vf_set(<float>CEILING)
    cdef vf power, power_too, t, t_too
    cdef Two two = two_of_nothing()
    cdef const float* p
    cdef const float* then
    cdef const float* following
    cdef Py_ssize_t left, n, i
    cdef Py_ssize_t g = 0
    cdef Py_ssize_t stop
    cdef Py_ssize_t summed = 0
    copy_groups(b, 0, b.groups)
    if FL_WIDE:
        p = group_at(b, 0)
        two_exp_parts(argument_of(p, ceiling, &k), argument_of(p + LANES, ceiling, &k), &k, True, False, &two, &power,
                      &power_too, &t, &t_too)
    while g < b.groups:
        # Groups that have copies are stretches of their own. A loop of single vectors: of more at once, GCC delays
        # additions until it has no registers for what is to be added.
        p = group_at(b, g)
        stop = g + 1 if g == b.hole_group or g == b.end_group else next_stop(g, b.hole_group, b.end_group, b.groups)
        then = group_at(b, stop) if stop < b.groups else p
        left = 4 * (stop - g)
        while left > 0:
            n = min(GROUPED - summed % GROUPED, left)
            if FL_WIDE:
                for i in range(0, n, 2):
                    fl_prefetch(ahead + i * LANES * size)
                    fl_prefetch(ahead + (i + 1) * LANES * size)
                    following = p + (i + 2) * LANES if i + 2 < left else then
                    two_exp_parts(argument_of(following, ceiling, &k), argument_of(following + LANES, ceiling, &k), &k,
                                  True, False, &two, &power, &power_too, &t, &t_too)
                    add_parts(power, t, &s, kept + (summed + i) * LANES, KEPT_CLASSES, keep)
                    add_parts(power_too, t_too, &s, kept + (summed + i + 1) * LANES, KEPT_CLASSES, keep)
            else:
                for i in range(n):
                    fl_prefetch(ahead + i * LANES * size)
                    exp_parts_of(argument_of(p + i * LANES, ceiling, &k), &k, True, &power, &t)
                    add_parts(power, t, &s, kept + (summed + i) * LANES, KEPT_CLASSES, keep)
            p += n * LANES
            ahead += n * LANES * size
            summed += n
            left -= n
            if summed % GROUPED == 0:
                add_rests(&s)
        g = stop
    add_rests(&s)
    return s


cdef struct HalfRow:
    # Columns of 16 bits that are summed where they lie, and the two vectors of them that have copies.
    const uint16_t* x
    Py_ssize_t whole         # whole vectors
    Py_ssize_t apart         # the vector that has the hole; -1 if there is none
    float end[LANES]         # the vector after the whole ones: -inf from the end on
    float without[LANES]     # the hole is -inf


cdef void begin_half_row(const char* x, Code code, Py_ssize_t n, Py_ssize_t hole, HalfRow* row) noexcept nogil:
    cdef float buffer[LANES]
    cdef Py_ssize_t rest = n % LANES
    cdef const float* p
    row.x = <const uint16_t*>x
    row.whole = n // LANES
    row.apart = -1
    if rest > 0:
        load(x, code, n - rest, rest, &buffer[0])
    vf_store(row.end, vf_load_part(buffer, rest, -INFINITY))
    if hole >= 0:
        row.apart = hole // LANES
        p = row.end
        if row.apart < row.whole:
            p = load(x, code, row.apart * LANES, LANES, &buffer[0])
        vf_store(row.without, vf_if_equal(vf_count(), vf_set(<float>(hole % LANES)), vf_set(-INFINITY), vf_load(p)))


cdef inline vf half_argument(const HalfRow* row, Py_ssize_t i, bint half, vf ceiling,
                             const Exponents* k) noexcept nogil:
    """argument_of vector i; half: of float16, not bfloat16."""
    if i == row.apart:
        return argument_of(row.without, ceiling, k)
    if i < row.whole:
        return vf_min(ceiling, vf_max(k.floor, vf_from_halves(row.x + i * LANES) if half else
                                      vf_from_bfloats(row.x + i * LANES)))
    return argument_of(row.end, ceiling, k) if i == row.whole else k.floor


cdef inline RowSum plus_halves(RowSum s, const HalfRow* row, Py_ssize_t vectors, bint half, const char* ahead,
                               float* kept) noexcept nogil:
    """plus_block of numbers of 16 bits, in the same order: conversions and branches hide behind exponentials."""
    cdef bint keep = kept != NULL
    cdef Exponents k = cut_exponents_of(0.0, True)
    cdef vf ceiling = vf_set(<float>CEILING)
    cdef vf power, power_too, t, t_too
    cdef Two two = two_of_nothing()
    cdef Py_ssize_t i
    if FL_WIDE:
        two_exp_parts(half_argument(row, 0, half, ceiling, &k), half_argument(row, 1, half, ceiling, &k), &k, True,
                      False, &two, &power, &power_too, &t, &t_too)
        for i in range(0, vectors, 2):
            fl_prefetch(ahead + i * LANES * 2)
            two_exp_parts(half_argument(row, i + 2, half, ceiling, &k), half_argument(row, i + 3, half, ceiling, &k),
                          &k, True, False, &two, &power, &power_too, &t, &t_too)
            add_parts(power, t, &s, kept + i * LANES, KEPT_CLASSES, keep)
            add_parts(power_too, t_too, &s, kept + (i + 1) * LANES, KEPT_CLASSES, keep)
            if i % GROUPED == GROUPED - 2:
                add_rests(&s)
    else:
        for i in range(vectors):
            if i % 2 == 0:
                fl_prefetch(ahead + i * LANES * 2)
            exp_parts_of(half_argument(row, i, half, ceiling, &k), &k, True, &power, &t)
            add_parts(power, t, &s, kept + i * LANES, KEPT_CLASSES, keep)
            if i % GROUPED == GROUPED - 1:
                add_rests(&s)
    add_rests(&s)
    return s


cdef RowSum sum_halves(const char* x, Code code, Py_ssize_t n, Py_ssize_t hole, float* kept) noexcept nogil:
    """plus_halves of n columns, with a loop for each case."""
    cdef RowSum s = nothing_summed()
    cdef Py_ssize_t vectors = (n + LANES - 1) // LANES
    # 8 KiB from what is read.
    cdef const char* ahead = x + 4 * FETCHED
    cdef HalfRow row
    begin_half_row(x, code, n, hole, &row)
    if code == F16:
        return plus_halves(s, &row, vectors, True, ahead, kept)
    return plus_halves(s, &row, vectors, False, ahead, kept)


cdef double sum_part(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t last, Py_ssize_t hole,
                     float* kept, double* most) noexcept nogil:
    """Sum over the columns column..last of a row but the hole. OUT most: no term of it is larger. kept: as plus_block
    has it."""
    cdef double lanes[8]
    cdef float buffer[CHUNK]
    cdef RowSum s = nothing_summed()
    cdef Block b
    cdef Py_ssize_t step = last - column if t.code == F32 else <Py_ssize_t>CHUNK
    cdef int size = <int>size_of(t.code)
    cdef const char* ahead
    cdef Py_ssize_t n
    if FL_CONVERTS and size == 2:
        s = sum_halves(t.logits + (row * t.classes + column) * size, t.code, last - column,
                       hole - column if column <= hole < last else -1, kept)
        column = last
    while column < last:
        n = min(step, last - column)
        begin_block(&b, <float*>load(t.logits, t.code, row * t.classes + column, n, buffer), NULL, False, n,
                    hole - column if column <= hole < column + n else -1)
        # 8 KiB from what is read.
        ahead = t.logits + (row * t.classes + column) * size + 4 * FETCHED
        if kept != NULL:
            s = plus_block(s, &b, ahead, size, kept, True)
            kept += n
        else:
            s = plus_block(s, &b, ahead, size, NULL, False)
        column += n
    # The product is exact.
    vd_store(lanes, vd_fma(s.powers, vd_set(FL_FROM_TINY), s.rests))
    most[0] = largest_of_eight(lanes)
    return fold_eight(lanes)


cdef inline bint begins_too_large(const Softmax* t, Py_ssize_t row) noexcept nogil:
    """Whether one of the first logits shows already what the sum would."""
    cdef float buffer[LANES]
    return vf_any_less(vf_set(<float>CEILING), vf_load(load(t.logits, t.code, row * t.classes, LANES, &buffer[0])))


cdef bint sum_row(const Softmax* t, Py_ssize_t row, Py_ssize_t hole, const RowScan* parts, float* kept,
                  double* sum, double* most) noexcept nogil:
    """OUT sum over all classes of a row but the hole: False if it needs a shift. In the groups that threads share,
    whose sums they have left in parts, unless that is NULL. OUT most: no term is larger."""
    cdef Sum total
    cdef Py_ssize_t group
    cdef double part, largest
    memset(&total, 0, sizeof(Sum))
    most[0] = 0.0
    for group in range(groups_of(t)):
        if parts != NULL:
            part = parts[group].others.high
            largest = parts[group].top
        else:
            part = sum_part(t, row, group * GROUP, min((group + 1) * GROUP, t.classes), hole, kept, &largest)
        most[0] = max(most[0], largest)
        # nan is no less, too.
        if not part < LARGEST_SUM:
            return False
        add(&total, part)
    sum[0] = value_of(&total)
    return True


cdef struct Unshifted:
    # Of 16 rows.
    Py_ssize_t hole[LANES]       # what the sum leaves out: the label, or a class of large probability; -1 if nothing
    double hole_term[LANES]      # its exponential, 1 if there is none ...
    float hole_power[LANES]      # ... and the two numbers that sums would have for it
    float hole_t[LANES]
    double rest[LANES]           # sum over all other classes, ...
    double most[LANES]           # ... none of which has a larger term
    double loss[LANES]           # of those that are done
    double z[LANES]


cdef inline void fetch_label_logits(const Softmax* t, Py_ssize_t first) noexcept nogil:
    """Those of up to 16 rows from `first` on, which nothing else would fetch before they are needed."""
    cdef int64_t labels[LANES]
    cdef Py_ssize_t n = min(<Py_ssize_t>LANES, t.rows - first)
    cdef Py_ssize_t i
    read_labels(t, first, n, labels)
    for i in range(n):
        if labels[i] >= 0:
            fl_fetch(t.logits + ((first + i) * t.classes + labels[i]) * size_of(t.code))


cdef void begin_unshifted(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r, Unshifted* u) noexcept nogil:
    cdef int i
    memset(u, 0, sizeof(Unshifted))
    for i in range(LANES):
        u.hole[i] = -1
        u.hole_term[i] = 1.0
    if t.kind != CROSS_ENTROPY or t.soft:
        return
    for i in range(<int>n):
        if r.label[i] >= 0:
            u.hole[i] = <Py_ssize_t>r.label[i]
            r.logit[i] = load_one(t.logits, t.code, (first + i) * t.classes + u.hole[i])
    set_hole_terms(r, u)
    if n == LANES:
        fetch_label_logits(t, first + n)


cdef void set_hole_terms(const Rows* r, Unshifted* u) noexcept nogil:
    cdef float logits[LANES]
    cdef Exponents k = cut_exponents_of(0.0, False)
    cdef Exponents of_sums = cut_exponents_of(0.0, True)
    cdef vf y, e, low, power, rest
    cdef int i
    for i in range(LANES):
        logits[i] = <float>r.logit[i]
    y = vf_min(vf_set(<float>CEILING), vf_max(k.floor, vf_load(logits)))
    e = exp_with_low(y, &k, &low)
    set_terms(e, low, u.hole_term)
    exp_parts_of(y, &of_sums, True, &power, &rest)
    vf_store(u.hole_power, power)
    vf_store(u.hole_t, rest)


cdef inline vf largest_of_four(const float* p, Py_ssize_t n) noexcept nogil:
    """In each lane, of the first n <= WIDE numbers and 0."""
    cdef vf zero = vf_set(0.0)
    if n >= WIDE:
        return vf_max(vf_max(vf_load(p), vf_max(vf_load(p + LANES), zero)),
                      vf_max(vf_load(p + 2 * LANES), vf_max(vf_load(p + 3 * LANES), zero)))
    return vf_max(vf_max(load_first(p, n), load_first(p + LANES, n - LANES)),
                  vf_max(load_first(p + 2 * LANES, n - 2 * LANES),
                         load_first(p + 3 * LANES, n - 3 * LANES)))


cdef Py_ssize_t large_target(const Softmax* t, Py_ssize_t row, Py_ssize_t group) noexcept nogil:
    """The first class of a group with a probability above 1/2; -1 if there is none."""
    cdef float buffer[CHUNK]
    cdef const float* target
    cdef vf half = vf_set(0.5)
    cdef Py_ssize_t column = group * GROUP
    cdef Py_ssize_t last = min(column + GROUP, t.classes)
    cdef Py_ssize_t n, i, k
    while column < last:
        n = min(<Py_ssize_t>CHUNK, last - column)
        target = load(t.target, t.target_code, row * t.classes + column, n, &buffer[0])
        for i in range(0, n, 64):      # WIDE
            if vf_any_less(half, largest_of_four(target + i, n - i)):
                for k in range(i, n):
                    if target[k] > <float>0.5:
                        return column + k
        column += n
    return -1


cdef void find_hole(const Softmax* t, Py_ssize_t row, const RowScan* parts, Rows* r, Unshifted* u,
                    int lane) noexcept nogil:
    """Of class probabilities: the one class that may be most of a sum and all of a small loss. In the groups that
    threads share, it is in parts, unless that is NULL."""
    cdef Py_ssize_t group, at
    for group in range(groups_of(t)):
        at = <Py_ssize_t>parts[group].top_at if parts != NULL else large_target(t, row, group)
        if at >= 0:
            u.hole[lane] = at
            r.logit[lane] = load_one(t.logits, t.code, row * t.classes + at)
            set_hole_terms(r, u)
            return


cdef inline bint may_go_unshifted(const Softmax* t, Py_ssize_t row, const Rows* r, const Unshifted* u,
                                  int lane) noexcept nogil:
    """As far as the class that is left out and the first logits tell: its sum has the last word."""
    return ((u.hole[lane] < 0 or LOWEST_LABEL <= r.logit[lane] <= HIGHEST_LABEL)
            and not begins_too_large(t, row))


cdef bint take_sum(const Softmax* t, double sum, Unshifted* u, Rows* r, int lane) noexcept nogil:
    """What outputs are made of, from the sum over all classes but the hole: False if the row needs a shift."""
    if not sum >= SMALLEST_SUM:
        return False
    r.total[lane] = sum + u.hole_term[lane] if u.hole[lane] >= 0 else sum
    # The logarithm of a sum near 1 has fewer digits than the sum.
    if (t.kind == LOGSUMEXP or t.z_loss > 0.0) and 0.6 < r.total[lane] < 1.7:
        return False
    u.rest[lane] = sum
    r.unshifted[lane] = True
    r.p_factor[lane] = 1.0
    if t.kind == CROSS_ENTROPY:
        r.p_factor[lane] = r.sample[lane] * r.class_weight[lane] / t.divisor
        r.special[lane] = -(sum * (r.p_factor[lane] / r.total[lane]))
    return True


cdef void mix_group(const Softmax* t, Py_ssize_t row, Py_ssize_t group, RowScan* part) noexcept nogil:
    """OUT q_sum and q_gap of the classes of a group, from part.reference on."""
    cdef float buffer[CHUNK]
    cdef Py_ssize_t column = group * GROUP
    cdef Py_ssize_t last = min(column + GROUP, t.classes)
    cdef Py_ssize_t n
    part.q_sum = 0.0
    part.q_gap = 0.0
    while column < last:
        n = min(<Py_ssize_t>CHUNK, last - column)
        mix_columns(t, row, column, n, load(t.logits, t.code, row * t.classes + column, n, &buffer[0]), part)
        column += n


cdef inline double floor_log2(double sum) noexcept nogil:
    """n where 2^n <= sum < 2^(n + 1). By an addition, since there are no vectors of conversions."""
    return fl_double_bits((fl_bits_f64(sum) >> 52) | (<uint64_t>0x433 << 52)) - (4503599627370496.0 + 1023.0)


cdef inline void set_reference(double logit, bint most, Rows* r, int lane) noexcept nogil:
    """OUT maximum, which gaps are measured from: log S to within 1/2, so that losses are no differences of larger
    numbers; exactly the logit of the class that is left out if it is most of S."""
    r.maximum[lane] = logit
    if not most:
        r.maximum[lane] = <float>((floor_log2(r.total[lane]) + 0.5) * FL_LN2_HI)


cdef void mix_row(const Softmax* t, Py_ssize_t row, RowScan* parts, Rows* r, int lane) noexcept nogil:
    """OUT q_sum and q_gap. parts: what threads have left of mix_group, or NULL."""
    cdef RowScan own
    cdef RowScan* part = &own
    cdef Py_ssize_t group
    r.q_sum[lane] = 0.0
    r.q_gap[lane] = 0.0
    own.reference = r.maximum[lane]
    for group in range(groups_of(t)):
        if parts != NULL:
            part = parts + group
        else:
            mix_group(t, row, group, part)
        r.q_sum[lane] += part.q_sum
        r.q_gap[lane] += part.q_gap


cdef inline void log_parts(double total, double scale, bint hole, double logit, double hole_term, double rest_of_hole,
                           double* anchor, double* term, double* rest) noexcept nogil:
    """OUT log S = anchor + log(1 + rest / term), whether a class is left out or not. S is 2^scale times the total."""
    cdef double exponent = floor_log2(total) + scale
    cdef double power = fl_double_bits(fl_bits_f64(total) & <uint64_t>0xfff0000000000000)
    anchor[0] = logit if hole else fma(exponent, FL_LN2_HI, exponent * FL_LN2_LO)
    term[0] = hole_term if hole else power
    rest[0] = rest_of_hole if hole else total - power


cdef void take_options(const Softmax* t, Unshifted* u, Rows* r, int lane) noexcept nogil:
    """Losses and factors of a row with smoothing, class probabilities or z-loss, from its sums."""
    cdef double anchor, term, rest
    log_parts(r.total[lane], 0.0, u.hole[lane] >= 0, r.logit[lane], u.hole_term[lane], u.rest[lane], &anchor, &term,
              &rest)
    r.loss[lane] = log_of(1.0, rest / term)
    r.log_total[lane] = r.loss[lane] + (anchor - r.maximum[lane])
    r.rest[lane] = u.rest[lane]
    r.apart[lane] = u.hole[lane]
    finish_options(t, r, r.loss, u.hole_term, lane, lane + 1)
    u.loss[lane] = r.loss[lane]
    u.z[lane] = r.z[lane]


cdef void search_peak(const Softmax* t, Py_ssize_t row, Rows* r, int lane) noexcept nogil:
    """find_peak where partial sums leave it open."""
    cdef Block b
    cdef float buffer[CHUNK]
    cdef float top
    cdef double most
    cdef Py_ssize_t top_at
    cdef Py_ssize_t column = 0
    cdef Py_ssize_t n
    while column < t.classes:
        n = min(<Py_ssize_t>CHUNK, t.classes - column)
        begin_block(&b, <float*>load(t.logits, t.code, row * t.classes + column, n, buffer), NULL, False, n, -1)
        find_top_float(&b, &top, &top_at)
        if top_at >= 0:
            r.peak_term[lane] = exp_shifted(<double>top, <double>0.0, magic_of(0.0, <double>0),
                                            floor_of(0.0, <double>0))
            if r.peak_term[lane] > 0.5 * r.total[lane]:
                r.peak[lane] = column + top_at
                if t.kind == LOG_SOFTMAX:
                    r.maximum[lane] = top
                sum_row(t, row, column + top_at, NULL, NULL, &r.rest_of_peak[lane], &most)
                return
        column += n


cdef inline void find_peak(const Softmax* t, Py_ssize_t row, Py_ssize_t hole, double hole_term, double rest,
                           double most, Rows* r, int lane) noexcept nogil:
    """The class whose p is above 1/2, if there is one, and the sum over all others. Hessians of smaller p do not
    cancel. most: no term of `rest` is larger."""
    r.peak[lane] = -1
    if hole >= 0 and hole_term >= rest:
        r.peak[lane] = hole
        r.peak_term[lane] = hole_term
        r.rest_of_peak[lane] = rest
    elif most > 0.499 * r.total[lane]:
        # Less would be below half, by more than both may err.
        search_peak(t, row, r, lane)


cdef double log_of(double one, double v) noexcept nogil:
    """log(one + v), as losses_from_sums has it. Called from there, GCC would no longer put the logarithm in line in
    other loops, which then take twice as long."""
    cdef double u = one + v
    return log_plus(u, v - (u - one) if u < 2.0 else 0.0)


cdef void finish_row(const Softmax* t, Py_ssize_t row, const Unshifted* u, Rows* r, int lane) noexcept nogil:
    """What a Hessian or log_softmax needs beside the sum."""
    if t.hess == NULL and t.kind != LOG_SOFTMAX:
        return
    find_peak(t, row, u.hole[lane], u.hole_term[lane], u.rest[lane], u.most[lane], r, lane)
    if t.kind == LOG_SOFTMAX:
        # log p of the peak keeps its digits if it is made without it; any other is at most log(1/2), and has enough.
        if r.peak[lane] >= 0:
            r.log_total[lane] = log_of(1.0, r.rest_of_peak[lane] / r.peak_term[lane])
        else:
            r.log_total[lane] = log_of(0.0, r.total[lane])


cdef void write_converted(const Softmax* t, Py_ssize_t row, const Rows* r, int lane, const ScaledExp* scaled,
                          const float* kept) noexcept nogil:
    """write_plain of outputs of 16 bits."""
    cdef float g[CHUNK]
    cdef float h[CHUNK]
    cdef float back = <float>(1.0 / r.p_factor[lane])
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] if t.kind == CROSS_ENTROPY else -1
    cdef Py_ssize_t column, n
    for column in range(0, t.classes, 1024):      # CHUNK
        n = min(<Py_ssize_t>CHUNK, t.classes - column)
        write_scaled_exp(kept + column, n, scaled, g, h if t.hess != NULL else NULL, back, kept, False)
        if column <= label < column + n:
            g[label - column] = <float>r.special[lane]
        store(t.grad, t.code, row * t.classes + column, n, g, t.stream)
        if t.hess != NULL:
            if column <= r.peak[lane] < column + n:
                h[r.peak[lane] - column] = <float>hessian_at_peak(r, lane)
            store(t.hess, t.code, row * t.classes + column, n, h, t.stream)


cdef void set_unshifted_losses(const Softmax* t, const Rows* r, Unshifted* u) noexcept nogil:
    cdef int i
    if not (plain(t) or t.kind == LOGSUMEXP):
        return
    losses_from_sums(u.rest, u.hole_term, 1.0 if t.kind == CROSS_ENTROPY else 0.0, u.loss)
    for i in range(LANES):
        u.loss[i] = times(r.sample[i] * r.class_weight[i], u.loss[i])


cdef inline void take_losses(const Unshifted* u, Rows* r) noexcept nogil:
    """Those of rows that are done."""
    cdef int i
    for i in range(LANES):
        r.loss[i] = u.loss[i] if r.label[i] == DONE else r.loss[i]
        r.z[i] = u.z[i] if r.label[i] == DONE else r.z[i]


cdef inline void fetch_row(const Softmax* t, char* output, Py_ssize_t row) noexcept nogil:
    """Where a row of an output, which may be NULL, goes, so that its stores need not wait for their lines."""
    cdef Py_ssize_t size = t.classes * size_of(t.code)
    cdef Py_ssize_t at
    if output != NULL:
        for at in range(row * size, (row + 1) * size, 64):
            fl_fetch(output + at)


cdef Py_ssize_t unshifted_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r,
                               Unshifted* u) noexcept nogil:
    """Outputs, and losses in u, of those of n rows that need no shift: their labels become DONE. How many are left."""
    cdef float powers[8192]     # 2 KEPT_CLASSES
    cdef float* kept = NULL
    cdef SharedLines shared_lines
    cdef SharedLines* lines = &shared_lines if joins_rows(t) else NULL
    cdef Py_ssize_t left = 0
    cdef Py_ssize_t row, hole
    cdef double sum
    cdef int lane
    if t.grad != NULL and t.kind != LOG_SOFTMAX and t.classes <= KEPT_CLASSES:
        kept = powers
    begin_unshifted(t, first, n, r, u)
    begin_lines(&shared_lines)
    for lane in range(<int>n):
        row = first + lane
        if r.label[lane] == IGNORED:
            if t.grad != NULL:
                write_columns(t, row, 0, t.classes, NULL, NULL, r, lane, NULL, <float>0)
            continue
        if t.soft:
            find_hole(t, row, NULL, r, u, lane)
        hole = u.hole[lane]
        if lines == NULL:
            fetch_row_ends(t, row + 1)
        if t.far and t.classes <= COLUMNS:
            fetch_row(t, t.grad, row)
            fetch_row(t, t.hess, row)
        if not (may_go_unshifted(t, row, r, u, lane) and sum_row(t, row, hole, NULL, kept, &sum, &u.most[lane])
                and take_sum(t, sum, u, r, lane)):
            left += 1
            continue
        if has_options(t):
            set_reference(r.logit[lane], hole >= 0 and u.hole_term[lane] >= u.rest[lane], r, lane)
            if mixes(t):
                mix_row(t, row, NULL, r, lane)
            if t.grad != NULL:
                take_options(t, u, r, lane)
        if t.grad != NULL:
            if kept != NULL and hole >= 0:
                kept[hole] = u.hole_power[lane]
                kept[KEPT_CLASSES + hole] = u.hole_t[lane]
            finish_row(t, row, u, r, lane)
            write_columns(t, row, 0, t.classes, NULL, kept, r, lane, lines, <float>0)
        r.label[lane] = DONE
    end_lines(&shared_lines)
    if has_options(t) and t.grad == NULL:
        # Here, where those of one row do not wait for those of another.
        for lane in range(<int>n):
            if r.label[lane] == DONE:
                take_options(t, u, r, lane)
    set_unshifted_losses(t, r, u)
    return left


# ------------------------------------------------------------------------------- one row, shared by the threads

cdef void shared_target(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    s.parts[group].top_at = large_target(s.softmax, s.row, group)


cdef void shared_sum(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    s.parts[group].others.high = sum_part(s.softmax, s.row, group * GROUP, min((group + 1) * GROUP, s.softmax.classes),
                                          s.hole, NULL, &s.parts[group].top)


cdef void shared_mix(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    s.parts[group].reference = s.rows.maximum[0]
    mix_group(s.softmax, s.row, group, s.parts + group)
