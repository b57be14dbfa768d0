# Long rows: one at a time, their classes side by side; and one row that threads share.
#
# Those of float32 come here only if unshifted_rows.pxi and batched_rows.pxi cannot have them.

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
    cdef WideBlock wide
    label = label - column if column <= label < column + n else -1

    if real is float:
        x = here.x
        find_top_float(here, &top, &top_at)
    else:
        x = <const real*>t.logits + row * t.classes + column
        begin_wide_block(&wide, x, n, label)
        find_top_wide(&wide, &top, &top_at)
    if t.kind == LOG_SOFTMAX and top_at >= 0:
        # log p of the top is a sum that the second may be most of: it, too, is added with more digits.
        if real is float:
            begin_block(here, <float*>x, NULL, False, n, top_at)
            find_top_float(here, &second, &second_at)
        else:
            begin_wide_block(&wide, x, n, top_at)
            find_top_wide(&wide, &second, &second_at)
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
        leave_out_wide_top(&wide, second_at if t.kind == LOG_SOFTMAX else top_at)
        exp_sum_wide(&wide, &out.shift, second if t.kind == LOG_SOFTMAX and top_at >= 0 else top, e, &out.others)
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
    if mixes(t):
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


cdef inline void mark_nan_beside_infinity(const Softmax* t, Py_ssize_t first, Py_ssize_t n, Rows* r) noexcept nogil:
    """Maxima of logsumexp, which pass over nan."""
    cdef int i
    for i in range(<int>n):
        if r.maximum[i] == INFINITY and row_has_nan(t, first + i):
            r.maximum[i] = NAN


cdef inline int next_lane(const Rows* r, int lane, Py_ssize_t n) noexcept nogil:
    """From `lane` on, the first that takes part; n if there is none."""
    while lane < n and r.label[lane] < 0:
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
    cdef double size = max(p_factor, -p_factor)
    return (size > 9.1e-13) & (size < 1.1e12)


cdef inline bint hess_from_grad(const Rows* r, int lane) noexcept nogil:
    """Whether the Hessian is g - g p: no z-loss, and p = g / p_factor."""
    return r.pp_factor[lane] == 0.0 and holds(r.p_factor[lane])


cdef inline How how_of(const Rows* r, int lane) noexcept nogil:
    return UNSHIFTED if r.unshifted[lane] else SHIFTED


cdef inline void write_line(float* out, const float* values, Py_ssize_t n) noexcept nogil:
    """Past the caches if it is a whole line."""
    if n == LANES and (<size_t>out & 63) == 0:
        vf_stream(out, vf_load(values))
    else:
        memcpy(out, values, n * sizeof(float))


cdef void write_entries(const float* x, Py_ssize_t n, const ScaledExp* scaled, float* out, float* hess, float back,
                        const float* ahead, bint stream) noexcept nogil:
    """write_scaled_exp, or write_logarithms."""
    if scaled.how == LOGARITHMS:
        write_logarithms(x, n, scaled, out, ahead, stream)
    else:
        write_scaled_exp(x, n, scaled, out, hess, back, ahead, stream)


cdef void write_plain(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t last, const Rows* r, int lane,
                      const ScaledExp* scaled, const float* kept, SharedLines* lines) noexcept nogil:
    """Gradient and Hessian of a plain loss of float32, the softmax or its logarithm, of a row's columns column..last.
    The entries of label and peak, which have formulae of their own, are put where they belong. kept: NULL, or what
    write_scaled_exp takes instead of logits. lines: of whole rows of up to STAGED classes, or NULL."""
    cdef const float* logits = <const float*>t.logits + row * t.classes
    cdef const float* x = logits if kept == NULL else kept
    cdef float* g = <float*>t.grad + row * t.classes
    cdef float* h = NULL
    cdef float back = 0.0
    cdef float special = <float>r.special[lane]
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] if t.kind == CROSS_ENTROPY else -1
    cdef Py_ssize_t peak = -1
    cdef float g_line[LANES]
    cdef float h_line[LANES]
    cdef Py_ssize_t stop, end
    cdef bint apart
    cdef vf g_lines[66]      # STAGED numbers, and a line at both ends
    cdef vf h_lines[66]
    cdef float* g_numbers = <float*>g_lines
    cdef float* h_numbers = <float*>h_lines
    cdef float* part
    cdef float* h_part = NULL
    # Reading, which would pause while outputs are written, goes on with the rows that are next. Three quarters of the
    # second-level cache are enough for these and those.
    cdef const float* ahead = logits
    if r.unshifted[lane] and t.classes <= COLUMNS:
        ahead = logits + t.classes
    elif t.stream and t.classes <= 65536:
        ahead = logits + (LANES if t.classes <= COLUMNS else 1) * t.classes
    if t.kind == LOG_SOFTMAX:
        label = <Py_ssize_t>r.peak[lane]
        special = <float>-r.log_total[lane]
    if t.hess != NULL:
        h = <float*>t.hess + row * t.classes
        back = <float>(1.0 / r.p_factor[lane])
        peak = <Py_ssize_t>r.peak[lane]
    if t.stream and lines != NULL:
        # By way of a copy, with label and peak: three calls for the parts of a short row take longer, too.
        part = begin_row(&lines.grad, g, g_numbers)
        if h != NULL:
            h_part = begin_row(&lines.hess, h, h_numbers)
        write_entries(x, last, scaled, part, h_part, back, ahead, False)
        part[label] = special
        end_row(&lines.grad, g, g_numbers, last)
        if h != NULL:
            if peak >= 0:
                h_part[peak] = <float>hessian_at_peak(r, lane)
            end_row(&lines.hess, h, h_numbers, last)
        return
    while column < last:
        # Lines that go past the caches cannot be touched again without waiting for them: those of label and peak are
        # put together apart.
        stop = next_stop(column, label, peak, last) if t.stream else last
        end = stop
        if stop < last:
            end = max(column, stop - place_in_line(g + stop, sizeof(float)))
        apart = end == column and stop < last
        if apart:
            end = min(last, column + LANES)
            write_entries(x + column, end - column, scaled, g_line, h_line if h != NULL else NULL, back,
                          ahead + column, False)
            if column <= label < end:
                g_line[label - column] = special
            if column <= peak < end:
                h_line[peak - column] = <float>hessian_at_peak(r, lane)
            write_line(g + column, g_line, end - column)
            if h != NULL:
                write_line(h + column, h_line, end - column)
        else:
            write_entries(x + column, end - column, scaled, g + column, h + column if h != NULL else NULL, back,
                          ahead + column, t.stream)
            if column <= label < end:
                g[label] = special
            if column <= peak < end:
                h[peak] = <float>hessian_at_peak(r, lane)
        column = end


cdef void write_few_halves(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, const Rows* r, int lane,
                           const ScaledExp* scaled, Py_ssize_t label, Py_ssize_t peak) noexcept nogil:
    """write_plain of up to 32 columns of 16 bits, in float32 and then as part of a line."""
    cdef float x[32]
    cdef float g[32]
    cdef float h[32]
    cdef uint16_t line[32]
    cdef Py_ssize_t start = row * t.classes + column
    load(t.logits, t.code, start, n, &x[0])
    write_scaled_exp(x, n, scaled, g, h if t.hess != NULL else NULL, <float>(1.0 / r.p_factor[lane]), x, False)
    if column <= label < column + n:
        g[label - column] = <float>r.special[lane]
    store_halves(t, t.grad, start, n, g, line)
    if t.hess != NULL:
        if column <= peak < column + n:
            h[peak - column] = <float>hessian_at_peak(r, lane)
        store_halves(t, t.hess, start, n, h, line)


cdef inline void store_halves(const Softmax* t, char* data, Py_ssize_t first, Py_ssize_t n, const float* values,
                              uint16_t* line) noexcept nogil:
    """`store` of up to 32 numbers of 16 bits, which has no stores past the caches; line is scratch."""
    if t.stream:
        store(<char*>line, t.code, 0, n, values, False)
        fl_stream(data + 2 * first, <const char*>line, 2 * n)
    else:
        store(data, t.code, first, n, values, False)


cdef void write_plain_halves(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t last, const Rows* r,
                             int lane, const ScaledExp* scaled) noexcept nogil:
    """write_plain of rows of 16 bits that need no shift, where they lie."""
    cdef const uint16_t* x = <const uint16_t*>t.logits + row * t.classes
    cdef uint16_t* g = <uint16_t*>t.grad + row * t.classes
    cdef uint16_t* h = NULL
    cdef const uint16_t* ahead = x
    cdef Py_ssize_t label = <Py_ssize_t>r.label[lane] if t.kind == CROSS_ENTROPY else -1
    cdef Py_ssize_t peak = -1
    cdef Py_ssize_t stop, place, n
    cdef bint stream = t.stream
    if t.stream and t.classes <= 131072:
        # As write_plain has it.
        ahead = x + t.classes
    if t.hess != NULL:
        h = <uint16_t*>t.hess + row * t.classes
        peak = <Py_ssize_t>r.peak[lane]
        stream = stream and ((<size_t>g ^ <size_t>h) & 63) == 0
    while column < last:
        # The lines of label and peak are put together apart, and so is what is less than a line.
        place = place_in_line(g + column, 2)
        stop = next_stop(column, label, peak, last)
        n = stop - column
        if stop < last:
            n = max(n - place_in_line(g + stop, 2), <Py_ssize_t>0)
        n -= n % (32 if stream else LANES)
        if n == 0 or (stream and place > 0):
            n = min(last - column, 32 - place)
            write_few_halves(t, row, column, n, r, lane, scaled, label, peak)
        else:
            write_scaled_halves(x + column, n, scaled, t.code, g + column, h + column if h != NULL else NULL,
                                <float>(1.0 / r.p_factor[lane]), ahead + column, stream)
        column += n


cdef inline void write_probabilities(const real* x, Py_ssize_t n, const Rows* r, int lane, real* p) noexcept nogil:
    """p[0:n] of a row; nan if it has no softmax."""
    cdef double inverse = 1.0 / r.total[lane]
    cdef ScaledExp scaled
    cdef ScaledDoubleExp wide
    cdef Py_ssize_t i
    if real is float:
        if set_scaled_exp(&scaled, inverse, r.base[lane], r.scale[lane], how_of(r, lane)):
            write_scaled_exp(x, n, &scaled, p, NULL, 0.0, x, False)
            return
    else:
        if set_scaled_double_exp(&wide, inverse, 0.0, r.base[lane], r.scale[lane]):
            write_scaled_double_exp(x, n, &wide, p)
            return
    for i in range(n):
        p[i] = <real>inverse


cdef void write_chunk(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t n, const double* e,
                      const float* kept, const Rows* r, int lane, real tag) noexcept nogil:
    """Gradient and Hessian entries of up to CHUNK columns of a row; what is read of x is read before anything is
    stored. e: the exponentials of a float64 row, kept: what a float32 row has instead; NULL if they were not kept."""
    cdef real buffer[CHUNK]
    cdef real g[CHUNK]
    cdef real h[CHUNK]
    cdef real targets[CHUNK]
    cdef double weights[CHUNK]
    cdef const real* target = NULL
    cdef const double* w = NULL
    cdef real* out = g
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
    cdef bint in_floats = False
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
        if t.grad != NULL and t.code == F64 and not t.stream and not mixes(t):
            # Where they belong; past the caches lines take less time all at once.
            out = <real*>t.grad + start
        for i in range(n):
            out[i] = fma(e[column + i], factor, fma(e[column + i], leftover, e[KEPT + column + i] * factor))
    elif real is float and kept != NULL and set_kept(&scaled, factor):
        in_floats = True
        write_scaled_exp(kept + column, n, &scaled, <float*>g, NULL, 0.0, <const float*>x, False)
    elif real is float and set_scaled_exp(&scaled, factor, r.base[lane], r.scale[lane], how_of(r, lane)):
        in_floats = True
        write_scaled_exp(<const float*>x, n, &scaled, <float*>g, NULL, 0.0, <const float*>x, False)
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
        if t.kind == CROSS_ENTROPY:
            special = r.special[lane]
            if mixes(t):
                if t.weight != NULL:
                    w = load(t.weight, t.weight_code, column, n, weights)
                if t.soft:
                    target = load(t.target, t.target_code, start, n, targets)
                    label = <Py_ssize_t>r.apart[lane] - column
                    if 0 <= label < n:
                        # Before anything is written: out may be x.
                        special = mixed_at_top(&mix, r, lane, x[label], target[label], 1.0 if w == NULL else w[label])
                if size_of(t.code) == sizeof(real) and not t.stream:
                    out = <real*>t.grad + start
                if real is float and in_floats and mixes_floats(t, r, lane):
                    # As write_mixed_chunk has it, to the bit.
                    mix_floats(t, <const float*>x if kept == NULL else kept + column, <const float*>target, n, r, lane,
                               &scaled, <float*>out, NULL)
                else:
                    mix_gradient(target, w, n, &mix, q_factor, g, out)
            if 0 <= label < n:
                out[label] = <real>special
        if out == g:
            store(t.grad, t.code, start, n, g, t.stream)
    if t.hess != NULL:
        store(t.hess, t.code, start, n, h, t.stream)


cdef inline double peak_hessian(double e, double e_low, double rest, double rest_low, double p_factor,
                                double pp_factor) noexcept nogil:
    """A p (1 - p) + B p^2 with p = E / S, 1 - p = T / S and S = E + T: no cancellation where p is near 1.

    E T / S^2 carries the rounding errors of sum, product and square.
    """
    cdef double s = e + rest
    cdef double back = s - e
    cdef double s_low = (e - (s - back)) + (rest - back) + (e_low + rest_low)
    cdef double product = e * rest
    cdef double product_low = fma(e, rest, -product) + fma(e, rest_low, rest * e_low)
    cdef double square = s * s
    cdef double square_low = fma(s, s, -square) + 2.0 * s * s_low
    cdef double q = product / square
    cdef double p = e / s
    q += (fma(-q, square, product) + product_low - q * square_low) / square
    return p_factor * q + pp_factor * p * p


cdef inline double hessian_at_peak(const Rows* r, int lane) noexcept nogil:
    """At the largest logit."""
    # log_total is nan where the row has no softmax, which `rest` alone does not show.
    return one_nan(peak_hessian(r.peak_term[lane], r.peak_low[lane], r.rest_of_peak[lane], r.rest_of_peak_low[lane],
                                r.p_factor[lane], r.pp_factor[lane]) + 0.0 * r.log_total[lane])


cdef void hessians_at_peaks(const Rows* r, double* out) noexcept nogil:
    """hessian_at_peak of 16 rows, in lanes."""
    cdef int i
    for i in range(LANES):
        out[i] = one_nan(peak_hessian(r.peak_term[i], r.peak_low[i], r.rest_of_peak[i], r.rest_of_peak_low[i],
                                      r.p_factor[i], r.pp_factor[i]) + 0.0 * r.log_total[i])


cdef inline double soft_gradient_at_maximum(const Rows* r, int lane, double p, double q) noexcept nogil:
    """c ((Q - q) p - q (1 - p)) + z part, with 1 - p = rest / S: no cancellation for one-hot targets."""
    cdef double c = r.q_factor[lane]
    cdef double own = c * ((r.q_sum[lane] - q) * p - q * (r.rest[lane] / r.total[lane]))
    return own + r.extra[lane] * p


cdef void write_rows(const Softmax* t, Py_ssize_t first, Py_ssize_t n, const double* e, const Rows* r,
                     real tag) noexcept nogil:
    """Outputs of n rows. e: as scan_rows has it."""
    cdef int lane
    for lane in range(<int>n):
        if r.label[lane] != DONE:
            # Of the next row: this one's comes too late.
            fetch_row_ends(t, first + lane + 2)
            write_columns(t, first + lane, 0, t.classes, NULL if e == NULL else e + lane * t.classes, NULL, r, lane,
                          NULL, tag)


cdef inline Py_ssize_t chunk_to_line(const Softmax* t, Py_ssize_t row, Py_ssize_t column,
                                     Py_ssize_t last) noexcept nogil:
    """How many of a row's columns column..last are written next: of an output past the caches, up to where a line
    ends."""
    cdef Py_ssize_t n = CHUNK
    cdef Py_ssize_t size = size_of(t.code)
    if t.stream and t.grad != NULL and last - column > CHUNK:
        n -= place_in_line(t.grad + (row * t.classes + column) * size, size)
    return min(n, last - column)


cdef void write_columns(const Softmax* t, Py_ssize_t row, Py_ssize_t column, Py_ssize_t last, const double* e,
                        const float* kept, const Rows* r, int lane, SharedLines* lines, real tag) noexcept nogil:
    """Outputs of a row's columns column..last. e, kept: as write_chunk has them; lines: as write_plain has them."""
    cdef Py_ssize_t start = (row * t.classes + column) * size_of(t.code)
    cdef Py_ssize_t size = (last - column) * size_of(t.code)
    cdef double factor = r.p_factor[lane] / r.total[lane]
    cdef bint in_floats = True
    cdef ScaledExp scaled
    cdef Py_ssize_t n
    if r.label[lane] == IGNORED:
        if t.grad != NULL:
            memset(t.grad + start, 0, size)
        if t.hess != NULL:
            memset(t.hess + start, 0, size)
        return
    if t.kind == LOG_SOFTMAX and t.code == F32 and -LARGE < r.maximum[lane] < LARGE:
        set_logarithms(&scaled, r.maximum[lane], one_nan(r.log_total[lane]))
        write_plain(t, row, column, last, r, lane, &scaled, NULL, lines)
        return
    if real is float and t.kind != LOG_SOFTMAX:
        # Powers are of use whether a Hessian is wanted, too, or not: gradients have the same bits.
        if not (holds(r.p_factor[lane]) or r.p_factor[lane] == 0.0):
            kept = NULL
        if kept == NULL or not set_kept(&scaled, factor):
            kept = NULL
            in_floats = set_scaled_exp(&scaled, factor, r.base[lane], r.scale[lane], how_of(r, lane))
        if in_floats and mixes_floats(t, r, lane) and (t.hess == NULL or hess_from_grad(r, lane)):
            while column < last:
                n = chunk_to_line(t, row, column, last)
                write_mixed_chunk(t, row, column, n, r, lane, &scaled, kept, lines)
                column += n
            return
        if in_floats and not mixes(t) and (t.hess == NULL or hess_from_grad(r, lane)):
            if t.code == F32:
                write_plain(t, row, column, last, r, lane, &scaled, kept, lines)
                return
            if kept != NULL:
                write_converted(t, row, r, lane, &scaled, kept)
                return
            if FL_CONVERTS and scaled.how == UNSHIFTED:
                write_plain_halves(t, row, column, last, r, lane, &scaled)
                return
    while column < last:
        n = chunk_to_line(t, row, column, last)
        write_chunk(t, row, column, n, e, kept, r, lane, tag)
        column += n


# ------------------------------------------------------------------------------- one row, shared by the threads

cdef struct SharedRow:
    Softmax* softmax
    Py_ssize_t row
    Py_ssize_t label
    Py_ssize_t hole       # as unshifted_rows.pxi has it
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
    write_columns(s.softmax, s.row, group * GROUP, min((group + 1) * GROUP, s.softmax.classes), NULL, NULL,
                  s.rows, 0, NULL, <float>0)
    fl_fence()


cdef void shared_write_double(void* task, Py_ssize_t group) noexcept nogil:
    cdef SharedRow* s = <SharedRow*>task
    write_columns(s.softmax, s.row, group * GROUP, min((group + 1) * GROUP, s.softmax.classes), NULL, NULL,
                  s.rows, 0, NULL, <double>0)
    fl_fence()


cdef void merge_parts(SharedRow* s) noexcept nogil:
    """All parts into the first, in order."""
    cdef Py_ssize_t group
    for group in range(1, groups_of(s.softmax)):
        merge(s.parts, s.parts + group)
