# Column blocks of float32 rows: the largest class of each, and the sum of all others.
#
# A block is read twice, in groups of 64 numbers: for its maximum, and for the sum of its exponentials. Where there are
# registers enough, the first reading of a block is done together with the second one of the block before it: maxima
# find room beside exponentials, and what they read is in the cache when its turn comes.
#
# The classes that are left out, and what lies beyond the end, are -inf in copies of the groups that have them.

cdef enum:
    WIDE = 4 * LANES      # numbers in a group; part of the order of summation
    PART = 4              # groups that have a maximum of their own, so that its place is found soon
    FETCHED = 2048        # numbers from what is read first to what is fetched meanwhile

cdef struct Block:
    float* x                 # [0:n], n <= COLUMNS
    const uint16_t* source   # 16-bit numbers, of which x is made in the first reading; or NULL
    bint half                # they are float16
    Py_ssize_t n
    Py_ssize_t groups
    Py_ssize_t hole          # a class that is left out; -1: none
    Py_ssize_t end_group     # the groups that have copies; -1: none
    Py_ssize_t hole_group
    Py_ssize_t top_group
    float end_copy[64]
    float hole_copy[64]
    float top_copy[64]
    Py_ssize_t done          # groups read for the maximum
    float maxima[256]        # of each part a vector


cdef inline const float* group_at(const Block* b, Py_ssize_t g) noexcept nogil:
    cdef const float* p = b.x + g * WIDE
    p = &b.end_copy[0] if g == b.end_group else p
    p = &b.hole_copy[0] if g == b.hole_group else p
    return &b.top_copy[0] if g == b.top_group else p


cdef inline void leave_out(const Block* b, Py_ssize_t at, float* copy) noexcept nogil:
    """OUT copy: the group of x[at], with -inf in its place."""
    cdef const float* p = group_at(b, at // WIDE)
    cdef vf lane = vf_set(<float>(at % WIDE))
    cdef vf v
    cdef int k
    for k in range(4):
        # Whole vectors are stored: a load waits for a store of a part of it.
        v = vf_if_equal(vf_add(vf_count(), vf_set(<float>(k * LANES))), lane, vf_set(-INFINITY), vf_load(p + k * LANES))
        vf_store(copy + k * LANES, v)


cdef inline void copy_end(Block* b) noexcept nogil:
    cdef Py_ssize_t at = b.n - b.n % WIDE
    cdef int k
    for k in range(4):
        vf_store(b.end_copy + k * LANES, vf_load_part(b.x + at, max(b.n - at, <Py_ssize_t>0), -INFINITY))
        at += LANES
    b.end_group = b.n // WIDE


cdef inline void begin_block(Block* b, float* x, const uint16_t* source, bint half, Py_ssize_t n,
                             Py_ssize_t hole) noexcept nogil:
    b.x = x
    b.source = source
    b.half = half
    b.n = n
    b.groups = (n + WIDE - 1) // WIDE
    b.hole = hole
    b.end_group = -1
    b.hole_group = -1
    b.top_group = -1
    b.done = 0


cdef inline void convert_groups(Block* b, Py_ssize_t first, Py_ssize_t n, bint half) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(first * WIDE, min((first + n) * WIDE, b.n), 16):      # LANES; b.n is whole vectors
        vf_store(b.x + at, vf_from_halves(b.source + at) if half else vf_from_bfloats(b.source + at))


cdef inline void copy_groups(Block* b, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Those of n groups that need it. Not before their turn, when they have been fetched: waiting for them would hold
    up all else."""
    if (first + n) * WIDE > b.n:
        copy_end(b)
    if first * WIDE <= b.hole < (first + n) * WIDE:
        leave_out(b, b.hole, b.hole_copy)
        b.hole_group = b.hole // WIDE


cdef inline void read_groups(Block* b, Py_ssize_t n, bint convert, bint half) noexcept nogil:
    """The maximum of the next n groups, which are a part."""
    cdef const float* p
    cdef vf best_0 = vf_set(-INFINITY), best_1 = vf_set(-INFINITY)
    cdef vf best_2 = vf_set(-INFINITY), best_3 = vf_set(-INFINITY)
    cdef Py_ssize_t g
    if convert:
        convert_groups(b, b.done, n, half)
    copy_groups(b, b.done, n)
    for g in range(b.done, b.done + n):
        p = group_at(b, g)
        best_0 = vf_max(vf_load(p), best_0)
        best_1 = vf_max(vf_load(p + LANES), best_1)
        best_2 = vf_max(vf_load(p + 2 * LANES), best_2)
        best_3 = vf_max(vf_load(p + 3 * LANES), best_3)
    vf_store(b.maxima + b.done // PART * LANES, vf_max(vf_max(best_0, best_1), vf_max(best_2, best_3)))
    b.done += n


cdef void find_top_float(Block* b, float* top, Py_ssize_t* top_at) noexcept nogil:
    """OUT the largest of x but the hole, and the first place that has it, -1 if all are -inf or nan, which is passed
    over: a sum will see it."""
    cdef Py_ssize_t parts = (b.groups + PART - 1) // PART
    cdef Py_ssize_t part, n, g, k
    cdef const float* p
    cdef int lane
    cdef vf best = vf_set(-INFINITY)
    while b.done < b.groups:
        n = min(<Py_ssize_t>PART, b.groups - b.done)
        if b.source == NULL:
            read_groups(b, n, False, False)
        elif b.half:
            read_groups(b, n, True, True)
        else:
            read_groups(b, n, True, False)
    for part in range(parts):
        best = vf_max(vf_load(b.maxima + part * LANES), best)
    top[0] = vf_largest(best)
    top_at[0] = -1
    if top[0] == -INFINITY:
        return
    best = vf_set(top[0])
    for part in range(parts):
        if vf_first_equal(vf_load(b.maxima + part * LANES), best) == LANES:
            continue
        for g in range(part * PART, min(part * PART + PART, b.groups)):
            p = group_at(b, g)
            for k in range(4):
                lane = vf_first_equal(vf_load(p + k * LANES), best)
                if lane < LANES:
                    top_at[0] = g * WIDE + k * LANES + lane
                    return


cdef inline void leave_out_top(Block* b, Py_ssize_t top_at) noexcept nogil:
    """Of the sum; -1: none."""
    if top_at >= 0:
        leave_out(b, top_at, b.top_copy)
        b.top_group = top_at // WIDE


cdef inline vf exp_group(const float* p, const Exponents* k) noexcept nogil:
    cdef vf q = exp_vector(vf_load(p), k.magic, k.floor, k.offsets, k.errors)
    q = vf_add(q, exp_vector(vf_load(p + LANES), k.magic, k.floor, k.offsets, k.errors))
    cdef vf r = exp_vector(vf_load(p + 2 * LANES), k.magic, k.floor, k.offsets, k.errors)
    r = vf_add(r, exp_vector(vf_load(p + 3 * LANES), k.magic, k.floor, k.offsets, k.errors))
    return vf_add(q, r)


cdef inline void fetch_group(const char* ahead, Py_ssize_t g, int size) noexcept nogil:
    """Group g of numbers of 4 or 2 bytes."""
    fl_prefetch(ahead + size * g * WIDE)
    fl_prefetch(ahead + size * g * WIDE + 64)
    if size == 4:
        fl_prefetch(ahead + size * g * WIDE + 128)
        fl_prefetch(ahead + size * g * WIDE + 192)


cdef inline vf exp_of_two(const float* following, const Exponents* k, Two* two) noexcept nogil:
    cdef vf power_0, power_1, t_0, t_1
    two_exp_parts(vf_max(k.floor, vf_load(following)), vf_max(k.floor, vf_load(following + LANES)), k, False, False,
                  two, &power_0, &power_1, &t_0, &t_1)
    return vf_add(vf_fma(power_0, t_0, power_0), vf_fma(power_1, t_1, power_1))


cdef double exp_sum(Block* b, const Shift* shift, const char* ahead, int size, Block* following) noexcept nogil:
    """Sum of e^(x - base) / 2^scale over the block but what is left out.

    Four terms are added in float32 (relative error below 2*2^-24), then all in float64. nan gives nan, -inf counts as
    0. The block that is next is read for its maximum meanwhile; or, if that has no x, numbers of `size` bytes are
    fetched from `ahead` on.
    """
    cdef Exponents k = exponents_of(shift.scale)
    cdef vd sum_0 = vd_set(0.0), sum_1 = vd_set(0.0)
    cdef Two two
    cdef vf q, best, base
    cdef float moved[COLUMNS]
    cdef const float* p
    cdef const float* other
    cdef Py_ssize_t g = 0
    cdef Py_ssize_t i
    if shift.base != 0.0:
        base = vf_set(<float>shift.base)
        for i in range(b.groups):
            p = group_at(b, i)
            vf_store(moved + i * WIDE, vf_sub(vf_load(p), base))
            vf_store(moved + i * WIDE + LANES, vf_sub(vf_load(p + LANES), base))
            vf_store(moved + i * WIDE + 2 * LANES, vf_sub(vf_load(p + 2 * LANES), base))
            vf_store(moved + i * WIDE + 3 * LANES, vf_sub(vf_load(p + 3 * LANES), base))
        b.x = moved
        b.end_group = -1
        b.hole_group = -1
        b.top_group = -1
    if FL_WIDE:
        p = group_at(b, 0)
        two = two_of_nothing()
        exp_of_two(p, &k, &two)
        while g < b.groups:
            if following.x != NULL and b.groups - g >= PART and following.groups - following.done >= PART:
                best = vf_set(-INFINITY)
                if following.source != NULL:
                    convert_groups(following, following.done, PART, following.half)
                copy_groups(following, following.done, PART)
                for i in range(PART):
                    if following.source != NULL:
                        fetch_group(<const char*>(following.source + FETCHED), following.done + i, 2)
                    else:
                        fetch_group(<const char*>(following.x + FETCHED), following.done + i, 4)
                    other = group_at(following, following.done + i)
                    q = exp_of_two(p + 2 * LANES, &k, &two)
                    p = group_at(b, g + 1) if g + 1 < b.groups else p
                    q = vf_add(q, exp_of_two(p, &k, &two))
                    sum_0 = vd_add(sum_0, vd_low(q))
                    sum_1 = vd_add(sum_1, vd_high(q))
                    best = vf_max(vf_max(vf_load(other), vf_load(other + LANES)), best)
                    best = vf_max(vf_max(vf_load(other + 2 * LANES), vf_load(other + 3 * LANES)), best)
                    g += 1
                vf_store(following.maxima + following.done // PART * LANES, best)
                following.done += PART
            else:
                fetch_group(ahead, g, size)
                q = exp_of_two(p + 2 * LANES, &k, &two)
                p = group_at(b, g + 1) if g + 1 < b.groups else p
                q = vf_add(q, exp_of_two(p, &k, &two))
                sum_0 = vd_add(sum_0, vd_low(q))
                sum_1 = vd_add(sum_1, vd_high(q))
                g += 1
    else:
        for g in range(b.groups):
            fetch_group(ahead, g, size)
            q = exp_group(group_at(b, g), &k)
            sum_0 = vd_add(sum_0, vd_low(q))
            sum_1 = vd_add(sum_1, vd_high(q))
    return fold_vectors(sum_0, sum_1)
