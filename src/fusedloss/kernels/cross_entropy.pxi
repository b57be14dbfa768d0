# Cross-entropy and the softmax family: what happens to a block of rows.
#
# A row is one softmax: its classes, its label or its class probabilities. Notation as in the literature: m is
# the row's maximum, E_c = e^(x_c) in the units of the row's Shift, S = sum E_c, p_c = E_c / S.
#
# What is summed decides the accuracy. The sum runs over all classes but the label y and the largest of the others,
# k: both are added with more digits than the sum has, since one of them is most of it as a rule.
#   hard labels          rest = S - E_y = others + E_k;  -log p_y = log1p(rest / E_y) when x_y is near m, and
#                        (x_k - x_y) + log1p((others + E_y) / E_k) when it is not; p_y - 1 = -rest / S
#   no label             rest = S - E_k = others;  log S = x_k + log1p(rest / E_k)
# so nothing cancels: a confident row keeps all digits of its loss and of its target gradient.
#
# Three phases for up to 16 rows at a time: scan (maximum and sums), finish (all logarithms, in lanes), write
# (gradient and Hessian). Two layouts: rows whose classes lie side by side are scanned one at a time; few classes,
# or classes that are not on the last axis, are scanned 16 rows side by side.

cdef enum:
    KEPT = 2048           # exponentials of float64 rows that are kept for the gradient
    COLUMNS = 4096        # classes per column block: its maximum is found and used while it is in cache
    GROUP = 16384         # classes per group of column blocks, which threads may share a row by

cdef enum Kind:
    CROSS_ENTROPY
    SOFTMAX
    LOG_SOFTMAX
    LOGSUMEXP

cdef enum:
    IGNORED = -1
    OUT_OF_RANGE = -2

cdef struct Softmax:
    # One call. Pointers marked OUT may be NULL.
    Kind kind
    const char* logits           # (outer, classes, inner), C order
    Code code
    Py_ssize_t rows              # outer * inner
    Py_ssize_t classes
    Py_ssize_t inner
    const char* target           # class indices (rows,), or probabilities like the logits
    Code target_code
    bint soft                    # target holds probabilities
    bint ignoring                # ignore_index is a number that the target's dtype can hold
    int64_t ignore_index         # the bits of it
    const char* weight           # (classes,) or NULL
    Code weight_code
    const char* sample_weight    # (rows,) or NULL
    Code sample_code
    double smoothing
    double z_loss
    double weight_sum            # of the class weights
    double divisor               # D of the mean, 1 otherwise
    double z_divisor             # Dz of the mean, 1 otherwise
    char* losses                 # OUT (rows,): losses, or logsumexp
    Code loss_code
    char* grad                   # OUT like the logits: gradient, softmax or log_softmax
    char* hess                   # OUT like the logits
    Sum* sums                    # OUT (blocks,)
    Sum* z_sums                  # OUT (blocks,)
    Py_ssize_t block_rows
    bint stream                  # outputs go past the caches

cdef struct Rows:
    # Up to 16 rows between the phases; all lanes of all arrays are always set.
    int64_t label[LANES]         # IGNORED for rows that take no part
    double maximum[LANES]
    double base[LANES]           # the row's Shift
    double scale[LANES]
    double top[LANES]            # the largest logit but x_y, where it is needed ...
    int64_t top_at[LANES]        # ... and the first class that has it, -1 if all are -inf or nan
    double others[LANES]         # sum over all classes but these two ...
    double others_low[LANES]     # ... and what of it does not fit
    double logit[LANES]          # x_y; -inf without label
    double class_weight[LANES]   # w_y
    double sample[LANES]         # s
    double q_sum[LANES]          # sum of q_c (soft targets), of w_c (label smoothing)
    double q_gap[LANES]          # sum of q_c (m - x_c), of w_c (m - x_c)
    # set by finish:
    double rest[LANES]           # sum over all classes but the label; without label, but the top
    int64_t peak[LANES]          # the class of the largest logit: label or top
    double peak_term[LANES]      # its exponential, as peak_term + peak_low
    double peak_low[LANES]
    double rest_of_peak[LANES]   # sum over all other classes, as rest_of_peak + rest_of_peak_low
    double rest_of_peak_low[LANES]
    double total[LANES]          # S ...
    double total_low[LANES]      # ... and what of it does not fit
    double log_total[LANES]      # log S - m
    double loss[LANES]
    double z[LANES]
    double p_factor[LANES]       # gradient = p_factor p_c - q_factor q_c ...
    double q_factor[LANES]
    double extra[LANES]          # the part of p_factor that is not s Q / D or s a / D
    double special[LANES]        # ... but this at the label (soft targets: set when writing)
    double pp_factor[LANES]      # z-loss part of the Hessian: + pp_factor p_c^2


cdef inline double times(double coefficient, double value) noexcept nogil:
    """coefficient * value with 0 * inf = 0 and 0 * nan = nan: the rule of xlogy."""
    return 0.0 if coefficient == 0.0 and not isnan(value) else coefficient * value


# ----------------------------------------------------------------------------------------------- labels

ctypedef fused integer:
    int8_t
    uint8_t
    int16_t
    uint16_t
    int32_t
    uint32_t
    int64_t
    uint64_t


cdef inline void classify(const integer* source, const Softmax* t, Py_ssize_t n, int64_t* labels) noexcept nogil:
    cdef int64_t label
    cdef int64_t ignored = t.ignore_index
    cdef bint ignoring = t.ignoring
    cdef uint64_t classes = <uint64_t>t.classes
    cdef Py_ssize_t i
    for i in range(n):
        # uint64 keeps its bits here: above 2^63 it is out of range as unsigned, as negative numbers are.
        label = <int64_t>source[i]
        labels[i] = (IGNORED if ignoring and label == ignored
                     else (label if <uint64_t>label < classes else OUT_OF_RANGE))


cdef void read_labels(const Softmax* t, Py_ssize_t first, Py_ssize_t n, int64_t* labels) noexcept nogil:
    """Labels of n rows: a class, IGNORED or OUT_OF_RANGE, whatever their dtype."""
    cdef const char* at = t.target + first * size_of(t.target_code)
    if t.target_code == I64:
        classify(<const int64_t*>at, t, n, labels)
    elif t.target_code == I32:
        classify(<const int32_t*>at, t, n, labels)
    elif t.target_code == U8:
        classify(<const uint8_t*>at, t, n, labels)
    elif t.target_code == I8:
        classify(<const int8_t*>at, t, n, labels)
    elif t.target_code == I16:
        classify(<const int16_t*>at, t, n, labels)
    elif t.target_code == U16:
        classify(<const uint16_t*>at, t, n, labels)
    elif t.target_code == U32:
        classify(<const uint32_t*>at, t, n, labels)
    else:
        classify(<const uint64_t*>at, t, n, labels)


cdef struct Census:
    # What the mean divides by, from one sweep over labels and sample weights.
    bint bad                # some label is out of range
    Sum weights             # D: sum of s_i w_y over the rows that take part
    Sum samples             # Dz: sum of s_i over them


cdef struct CensusTask:
    const Softmax* softmax
    Census* parts
    Py_ssize_t block_rows


cdef void census_block(void* task, Py_ssize_t block) noexcept nogil:
    cdef const Softmax* t = (<CensusTask*>task).softmax
    cdef Census* out = (<CensusTask*>task).parts + block
    cdef Py_ssize_t first = block * (<CensusTask*>task).block_rows
    cdef Py_ssize_t last = min(first + (<CensusTask*>task).block_rows, t.rows)
    cdef int64_t labels[256]
    cdef Py_ssize_t at, n, i, taking_part
    cdef double sample
    cdef bint weighted = t.weight != NULL or t.sample_weight != NULL
    memset(out, 0, sizeof(Census))
    at = first
    while at < last:
        n = min(<Py_ssize_t>256, last - at)
        if t.soft:
            for i in range(n):
                labels[i] = 0
        else:
            read_labels(t, at, n, labels)
        taking_part = 0
        for i in range(n):
            taking_part += labels[i] != IGNORED
            out.bad |= labels[i] == OUT_OF_RANGE
        if out.bad:
            return
        if not weighted:
            add(&out.weights, <double>taking_part)
            add(&out.samples, <double>taking_part)
        else:
            for i in range(n):
                if labels[i] == IGNORED:
                    continue
                sample = 1.0 if t.sample_weight == NULL else load_one(t.sample_weight, t.sample_code, at + i)
                add(&out.samples, sample)
                # With class probabilities the class weights do not enter the denominator.
                if t.weight != NULL and not t.soft:
                    add(&out.weights, sample * load_one(t.weight, t.weight_code, labels[i]))
                else:
                    add(&out.weights, sample)
        at += n


# ------------------------------------------------------------------------------------------ finish: logs

cdef inline void set_terms(vf e, vf low, double* terms) noexcept nogil:
    """E_y of 16 rows of float32 logits with what its last rounding has lost."""
    vd_store(terms, vd_add(vd_low(e), vd_low(low)))
    vd_store(terms + 8, vd_add(vd_high(e), vd_high(low)))


cdef inline void losses_from_sums(const double* rest, const double* label_term, double* loss) noexcept nogil:
    """log1p(rest / E_y) of 16 rows. The unit does not matter: rows that need no shift have the same bits without it."""
    cdef double u, v
    cdef int i
    for i in range(LANES):
        v = rest[i] / label_term[i]
        u = 1.0 + v
        # What 1 + v has lost matters only where u is near 1: no division is needed.
        loss[i] = v if not (v < INFINITY) else log_plus(u, v - (u - 1.0) if u < 2.0 else 0.0)


cdef bint finish_direct(const Softmax* t, Rows* r) noexcept nogil:
    """`finish` for the plain loss of few float32 classes from `rest`: in each row what `direct_rows` has, to the bit.
    False if a label is so far below its maximum that its row needs more care."""
    cdef float y[LANES]
    cdef float magic[LANES]
    cdef float floor[LANES]
    cdef double label_term[LANES]
    cdef double top_term[LANES]
    cdef double hard, coefficient
    cdef Exponents k = exponents_of(0.0)
    cdef vf e, low
    cdef int i
    cdef int far = 0
    for i in range(LANES):
        y[i] = <float>r.logit[i] - <float>r.base[i]
        magic[i] = eighths_magic(r.scale[i])
        floor[i] = eighths_floor(r.scale[i])
        far |= not (r.maximum[i] - r.logit[i] <= <double>DIRECT) and r.label[i] != IGNORED
    k.magic = vf_load(magic)
    k.floor = vf_load(floor)
    e = exp_with_low(vf_max(k.floor, vf_load(y)), &k, &low)
    set_terms(e, low, label_term)
    if t.hess != NULL:
        for i in range(LANES):
            y[i] = <float>r.top[i] - <float>r.base[i]
        e = exp_with_low(vf_max(k.floor, vf_load(y)), &k, &low)
    set_terms(e, low, top_term)
    losses_from_sums(r.rest, label_term, r.loss)
    for i in range(LANES):
        hard = r.sample[i] * r.class_weight[i]
        coefficient = hard / t.divisor
        r.total[i] = r.rest[i] + label_term[i]
        r.total_low[i] = 0.0
        r.log_total[i] = r.loss[i]       # nan where the row has no softmax
        r.loss[i] = times(hard, r.loss[i])
        r.p_factor[i] = coefficient
        r.q_factor[i] = 0.0
        r.special[i] = -coefficient * (r.rest[i] / r.total[i])
        r.loss[i] = 0.0 if r.label[i] == IGNORED else r.loss[i]
        r.z[i] = 0.0
    set_peaks(r, label_term, top_term)
    return not far


cdef inline void set_peaks(Rows* r, const double* label_term, const double* top_term) noexcept nogil:
    """The larger one of label and top, and the sum without it, of few float32 classes."""
    cdef int i
    for i in range(LANES):
        r.peak[i] = r.label[i] if r.logit[i] >= r.top[i] else r.top_at[i]
        r.rest_of_peak[i] = r.rest[i] if r.logit[i] >= r.top[i] else r.others[i] + label_term[i]
        r.rest_of_peak_low[i] = 0.0
        r.peak_term[i] = label_term[i] if r.logit[i] >= r.top[i] else top_term[i]
        r.peak_low[i] = 0.0


cdef void finish(const Softmax* t, Rows* r) noexcept nogil:
    """Losses and gradient factors of 16 rows from their sums without label and top, in lanes."""
    cdef double top[LANES]
    cdef double top_low[LANES]
    cdef double e[LANES]
    cdef double e_low[LANES]
    cdef double v[LANES]
    cdef double v_low[LANES]
    cdef double rest_lows[LANES]
    cdef double others, gap, near, near_low, below, below_low, rest, rest_low, q, ratio, hard, coefficient
    cdef bint labelled = t.kind == CROSS_ENTROPY and not t.soft
    cdef double with_label = 1.0 if labelled else 0.0
    cdef int i

    # 1. S and log(S / E_m); by label also -log p_y, left in loss. Loops that compilers turn into vectors.
    exp_of_two_lanes(r.top, r.logit, r.base, r.scale, top, top_low, e, e_low)
    for i in range(LANES):
        # +-inf as maximum: no softmax exists, every entry of the row is nan.
        others = r.others[i] if (r.maximum[i] < INFINITY) & (r.maximum[i] > -INFINITY) else NAN
        gap = r.top[i] - r.logit[i]
        # A label within 1 of the top is what the others are compared with; else the top is.
        near = e[i] if gap < 1.0 else top[i]
        near_low = e_low[i] if gap < 1.0 else top_low[i]
        below = top[i] if gap < 1.0 else e[i]
        below_low = top_low[i] if gap < 1.0 else e_low[i]
        rest = others + below
        q = rest - others
        rest_low = (others - (rest - q)) + (below - q) + (below_low + r.others_low[i])
        r.total[i] = rest + near
        q = r.total[i] - near
        r.total_low[i] = (near - (r.total[i] - q)) + (rest - q) + (rest_low + near_low)
        q = rest / near
        v[i] = q
        v_low[i] = (fma(-q, near, rest) + rest_low - q * near_low) / near
        # S - E_y and S - E_m, two of the three terms each.
        rest = others + with_label * top[i]
        q = rest - others
        r.rest[i] = rest
        rest_lows[i] = (others - (rest - q)) + (with_label * top[i] - q) + (with_label * top_low[i] + r.others_low[i])
        r.peak_term[i] = top[i] if gap > 0.0 else e[i]
        r.peak_low[i] = top_low[i] if gap > 0.0 else e_low[i]
        below = e[i] if gap > 0.0 else top[i]
        below_low = e_low[i] if gap > 0.0 else top_low[i]
        rest = others + below
        q = rest - others
        r.rest_of_peak[i] = rest
        r.rest_of_peak_low[i] = (others - (rest - q)) + (below - q) + (below_low + r.others_low[i])
    for i in range(LANES):
        v[i] = log1p_of_two(v[i], v_low[i])
    for i in range(LANES):
        gap = r.top[i] - r.logit[i]
        q = gap if gap > 0.0 else 0.0
        r.loss[i] = v[i] + (gap if (gap >= 1.0) & labelled else 0.0)
        r.log_total[i] = v[i] - (q if gap < 1.0 else 0.0)
    for i in range(LANES):
        r.peak[i] = r.label[i] if r.top[i] - r.logit[i] <= 0.0 else r.top_at[i]

    # 2. Options and factors. The plain loss has a loop of its own, without branches, which vectorises.
    if plain(t):
        for i in range(LANES):
            hard = r.sample[i] * r.class_weight[i]
            coefficient = hard / t.divisor
            r.loss[i] = times(hard, r.loss[i])
            r.p_factor[i] = coefficient
            r.q_factor[i] = 0.0
            ratio = r.rest[i] / r.total[i]
            ratio = ratio + (fma(-ratio, r.total[i], r.rest[i]) + rest_lows[i] - ratio * r.total_low[i]) / r.total[i]
            r.special[i] = -coefficient * ratio
    else:
        finish_options(t, r)

    # 3. Rows that take no part.
    for i in range(LANES):
        r.loss[i] = 0.0 if r.label[i] == IGNORED else r.loss[i]
        r.z[i] = 0.0 if r.label[i] == IGNORED else r.z[i]


cdef inline double mixed_loss(double coefficient, const Rows* r, int lane) noexcept nogil:
    """coefficient * sum_c q_c (-log p_c). The coefficient belongs to each term: where it is 0, so is the sum, even one
    of inf - inf; a nan in the logits or the q_c is seen in log_total or q_sum."""
    if coefficient == 0.0:
        return 0.0 * r.q_sum[lane] * r.log_total[lane]
    return coefficient * (r.q_sum[lane] * r.log_total[lane] + r.q_gap[lane])


cdef void finish_options(const Softmax* t, Rows* r) noexcept nogil:
    """Losses and factors where there is more than a plain loss of hard labels."""
    cdef int i
    cdef double e, lse, hard, uniform, extra, coefficient
    cdef double uniform_mass = t.smoothing / <double>t.classes
    for i in range(LANES):
        lse = r.maximum[i] + r.log_total[i]
        if t.kind != CROSS_ENTROPY:
            r.p_factor[i] = 1.0
            if r.maximum[i] == INFINITY:
                lse = INFINITY
            elif r.maximum[i] == -INFINITY:
                lse = r.maximum[i] + r.others[i]    # nan if the sum has met one
            r.loss[i] = lse
            continue
        extra = 0.0
        r.q_factor[i] = 0.0
        if t.soft:
            coefficient = r.sample[i] / t.divisor
            r.loss[i] = mixed_loss(r.sample[i], r, i)
            r.p_factor[i] = coefficient * r.q_sum[i]
            r.q_factor[i] = coefficient
        else:
            hard = r.sample[i] * ((1.0 - t.smoothing) * r.class_weight[i])
            coefficient = hard / t.divisor
            r.loss[i] = times(hard, r.loss[i])
            r.p_factor[i] = coefficient
            if t.smoothing > 0.0:
                uniform = r.sample[i] * uniform_mass
                r.loss[i] += mixed_loss(uniform, r, i)
                r.q_factor[i] = uniform / t.divisor
                extra = r.q_factor[i] * t.weight_sum
        if t.z_loss > 0.0:
            r.z[i] = times(r.sample[i] * t.z_loss, lse * lse)
            r.pp_factor[i] = 2.0 * (r.sample[i] * t.z_loss) / t.z_divisor
            extra += r.pp_factor[i] * lse
        r.p_factor[i] += extra
        r.extra[i] = extra
        if not t.soft:
            # The label: -hard (1 - p_y), and what smoothing and z-loss add there.
            r.special[i] = -coefficient * (r.rest[i] / r.total[i])
            if extra != 0.0 or r.q_factor[i] != 0.0:
                e = exp_shifted(r.logit[i], r.base[i], magic_of(r.scale[i], <double>0),
                                floor_of(r.scale[i], <double>0))
                r.special[i] += extra * (e / r.total[i]) - r.q_factor[i] * r.class_weight[i]


cdef void read_row_options(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r) noexcept nogil:
    """Labels, weights and neutral values of rows first..first+n; lanes beyond n count as ignored."""
    cdef Py_ssize_t i
    if t.kind == CROSS_ENTROPY and not t.soft:
        read_labels(t, first, n, r.label)
    else:
        for i in range(n):
            r.label[i] = 0
    for i in range(n, LANES):
        r.label[i] = IGNORED
    for i in range(LANES):
        # The labels were checked before; should another thread have changed them since, stay inside the arrays.
        if r.label[i] < 0:
            r.label[i] = IGNORED
        r.maximum[i] = 0.0
        r.top[i] = 0.0
        r.top_at[i] = 0
        r.base[i] = 0.0
        r.scale[i] = 0.0
        r.others[i] = 0.0
        r.others_low[i] = 0.0
        r.logit[i] = -INFINITY
        r.class_weight[i] = 1.0
        r.sample[i] = 1.0
        r.q_sum[i] = 0.0
        r.q_gap[i] = 0.0
        r.z[i] = 0.0
        r.pp_factor[i] = 0.0
    if t.sample_weight != NULL:
        for i in range(n):
            r.sample[i] = load_one(t.sample_weight, t.sample_code, first + i)
    if t.weight != NULL and not t.soft:
        for i in range(n):
            if r.label[i] != IGNORED:
                r.class_weight[i] = load_one(t.weight, t.weight_code, r.label[i])


# ---------------------------------------------------------------------------- one row at a time, classes side by side

cdef struct RowScan:
    # A row, or a column block of it.
    double maximum
    Shift shift
    double top           # the largest logit but the label's ...
    Py_ssize_t top_at    # ... and the first class that has it, -1 if all are -inf or nan
    Sum others           # over all classes but label and top
    double reference     # q_gap holds sum q_c (reference - x_c); the maximum, or 0 where that is -inf
    double q_sum
    double q_gap


cdef inline Py_ssize_t first_equal(const real* x, Py_ssize_t n, real value) noexcept nogil:
    """First i with x[i] == value, as an integer minimum, which vectorises; 0 if there is none."""
    cdef int best = <int>n
    cdef int i
    cdef int here
    for i in range(<int>n):
        here = i if x[i] == value else <int>n
        best = here if here < best else best
    return best if best < n else 0


cdef struct Mix:
    # What the q_c of a row are made of: w_c (keep t_c + uniform) for soft targets, w_c for label smoothing.
    double keep
    double uniform


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


cdef inline void add_floats(const float* x, const float* target, Py_ssize_t m, double reference, vf* q, vf* product,
                            vf* gap) noexcept nogil:
    """Add t_c, t_c (reference - x_c) / 8 and (reference - x_c) / 8 of the next 16 columns, m of which exist."""
    cdef vf g = eighth_of_gap(x, m, reference)
    cdef vf v
    gap[0] = vf_add(gap[0], g)
    if target != NULL:
        v = vf_load(target) if m >= 16 else vf_load_part(target, m, 0.0)
        q[0] = vf_add(q[0], v)
        product[0] = vf_fma(v, vf_if_equal(v, vf_set(0.0), v, g), product[0])


cdef inline void mixed_sums_of_floats(const float* x, const float* target, Py_ssize_t n, const Mix* mix,
                                      double reference, double* q_sum, double* q_gap) noexcept nogil:
    """As mixed_sums without class weights, as sums of t_c, t_c (reference - x_c) and reference - x_c: four terms in
    float32, then all in float64."""
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
        if i + 64 <= n:
            add_floats(x + i, t, 16, reference, &q, &product, &gap)
            add_floats(x + i + 16, t + 16 if t != NULL else NULL, 16, reference, &q, &product, &gap)
            add_floats(x + i + 32, t + 32 if t != NULL else NULL, 16, reference, &r, &other, &second)
            add_floats(x + i + 48, t + 48 if t != NULL else NULL, 16, reference, &r, &other, &second)
        else:
            for k in range(0, n - i, 16):
                add_floats(x + i + k, t + k if t != NULL else NULL, n - i - k, reference, &q, &product, &gap)
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
                mixed_sums_of_floats(<const float*>x + at, NULL, m, &mix, out.reference, &q_sum, &q_gap)
            else:
                mixed_sums_of_floats(<const float*>x + at, <const float*>target, m, &mix, out.reference, &q_sum,
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


cdef struct MixedExp:
    # What write_mixed needs of a row.
    vf base
    vf magic
    vf floor
    vf powers
    vf errors
    vf back        # 1 / p_factor
    vf q_high      # q_factor keep ...
    vf q_low       # ... and what of it a float does not hold
    vf uniform     # q_factor uniform


cdef inline void write_mixed(const float* x, const float* target, Py_ssize_t m, const MixedExp* of, float* out,
                             float* hess) noexcept nogil:
    """Gradient and, unless `hess` is NULL, Hessian of the next 16 columns, m of which exist, without class weights.
    target may be NULL; out or hess may be x."""
    cdef vf g = vf_load(x) if m >= 16 else vf_load_part(x, m, 0.0)
    cdef vf q
    g = scaled_exp(g, of.base, of.magic, of.floor, of.powers, of.errors)
    if hess != NULL:
        write_vector(hess, hess_of_grad(g, of.back), m, False)
    g = vf_sub(g, of.uniform)
    if target != NULL:
        q = vf_load(target) if m >= 16 else vf_load_part(target, m, 0.0)
        g = vf_nfma(of.q_high, q, vf_nfma(of.q_low, q, g))
    write_vector(out, g, m, False)


cdef void find_top_double(const double* x, Py_ssize_t n, Py_ssize_t hole, double* top,
                          Py_ssize_t* top_at) noexcept nogil:
    """OUT the largest of x[0:n] but x[hole], and the first place that has it; -1 if all are -inf or nan."""
    cdef Py_ssize_t at, begin, m, found
    cdef Py_ssize_t length = 0
    cdef double here
    top[0] = -INFINITY
    top_at[0] = -1
    # In pieces: of one of them the place is looked for. The hole ends a piece.
    at = 0
    while at < n:
        if at == hole:
            at += 1
            continue
        m = min(<Py_ssize_t>CHUNK, n - at)
        if at < hole:
            m = min(m, hole - at)
        here = largest(x + at, m)
        if here > top[0]:
            top[0] = here
            begin = at
            length = m
        at += m
    if length > 0:
        found = first_equal(x + begin, length, top[0])
        top_at[0] = begin + found


cdef inline void begin_columns(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, Py_ssize_t label,
                               float* buffer, Block* b) noexcept nogil:
    """The column block of logits that are not float64."""
    cdef Py_ssize_t hole = label - column if column <= label < column + n else -1
    if FL_CONVERTS and (t.code == F16 or t.code == BF16) and n % LANES == 0:
        # They are converted in the pass that looks for the maximum.
        begin_block(b, buffer, <const uint16_t*>t.logits + row * t.classes + column, t.code == F16, n, hole)
    else:
        begin_block(b, <float*>load(t.logits, t.code, row * t.classes + column, n, buffer), NULL, False, n, hole)


cdef void scan_columns(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, Py_ssize_t label, double* e,
                       Block* here, Block* following, RowScan* out, real tag) noexcept nogil:
    """Maximum and sums of one column block. label: -1 if there is none. OUT e, unless NULL: all exponentials of
    float64 logits, in the unit of the sums. Others have been begun as a block, and so may the one that follows."""
    cdef const real* x
    cdef Py_ssize_t top_at
    cdef Py_ssize_t second_at = -1
    cdef double reference
    cdef real top, second
    label = label - column if column <= label < column + n else -1

    if real is float:
        x = here.x
        find_top_float(here, &top, &top_at)
    else:
        x = <const real*>t.logits + row * t.classes + column
        find_top_double(x, n, label, &top, &top_at)
    if t.kind == LOG_SOFTMAX and top_at >= 0:
        # log p of the top is a sum that the second may be most of: it, too, is added with more digits.
        if real is float:
            begin_block(here, <float*>x, NULL, False, n, top_at)
            find_top_float(here, &second, &second_at)
        else:
            find_top_double(x, n, top_at, &second, &second_at)
    out.top = top
    out.top_at = column + top_at if top_at >= 0 else -1
    out.maximum = x[label] if label >= 0 and x[label] > top else top
    out.shift = shift_of(out.maximum, <real>0)
    memset(&out.others, 0, sizeof(Sum))
    if real is float:
        leave_out_top(here, second_at if t.kind == LOG_SOFTMAX else top_at)
        add(&out.others, exp_sum(here, &out.shift, t.logits + (row * t.classes + column + COLUMNS) * size_of(t.code),
                                 size_of(t.code), following))
    else:
        exp_sum_double(x, n, second_at if label < 0 else label, top_at, &out.shift, e, &out.others)
        if e != NULL and top_at >= 0:
            e[top_at] = exp_in_unit(out, top)
            e[KEPT + top_at] = low_in_unit(out, top)
        if e != NULL and label >= 0:
            e[label] = exp_in_unit(out, x[label])
            e[KEPT + label] = low_in_unit(out, x[label])
    if t.kind == LOG_SOFTMAX and second_at >= 0:
        add_term(out, 1.0, out, second)

    out.q_sum = 0.0
    out.q_gap = 0.0
    reference = out.maximum if out.maximum > -INFINITY else 0.0
    out.reference = reference
    if t.soft or t.smoothing > 0.0:
        mix_columns(t, row, column, n, x, out)


cdef inline double power(double n) noexcept nogil:
    """2^n for integers n <= 0; 0 below the smallest normal number."""
    return fl_double_bits(<uint64_t>(<int64_t>n + 1023) << 52) if n > -1023.0 else 0.0


cdef inline double exp_in_unit(const RowScan* a, double x) noexcept nogil:
    """e^x in the unit of a's sums."""
    return exp_shifted(x, a.shift.base, magic_of(a.shift.scale, <double>0), floor_of(a.shift.scale, <double>0))


cdef inline double low_in_unit(const RowScan* a, double x) noexcept nogil:
    """What exp_in_unit has rounded away last."""
    return exp_shifted_low(x, a.shift.base, magic_of(a.shift.scale, <double>0), floor_of(a.shift.scale, <double>0))


cdef inline void add_term(RowScan* to, double factor, const RowScan* of, double x) noexcept nogil:
    """Add factor e^x, in the unit of `of`, to the others, with more digits than their sum had for it."""
    add(&to.others, factor * exp_in_unit(of, x))
    to.others.low += factor * low_in_unit(of, x)


cdef void merge(RowScan* a, RowScan* b) noexcept nogil:
    """a becomes the scan of a's columns followed by b's; b is spoilt. The first top wins ties."""
    cdef bint second = b.maximum > a.maximum
    cdef RowScan* winner = b if second else a
    cdef RowScan* loser = a if second else b
    cdef RowScan* beaten = a if b.top > a.top else b
    cdef double top = max_of(a.top, b.top)
    cdef Py_ssize_t top_at = b.top_at if b.top > a.top else a.top_at
    cdef double factor
    if loser.maximum == -INFINITY:
        factor = 1.0      # its sum is 0, or nan, in any unit
    elif winner.shift.base == 0.0 and loser.shift.base == 0.0:
        factor = power(loser.shift.scale - winner.shift.scale)      # exact
    else:
        factor = (exp_in_unit(winner, winner.maximum) / exp_in_unit(loser, loser.maximum)
                  * exp_shifted(loser.maximum - winner.maximum, <double>0.0, magic_of(0.0, <double>0),
                                floor_of(0.0, <double>0)))
    add(&winner.others, factor * loser.others.high)
    winner.others.low += factor * loser.others.low
    if beaten.top > -INFINITY:
        add_term(winner, factor if beaten == loser else 1.0, beaten, beaten.top)
    winner.top = top
    winner.top_at = top_at
    winner.q_gap += loser.q_gap + times(loser.q_sum, winner.reference - loser.reference)
    winner.q_sum += loser.q_sum
    if second:
        a[0] = b[0]


cdef inline double max_of(double a, double b) noexcept nogil:
    return b if b > a else a


cdef struct Blocks:
    # Of a scan: the one that is summed, and the one that follows.
    Block both[2]
    float buffers[8192]      # for logits of 16 bits, COLUMNS each
    int turn
    Py_ssize_t end           # of the columns that are scanned one block after the other
    Py_ssize_t next_row      # whose first block comes after this row's last one; -1: none
    Py_ssize_t next_label


cdef inline void begin_blocks(Blocks* s, Py_ssize_t end) noexcept nogil:
    s.both[0].x = NULL
    s.turn = 0
    s.end = end
    s.next_row = -1


cdef inline void scan_next(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t label, double* e,
                           Blocks* s, RowScan* out, real tag) noexcept nogil:
    """The column block at `column`; the one after it is begun where the two can be read together."""
    cdef Block* here = &s.both[s.turn]
    cdef Block* following = &s.both[1 - s.turn]
    cdef Py_ssize_t n = min(<Py_ssize_t>COLUMNS, s.end - column)
    cdef Py_ssize_t then = column + COLUMNS
    if real is float:
        if here.x == NULL:
            begin_columns(t, row, column, n, label, s.buffers + s.turn * COLUMNS, here)
        s.turn = 1 - s.turn
        following.x = NULL
        if FL_WIDE and then < s.end:
            begin_columns(t, row, then, min(<Py_ssize_t>COLUMNS, s.end - then), label, s.buffers + s.turn * COLUMNS,
                          following)
        elif FL_WIDE and s.next_row >= 0:
            begin_columns(t, s.next_row, 0, min(<Py_ssize_t>COLUMNS, s.end), s.next_label,
                          s.buffers + s.turn * COLUMNS, following)
    scan_columns(t, row, column, n, label, e, here, following, out, tag)


cdef void scan_group(const Softmax* t, Py_ssize_t row, Py_ssize_t group, Py_ssize_t label, double* e,
                     Blocks* blocks, RowScan* scan, real tag) noexcept nogil:
    """The column blocks of one group of a row, in order. e, for a row of one block: as scan_columns has it."""
    cdef RowScan block
    cdef Py_ssize_t column = group * GROUP
    cdef Py_ssize_t last = min(column + GROUP, t.classes)
    scan_next(t, row, column, label, e, blocks, scan, tag)
    column += COLUMNS
    while column < last:
        scan_next(t, row, column, label, NULL, blocks, &block, tag)
        merge(scan, &block)
        column += COLUMNS


cdef inline Py_ssize_t groups_of(const Softmax* t) noexcept nogil:
    return (t.classes + GROUP - 1) // GROUP


cdef void scan_row(const Softmax* t, Py_ssize_t row, Py_ssize_t label, double* e, Blocks* blocks, RowScan* scan,
                   real tag) noexcept nogil:
    """All groups of a row, in order: the same sums, to the bit, as when threads share the row."""
    cdef RowScan part
    cdef Py_ssize_t group
    scan_group(t, row, 0, label, e, blocks, scan, tag)
    for group in range(1, groups_of(t)):
        scan_group(t, row, group, label, NULL, blocks, &part, tag)
        merge(scan, &part)


cdef inline Py_ssize_t label_of(const Softmax* t, const Rows* r, int lane) noexcept nogil:
    """The class that a scan leaves out beside the top."""
    return <Py_ssize_t>r.label[lane] if t.kind == CROSS_ENTROPY and not t.soft else -1


cdef void keep_scan(const Softmax* t, Py_ssize_t row, const RowScan* scan, Rows* r, int lane) noexcept nogil:
    cdef Py_ssize_t label = label_of(t, r, lane)
    r.maximum[lane] = scan.maximum
    r.base[lane] = scan.shift.base
    r.scale[lane] = scan.shift.scale
    r.top[lane] = scan.top
    r.top_at[lane] = scan.top_at
    r.others[lane] = value_of(&scan.others)
    r.others_low[lane] = (scan.others.high - r.others[lane]) + scan.others.low
    r.q_sum[lane] = scan.q_sum
    r.q_gap[lane] = scan.q_gap
    r.logit[lane] = load_one(t.logits, t.code, row * t.classes + label) if label >= 0 else -INFINITY
    if t.kind == LOGSUMEXP and scan.maximum == INFINITY and row_has_nan(t, row):
        r.maximum[lane] = NAN


cdef bint row_has_nan(const Softmax* t, Py_ssize_t row) noexcept nogil:
    """Only asked of rows with a +inf, where the sum cannot tell."""
    cdef Py_ssize_t start = (row // t.inner) * t.classes * t.inner + row % t.inner
    cdef Py_ssize_t c
    for c in range(t.classes):
        if isnan(load_one(t.logits, t.code, start + c * t.inner)):
            return True
    return False


cdef inline int next_lane(const Rows* r, int lane, Py_ssize_t n) noexcept nogil:
    """From `lane` on, the first that takes part; n if there is none."""
    while lane < n and r.label[lane] == IGNORED:
        lane += 1
    return lane


cdef void scan_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, double* e, Rows* r, real tag) noexcept nogil:
    """OUT e, unless NULL: the exponentials of these rows, one after the other."""
    cdef RowScan scan
    cdef Blocks blocks
    cdef int lane = next_lane(r, 0, n)
    cdef int then
    begin_blocks(&blocks, t.classes)
    while lane < n:
        then = next_lane(r, lane + 1, n)
        if then < n:
            blocks.next_row = first + then
            blocks.next_label = label_of(t, r, then)
        else:
            blocks.next_row = -1
        scan_row(t, first + lane, label_of(t, r, lane), NULL if e == NULL else e + lane * t.classes, &blocks, &scan,
                 <real>0)
        keep_scan(t, first + lane, &scan, r, lane)
        lane = then


cdef inline bint holds(double p_factor) noexcept nogil:
    """Whether between this factor of a gradient and its entries nothing can under- or overflow in float32."""
    return 9.1e-13 < p_factor < 1.1e12 or -1.1e12 < p_factor < -9.1e-13


cdef inline bint hess_from_grad(const Rows* r, int lane) noexcept nogil:
    """Whether the Hessian is g - g p: no z-loss, and p = g / p_factor."""
    return r.pp_factor[lane] == 0.0 and holds(r.p_factor[lane])


cdef void write_plain(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t last, const Rows* r, int lane,
                      const ScaledExp* scaled) noexcept nogil:
    """Gradient and Hessian of a plain loss of float32, or the softmax, of a row's columns column..last. The entries of
    label and peak, which have formulae of their own, are put where they belong."""
    cdef const float* x = <const float*>t.logits + row * t.classes
    cdef float* g = <float*>t.grad + row * t.classes
    cdef float* h = NULL
    cdef float back = 0.0
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] if t.kind == CROSS_ENTROPY else -1
    cdef Py_ssize_t peak = -1
    cdef Py_ssize_t stop, end
    cdef bint apart
    if t.hess != NULL:
        h = <float*>t.hess + row * t.classes
        back = <float>(1.0 / r.p_factor[lane])
        peak = <Py_ssize_t>r.peak[lane]
    while column < last:
        # Lines that go past the caches cannot be touched again without waiting for them: those of label and peak are
        # written as usual.
        stop = next_stop(column, label, peak, last) if t.stream else last
        end = stop
        if stop < last:
            end = max(column, stop - <Py_ssize_t>((<size_t>(g + stop) & 63) // sizeof(float)))
        apart = end == column and stop < last
        if apart:
            end = min(last, column + LANES)
        write_scaled_exp(x + column, end - column, scaled, g + column, h + column if h != NULL else NULL, back,
                         t.stream and not apart)
        if column <= label < end:
            g[label] = <float>r.special[lane]
        if column <= peak < end:
            h[peak] = <float>hessian_at_peak(r, lane)
        column = end


cdef inline void write_probabilities(const real* x, Py_ssize_t n, const Rows* r, int lane, real* p) noexcept nogil:
    """p[0:n] of a row; nan if it has no softmax."""
    cdef double inverse = 1.0 / r.total[lane]
    cdef ScaledExp scaled
    cdef ScaledDoubleExp wide
    cdef Py_ssize_t i
    if real is float:
        if set_scaled_exp(&scaled, inverse, r.base[lane], r.scale[lane]):
            write_scaled_exp(x, n, &scaled, p, NULL, 0.0, False)
            return
    else:
        if set_scaled_double_exp(&wide, inverse, 0.0, r.base[lane], r.scale[lane]):
            write_scaled_double_exp(x, n, &wide, p)
            return
    for i in range(n):
        p[i] = <real>inverse


cdef void write_chunk(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, const double* e,
                      const Rows* r, int lane, real tag) noexcept nogil:
    """Gradient and Hessian entries of up to CHUNK columns of a row; x is read before anything is stored. e: the
    exponentials of a float64 row, NULL if they were not kept."""
    cdef real buffer[CHUNK]
    cdef real g[CHUNK]
    cdef real h[CHUNK]
    cdef real targets[CHUNK]
    cdef double weights[CHUNK]
    cdef const real* target = NULL
    cdef const double* w = NULL
    cdef real* out
    cdef Mix mix = mix_of(t)
    cdef const real* x = load(t.logits, t.code, row * t.classes + column, n, buffer)
    cdef real base = <real>r.base[lane]
    cdef real magic = magic_of(r.scale[lane], <real>0)
    cdef real floor = floor_of(r.scale[lane], <real>0)
    cdef double factor = r.p_factor[lane] / r.total[lane]
    cdef double inverse = 1.0 / r.total[lane]
    cdef double leftover, inverse_low, p, shift, special
    cdef real back
    cdef double p_factor = r.p_factor[lane]
    cdef double pp_factor = r.pp_factor[lane]
    cdef double q_factor = r.q_factor[lane]
    cdef ScaledExp scaled
    cdef ScaledDoubleExp wide
    cdef Py_ssize_t i
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] - column
    cdef Py_ssize_t top = <Py_ssize_t>r.peak[lane] - column
    cdef Py_ssize_t start = row * t.classes + column

    if t.kind == LOG_SOFTMAX:
        shift = r.log_total[lane]
        for i in range(n):
            if real is float:
                g[i] = <float>-((r.maximum[lane] - <double>x[i]) + shift)
            else:
                g[i] = minus_sum(r.maximum[lane], x[i], shift)
        store(t.grad, t.code, start, n, g, t.stream)
        return

    leftover = (fma(-factor, r.total[lane], p_factor) - factor * r.total_low[lane]) * inverse
    leftover = leftover if isfinite(leftover) else 0.0
    if real is double and e != NULL and isfinite(factor):
        for i in range(n):
            g[i] = fma(e[column + i], factor, fma(e[column + i], leftover, e[KEPT + column + i] * factor))
    elif real is float and set_scaled_exp(&scaled, factor, r.base[lane], r.scale[lane]):
        write_scaled_exp(<const float*>x, n, &scaled, <float*>g, NULL, 0.0, False)
    elif real is double and set_scaled_double_exp(&wide, factor, leftover, r.base[lane], r.scale[lane]):
        write_scaled_double_exp(<const double*>x, n, &wide, <double*>g)
    else:
        # D = 0: the IEEE quotient in each entry; and factors beyond what the table can hold.
        for i in range(n):
            g[i] = <real>(<double>exp_shifted(x[i], base, magic, floor) * factor)
    if t.hess != NULL:
        if real is float and hess_from_grad(r, lane):
            back = <real>(1.0 / p_factor)
            for i in range(n):
                h[i] = multiply_add(-(g[i] * back), g[i], g[i])
        elif real is double and e != NULL:
            inverse_low = (fma(-inverse, r.total[lane], 1.0) - inverse * r.total_low[lane]) * inverse
            inverse_low = inverse_low if isfinite(inverse_low) else 0.0
            for i in range(n):
                p = e[column + i] * inverse
                h[i] = (hessian_entry(e[column + i], e[KEPT + column + i], inverse, inverse_low, p_factor)
                        + pp_factor * p * p)
        else:
            # p in h, from a table of its own.
            write_probabilities(x, n, r, lane, h)
            for i in range(n):
                p = h[i]
                if real is float:
                    h[i] = <float>(<double>g[i] * (1.0 - p) + pp_factor * p * p)
                else:
                    h[i] = fma(-g[i], p, g[i]) + pp_factor * p * p
        if 0 <= top < n:
            h[top] = <real>hessian_at_peak(r, lane)
    if t.grad != NULL:
        out = g
        if t.kind == CROSS_ENTROPY:
            special = r.special[lane]
            if t.soft or t.smoothing > 0.0:
                if t.weight != NULL:
                    w = load(t.weight, t.weight_code, column, n, weights)
                if t.soft:
                    target = load(t.target, t.target_code, start, n, targets)
                    label = top
                    if 0 <= top < n:
                        # Before anything is written: out may be x.
                        special = mixed_at_top(&mix, r, lane, x[top], target[top], 1.0 if w == NULL else w[top])
                if size_of(t.code) == sizeof(real) and not t.stream:
                    out = <real*>t.grad + start
                mix_gradient(target, w, n, &mix, q_factor, g, out)
            if 0 <= label < n:
                out[label] = <real>special
        if out == g:
            store(t.grad, t.code, start, n, g, t.stream)
    if t.hess != NULL:
        store(t.hess, t.code, start, n, h, t.stream)


cdef inline double hessian_at_peak(const Rows* r, int lane) noexcept nogil:
    """A p (1 - p) + B p^2 at the largest logit, with p = E / S, 1 - p = T / S and S = E + T: no cancellation
    where p is near 1.

    E T / S^2 carries the rounding errors of sum, product and square.
    """
    cdef double e = r.peak_term[lane]
    cdef double rest = r.rest_of_peak[lane]
    cdef double s = e + rest
    cdef double back = s - e
    cdef double s_low = (e - (s - back)) + (rest - back) + (r.peak_low[lane] + r.rest_of_peak_low[lane])
    cdef double product = e * rest
    cdef double product_low = fma(e, rest, -product) + fma(e, r.rest_of_peak_low[lane], rest * r.peak_low[lane])
    cdef double square = s * s
    cdef double square_low = fma(s, s, -square) + 2.0 * s * s_low
    cdef double q = product / square
    cdef double p = e / s
    q += (fma(-q, square, product) + product_low - q * square_low) / square
    # log_total is nan where the row has no softmax, which `rest` alone does not show.
    return r.p_factor[lane] * q + r.pp_factor[lane] * p * p + 0.0 * r.log_total[lane]


cdef inline double soft_gradient_at_maximum(const Rows* r, int lane, double p, double q) noexcept nogil:
    """c ((Q - q) p - q (1 - p)) + z part, with 1 - p = rest / S: no cancellation for one-hot targets."""
    cdef double c = r.q_factor[lane]
    cdef double own = c * ((r.q_sum[lane] - q) * p - q * (r.rest[lane] / r.total[lane]))
    return own + r.extra[lane] * p


cdef inline double mixed_at_top(const Mix* mix, const Rows* r, int lane, real x, real target, double w) noexcept nogil:
    """The gradient of soft targets at the largest logit x."""
    cdef double p = exp_shifted(x, <real>r.base[lane], magic_of(r.scale[lane], <real>0),
                                floor_of(r.scale[lane], <real>0)) * (1.0 / r.total[lane])
    return soft_gradient_at_maximum(r, lane, p, w * fma(mix.keep, <double>target, mix.uniform))


cdef inline bint mixes_floats(const Softmax* t, const Rows* r, int lane) noexcept nogil:
    """Whether write_mixed_chunk can write a row of no more than float32."""
    return (t.kind == CROSS_ENTROPY and (t.soft or t.smoothing > 0.0) and t.weight == NULL and holds(r.q_factor[lane])
            and (t.hess == NULL or hess_from_grad(r, lane)))


cdef void write_mixed_chunk(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, const Rows* r, int lane,
                            const ScaledExp* scaled) noexcept nogil:
    """write_chunk for soft targets or label smoothing without class weights, in float32: in one pass, and straight to
    where the entries belong if nothing is to be converted or to go past the caches."""
    cdef float buffer[CHUNK]
    cdef float targets[CHUNK]
    cdef float g[CHUNK]
    cdef float h[CHUNK]
    cdef Py_ssize_t start = row * t.classes + column
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] - column
    cdef Py_ssize_t top = <Py_ssize_t>r.peak[lane] - column
    cdef Py_ssize_t full = n - n % 16
    cdef Py_ssize_t i
    cdef const float* x = load(t.logits, t.code, start, n, buffer)
    cdef const float* target = NULL
    cdef bint direct = t.code == F32 and not t.stream
    cdef float* out = <float*>t.grad + start if direct else g
    cdef float* hess = NULL
    cdef double special = r.special[lane]
    cdef Mix mix = mix_of(t)
    cdef double factor = r.q_factor[lane] * mix.keep
    cdef MixedExp of
    of.base = vf_set(scaled.base)
    of.magic = vf_set(scaled.magic)
    of.floor = vf_set(scaled.floor)
    of.powers = vf_table(scaled.powers)
    of.errors = vf_table(scaled.errors)
    of.back = vf_set(<float>(1.0 / r.p_factor[lane]))
    of.q_high = vf_set(<float>factor)
    of.q_low = vf_set(<float>(factor - <double><float>factor))
    of.uniform = vf_set(<float>(r.q_factor[lane] * mix.uniform))
    if t.hess != NULL:
        hess = <float*>t.hess + start if direct else h
    if t.soft:
        target = load(t.target, t.target_code, start, n, targets)
        label = top
        if 0 <= top < n:
            # Before anything is written: out may be x.
            special = mixed_at_top(&mix, r, lane, x[top], target[top], 1.0)
    for i in range(0, full, 16):
        write_mixed(x + i, target + i if target != NULL else NULL, 16, &of, out + i, hess + i if hess != NULL else NULL)
    if full < n:
        write_mixed(x + full, target + full if target != NULL else NULL, n - full, &of, out + full,
                    hess + full if hess != NULL else NULL)
    if 0 <= label < n:
        out[label] = <float>special
    if hess != NULL and 0 <= top < n:
        hess[top] = <float>hessian_at_peak(r, lane)
    if not direct:
        store(t.grad, t.code, start, n, g, t.stream)
        if hess != NULL:
            store(t.hess, t.code, start, n, h, t.stream)


cdef void write_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const double* e, const Rows* r,
                     real tag) noexcept nogil:
    """Outputs of n rows. e: as scan_rows has it."""
    cdef int lane
    for lane in range(<int>n):
        write_columns(t, first + lane, 0, t.classes, NULL if e == NULL else e + lane * t.classes, r, lane, tag)


cdef void write_columns(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t last, const double* e,
                        const Rows* r, int lane, real tag) noexcept nogil:
    """Outputs of a row's columns column..last."""
    cdef Py_ssize_t start = (row * t.classes + column) * size_of(t.code)
    cdef Py_ssize_t size = (last - column) * size_of(t.code)
    cdef ScaledExp scaled
    if r.label[lane] == IGNORED:
        if t.grad != NULL:
            memset(t.grad + start, 0, size)
        if t.hess != NULL:
            memset(t.hess + start, 0, size)
        return
    if (t.code == F32 and not t.soft and t.smoothing == 0.0 and t.kind != LOG_SOFTMAX
            and (t.hess == NULL or hess_from_grad(r, lane))
            and set_scaled_exp(&scaled, r.p_factor[lane] / r.total[lane], r.base[lane], r.scale[lane])):
        write_plain(t, row, column, last, r, lane, &scaled)
        return
    if (real is float and mixes_floats(t, r, lane)
            and set_scaled_exp(&scaled, r.p_factor[lane] / r.total[lane], r.base[lane], r.scale[lane])):
        while column < last:
            write_mixed_chunk(t, row, column, min(<Py_ssize_t>CHUNK, last - column), r, lane, &scaled)
            column += CHUNK
        return
    while column < last:
        write_chunk(t, row, column, min(<Py_ssize_t>CHUNK, last - column), e, r, lane, tag)
        column += CHUNK


# ----------------------------------------------------------------------------------------- a block of rows

cdef void softmax_block(Softmax* t, Py_ssize_t block, real tag) noexcept nogil:
    """Rows of one block: losses to their array or to the block's partial sum, gradients to their arrays."""
    cdef Py_ssize_t first = block * t.block_rows
    cdef Py_ssize_t last = min(first + t.block_rows, t.rows)
    # A group's rows stay in cache between scanning and writing.
    cdef Py_ssize_t group = LANES if t.classes <= COLUMNS or t.inner > 1 else 1
    cdef double kept[4096]       # 2 KEPT
    cdef double* e = NULL
    cdef double losses[LANES]
    cdef double z_losses[LANES]
    cdef Py_ssize_t n
    cdef int i
    cdef int have = 0
    cdef Rows r
    cdef LaneSums total, z_total
    cdef Product product
    cdef bint side_by_side = few_classes(t)
    cdef bint direct = (real is float and side_by_side and t.inner == 1 and plain(t) and t.weight == NULL
                        and t.sample_weight == NULL and t.divisor < 1e12)
    memset(&total, 0, sizeof(LaneSums))
    memset(&z_total, 0, sizeof(LaneSums))
    clear_product(&product)
    if (real is double and not side_by_side and t.classes <= KEPT and t.kind != LOG_SOFTMAX
            and (t.grad != NULL or t.hess != NULL)):
        # As many rows as their exponentials, which cost more than all the rest, find room in the first-level cache.
        e = kept
        while group * t.classes > KEPT:
            group //= 2
    while first < last:
        n = min(group, last - first)
        if direct and direct_rows(t, first, n, &product):
            if product.factors == MULTIPLIED:
                add_logarithm(&product, &total)
            first += n
            continue
        if real is float and t.kind != CROSS_ENTROPY and t.inner == 1 and t.classes <= SHORT_ROW:
            softmax_rows(t, first, n)
            first += n
            continue
        read_row_options(t, first, n, &r)
        if side_by_side:
            lanes_block(t, first, n, &r, <real>0)
        else:
            scan_rows(t, first, n, e, &r, <real>0)
            finish(t, &r)
            if t.grad != NULL or t.hess != NULL:
                write_rows(t, first, n, e, &r, <real>0)
        keep_losses(t, first, n, &r, tag)
        first += n
        if t.sums == NULL:
            continue
        # Sixteen rows at a time, whatever the group.
        for i in range(<int>n):
            losses[have + i] = r.loss[i]
            z_losses[have + i] = r.z[i]
        have += <int>n
        if have == LANES or first >= last:
            for i in range(have, LANES):
                losses[i] = 0.0
                z_losses[i] = 0.0
            add_lanes(&total, losses)
            if t.z_sums != NULL:
                add_lanes(&z_total, z_losses)
            have = 0
    if product.factors > 0:
        add_logarithm(&product, &total)
    if t.stream:
        fl_fence()
    if t.sums != NULL:
        t.sums[block] = fold(&total)
    if t.z_sums != NULL:
        t.z_sums[block] = fold(&z_total)


cdef void softmax_block_float(void* task, Py_ssize_t block) noexcept nogil:
    softmax_block(<Softmax*>task, block, <float>0)


cdef void softmax_block_double(void* task, Py_ssize_t block) noexcept nogil:
    softmax_block(<Softmax*>task, block, <double>0)


# ------------------------------------------------------------------------------- one row, shared by the threads

cdef struct SharedRow:
    Softmax* softmax
    Py_ssize_t row
    Py_ssize_t label
    RowScan* parts        # OUT (groups,)
    const Rows* rows      # the row is lane 0


cdef void shared_scan_float(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    cdef Blocks blocks
    begin_blocks(&blocks, min((group + 1) * GROUP, s.softmax.classes))
    scan_group(s.softmax, s.row, group, s.label, NULL, &blocks, s.parts + group, <float>0)


cdef void shared_scan_double(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    cdef Blocks blocks
    begin_blocks(&blocks, min((group + 1) * GROUP, s.softmax.classes))
    scan_group(s.softmax, s.row, group, s.label, NULL, &blocks, s.parts + group, <double>0)


cdef void shared_write_float(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    write_columns(s.softmax, s.row, group * GROUP, min((group + 1) * GROUP, s.softmax.classes), NULL, s.rows,
                  0, <float>0)
    fl_fence()


cdef void shared_write_double(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    write_columns(s.softmax, s.row, group * GROUP, min((group + 1) * GROUP, s.softmax.classes), NULL, s.rows,
                  0, <double>0)
    fl_fence()


cdef void merge_parts(SharedRow* s) noexcept nogil:
    """All parts into the first, in order."""
    cdef Py_ssize_t group
    for group in range(1, groups_of(s.softmax)):
        merge(s.parts, s.parts + group)


cdef void keep_losses(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const Rows* r, real tag) noexcept nogil:
    """Losses of n rows to their array, if there is one."""
    cdef real out[LANES]
    cdef int i
    if t.losses != NULL:
        for i in range(LANES):
            out[i] = <real>(r.loss[i] + r.z[i])
        store(t.losses, t.loss_code, first, n, out, False)
