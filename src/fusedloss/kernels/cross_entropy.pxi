# Cross-entropy and the softmax family: what happens to a block of rows.
#
# A row is one softmax: its classes, its label or its class probabilities. Notation as in the literature: m is
# the row's maximum, E_c = e^(x_c) in the units of the row's Shift, S = sum E_c, p_c = E_c / S.
#
# What is summed decides the accuracy. In float64 and in long rows that need a shift the sum runs over all classes but
# the label y and the largest of the others, k: both are added with more digits than the sum has, since one of them is
# most of it as a rule.
#   hard labels          rest = S - E_y = others + E_k;  -log p_y = log1p(rest / E_y) when x_y is near m, and
#                        (x_k - x_y) + log1p((others + E_y) / E_k) when it is not; p_y - 1 = -rest / S
#   no label             rest = S - E_k = others;  log S = x_k + log1p(rest / E_k)
# so nothing cancels: a confident row keeps all digits of its loss and of its target gradient. Other rows of float32
# have sums with digits to spare, and leave out one class.
#
# Three phases for up to 16 rows at a time: scan (maximum and sums), finish (all logarithms, in lanes), write
# (gradient and Hessian). Two layouts: rows whose classes lie side by side are scanned one at a time (long_rows.pxi);
# few classes, or classes that are not on the last axis, are scanned 16 rows side by side (side_by_side.pxi,
# double_lanes.pxi, float_lanes.pxi, and softmax_rows.pxi for the functions). Most rows of float32 need no shift, and go
# a shorter way (unshifted_rows.pxi, batched_rows.pxi for up to 256 classes, and direct_rows for few).

cdef enum:
    KEPT = 2048           # exponentials of float64 rows that are kept for the gradient
    COLUMNS = 4096        # classes per column block: its maximum is found and used while it is in cache
    GROUP = 16384         # classes per group of column blocks, which threads may share a row by
    DETOUR = 7            # groups of rows after one that direct_rows has left, which do not try it

cdef enum Kind:
    CROSS_ENTROPY
    SOFTMAX
    LOG_SOFTMAX
    LOGSUMEXP

cdef enum:
    IGNORED = -1
    OUT_OF_RANGE = -2
    MISTAKEN = -1

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
    int64_t* counts              # OUT (blocks,): rows that take part, MISTAKEN if a label is out of range
    Py_ssize_t block_rows
    bint stream                  # outputs go past the caches
    bint far                     # ... do not, but are larger than a core's own

cdef struct Rows:
    # Up to 16 rows between the phases; all lanes of all arrays are set, but by direct_rows, float_lanes, double_lanes
    # and batched_rows, which set what they read.
    int64_t label[LANES]         # IGNORED for rows that take no part
    double maximum[LANES]
    double base[LANES]           # the row's Shift
    double scale[LANES]
    bint unshifted[LANES]        # the sum is that of unshifted_rows.pxi; base and scale are 0
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
    double special[LANES]        # ... but this at the label
    int64_t apart[LANES]         # soft targets: the class whose gradient has a formula of its own, -1 if there is none
    double pp_factor[LANES]      # z-loss part of the Hessian: + pp_factor p_c^2


cdef inline double times(double coefficient, double value) noexcept nogil:
    """coefficient * value with 0 * inf = 0 and 0 * nan = nan: the rule of xlogy."""
    return 0.0 if coefficient == 0.0 and not isnan(value) else coefficient * value


cdef inline double one_nan(double x) noexcept nogil:
    """x. Of a sum of two different nans, which one it is depends on the compiler, and so would a row's bits on its
    lane."""
    return x if x == x else NAN


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
    cdef int64_t label, valid
    cdef int64_t ignored = t.ignore_index
    cdef int64_t ignoring = t.ignoring
    cdef int64_t classes = t.classes
    cdef Py_ssize_t i
    for i in range(n):
        # uint64 keeps its bits here: from 2^63 on it is negative, and out of range. All in numbers of one width, which
        # vectorises.
        label = <int64_t>source[i]
        valid = label if (label >= 0) & (label < classes) else <int64_t>OUT_OF_RANGE
        labels[i] = <int64_t>IGNORED if (label == ignored) & (ignoring != 0) else valid


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


cdef inline void take_labels(const Softmax* t, Py_ssize_t first, Py_ssize_t n, int64_t* labels,
                             int64_t* count) noexcept nogil:
    """Labels of up to 16 rows, IGNORED where there is no class to be used. Add to count the rows that take part; it is
    MISTAKEN for good if a label is out of range."""
    cdef int64_t taking_part = 0
    cdef int64_t mistakes = 0
    cdef int i
    read_labels(t, first, n, labels)
    for i in range(<int>n, LANES):
        labels[i] = IGNORED
    for i in range(LANES):
        taking_part += labels[i] >= 0
        mistakes += labels[i] == OUT_OF_RANGE
        # They are checked before or by this count; until it is looked at, stay inside the arrays.
        labels[i] = labels[i] if labels[i] >= 0 else IGNORED
    count[0] = MISTAKEN if (mistakes > 0) | (count[0] == MISTAKEN) else count[0] + taking_part


cdef inline bint are_classes(const integer* labels, const Softmax* t, float* out) noexcept nogil:
    cdef uint64_t last = <uint64_t>(t.classes - 1)
    cdef uint64_t label
    cdef uint64_t outside = 0
    cdef int i
    for i in range(LANES):
        label = <uint64_t><int64_t>labels[i]
        # The first bit of one of them is set.
        outside |= label | (last - label)
        out[i] = <float><int32_t>label
    return outside >> 63 == 0


cdef inline bint usual_labels(const Softmax* t, Py_ssize_t first, float* labels) noexcept nogil:
    """OUT labels of 16 rows of few classes as floats: False if one of them is no class, or could be one to ignore, or
    their dtype is not one of the three that labels usually have."""
    cdef const char* at = t.target + first * size_of(t.target_code)
    if t.ignoring and 0 <= t.ignore_index < t.classes:
        return False
    if t.target_code == I64:
        return are_classes(<const int64_t*>at, t, labels)
    if t.target_code == I32:
        return are_classes(<const int32_t*>at, t, labels)
    if t.target_code == U8:
        return are_classes(<const uint8_t*>at, t, labels)
    return False


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
    cdef double buffer[256]
    cdef double samples[256]
    cdef double products[256]
    cdef vd sum = vd_set(0.0), lost = vd_set(0.0), sum_of_products = vd_set(0.0), lost_of_products = vd_set(0.0)
    cdef const double* given
    cdef Py_ssize_t at, n, i, taking_part
    # With class probabilities the class weights do not enter the denominator.
    cdef bint by_class = t.weight != NULL and not t.soft
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
        if not by_class and t.sample_weight == NULL:
            add(&out.weights, <double>taking_part)
            add(&out.samples, <double>taking_part)
        else:
            memset(samples, 0, sizeof(samples))
            if t.sample_weight == NULL:
                for i in range(n):
                    samples[i] = 1.0 if labels[i] != IGNORED else 0.0
            else:
                given = load(t.sample_weight, t.sample_code, at, n, buffer)
                for i in range(n):
                    samples[i] = given[i] if labels[i] != IGNORED else 0.0
            for i in range(0, n, 8):
                add_vector(&sum, &lost, vd_load(samples + i))
            if by_class:
                memset(products, 0, sizeof(products))
                for i in range(n):
                    if labels[i] != IGNORED:
                        products[i] = samples[i] * load_one(t.weight, t.weight_code, labels[i])
                for i in range(0, n, 8):
                    add_vector(&sum_of_products, &lost_of_products, vd_load(products + i))
        at += n
    add_vectors(&out.samples, sum, lost)
    if by_class:
        add_vectors(&out.weights, sum_of_products, lost_of_products)
    elif t.sample_weight != NULL:
        out.weights = out.samples


# ------------------------------------------------------------------------------------------ finish: logs

cdef inline void set_terms(vf e, vf low, double* terms) noexcept nogil:
    """E_y of 16 rows of float32 logits with what its last rounding has lost."""
    vd_store(terms, vd_add(vd_low(e), vd_low(low)))
    vd_store(terms + 8, vd_add(vd_high(e), vd_high(low)))


cdef inline void losses_from_sums(const double* rest, const double* label_term, double one,
                                  double* loss) noexcept nogil:
    """log(1 + rest / E_y) of 16 rows, one being 1; of the quotient alone if it is 0. The unit does not matter: rows
    that need no shift have the same bits without it."""
    cdef double u, v
    cdef int i
    for i in range(LANES):
        v = rest[i] / label_term[i]
        u = one + v
        # What 1 + v has lost matters only where u is near 1: no division is needed.
        loss[i] = v if not (v < INFINITY) else log_plus(u, v - (u - one) if u < 2.0 else 0.0)


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
    cdef double divisor = t.divisor
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
        r.apart[i] = r.peak[i]

    # 2. Options and factors. The plain loss has a loop of its own, without branches, which vectorises.
    if plain(t):
        for i in range(LANES):
            hard = r.sample[i] * r.class_weight[i]
            coefficient = hard / divisor
            r.loss[i] = times(hard, r.loss[i])
            r.p_factor[i] = coefficient
            r.q_factor[i] = 0.0
            ratio = r.rest[i] / r.total[i]
            ratio = ratio + (fma(-ratio, r.total[i], r.rest[i]) + rest_lows[i] - ratio * r.total_low[i]) / r.total[i]
            r.special[i] = one_nan(-coefficient * ratio)
    elif t.kind != CROSS_ENTROPY:
        finish_logsumexp(r)
    else:
        finish_options(t, r, r.loss, e, 0, LANES)

    # 3. Rows that take no part.
    for i in range(LANES):
        r.loss[i] = 0.0 if r.label[i] == IGNORED else r.loss[i]
        r.z[i] = 0.0 if r.label[i] == IGNORED else r.z[i]


cdef inline double mixed_loss(double coefficient, const Rows* r, int lane) noexcept nogil:
    """coefficient * sum_c q_c (-log p_c). The coefficient belongs to each term: where it is 0, so is the sum, even one
    of inf - inf; a nan in the logits or the q_c is seen in log_total or q_sum."""
    cdef double nothing = 0.0 * r.q_sum[lane] * r.log_total[lane]
    cdef double loss = coefficient * (r.q_sum[lane] * r.log_total[lane] + r.q_gap[lane])
    return nothing if coefficient == 0.0 else loss


cdef void finish_logsumexp(Rows* r) noexcept nogil:
    cdef int i
    for i in range(LANES):
        r.p_factor[i] = 1.0
        r.loss[i] = r.maximum[i] + r.log_total[i]
        if r.maximum[i] == INFINITY:
            r.loss[i] = INFINITY
        elif r.maximum[i] == -INFINITY:
            r.loss[i] = r.maximum[i] + r.others[i]    # nan if the sum has met one


cdef inline void finish_options(const Softmax* t, Rows* r, const double* own, const double* label_term, int begin,
                                int end) noexcept nogil:
    """Losses and factors of rows begin..end where there is more than a plain loss of hard labels. own: -log p_y;
    label_term: E_y. Loops without branches, and what rows share in variables: compilers turn them into vectors."""
    cdef double divisor = t.divisor
    cdef double z_divisor = t.z_divisor
    cdef double keep = 1.0 - t.smoothing
    cdef double each = t.smoothing / <double>t.classes
    cdef double weight_sum = t.weight_sum
    cdef double z_loss = t.z_loss
    cdef double lse, hard, uniform, more
    cdef int i
    if t.soft:
        for i in range(begin, end):
            r.loss[i] = mixed_loss(r.sample[i], r, i)
            r.q_factor[i] = r.sample[i] / divisor
            r.p_factor[i] = r.q_factor[i] * r.q_sum[i]
            r.extra[i] = 0.0
    else:
        for i in range(begin, end):
            hard = r.sample[i] * (keep * r.class_weight[i])
            r.loss[i] = times(hard, own[i])
            r.p_factor[i] = hard / divisor
            r.q_factor[i] = 0.0
            r.extra[i] = 0.0
            r.special[i] = -r.p_factor[i] * (r.rest[i] / r.total[i])
        if t.smoothing > 0.0:
            for i in range(begin, end):
                uniform = r.sample[i] * each
                r.loss[i] = r.loss[i] + mixed_loss(uniform, r, i)
                r.q_factor[i] = uniform / divisor
                r.extra[i] = r.q_factor[i] * weight_sum
    if t.z_loss > 0.0:
        for i in range(begin, end):
            lse = r.maximum[i] + r.log_total[i]
            r.z[i] = times(r.sample[i] * z_loss, lse * lse)
            r.pp_factor[i] = 2.0 * (r.sample[i] * z_loss) / z_divisor
            r.extra[i] = r.extra[i] + r.pp_factor[i] * lse
    for i in range(begin, end):
        r.p_factor[i] = r.p_factor[i] + r.extra[i]
    if not t.soft:
        for i in range(begin, end):
            # The label: -hard (1 - p_y), and what smoothing and z-loss add there.
            more = r.extra[i] * (label_term[i] / r.total[i]) - r.q_factor[i] * r.class_weight[i]
            r.special[i] = r.special[i] + (0.0 if (r.extra[i] == 0.0) & (r.q_factor[i] == 0.0) else more)


cdef inline void read_lane_options(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r,
                                   int64_t* count) noexcept nogil:
    """Labels and weights of rows first..first+n; lanes beyond n count as ignored. Add to count. OUT what else is
    neutral where there are no options."""
    cdef int i
    if t.kind == CROSS_ENTROPY and not t.soft:
        take_labels(t, first, n, r.label, count)
    else:
        for i in range(LANES):
            r.label[i] = 0 if i < n else <int64_t>IGNORED
    for i in range(LANES):
        r.class_weight[i] = 1.0
        r.sample[i] = 1.0
        r.q_sum[i] = 0.0
        r.q_gap[i] = 0.0
        r.q_factor[i] = 0.0
        r.special[i] = 0.0
    if t.sample_weight != NULL:
        for i in range(n):
            r.sample[i] = load_one(t.sample_weight, t.sample_code, first + i)
    if t.weight != NULL and not t.soft:
        for i in range(n):
            if r.label[i] != IGNORED:
                r.class_weight[i] = load_one(t.weight, t.weight_code, r.label[i])


cdef void read_row_options(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r, int64_t* count) noexcept nogil:
    """The same, and 0 in all other arrays but the logits, which are -inf."""
    cdef int i
    memset(r, 0, sizeof(Rows))
    for i in range(LANES):
        r.logit[i] = -INFINITY
    read_lane_options(t, first, n, r, count)


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
    cdef int detour = 0
    cdef Py_ssize_t left, groups
    cdef Rows r
    cdef Unshifted unshifted
    cdef LaneSums total, z_total
    cdef Product product
    cdef int64_t count = 0
    cdef bint side_by_side = few_classes(t)
    cdef bint weighted = t.weight != NULL or t.sample_weight != NULL
    cdef bint direct = (real is float and side_by_side and t.inner == 1 and plain(t)
                        and (weighted or t.divisor < 1e12))
    # x86-64-v3 gains nothing by it from about 9 classes on.
    cdef bint grouping = (direct and t.hess == NULL
                          and (t.grad == NULL or t.classes <= (WAITING // 2 if FL_WIDE else 8)))
    cdef bint unshifting = real is float and not side_by_side and unshiftable(t)
    cdef bint batching = real is float and not side_by_side and batches(t) and (
        t.classes <= (SUMMED_ROW if t.grad == NULL and t.code == F32 and not has_options(t) else SHORT_ROW))
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
        if grouping and detour == 0 and count != MISTAKEN:
            groups = direct_groups(t, first, min((last - first) // LANES, <Py_ssize_t>(MULTIPLIED - product.factors)),
                                   weighted, &product, &total, &r)
            count += groups * LANES
            first += groups * LANES
            if product.factors == MULTIPLIED:
                add_logarithm(&product, &total)
            if groups > 0:
                continue
        n = min(group, last - first)
        if t.inner == 1 and t.classes <= SHORT_ROW:
            fetch_row_ends(t, first + n)
            fetch_further(t, first, n)
        if direct and detour == 0 and direct_rows(t, first, n, weighted, &product, &count, &r):
            if t.sums != NULL and not weighted:
                if product.factors == MULTIPLIED:
                    add_logarithm(&product, &total)
                first += n
                continue
        elif real is float and t.kind != CROSS_ENTROPY and side_by_side and t.inner == 1:
            softmax_rows(t, first, n)
            first += n
            continue
        elif batching and (t.classes <= SHORT_ROW or not begins_too_large(t, first)):
            # Long rows that need a shift, as their neighbours do, would be summed in vain.
            left = not batched_rows(t, first, n, weighted, &product, &count, &r)
            if product.factors == MULTIPLIED:
                add_logarithm(&product, &total)
            if not left:
                first += n
                continue
        else:
            if side_by_side and real is float:
                if direct:
                    # It was in vain: the next groups do not try. Rows have the same bits both ways.
                    detour = detour - 1 if detour > 0 else DETOUR
                float_lanes(t, first, n, &r, &count)
            elif side_by_side:
                double_lanes(t, first, n, &r, &count)
            else:
                read_row_options(t, first, n, &r, &count)
                left = unshifted_rows(t, first, n, &r, &unshifted) if unshifting else n
                if left > 0:
                    scan_rows(t, first, n, e, &r, <real>0)
                    finish(t, &r)
                    if t.grad != NULL or t.hess != NULL:
                        write_rows(t, first, n, e, &r, <real>0)
                if unshifting:
                    take_losses(&unshifted, &r)
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
    if t.counts != NULL:
        t.counts[block] = count
    if t.sums != NULL:
        t.sums[block] = fold(&total)
    if t.z_sums != NULL:
        t.z_sums[block] = fold(&z_total)


cdef void softmax_block_float(void* task, Py_ssize_t block) noexcept nogil:
    softmax_block(<Softmax*>task, block, <float>0)


cdef void softmax_block_double(void* task, Py_ssize_t block) noexcept nogil:
    softmax_block(<Softmax*>task, block, <double>0)


cdef void keep_losses(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const Rows* r, real tag) noexcept nogil:
    """Losses of n rows to their array, if there is one."""
    cdef real out[LANES]
    cdef int i
    if t.losses != NULL:
        for i in range(LANES):
            out[i] = <real>(r.loss[i] + r.z[i])
        store(t.losses, t.loss_code, first, n, out, False)
