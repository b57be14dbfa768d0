# Cross-entropy and the softmax family: what happens to a block of rows.
#
# A row is one softmax: its classes, its label or its class probabilities. Notation as in the literature: m is
# the row's maximum, E_c = e^(x_c) in the units of the row's Shift, S = sum E_c, p_c = E_c / S.
#
# What is summed decides the accuracy. The sum runs over all classes but one:
#   hard labels          rest = S - E_y;  -log p_y = log1p(rest / E_y) when x_y is near m, and
#                        (m - x_y) + log1p((S - E_m) / E_m) when it is not; p_y - 1 = -rest / S
#   everything else      rest = S - E_k, k the first maximum;  log S = m + log1p(rest / E_k)
# so nothing cancels: a confident row keeps all digits of its loss and of its target gradient.
#
# Three phases for up to 16 rows at a time: scan (maximum and sums), finish (all logarithms, in lanes), write
# (gradient and Hessian). Two layouts: rows whose classes lie side by side are scanned one at a time; few classes,
# or classes that are not on the last axis, are scanned 16 rows side by side.

cdef enum:
    COLUMNS = 4096        # classes per column block: its maximum is found and used while it is in cache
    GROUP = 16384         # classes per group of column blocks, which threads may share a row by
    FEW_CLASSES = 40      # up to here 16 rows go side by side
    TILE = 64             # classes of 16 rows held in scratch at a time

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
    bint by_maximum              # leave out the maximum rather than the label
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
    int64_t argmax[LANES]        # first position of the maximum, where it is needed
    double maximum[LANES]
    double base[LANES]           # the row's Shift
    double scale[LANES]
    double rest[LANES]           # sum over all classes but the label (by_maximum: but the maximum)
    double rest_of_max[LANES]    # sum over all classes but the maximum, where the Hessian needs it
    double logit[LANES]          # x_y
    double class_weight[LANES]   # w_y
    double sample[LANES]         # s
    double q_sum[LANES]          # sum of q_c (soft targets), of w_c (label smoothing)
    double q_gap[LANES]          # sum of q_c (m - x_c), of w_c (m - x_c)
    # set by finish:
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

cdef inline void exp_of_maxima(const Rows* r, double* e) noexcept nogil:
    """e[lane] as the sums over float32 rows have it."""
    cdef float y[LANES]
    cdef float magic[LANES]
    cdef float floor[LANES]
    cdef int i
    for i in range(LANES):
        y[i] = <float>r.maximum[i] - <float>r.base[i]
        magic[i] = eighths_magic(r.scale[i])
        floor[i] = eighths_floor(r.scale[i])
    vf_store(y, exp_vector(vf_load(y), vf_load(magic), vf_load(floor), vf_table(exp_offsets), vf_table(exp_errors)))
    for i in range(LANES):
        e[i] = y[i]


cdef inline void losses_from_sums(const float* y, const float* magic, const float* floor, const double* rest,
                                  double* loss, double* label_term) noexcept nogil:
    """log1p(rest / E_y) of 16 rows of few float32 logits, from y = x_y - base; and E_y.

    E_y is e + low, where low is what the last rounding of e has lost, so that the loss is right to half an ulp and what
    the sum lacks. Both may be in any unit, so rows that need no shift have the same bits without it.
    """
    cdef float e[LANES]
    cdef float low[LANES]
    cdef double u, v
    cdef int i
    cdef vf raised = vf_max(vf_load(floor), vf_load(y))
    cdef vf z = vf_fma(raised, vf_set(FL_LOG2EF), vf_load(magic))
    cdef vf rest_of_e = exp_rest(raised, z, vf_load(magic), vf_table(exp_errors))
    cdef vf power = exp_power(z, vf_table(exp_offsets))
    cdef vf rounded = vf_fma(power, rest_of_e, power)
    vf_store(e, rounded)
    vf_store(low, vf_fma(power, rest_of_e, vf_sub(power, rounded)))
    for i in range(LANES):
        label_term[i] = <double>e[i] + <double>low[i]
        v = rest[i] / label_term[i]
        u = 1.0 + v
        # What 1 + v has lost matters only where u is near 1: no division is needed.
        v = v if not (v < INFINITY) else log_plus(u, v - (u - 1.0) if u < 2.0 else 0.0)
        loss[i] = v


cdef inline bint few_classes(const Softmax* t) noexcept nogil:
    """Whether 16 rows go side by side."""
    return t.inner > 1 or t.classes <= FEW_CLASSES


cdef enum:
    DIRECT = 60       # up to this gap between the maximum and the label E_y is far from underflow


cdef bint finish_direct(const Softmax* t, Rows* r) noexcept nogil:
    """`finish` for hard labels alone, few classes and float32: in each row the loss of `direct_rows`, to the bit.
    False if a label is so far below its maximum that its row needs more care."""
    cdef float y[LANES]
    cdef float magic[LANES]
    cdef float floor[LANES]
    cdef double label_term[LANES]
    cdef double hard, coefficient, ratio
    cdef int i
    cdef int far = 0
    for i in range(LANES):
        y[i] = <float>r.logit[i] - <float>r.base[i]
        magic[i] = eighths_magic(r.scale[i])
        floor[i] = eighths_floor(r.scale[i])
        far |= not (r.maximum[i] - r.logit[i] <= <double>DIRECT)
    losses_from_sums(y, magic, floor, r.rest, r.loss, label_term)
    for i in range(LANES):
        hard = r.sample[i] * r.class_weight[i]
        coefficient = hard / t.divisor
        r.total[i] = r.rest[i] + label_term[i]
        r.total_low[i] = 0.0
        ratio = r.rest[i] / r.total[i]
        r.log_total[i] = r.loss[i]       # nan where the row has no softmax
        r.loss[i] = times(hard, r.loss[i])
        r.p_factor[i] = coefficient
        r.q_factor[i] = 0.0
        r.special[i] = -coefficient * ratio
        r.loss[i] = 0.0 if r.label[i] == IGNORED else r.loss[i]
        r.z[i] = 0.0
    return not far


cdef void finish(const Softmax* t, Rows* r) noexcept nogil:
    """Losses and gradient factors of 16 rows from their sums."""
    cdef Rows direct
    cdef int i
    if t.kind != CROSS_ENTROPY or t.by_maximum or t.code == F64 or not few_classes(t):
        finish_carefully(t, r)
        return
    if finish_direct(t, r):
        return
    # Which way a row goes depends on itself alone.
    direct = r[0]
    finish_carefully(t, r)
    for i in range(LANES):
        if direct.maximum[i] - direct.logit[i] <= <double>DIRECT:
            r.total[i] = direct.total[i]
            r.total_low[i] = direct.total_low[i]
            r.log_total[i] = direct.log_total[i]
            r.loss[i] = direct.loss[i]
            r.p_factor[i] = direct.p_factor[i]
            r.q_factor[i] = direct.q_factor[i]
            r.special[i] = direct.special[i]


cdef void finish_carefully(const Softmax* t, Rows* r) noexcept nogil:
    """The same for every kind of row, in lanes."""
    cdef int i
    cdef double magic, floor, top, top_low, e, e_low, gap, v, log_v, hard, coefficient, rest, lift, back, ratio
    cdef double summed[LANES]

    # 1. S and log(S / E_m); by label also -log p_y, left in loss. One term may dominate the sum: the maximum's and
    # the label's are put in with more digits than the sum over the row had for them.
    if t.code == F64:
        for i in range(LANES):
            summed[i] = exp_shifted(r.maximum[i], r.base[i], magic_of(r.scale[i], <double>0),
                                    floor_of(r.scale[i], <double>0))
    else:
        exp_of_maxima(r, summed)
    for i in range(LANES):
        # +-inf as maximum: no softmax exists, every entry of the row is nan.
        rest = r.rest[i] if -INFINITY < r.maximum[i] < INFINITY else NAN
        magic = magic_of(r.scale[i], <double>0)
        floor = floor_of(r.scale[i], <double>0)
        top = exp_shifted(r.maximum[i], r.base[i], magic, floor)
        top_low = exp_shifted_low(r.maximum[i], r.base[i], magic, floor)
        e = exp_shifted(r.logit[i], r.base[i], magic, floor)
        e_low = exp_shifted_low(r.logit[i], r.base[i], magic, floor)
        gap = r.maximum[i] - r.logit[i]
        if t.by_maximum:
            r.total[i] = rest + top
            back = r.total[i] - top
            r.total_low[i] = (top - (r.total[i] - back)) + (rest - back) + top_low
            v = rest / top
            v = v - v * (top_low / top)
            lift = gap
            # The sum without the label: E_y comes off, E_m goes on; a tie is its own mirror image.
            r.special[i] = rest if gap == 0.0 else (rest - e) + top
        else:
            rest = rest + ((top - summed[i]) + top_low if gap > 0.0 else 0.0)
            r.total[i] = rest + e
            back = r.total[i] - e
            r.total_low[i] = (e - (r.total[i] - back)) + (rest - back) + e_low
            ratio = rest / e
            v = ratio - ratio * (e_low / e) if gap < 1.0 else ((rest + e) - top) / top
            lift = 0.0 if gap < 1.0 else gap
            r.special[i] = rest
        log_v = log1p_accurate(v)
        r.log_total[i] = log_v
        r.loss[i] = lift + log_v

    # 2. Options and factors. The plain loss has a loop of its own, without branches, which vectorises.
    if t.kind == CROSS_ENTROPY and not t.by_maximum:
        for i in range(LANES):
            hard = r.sample[i] * r.class_weight[i]
            coefficient = hard / t.divisor
            r.loss[i] = times(hard, r.loss[i])
            r.p_factor[i] = coefficient
            r.q_factor[i] = 0.0
            ratio = r.special[i] / r.total[i]
            ratio = ratio + (fma(-ratio, r.total[i], r.special[i]) - ratio * r.total_low[i]) / r.total[i]
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
                lse = r.maximum[i] + r.rest[i]      # nan if the sum has met one
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
            r.special[i] = -coefficient * (r.special[i] / r.total[i])
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
        r.argmax[i] = 0
        r.maximum[i] = 0.0
        r.base[i] = 0.0
        r.scale[i] = 0.0
        r.rest[i] = 0.0
        r.rest_of_max[i] = 0.0
        r.logit[i] = 0.0
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
    Py_ssize_t argmax
    Shift shift
    Sum rest
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


cdef inline void mix_weights(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n,
                             double* q, real tag) noexcept nogil:
    """q_c of the row's columns: w_c ((1 - eps) t_c + eps/C) for soft targets, w_c for label smoothing."""
    cdef real buffer[CHUNK]
    cdef const real* target
    cdef double weights[CHUNK]
    cdef const double* w
    cdef double keep = 1.0 - t.smoothing
    cdef double uniform = t.smoothing / <double>t.classes
    cdef Py_ssize_t i
    if t.soft:
        target = load(t.target, t.target_code, row * t.classes + column, n, buffer)
        for i in range(n):
            q[i] = fma(keep, <double>target[i], uniform)
    else:
        for i in range(n):
            q[i] = 1.0
    if t.weight != NULL:
        w = load(t.weight, t.weight_code, column, n, weights)
        for i in range(n):
            q[i] = w[i] * q[i]


cdef void scan_columns(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, Py_ssize_t left_out,
                       bint want_argmax, real* buffer, RowScan* out) noexcept nogil:
    """Maximum and sums of one column block. left_out: the class that is not summed, -1 for the maximum."""
    cdef const real* x = load(t.logits, t.code, row * t.classes + column, n, buffer)
    cdef double q[CHUNK]
    cdef double products[CHUNK]
    cdef Py_ssize_t chunks = (n + CHUNK - 1) // CHUNK
    cdef Py_ssize_t part, at, m, i, skip
    cdef double reference

    out.maximum = largest(x, n)
    out.shift = shift_of(out.maximum, <real>0)
    out.argmax = column
    if want_argmax or left_out < 0:
        for part in range(chunks):
            at = part * CHUNK
            m = min(<Py_ssize_t>CHUNK, n - at)
            if largest(x + at, m) == out.maximum:
                out.argmax = column + at + first_equal(x + at, m, <real>out.maximum)
                break
    skip = (out.argmax if left_out < 0 else left_out) - column
    if left_out < 0 and out.maximum == -INFINITY:
        skip = -1         # nothing but -inf and nan: leave nothing out, so that a nan is seen
    memset(&out.rest, 0, sizeof(Sum))
    if real is float:
        add(&out.rest, exp_sum(x, n, skip if 0 <= skip < n else -1, &out.shift))
    else:
        exp_sum_double(x, n, skip if 0 <= skip < n else -1, &out.shift, &out.rest)

    out.q_sum = 0.0
    out.q_gap = 0.0
    reference = out.maximum if out.maximum > -INFINITY else 0.0
    out.reference = reference
    if t.soft or t.smoothing > 0.0:
        for part in range(chunks):
            at = part * CHUNK
            m = min(<Py_ssize_t>CHUNK, n - at)
            mix_weights(t, row, column + at, m, q, <real>0)
            for i in range(m):
                products[i] = 0.0 if q[i] == 0.0 else q[i] * (reference - <double>x[at + i])
            out.q_gap += tree_sum(products, m)
            out.q_sum += tree_sum(q, m)


cdef inline double power(double n) noexcept nogil:
    """2^n for integers n <= 0; 0 below the smallest normal number."""
    return fl_double_bits(<uint64_t>(<int64_t>n + 1023) << 52) if n > -1023.0 else 0.0


cdef inline double exp_of_maximum(const RowScan* a) noexcept nogil:
    return exp_shifted(a.maximum, a.shift.base, magic_of(a.shift.scale, <double>0),
                       floor_of(a.shift.scale, <double>0))


cdef void merge(RowScan* a, RowScan* b, bint by_maximum) noexcept nogil:
    """a becomes the scan of a's columns followed by b's; b is spoilt. The first maximum wins ties."""
    cdef bint second = b.maximum > a.maximum
    cdef RowScan* winner = b if second else a
    cdef RowScan* loser = a if second else b
    cdef double factor, moved
    if loser.maximum == -INFINITY:
        factor = 1.0      # its sum is 0, or nan, in any unit
    elif winner.shift.base == 0.0 and loser.shift.base == 0.0:
        factor = power(loser.shift.scale - winner.shift.scale)      # exact
    else:
        factor = (exp_of_maximum(winner) / exp_of_maximum(loser)
                  * exp_shifted(loser.maximum - winner.maximum, <double>0.0, magic_of(0.0, <double>0),
                                floor_of(0.0, <double>0)))
    add(&winner.rest, factor * loser.rest.high)
    winner.rest.low += factor * loser.rest.low
    if by_maximum:
        add(&winner.rest, factor * exp_of_maximum(loser))
    moved = times(loser.q_sum, winner.reference - loser.reference)
    winner.q_gap += loser.q_gap + moved
    winner.q_sum += loser.q_sum
    if second:
        a[0] = b[0]


cdef void scan_group(const Softmax* t, Py_ssize_t row, Py_ssize_t group, Py_ssize_t left_out, bint want_argmax,
                     RowScan* scan, real tag) noexcept nogil:
    """The column blocks of one group of a row, in order."""
    cdef real buffer[COLUMNS]
    cdef RowScan block
    cdef Py_ssize_t column = group * GROUP
    cdef Py_ssize_t last = min(column + GROUP, t.classes)
    scan_columns(t, row, column, min(<Py_ssize_t>COLUMNS, last - column), left_out, want_argmax, buffer, scan)
    column += COLUMNS
    while column < last:
        scan_columns(t, row, column, min(<Py_ssize_t>COLUMNS, last - column), left_out, want_argmax, buffer, &block)
        merge(scan, &block, left_out < 0)
        column += COLUMNS


cdef inline Py_ssize_t groups_of(const Softmax* t) noexcept nogil:
    return (t.classes + GROUP - 1) // GROUP


cdef void scan_row(const Softmax* t, Py_ssize_t row, Py_ssize_t left_out, bint want_argmax,
                   RowScan* scan, real tag) noexcept nogil:
    """All groups of a row, in order: the same sums, to the bit, as when threads share the row."""
    cdef RowScan part
    cdef Py_ssize_t group
    scan_group(t, row, 0, left_out, want_argmax, scan, tag)
    for group in range(1, groups_of(t)):
        scan_group(t, row, group, left_out, want_argmax, &part, tag)
        merge(scan, &part, left_out < 0)


cdef void keep_scan(const Softmax* t, Py_ssize_t row, const RowScan* scan, Rows* r, int lane) noexcept nogil:
    r.maximum[lane] = scan.maximum
    r.argmax[lane] = scan.argmax
    r.base[lane] = scan.shift.base
    r.scale[lane] = scan.shift.scale
    r.rest[lane] = value_of(&scan.rest)
    r.rest_of_max[lane] = r.rest[lane]
    r.q_sum[lane] = scan.q_sum
    r.q_gap[lane] = scan.q_gap
    if t.kind == CROSS_ENTROPY and not t.soft:
        r.logit[lane] = load_one(t.logits, t.code, row * t.classes + r.label[lane])
    else:
        r.logit[lane] = scan.maximum
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


cdef inline bint winner_needs_a_sum(const Softmax* t, const Rows* r, int lane) noexcept nogil:
    """The Hessian's 1 - p of a winner that is not the label needs the sum without the winner."""
    return t.hess != NULL and not t.by_maximum and r.logit[lane] < r.maximum[lane]


cdef void scan_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r, real tag) noexcept nogil:
    cdef RowScan scan, again
    cdef int lane
    for lane in range(<int>n):
        if r.label[lane] == IGNORED:
            continue
        scan_row(t, first + lane, -1 if t.by_maximum else <Py_ssize_t>r.label[lane], t.hess != NULL,
                 &scan, <real>0)
        keep_scan(t, first + lane, &scan, r, lane)
        if winner_needs_a_sum(t, r, lane):
            scan_row(t, first + lane, scan.argmax, False, &again, <real>0)
            r.rest_of_max[lane] = value_of(&again.rest)


cdef inline void write_plain(const Softmax* t, const float* x, Py_ssize_t column, Py_ssize_t n, const Rows* r, int lane,
                             const ScaledExp* scaled, float* out) noexcept nogil:
    """The gradient of a plain loss, or the softmax, of n columns; the label's entry is put where it belongs."""
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] - column
    cdef Py_ssize_t before, after
    cdef bint patched = t.kind == CROSS_ENTROPY and 0 <= label < n
    if not patched:
        write_scaled_exp(x, n, scaled, out, t.stream)
        return
    # The label's line is written as usual, around its entry; the others go past the caches if that is asked for.
    before = label - label % LANES if not t.stream else max(label - <Py_ssize_t>((<size_t>(out + label) & 63) // 4),
                                                            <Py_ssize_t>0)
    after = min(n, before + LANES)
    write_scaled_exp(x, before, scaled, out, t.stream)
    write_scaled_exp(x + before, after - before, scaled, out + before, False)
    out[label] = <float>r.special[lane]
    write_scaled_exp(x + after, n - after, scaled, out + after, t.stream)


cdef void write_chunk(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, const Rows* r,
                      int lane, real tag) noexcept nogil:
    """Gradient and Hessian entries of up to CHUNK columns of a row; x is read before anything is stored."""
    cdef real buffer[CHUNK]
    cdef real g[CHUNK]
    cdef real h[CHUNK]
    cdef double q[CHUNK]
    cdef const real* x = load(t.logits, t.code, row * t.classes + column, n, buffer)
    cdef real base = <real>r.base[lane]
    cdef real magic = magic_of(r.scale[lane], <real>0)
    cdef real floor = floor_of(r.scale[lane], <real>0)
    cdef double factor = r.p_factor[lane] / r.total[lane]
    cdef double inverse = 1.0 / r.total[lane]
    cdef double leftover, p, shift
    cdef double p_factor = r.p_factor[lane]
    cdef double pp_factor = r.pp_factor[lane]
    cdef double q_factor = r.q_factor[lane]
    cdef real high = <real>factor
    cdef real low
    cdef ScaledExp scaled
    cdef Py_ssize_t i
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] - column
    cdef Py_ssize_t top = <Py_ssize_t>r.argmax[lane] - column
    cdef Py_ssize_t start = row * t.classes + column

    cdef bint usable = False
    if real is float:
        usable = set_scaled_exp(&scaled, factor, r.base[lane], r.scale[lane])
        if (usable and t.code == F32 and t.hess == NULL and not t.soft and t.smoothing == 0.0
                and t.kind != LOG_SOFTMAX):
            write_plain(t, x, column, n, r, lane, &scaled, <float*>t.grad + start)
            return

    if t.kind == LOG_SOFTMAX:
        shift = r.log_total[lane]
        for i in range(n):
            g[i] = <real>-((r.maximum[lane] - <double>x[i]) + shift)
        store(t.grad, t.code, start, n, g, t.stream)
        return

    if real is float:
        leftover = factor - <double>high
    else:
        leftover = (fma(-factor, r.total[lane], p_factor) - factor * r.total_low[lane]) * inverse
    low = <real>leftover if isfinite(leftover) else <real>0.0

    if t.grad != NULL or t.hess != NULL:
        if real is float and usable:
            write_scaled_exp(x, n, &scaled, <float*>g, False)
        elif real is double and isfinite(factor):
            scaled_exp_chunk(x, n, base, magic, floor, high, low, g)
        else:
            # D = 0: the IEEE quotient in each entry; and factors beyond what the table can hold.
            for i in range(n):
                g[i] = <real>(<double>exp_shifted(x[i], base, magic, floor) * factor)
    if t.hess != NULL:
        # In float64, or as g (1 - p) = g - g p in one rounding.
        if real is float:
            if set_scaled_exp(&scaled, inverse, r.base[lane], r.scale[lane]):
                write_scaled_exp(x, n, &scaled, <float*>h, False)
            else:
                for i in range(n):
                    h[i] = <float>inverse     # nan: the row has no softmax
            for i in range(n):
                p = h[i]
                h[i] = <float>(<double>g[i] * (1.0 - p) + pp_factor * p * p)
        else:
            for i in range(n):
                p = exp_shifted(x[i], base, magic, floor) * inverse
                h[i] = fma(-g[i], p, g[i]) + pp_factor * p * p
        if 0 <= top < n:
            h[top] = <real>hessian_at_maximum(r, lane)
    if t.grad != NULL:
        if t.kind == CROSS_ENTROPY:
            if t.soft or t.smoothing > 0.0:
                mix_weights(t, row, column, n, q, <real>0)
                if t.soft and 0 <= top < n:
                    p = <double>exp_shifted(x[top], base, magic, floor) * inverse
                    p = soft_gradient_at_maximum(r, lane, p, q[top])
                for i in range(n):
                    g[i] = <real>(<double>g[i] - q_factor * q[i])
                if t.soft and 0 <= top < n:
                    g[top] = <real>p
            if not t.soft and 0 <= label < n:
                g[label] = <real>r.special[lane]
        store(t.grad, t.code, start, n, g, t.stream)
    if t.hess != NULL:
        store(t.hess, t.code, start, n, h, t.stream)


cdef inline double hessian_at_maximum(const Rows* r, int lane) noexcept nogil:
    """A p (1 - p) + B p^2 with p = E / S, 1 - p = T / S and S = E + T: no cancellation where p is near 1.

    E T / S^2 carries the rounding errors of sum, product and square, so that it adds half an ulp to those of E and T.
    """
    cdef double e = exp_shifted(r.maximum[lane], r.base[lane], magic_of(r.scale[lane], <double>0),
                                floor_of(r.scale[lane], <double>0))
    cdef double rest = r.rest_of_max[lane]
    cdef double s = e + rest
    cdef double back = s - e
    cdef double s_low = (e - (s - back)) + (rest - back)
    cdef double product = e * rest
    cdef double product_low = fma(e, rest, -product)
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


cdef void write_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const Rows* r, real tag) noexcept nogil:
    cdef int lane
    for lane in range(<int>n):
        write_columns(t, first + lane, 0, t.classes, r, lane, tag)


cdef void write_columns(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t last, const Rows* r,
                        int lane, real tag) noexcept nogil:
    """Outputs of a row's columns column..last."""
    cdef Py_ssize_t start = (row * t.classes + column) * size_of(t.code)
    cdef Py_ssize_t size = (last - column) * size_of(t.code)
    if r.label[lane] == IGNORED:
        if t.grad != NULL:
            memset(t.grad + start, 0, size)
        if t.hess != NULL:
            memset(t.hess + start, 0, size)
        return
    while column < last:
        write_chunk(t, row, column, min(<Py_ssize_t>CHUNK, last - column), r, lane, tag)
        column += CHUNK
    if t.stream:
        fl_fence()


# ------------------------------------------------------------------------- 16 rows side by side, lane = row

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


cdef inline void gather(const char* data, Code code, const Tile* tile, Py_ssize_t first, Py_ssize_t classes,
                        real* out) noexcept nogil:
    """Classes first..first+classes of 16 rows to OUT out[class, lane]; lanes without a row repeat the last."""
    cdef real buffer[CHUNK]
    cdef const real* x
    cdef Py_ssize_t c, at
    cdef int i
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


cdef inline void scatter(char* data, Code code, const Tile* tile, Py_ssize_t first, Py_ssize_t classes,
                         const real* values) noexcept nogil:
    """The reverse of gather."""
    cdef real buffer[TILE]
    cdef real* out
    cdef Py_ssize_t c
    cdef int i
    cdef Code own = F32 if real is float else F64
    if tile.stride == 1 and code == own:
        # Straight into the array: a call of memcpy for each short row would cost as much as the row.
        for i in range(tile.lanes):
            out = <real*>data + tile.start[i] + first
            for c in range(classes):
                out[c] = values[c * LANES + i]
    elif tile.stride == 1:
        for i in range(tile.lanes):
            for c in range(classes):
                buffer[c] = values[c * LANES + i]
            store(data, code, tile.start[i] + first, classes, buffer, False)
    elif tile.adjacent:
        for c in range(classes):
            store(data, code, tile.start[0] + (first + c) * tile.stride, LANES, values + c * LANES, False)
    else:
        for i in range(tile.lanes):
            for c in range(classes):
                store(data, code, tile.start[i] + (first + c) * tile.stride, 1, values + c * LANES + i,
                      False)


cdef void gather_weights(const Softmax* t, const Tile* tile, Py_ssize_t first, Py_ssize_t classes, double* q,
                         real* scratch) noexcept nogil:
    """q[class, lane], as mix_weights has it."""
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


cdef void lanes_block(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r, real tag) noexcept nogil:
    """All three phases for up to 16 rows. With at most TILE classes the rows are gathered once."""
    cdef real x[TILE * LANES]
    cdef real e[TILE * LANES]
    cdef double q[TILE * LANES]
    cdef real base[LANES]
    cdef real magic[LANES]
    cdef real floor[LANES]
    cdef real best[LANES]
    cdef real logit[LANES]
    cdef int32_t argmax[LANES]
    cdef int32_t skip[LANES]
    cdef int32_t skip_max[LANES]
    cdef double rest[LANES]
    cdef double rest_low[LANES]
    cdef double rest_of_max[LANES]
    cdef double reference[LANES]
    cdef double s, back, term
    cdef LaneSums q_sum
    cdef Tile tile
    cdef Shift shift
    cdef Py_ssize_t part, at, m, c
    cdef int i
    cdef bint mixing = t.kind == CROSS_ENTROPY and (t.soft or t.smoothing > 0.0)
    cdef bint one_tile = t.classes <= TILE
    cdef bint both = t.hess != NULL and not t.by_maximum

    place(t, first, n, &tile)

    # 1. Maximum, and its first position where that is asked for.
    for i in range(LANES):
        best[i] = -INFINITY
        r.argmax[i] = 0
    for part in range((t.classes + TILE - 1) // TILE):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        gather(t.logits, t.code, &tile, at, m, x)
        if t.by_maximum or t.hess != NULL:
            for i in range(LANES):
                argmax[i] = -1
            for c in range(m):
                for i in range(LANES):
                    argmax[i] = <int32_t>c if x[c * LANES + i] > best[i] else argmax[i]
                    best[i] = x[c * LANES + i] if x[c * LANES + i] > best[i] else best[i]
            for i in range(LANES):
                r.argmax[i] = at + argmax[i] if argmax[i] >= 0 else r.argmax[i]
        else:
            for c in range(m):
                for i in range(LANES):
                    best[i] = x[c * LANES + i] if x[c * LANES + i] > best[i] else best[i]
    for i in range(LANES):
        r.maximum[i] = best[i]
        shift = shift_of(<double>best[i], <real>0)
        r.base[i] = shift.base
        r.scale[i] = shift.scale
    for i in range(LANES):
        base[i] = <real>r.base[i]
        magic[i] = magic_of_lane(r.scale[i], <real>0)
        floor[i] = floor_of_lane(r.scale[i], <real>0)
        reference[i] = r.maximum[i] if r.maximum[i] > -INFINITY else 0.0
        rest[i] = 0.0
        rest_low[i] = 0.0
        rest_of_max[i] = 0.0
        q_sum.high[i] = 0.0
        q_sum.low[i] = 0.0
        r.q_gap[i] = 0.0
        r.logit[i] = r.maximum[i]
    if t.kind == CROSS_ENTROPY and not t.soft:
        for i in range(<int>n):
            if r.label[i] != IGNORED:
                r.logit[i] = load_one(t.logits, t.code, tile.start[i] + r.label[i] * t.inner)

    # 2. Sums.
    for part in range((t.classes + TILE - 1) // TILE):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if not one_tile:
            gather(t.logits, t.code, &tile, at, m, x)
        for i in range(LANES):
            c = r.argmax[i] if r.maximum[i] > -INFINITY else -1
            skip_max[i] = <int32_t>(c - at) if at <= c < at + m else -1
            c = r.label[i]
            skip[i] = skip_max[i] if t.by_maximum else (<int32_t>(c - at) if at <= c < at + m else -1)
        exp_lanes(x, m, base, magic, floor, e)
        for c in range(m):
            for i in range(LANES):
                term = 0.0 if <int32_t>c == skip[i] else <double>e[c * LANES + i]
                if real is float:
                    rest[i] = rest[i] + term
                else:
                    s = rest[i] + term
                    back = s - rest[i]
                    rest_low[i] = rest_low[i] + ((rest[i] - (s - back)) + (term - back))
                    rest[i] = s
        if both:
            for c in range(m):
                for i in range(LANES):
                    rest_of_max[i] = rest_of_max[i] + (0.0 if <int32_t>c == skip_max[i]
                                                       else <double>e[c * LANES + i])
        if mixing:
            gather_weights(t, &tile, at, m, q, e)
            for c in range(m):
                add_lanes(&q_sum, &q[c * LANES])
                for i in range(LANES):
                    term = q[c * LANES + i] * (reference[i] - <double>x[c * LANES + i])
                    r.q_gap[i] = r.q_gap[i] + (0.0 if q[c * LANES + i] == 0.0 else term)
    for i in range(LANES):
        r.q_sum[i] = q_sum.high[i] + q_sum.low[i]
        r.rest[i] = rest[i] + rest_low[i]
        r.rest_of_max[i] = rest_of_max[i] if both else r.rest[i]
    if t.kind == LOGSUMEXP:
        for i in range(<int>n):
            if r.maximum[i] == INFINITY and row_has_nan(t, first + i):
                r.maximum[i] = NAN

    finish(t, r)
    if t.grad != NULL or t.hess != NULL:
        write_lanes(t, &tile, r, x, e, one_tile and not mixing)


cdef void write_lanes(const Softmax* t, const Tile* tile, const Rows* r, real* x, real* e,
                      bint have_e) noexcept nogil:
    """Gradient and Hessian of 16 rows. x holds the only tile if there is one; so does e if have_e."""
    cdef real g[TILE * LANES]
    cdef double q[TILE * LANES]
    cdef real base[LANES]
    cdef real magic[LANES]
    cdef real floor[LANES]
    cdef double inverse[LANES]
    cdef double factor[LANES]
    cdef double factor_low[LANES]
    cdef double p, own
    cdef Py_ssize_t part, at, m, c
    cdef int i
    cdef bint mixing = t.kind == CROSS_ENTROPY and (t.soft or t.smoothing > 0.0)
    for i in range(LANES):
        base[i] = <real>r.base[i]
        magic[i] = magic_of_lane(r.scale[i], <real>0)
        floor[i] = floor_of_lane(r.scale[i], <real>0)
        inverse[i] = 1.0 / r.total[i]
        factor[i] = r.p_factor[i] / r.total[i]
        p = (fma(-factor[i], r.total[i], r.p_factor[i]) - factor[i] * r.total_low[i]) * inverse[i]
        factor_low[i] = p if isfinite(p) else 0.0
    for part in range((t.classes + TILE - 1) // TILE):
        at = part * TILE
        m = min(<Py_ssize_t>TILE, t.classes - at)
        if t.classes > TILE:
            gather(t.logits, t.code, tile, at, m, x)
        if t.kind == LOG_SOFTMAX:
            for c in range(m):
                for i in range(LANES):
                    g[c * LANES + i] = <real>-((r.maximum[i] - <double>x[c * LANES + i]) + r.log_total[i])
            scatter(t.grad, t.code, tile, at, m, g)
            continue
        if mixing:
            gather_weights(t, tile, at, m, q, e)
        if not have_e:
            exp_lanes(x, m, base, magic, floor, e)
        if t.grad != NULL:
            for c in range(m):
                for i in range(LANES):
                    if real is float:
                        g[c * LANES + i] = <float>(<double>e[c * LANES + i] * factor[i])
                    else:
                        g[c * LANES + i] = fma(e[c * LANES + i], factor[i], e[c * LANES + i] * factor_low[i])
            if mixing:
                for c in range(m):
                    for i in range(LANES):
                        g[c * LANES + i] = <real>(<double>e[c * LANES + i] * factor[i]
                                                  - r.q_factor[i] * q[c * LANES + i])
            if t.kind == CROSS_ENTROPY:
                for i in range(LANES):
                    if r.label[i] == IGNORED:
                        for c in range(m):
                            g[c * LANES + i] = <real>0.0
                    elif t.soft:
                        c = r.argmax[i] - at
                        if 0 <= c < m:
                            p = <double>e[c * LANES + i] * inverse[i]
                            g[c * LANES + i] = <real>soft_gradient_at_maximum(r, i, p, q[c * LANES + i])
                    elif at <= r.label[i] < at + m:
                        g[(r.label[i] - at) * LANES + i] = <real>r.special[i]
            scatter(t.grad, t.code, tile, at, m, g)
        if t.hess != NULL:
            for c in range(m):
                for i in range(LANES):
                    p = <double>e[c * LANES + i] * inverse[i]
                    own = fma(<double>e[c * LANES + i], factor[i], <double>e[c * LANES + i] * factor_low[i])
                    g[c * LANES + i] = <real>(fma(-own, p, own) + r.pp_factor[i] * p * p)
            for i in range(LANES):
                if r.label[i] == IGNORED:
                    for c in range(m):
                        g[c * LANES + i] = <real>0.0
                elif at <= r.argmax[i] < at + m:
                    g[(r.argmax[i] - at) * LANES + i] = <real>hessian_at_maximum(r, i)
            scatter(t.hess, t.code, tile, at, m, g)


# ----------------------------------------------------------------------------------------- a block of rows

cdef bint direct_rows(const Softmax* t, Py_ssize_t first, double* loss) noexcept nogil:
    """Losses, and the gradient if there is one, of 16 rows of few float32 logits, none of which is larger than 30 in
    size; False if one is. The bits are those of `lanes_block`.

    Then no exponential needs a shift, and none can be lost: no maximum is looked for, and all of them are computed
    where they lie, without a thought for rows.
    """
    cdef float e[FEW_CLASSES * LANES]
    cdef float y[LANES]
    cdef float magic[LANES]
    cdef float floor[LANES]
    cdef double rest[LANES]
    cdef double label_term[LANES]
    cdef double factor[LANES]
    cdef float special[LANES]
    cdef double total, coefficient
    cdef float* g
    cdef const float* term
    cdef int64_t label[LANES]
    cdef const float* x = <const float*>t.logits + first * t.classes
    cdef vf magics = vf_set(eighths_magic(0.0))
    cdef vf floors = vf_set(eighths_floor(0.0))
    cdef vf offsets = vf_table(exp_offsets)
    cdef vf errors = vf_table(exp_errors)
    cdef vf smallest = vf_set(0.0)
    cdef vf v
    cdef Py_ssize_t c
    cdef int i
    cdef int large = 0
    cdef double s
    for c in range(t.classes):
        v = vf_load(x + c * LANES)
        vf_store(e + c * LANES, exp_vector(v, magics, floors, offsets, errors))
        # -|x|; nan is passed over here and seen by the sums.
        smallest = vf_if_less(vf_neg_abs(v), smallest, vf_neg_abs(v), smallest)
    vf_store(y, smallest)
    for i in range(LANES):
        large |= not (y[i] >= <float>-30.0)
    if large:
        return False
    read_labels(t, first, LANES, label)
    for i in range(LANES):
        if label[i] < 0:
            label[i] = IGNORED
        c = i * t.classes
        y[i] = x[c + label[i]] if label[i] >= 0 else <float>0.0
        if label[i] >= 0:
            e[c + label[i]] = <float>0.0
        magic[i] = eighths_magic(0.0)
        floor[i] = eighths_floor(0.0)
    for i in range(LANES):
        s = 0.0
        for c in range(i * t.classes, (i + 1) * t.classes):
            s = s + <double>e[c]
        rest[i] = s
    losses_from_sums(y, magic, floor, rest, loss, label_term)
    for i in range(LANES):
        loss[i] = 0.0 if label[i] == IGNORED else loss[i]
    if t.grad == NULL:
        return True
    for i in range(LANES):
        total = rest[i] + label_term[i]
        coefficient = 1.0 / t.divisor
        factor[i] = coefficient / total
        special[i] = <float>(-coefficient * (rest[i] / total))
    for i in range(LANES):
        g = <float*>t.grad + (first + i) * t.classes
        term = e + i * t.classes
        if label[i] == IGNORED:
            memset(g, 0, t.classes * sizeof(float))
            continue
        for c in range(0, t.classes, 16):       # LANES, which Cython does not take for a constant here
            v = vf_load_part(term + c, t.classes - c, 0.0)
            v = vf_narrow(vd_mul(vd_low(v), vd_set(factor[i])), vd_mul(vd_high(v), vd_set(factor[i])))
            vf_store_part(g + c, v, t.classes - c)
        g[label[i]] = special[i]
    return True


cdef void softmax_block(Softmax* t, Py_ssize_t block, real tag) noexcept nogil:
    """Rows of one block: losses to their array or to the block's partial sum, gradients to their arrays."""
    cdef Py_ssize_t first = block * t.block_rows
    cdef Py_ssize_t last = min(first + t.block_rows, t.rows)
    # A group's rows stay in cache between scanning and writing.
    cdef Py_ssize_t group = LANES if t.classes <= COLUMNS or t.inner > 1 else 1
    cdef Py_ssize_t n
    cdef Rows r
    cdef LaneSums total, z_total
    cdef bint side_by_side = few_classes(t)
    cdef bint direct = (side_by_side and t.inner == 1 and t.code == F32 and t.kind == CROSS_ENTROPY and not t.by_maximum
                        and t.hess == NULL and t.sums != NULL
                        and t.weight == NULL and t.sample_weight == NULL)
    memset(&total, 0, sizeof(LaneSums))
    memset(&z_total, 0, sizeof(LaneSums))
    while first < last:
        n = min(group, last - first)
        if direct and n == LANES and direct_rows(t, first, r.loss):
            add_lanes(&total, r.loss)
            first += n
            continue
        read_row_options(t, first, n, &r)
        if side_by_side:
            lanes_block(t, first, n, &r, <real>0)
        else:
            scan_rows(t, first, n, &r, <real>0)
            finish(t, &r)
            if t.grad != NULL or t.hess != NULL:
                write_rows(t, first, n, &r, <real>0)
        keep_losses(t, first, n, &r, tag)
        if t.sums != NULL:
            add_lanes(&total, r.loss)
            if t.z_sums != NULL:
                add_lanes(&z_total, r.z)
        first += n
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
    Py_ssize_t left_out
    RowScan* parts        # OUT (groups,)
    const Rows* rows      # the row is lane 0


cdef void shared_scan_float(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    scan_group(s.softmax, s.row, group, s.left_out, s.softmax.hess != NULL, s.parts + group, <float>0)


cdef void shared_scan_double(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    scan_group(s.softmax, s.row, group, s.left_out, s.softmax.hess != NULL, s.parts + group, <double>0)


cdef void shared_write_float(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    write_columns(s.softmax, s.row, group * GROUP, min((group + 1) * GROUP, s.softmax.classes), s.rows, 0, <float>0)


cdef void shared_write_double(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    write_columns(s.softmax, s.row, group * GROUP, min((group + 1) * GROUP, s.softmax.classes), s.rows, 0, <double>0)


cdef void merge_parts(SharedRow* s) noexcept nogil:
    """All parts into the first, in order."""
    cdef Py_ssize_t group
    for group in range(1, groups_of(s.softmax)):
        merge(s.parts, s.parts + group, s.left_out < 0)


cdef void keep_losses(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const Rows* r, real tag) noexcept nogil:
    """Losses of n rows to their array, if there is one."""
    cdef real out[LANES]
    cdef int i
    if t.losses != NULL:
        for i in range(LANES):
            out[i] = <real>(r.loss[i] + r.z[i])
        store(t.losses, t.loss_code, first, n, out, False)
