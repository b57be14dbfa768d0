# The driver: the only way into the kernels, and the one parallel loop.
#
# a) A kernel is a block function: block(task, number) computes one block of rows or of items and touches nothing
#    else. It is plain C: it cannot fail, allocate, raise or see a Python object.
# b) The grid of blocks depends on the shape alone, never on the number of threads, and each block leaves one partial
#    sum. They are added in order, in twice the working precision. Hence the same bits for any number of threads.
# c) Who owns threads: `run`. Small work runs the same blocks in a plain loop, without entering OpenMP (a region
#    with one thread costs as much as the whole of a small call) and without letting go of the GIL.
# d) Who owns memory: the entries below. They check with the C API all that memory safety needs, allocate outputs and
#    partial sums, and sweep labels before anything is written. What they do not recognise at once they leave to
#    fusedloss.arguments by answering NotImplemented; no kernel ever sees memory that was not checked here.
# e) No words for users here: the text of every error has its one home in fusedloss.arguments.

from cython.parallel cimport prange
from cpython.long cimport PyLong_CheckExact, PyLong_AsLongLongAndOverflow, PyLong_AsUnsignedLongLong
from cpython.float cimport PyFloat_Check, PyFloat_AS_DOUBLE
from cpython.unicode cimport PyUnicode_CheckExact
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from libc.stdlib cimport getenv
from cpython.bytearray cimport PyByteArray_AS_STRING

import numpy as np

include "lanes.pxi"
include "registers.pxi"
include "storage.pxi"
include "vectors.pxi"
include "columns.pxi"
include "wide_columns.pxi"
include "items.pxi"
include "weighted_items.pxi"
include "cross_entropy.pxi"
include "shared_lines.pxi"
include "mixing.pxi"
include "long_rows.pxi"
include "column_sums.pxi"
include "side_by_side.pxi"
include "float_lanes.pxi"
include "double_lanes.pxi"
include "unshifted_rows.pxi"
include "batched_rows.pxi"
include "softmax_rows.pxi"
include "pointwise.pxi"
include "door.pxi"

cnp.import_array()


# ---------------------------------------------------------------------------------------------- threads

cdef extern from *:
    """
    #ifdef _OPENMP
      #include <omp.h>
      #define FL_OPENMP _OPENMP
    #else
      #define FL_OPENMP 0
      #define omp_get_max_threads() 1
      #define omp_in_parallel() 0
    #endif
    /* libgomp's threads do not survive a fork: a region in the child would wait for them for ever. Pausing the
       runtime before the fork ends them; the next region makes new ones. Weak: older libraries lack it. */
    #if defined(_OPENMP) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9
      extern int omp_pause_resource_all(omp_pause_resource_t) __attribute__((weak));
      static int fl_pause_openmp(void) { return omp_pause_resource_all ? omp_pause_resource_all(omp_pause_soft) : -1; }
    #else
      static int fl_pause_openmp(void) { return -1; }
    #endif
    #if defined(__clang__)
      #define FL_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
      #define FL_COMPILER "GCC " __VERSION__
    #elif defined(_MSC_VER)
      #define FL_STRING_(x) #x
      #define FL_STRING(x) FL_STRING_(x)
      #define FL_COMPILER "MSVC " FL_STRING(_MSC_VER)
    #else
      #define FL_COMPILER "unknown"
    #endif
    """
    int FL_OPENMP
    const char* FL_COMPILER
    int omp_get_max_threads() noexcept nogil
    int omp_in_parallel() noexcept nogil
    int fl_pause_openmp() noexcept nogil

cdef enum:
    # Fewer rows than this, of at least so many classes, are shared by the threads.
    SHARED_ROWS = 16
    SHARED_CLASSES = 131072
    # Outputs so large that their reader would not find them in a cache anyway: they go past the caches.
    STREAMED_BYTES = 12 << 20
    # Outputs that are not in a core's own caches, as a rule.
    FAR_BYTES = 1 << 20

cdef enum:
    MAX_THREADS = 1024
    # A thread is worth waking for this much work: 10 times what a region of two threads costs.
    NS_PER_THREAD = 25000
    # Less than this is done without letting go of the GIL, which costs about 50 ns.
    NS_WITHOUT_GIL = 10000

cdef int setting = 0               # set_num_threads or FUSEDLOSS_NUM_THREADS; 0: not set
cdef int usable = 1                # CPUs that this process may use
cdef bint openmp_environment = getenv("OMP_NUM_THREADS") != NULL
cdef bint pool_open = False        # a region with several threads has run in this process
cdef bint serial_only = False      # this is a forked child in which a region could hang
cdef bint paused = True            # the pool was paused before the last fork


def configure_threads(int threads, int usable_cpus):
    """Set the package's cap (0: none) and the number of CPUs that this process may use."""
    global setting, usable
    setting = min(threads, <int>MAX_THREADS)
    usable = max(usable_cpus, 1)


def max_threads():
    """Threads that a large call would use now, in this thread."""
    return thread_cap(0)


def openmp():
    """Value of the macro _OPENMP this module was compiled with, 0 without OpenMP."""
    return FL_OPENMP


def compiler():
    """Name and version of the C compiler."""
    return FL_COMPILER.decode()


def quiesce():
    """Before a fork: end the pool of OpenMP, which the child could not use.

    Every thread that has called us has a pool of its own, and this ends the forking thread's, the only thread that the
    child will have. Pools of others may be left, so it is done before each fork.
    """
    global paused
    if pool_open:
        paused = fl_pause_openmp() == 0


def mark_child():
    """In a forked child: if the pool could not be ended, stay serial rather than wait for threads of the parent."""
    global serial_only
    if not paused:
        serial_only = True


cdef int thread_cap(int asked) noexcept:
    """Most threads this call may use. An explicit number overrides all but a child that must stay serial."""
    cdef int cap
    if serial_only or omp_in_parallel():
        return 1
    if asked > 0:
        return min(asked, <int>MAX_THREADS)
    if setting > 0:
        return setting
    # Asked at every call, in the calling thread: threadpoolctl limits are the calling thread's own.
    cap = omp_get_max_threads()
    return cap if openmp_environment else min(cap, usable)


ctypedef void (*block_function)(void* task, Py_ssize_t block) noexcept nogil


cdef void run(block_function block, void* task, Py_ssize_t blocks, int asked, double nanoseconds) noexcept:
    """block(task, 0) ... block(task, blocks - 1), on as many threads as the work is worth."""
    global pool_open
    cdef Py_ssize_t i, neighbours
    cdef double share
    cdef int threads = 1
    if nanoseconds < NS_WITHOUT_GIL:
        for i in range(blocks):
            block(task, i)
        return
    if FL_OPENMP and blocks > 1:
        share = nanoseconds / NS_PER_THREAD
        if share >= 2.0:
            threads = thread_cap(asked)
            threads = <int>min(<double>threads, share, <double>blocks)
    if threads < 2:
        with nogil:
            for i in range(blocks):
                block(task, i)
        return
    pool_open = True
    # Neighbouring blocks go to one thread, where what it has fetched ahead is of use; 16 turns each leave time to
    # even out what one thread loses to others on the machine.
    neighbours = max(<Py_ssize_t>1, blocks // (16 * threads))
    with nogil:
        for i in prange(blocks, num_threads=threads, schedule="dynamic", chunksize=neighbours):
            block(task, i)


# ----------------------------------------------------------------------------------------- reading arguments

cdef enum Verb:
    VALUE = 0
    VALUE_AND_GRAD = 1
    GRAD_AND_HESS = 2

cdef enum Reduction:
    NO_REDUCTION = 0
    MEAN
    SUM
    UNKNOWN_REDUCTION

cdef int bfloat16_number = -1      # of ml_dtypes, which registers it when it is imported


cdef int code_of(cnp.ndarray a) except -2:
    """Code of the array's dtype, -1 if the kernels do not know it."""
    global bfloat16_number
    cdef int number = cnp.PyArray_TYPE(a)
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(a)
    if number == cnp.NPY_FLOAT:
        return F32
    if number == cnp.NPY_DOUBLE:
        return F64
    if number == cnp.NPY_FLOAT16:
        return F16
    if number == cnp.NPY_BOOL:
        return BOOL
    if cnp.PyTypeNum_ISSIGNED(number):
        return I64 if size == 8 else I32 if size == 4 else I16 if size == 2 else I8
    if cnp.PyTypeNum_ISUNSIGNED(number):
        return U64 if size == 8 else U32 if size == 4 else U16 if size == 2 else U8
    if cnp.PyTypeNum_ISUSERDEF(number):
        if bfloat16_number < 0 and size == 2 and a.dtype.name == "bfloat16":
            bfloat16_number = number
        if number == bfloat16_number:
            return BF16
    return -1


cdef inline bint canonical(object a) noexcept:
    """Exactly ndarray, C-contiguous, aligned, native byte order."""
    return (cnp.PyArray_CheckExact(a)
            and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a)
            and cnp.PyArray_ISALIGNED(<cnp.ndarray>a)
            and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>a))


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    return cnp.PyArray_SAMESHAPE(a, b)


cdef bint shape_without(cnp.ndarray rows, cnp.ndarray full, int axis) noexcept:
    """Whether rows has full's shape without one axis."""
    cdef int i
    if cnp.PyArray_NDIM(rows) != cnp.PyArray_NDIM(full) - 1:
        return False
    for i in range(cnp.PyArray_NDIM(rows)):
        if cnp.PyArray_DIM(rows, i) != cnp.PyArray_DIM(full, i if i < axis else i + 1):
            return False
    return True


cdef bint set_operand(Operand* a, object array, cnp.ndarray like) except -1:
    """Fill `a` from an array of the same shape as `like` and of any strides; False if it is not one."""
    cdef int i, code
    cdef cnp.ndarray b
    if not cnp.PyArray_CheckExact(array):
        return False
    b = <cnp.ndarray>array
    if not (cnp.PyArray_ISALIGNED(b) and cnp.PyArray_ISNOTSWAPPED(b) and same_shape(b, like)):
        return False
    code = code_of(b)
    if code < 0:
        return False
    a.data = <const char*>cnp.PyArray_DATA(b)
    a.code = <Code>code
    a.contiguous = cnp.PyArray_IS_C_CONTIGUOUS(b)
    a.rank = cnp.PyArray_NDIM(b)
    a.itemsize = cnp.PyArray_ITEMSIZE(b)
    if not a.contiguous:
        for i in range(a.rank):
            a.shape[i] = cnp.PyArray_DIM(b, i)
            a.strides[i] = cnp.PyArray_STRIDE(b, i)
    return True


# Numbers that double holds; of integers, those that it holds exactly
cdef tuple FLOATS = (float, np.float64, np.float32, np.float16)


cdef bint is_number(object given, double* number) except -1:
    cdef int overflow = 0
    cdef long long n
    if type(given) in FLOATS:
        number[0] = <double>given
        return True
    if not PyLong_CheckExact(given):
        return False
    n = PyLong_AsLongLongAndOverflow(given, &overflow)
    number[0] = <double>n
    return overflow == 0 and -(1 << 53) <= n <= 1 << 53


cdef bint set_weight(Operand* a, object given, cnp.ndarray like) except -1:
    """Fill `a` from a number, or an array that broadcasts to the shape of `like`; False if it is neither."""
    cdef cnp.ndarray b
    cdef int i, code, missing
    cdef Py_ssize_t size
    if not cnp.PyArray_CheckExact(given) and is_number(given, &a.number):
        a.data = <const char*>&a.number
        a.code = F64
        a.contiguous = False
        a.rank = 1
        a.itemsize = sizeof(double)
        a.shape[0] = cnp.PyArray_SIZE(like)
        a.strides[0] = 0
        return True
    if set_operand(a, given, like):
        return True
    if not cnp.PyArray_CheckExact(given) or cnp.PyArray_NDIM(like) == 0:
        return False
    b = <cnp.ndarray>given
    code = code_of(b)
    missing = cnp.PyArray_NDIM(like) - cnp.PyArray_NDIM(b)
    if not (cnp.PyArray_ISALIGNED(b) and cnp.PyArray_ISNOTSWAPPED(b)) or code < 0 or missing < 0:
        return False
    a.data = <const char*>cnp.PyArray_DATA(b)
    a.code = <Code>code
    a.contiguous = False
    a.rank = cnp.PyArray_NDIM(like)
    a.itemsize = cnp.PyArray_ITEMSIZE(b)
    for i in range(a.rank):
        a.shape[i] = cnp.PyArray_DIM(like, i)
        size = cnp.PyArray_DIM(b, i - missing) if i >= missing else 1
        if size != 1 and size != a.shape[i]:
            return False
        a.strides[i] = cnp.PyArray_STRIDE(b, i - missing) if size != 1 else 0
    return True


cdef inline object if_contiguous(object array):
    return array if canonical(array) else None


cdef inline int reduction_of(object name) except -1:
    if not PyUnicode_CheckExact(name):
        return UNKNOWN_REDUCTION
    if name == "mean":
        return MEAN
    if name == "sum":
        return SUM
    if name == "none":
        return NO_REDUCTION
    return UNKNOWN_REDUCTION


cdef inline int threads_of(object num_threads) noexcept:
    """0 for None, -1 for anything but a positive int."""
    cdef int overflow = 0
    cdef long long n
    if num_threads is None:
        return 0
    if not PyLong_CheckExact(num_threads):
        return -1
    n = PyLong_AsLongLongAndOverflow(num_threads, &overflow)
    if overflow > 0 or n > MAX_THREADS:
        return MAX_THREADS
    return <int>n if n >= 1 and overflow == 0 else -1


cdef inline double number_of(object value) noexcept:
    """A float or an int as double, nan for anything else (which every range check then refuses)."""
    if PyFloat_Check(value):
        return PyFloat_AS_DOUBLE(value)
    if PyLong_CheckExact(value):
        return <double>PyLong_AsLongLongAndOverflow(value, &ignored_overflow)
    return NAN

cdef int ignored_overflow = 0


cdef bint overlaps(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the memory of two contiguous arrays meets."""
    cdef const char* p = <const char*>cnp.PyArray_DATA(a)
    cdef const char* q = <const char*>cnp.PyArray_DATA(b)
    if cnp.PyArray_NBYTES(a) == 0 or cnp.PyArray_NBYTES(b) == 0:
        return False
    return p < q + cnp.PyArray_NBYTES(b) and q < p + cnp.PyArray_NBYTES(a)


cdef bint output_fits(object out, cnp.ndarray like, int type_number, bint may_be_like, tuple inputs) except -1:
    """Whether `out` can be written directly: canonical, writeable, of this dtype and of like's shape, and in memory of
    its own, or (may_be_like) exactly that of `like`."""
    cdef object other
    cdef cnp.ndarray a
    if not canonical(out):
        return False
    a = <cnp.ndarray>out
    if not (cnp.PyArray_ISWRITEABLE(a) and cnp.PyArray_TYPE(a) == type_number and same_shape(a, like)):
        return False
    if cnp.PyArray_DATA(a) != cnp.PyArray_DATA(like) or not may_be_like:
        if overlaps(a, like):
            return False
    for other in inputs:
        if other is None:
            continue
        # Only contiguous inputs are compared here; others take the friendly door.
        if not cnp.PyArray_CheckExact(other) or not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>other):
            return False
        if overlaps(a, <cnp.ndarray>other):
            return False
    return True


cdef object empty_like(cnp.ndarray a):
    """C-contiguous, of a's shape and dtype."""
    cdef int number = cnp.PyArray_TYPE(a)
    if cnp.PyTypeNum_ISUSERDEF(number):
        return np.empty_like(a)
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), number, 0)


cdef object empty_rows(cnp.ndarray full, int axis, int type_number):
    """Array of full's shape without one axis."""
    cdef cnp.npy_intp dims[MAX_RANK]
    cdef int i
    cdef int rank = cnp.PyArray_NDIM(full) - 1
    for i in range(rank):
        dims[i] = cnp.PyArray_DIM(full, i if i < axis else i + 1)
    return cnp.PyArray_EMPTY(rank, dims, type_number, 0)


cdef tuple NOTHING = (None, None)      # the outputs of a value


cdef tuple read_outputs(int verb, object out, cnp.ndarray like, tuple inputs):
    """(grad, hess) to write into, made where missing; None if `out` needs the friendly door."""
    cdef object grad = None
    cdef object hess = None
    cdef int number = cnp.PyArray_TYPE(like)
    if verb == VALUE:
        return (None, None) if out is None else None
    if verb == VALUE_AND_GRAD:
        grad = out
    elif out is not None:
        if not PyTuple_CheckExact(out) or PyTuple_GET_SIZE(out) != 2:
            return None
        grad, hess = out
    if grad is None:
        grad = empty_like(like)
    elif not output_fits(grad, like, number, True, inputs):
        return None
    if verb == GRAD_AND_HESS:
        if hess is None:
            hess = empty_like(like)
        elif not output_fits(hess, like, number, True, inputs):
            return None
        if overlaps(<cnp.ndarray>grad, <cnp.ndarray>hess):
            return None
    return grad, hess


cdef double total_of(const Sum* parts, Py_ssize_t n, double divisor) noexcept:
    """Partial sums, added in order, and divided."""
    cdef Sum total
    cdef Py_ssize_t i
    memset(&total, 0, sizeof(Sum))
    for i in range(n):
        add(&total, parts[i].high)
        total.low += parts[i].low
    return quotient(&total, divisor)


cdef object answer(int verb, object value, object grad, object hess):
    if verb == VALUE:
        return value
    if verb == VALUE_AND_GRAD:
        return value, grad
    return grad, hess


# ---------------------------------------------------------------------------------- entries: softmax and its losses

# Nanoseconds of one thread, to choose the number of threads: coarse, measured in cache on a Zen 4 core with AVX-512.
# Computing gradients or Hessians takes about 1.6 times as long, float64 twice.

cdef double softmax_ns(const Softmax* t) noexcept:
    cdef double row
    if few_classes(t):
        row = 15.0 + 1.6 * <double>t.classes
        if plain(t) and t.code != F64 and t.inner == 1:
            row = 5.0 + 0.5 * <double>t.classes
    elif t.classes <= SHORT_ROW and batches(t):
        row = 15.0 + 0.35 * <double>t.classes + (25.0 if has_options(t) else 0.0)
    else:
        row = 55.0 + 0.26 * <double>t.classes
    return <double>t.rows * row * (1.6 if t.grad != NULL or t.hess != NULL else 1.0) * (2.0 if t.code == F64 else 1.0)


cdef double pointwise_ns(const Pointwise* t) noexcept:
    cdef double item = 0.2 if t.kind == MSE_LOSS else 2.5 if t.kind == BINARY_CROSS_ENTROPY else 0.5
    return <double>t.n * item * (1.6 if t.grad != NULL or t.hess != NULL else 1.0) * (2.0 if t.code == F64 else 1.0)


cdef Py_ssize_t product(cnp.ndarray a, int first, int last) noexcept:
    cdef Py_ssize_t n = 1
    cdef int i
    for i in range(first, last):
        n *= cnp.PyArray_DIM(a, i)
    return n


cdef int axis_of(object axis, int rank) noexcept:
    """0 .. rank - 1, or -1."""
    cdef int overflow = 0
    cdef long long n
    if not PyLong_CheckExact(axis):
        return -1
    n = PyLong_AsLongLongAndOverflow(axis, &overflow)
    if overflow or n < -rank or n >= rank:
        return -1
    return <int>(n + rank if n < 0 else n)


cdef bint set_logits(Softmax* t, cnp.ndarray x, int axis) except -1:
    """Geometry of a canonical floating array; False if it has no classes or another dtype."""
    cdef int code = code_of(x)
    if code < F16:
        return False
    t.code = <Code>code
    t.logits = <const char*>cnp.PyArray_DATA(x)
    t.classes = cnp.PyArray_DIM(x, axis)
    t.inner = product(x, axis + 1, cnp.PyArray_NDIM(x))
    t.rows = product(x, 0, axis) * t.inner
    t.divisor = 1.0
    t.z_divisor = 1.0
    return t.classes >= 1


cdef Py_ssize_t choose_blocks(Softmax* t) noexcept:
    """Rows per block, from the shape alone: about 16384 items, so that threads have about the same to do; of short rows
    whole groups of 16, or of the 128 that share a logarithm."""
    cdef Py_ssize_t rows = 16384 // t.classes
    cdef Py_ssize_t group = MULTIPLIED * LANES if rows >= MULTIPLIED * LANES else LANES
    if t.classes <= COLUMNS or t.inner > 1:
        rows = max(rows - rows % group, <Py_ssize_t>LANES)
    t.block_rows = max(rows, <Py_ssize_t>1)
    return (t.rows + t.block_rows - 1) // t.block_rows


cdef bint outputs_reach(Py_ssize_t bytes, Py_ssize_t items, Code code, const char* x, const char* grad,
                        const char* hess) noexcept:
    """Whether outputs are this large, and not in place, where their lines are in the cache already. Results do not
    depend on it."""
    cdef Py_ssize_t outputs = (grad != NULL) + (hess != NULL)
    return items * size_of(code) * outputs >= bytes and grad != x and hess != x


cdef inline bint shares_rows(const Softmax* t) noexcept:
    return t.inner == 1 and t.rows < SHARED_ROWS and t.classes >= SHARED_CLASSES


cdef int run_softmax(Softmax* t, Py_ssize_t blocks, int threads) except -1:
    t.stream = FL_STREAMS and outputs_reach(STREAMED_BYTES, t.rows * t.classes, t.code, t.logits, t.grad, t.hess)
    t.far = not t.stream and outputs_reach(FAR_BYTES, t.rows * t.classes, t.code, t.logits, t.grad, t.hess)
    if shares_rows(t):
        share_rows(t, threads)
    elif t.code == F64:
        run(softmax_block_double, t, blocks, threads, softmax_ns(t))
    else:
        run(softmax_block_float, t, blocks, threads, softmax_ns(t))
    return 0


cdef int share_rows(Softmax* t, int threads) except -1:
    """Few long rows: one after the other, each shared by all threads. The same bits as softmax_block gives."""
    cdef SharedRow s
    cdef Rows r
    cdef RowScan scan
    cdef Unshifted u
    cdef double sum
    cdef Py_ssize_t groups = groups_of(t)
    cdef bint wide = t.code == F64
    cdef bint done
    cdef double ns = softmax_ns(t) / <double>t.rows
    cdef int64_t counted = 0      # before
    memory = bytearray(groups * sizeof(RowScan))
    s.parts = <RowScan*>PyByteArray_AS_STRING(memory)
    s.softmax = t
    s.rows = &r
    for s.row in range(t.rows):
        read_row_options(t, s.row, 1, &r, &counted)
        s.label = label_of(t, &r, 0)
        done = False
        if r.label[0] != IGNORED and unshiftable(t):
            begin_unshifted(t, s.row, 1, &r, &u)
            if t.soft:
                run(shared_target, &s, groups, threads, ns)
                find_hole(t, s.row, s.parts, &r, &u, 0)
            s.hole = u.hole[0]
            if may_go_unshifted(t, s.row, &r, &u, 0):
                run(shared_sum, &s, groups, threads, ns)
                done = (sum_row(t, s.row, s.hole, s.parts, NULL, &sum, &u.most[0])
                        and take_sum(t, sum, &u, &r, 0))
            if done and has_options(t):
                set_reference(r.logit[0], s.hole >= 0 and u.hole_term[0] >= u.rest[0], &r, 0)
                if mixes(t):
                    run(shared_mix, &s, groups, threads, ns)
                    mix_row(t, s.row, s.parts, &r, 0)
                take_options(t, &u, &r, 0)
        if r.label[0] != IGNORED and not done:
            run(shared_scan_double if wide else shared_scan_float, &s, groups, threads, ns)
            merge_parts(&s)
            scan = s.parts[0]
            keep_scan(t, s.row, &scan, &r, 0)
        if not done:
            finish(t, &r)
        else:
            finish_row(t, s.row, &u, &r, 0)
        if t.grad != NULL or t.hess != NULL:
            run(shared_write_double if wide else shared_write_float, &s, groups, threads, ns)
        if done:
            r.label[0] = DONE
            set_unshifted_losses(t, &r, &u)
            take_losses(&u, &r)
        if wide:
            keep_losses(t, s.row, 1, &r, <double>0)
        else:
            keep_losses(t, s.row, 1, &r, <float>0)
        if t.sums != NULL:
            t.sums[s.row].high = r.loss[0]
            t.sums[s.row].low = 0.0
        if t.z_sums != NULL:
            t.z_sums[s.row].high = r.z[0]
            t.z_sums[s.row].low = 0.0
    return 0


cdef int take_census(Softmax* t, int threads, bint mean) except -1:
    """Check all labels and set the divisors of the mean. 0 if a label is out of range."""
    cdef Census few[64]
    cdef CensusTask task
    cdef Py_ssize_t blocks, i
    cdef Sum weights, samples
    cdef bint bad = False
    task.softmax = t
    task.block_rows = 8192
    blocks = (t.rows + task.block_rows - 1) // task.block_rows
    task.parts = few
    if blocks > 64:
        memory = bytearray(blocks * sizeof(Census))
        task.parts = <Census*>PyByteArray_AS_STRING(memory)
    run(census_block, &task, blocks, threads, <double>t.rows * (1.0 if t.weight == NULL else 4.0))
    memset(&weights, 0, sizeof(Sum))
    memset(&samples, 0, sizeof(Sum))
    for i in range(blocks):
        bad = bad or task.parts[i].bad
        add(&weights, task.parts[i].weights.high)
        add(&samples, task.parts[i].samples.high)
        weights.low += task.parts[i].weights.low
        samples.low += task.parts[i].samples.low
    if mean:
        t.divisor = value_of(&weights)
        t.z_divisor = value_of(&samples)
    return not bad


cdef double sum_weights(const Softmax* t) noexcept:
    """W, the sum of the class weights."""
    cdef Sum total
    cdef Py_ssize_t c
    if t.weight == NULL:
        return <double>t.classes
    memset(&total, 0, sizeof(Sum))
    for c in range(t.classes):
        add(&total, load_one(t.weight, t.weight_code, c))
    return value_of(&total)


cdef bint set_ignore_index(Softmax* t, object ignore_index) except -1:
    """Compare labels and ignore_index as mathematical integers; False if it is not exactly an int, or if it is not
    negative although the target holds probabilities."""
    cdef int overflow = 0
    cdef long long n
    if not PyLong_CheckExact(ignore_index):
        return False
    n = PyLong_AsLongLongAndOverflow(ignore_index, &overflow)
    if t.soft:
        return overflow < 0 or (overflow == 0 and n < 0)
    t.ignoring = overflow == 0 and not (n < 0 and t.target_code == U64)
    t.ignore_index = n
    if overflow > 0 and t.target_code == U64 and ignore_index < 2**64:
        t.ignoring = True
        t.ignore_index = <int64_t>PyLong_AsUnsignedLongLong(ignore_index)
    return True


cdef int64_t sum_of_counts(const int64_t* counts, Py_ssize_t blocks) noexcept:
    cdef int64_t total = 0
    cdef Py_ssize_t i
    for i in range(blocks):
        if counts[i] == MISTAKEN:
            return MISTAKEN
        total += counts[i]
    return total


def cross_entropy(verb, logits, target, weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction, axis,
                  num_threads, out):
    """Softmax cross-entropy; the contract is in fusedloss.backends."""
    cdef Softmax t
    cdef int v = verb
    cdef int r, code, along, threads
    cdef Py_ssize_t blocks
    cdef Py_ssize_t parts = 0      # sums of each block
    cdef double value
    cdef object grad, hess, rows
    cdef bint counting
    cdef int64_t counted
    cdef Sum few[128]
    cdef int64_t few_counts[64]
    cdef Sum* sums = few
    cdef int64_t* counts = few_counts

    memset(&t, 0, sizeof(Softmax))
    t.kind = CROSS_ENTROPY
    r = reduction_of(reduction)
    threads = threads_of(num_threads)
    t.smoothing = number_of(label_smoothing)
    t.z_loss = number_of(z_loss)
    if (r == UNKNOWN_REDUCTION or threads < 0 or not 0.0 <= t.smoothing <= 1.0 or not 0.0 <= t.z_loss < INFINITY
            or not canonical(logits) or not canonical(target)):
        return NotImplemented
    along = axis_of(axis, cnp.PyArray_NDIM(<cnp.ndarray>logits))
    if along < 0 or not set_logits(&t, <cnp.ndarray>logits, along):
        return NotImplemented

    code = code_of(<cnp.ndarray>target)
    if code <= BOOL:
        return NotImplemented
    t.target = <const char*>cnp.PyArray_DATA(<cnp.ndarray>target)
    t.target_code = <Code>code
    t.soft = code >= F16
    if not set_ignore_index(&t, ignore_index):
        return NotImplemented
    if t.soft:
        if not same_shape(<cnp.ndarray>target, <cnp.ndarray>logits):
            return NotImplemented
    elif not shape_without(<cnp.ndarray>target, <cnp.ndarray>logits, along):
        return NotImplemented

    if weight is not None:
        if not canonical(weight):
            return NotImplemented
        code = code_of(<cnp.ndarray>weight)
        if (code < 0 or cnp.PyArray_NDIM(<cnp.ndarray>weight) != 1
                or cnp.PyArray_DIM(<cnp.ndarray>weight, 0) != t.classes):
            return NotImplemented
        t.weight = <const char*>cnp.PyArray_DATA(<cnp.ndarray>weight)
        t.weight_code = <Code>code
    if sample_weight is not None:
        if not canonical(sample_weight):
            return NotImplemented
        code = code_of(<cnp.ndarray>sample_weight)
        if code < 0 or not shape_without(<cnp.ndarray>sample_weight, <cnp.ndarray>logits, along):
            return NotImplemented
        t.sample_weight = <const char*>cnp.PyArray_DATA(<cnp.ndarray>sample_weight)
        t.sample_code = <Code>code

    grad = hess = None
    if v != VALUE or out is not None:      # else no tuples for a small call
        outputs = read_outputs(v, out, <cnp.ndarray>logits, (target, weight, sample_weight))
        if outputs is None:
            return NotImplemented
        grad, hess = outputs
    # Before anything is written to outputs, which a mistake must leave alone. A value counts on the way.
    counting = v == VALUE and not t.soft and t.weight == NULL and t.sample_weight == NULL and not shares_rows(&t)
    if not counting and not take_census(&t, threads, r == MEAN):
        return NotImplemented

    if t.smoothing > 0.0:
        t.weight_sum = sum_weights(&t)
    if grad is not None:
        t.grad = <char*>cnp.PyArray_DATA(<cnp.ndarray>grad)
    if hess is not None:
        t.hess = <char*>cnp.PyArray_DATA(<cnp.ndarray>hess)
    blocks = choose_blocks(&t)
    if v != GRAD_AND_HESS and r != NO_REDUCTION:
        parts = 2 if t.z_loss > 0.0 else 1
    if blocks > 64:
        memory = bytearray(blocks * (parts * sizeof(Sum) + (sizeof(int64_t) if counting else 0)))
        sums = <Sum*>PyByteArray_AS_STRING(memory)
        counts = <int64_t*>(sums + parts * blocks)
    if counting:
        t.counts = counts
    rows = None
    if v != GRAD_AND_HESS:
        if r == NO_REDUCTION:
            rows = empty_rows(<cnp.ndarray>logits, along, cnp.NPY_DOUBLE if t.code == F64 else cnp.NPY_FLOAT)
            t.losses = <char*>cnp.PyArray_DATA(<cnp.ndarray>rows)
            t.loss_code = F64 if t.code == F64 else F32
        else:
            t.sums = sums
            if t.z_loss > 0.0:
                t.z_sums = sums + blocks
    run_softmax(&t, blocks, threads)
    if counting:
        counted = sum_of_counts(counts, blocks)
        if counted == MISTAKEN:
            return NotImplemented
        if r == MEAN:
            t.divisor = <double>counted
            t.z_divisor = t.divisor
    if t.sums == NULL:
        return answer(v, rows, grad, hess)
    value = total_of(t.sums, blocks, t.divisor)
    if t.z_sums != NULL:
        value += total_of(t.z_sums, blocks, t.z_divisor)
    return answer(v, value, grad, hess)


cdef object softmax_entry(Kind kind, object x, object axis, object num_threads, object out):
    cdef Softmax t
    cdef int along, number
    cdef int threads = threads_of(num_threads)
    cdef cnp.ndarray a, result
    memset(&t, 0, sizeof(Softmax))
    t.kind = kind
    if threads < 0 or not canonical(x):
        return NotImplemented
    a = <cnp.ndarray>x
    along = axis_of(axis, cnp.PyArray_NDIM(a))
    if along < 0 or not set_logits(&t, a, along):
        return NotImplemented
    number = cnp.PyArray_TYPE(a)
    if kind == LOGSUMEXP:
        if out is None:
            # Made by NumPy, since dtypes of other packages have no C constructor.
            result = np.empty(empty_rows(a, along, cnp.NPY_BOOL).shape, a.dtype)
        elif (canonical(out) and shape_without(<cnp.ndarray>out, a, along) and not overlaps(<cnp.ndarray>out, a)
                and cnp.PyArray_TYPE(<cnp.ndarray>out) == number and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)):
            result = <cnp.ndarray>out
        else:
            return NotImplemented
        t.losses = <char*>cnp.PyArray_DATA(result)
        t.loss_code = t.code
    else:
        if out is None:
            result = empty_like(a)
        elif output_fits(out, a, number, True, ()):
            result = <cnp.ndarray>out
        else:
            return NotImplemented
        t.grad = <char*>cnp.PyArray_DATA(result)
    run_softmax(&t, choose_blocks(&t), threads)
    return result


def softmax(x, axis, num_threads, out):
    """e^x / sum e^x along an axis."""
    return softmax_entry(SOFTMAX, x, axis, num_threads, out)


def log_softmax(x, axis, num_threads, out):
    """x - logsumexp(x) along an axis."""
    return softmax_entry(LOG_SOFTMAX, x, axis, num_threads, out)


def logsumexp(x, axis, num_threads, out):
    """log sum e^x along an axis."""
    return softmax_entry(LOGSUMEXP, x, axis, num_threads, out)


# ------------------------------------------------------------------------------- entries: pointwise losses, functions

cdef void run_pointwise(Pointwise* t, Py_ssize_t blocks, int threads) noexcept:
    t.stream = FL_STREAMS and outputs_reach(STREAMED_BYTES, t.n, t.code, t.x,
                                            t.grad if t.values == NULL else t.values, t.hess)
    if t.code == F64:
        run(pointwise_block_double, t, blocks, threads, pointwise_ns(t))
    else:
        run(pointwise_block_float, t, blocks, threads, pointwise_ns(t))


cdef Py_ssize_t blocks_of_items(Py_ssize_t n) noexcept:
    return (n + ITEMS - 1) // ITEMS


cdef bint targets_are_binary(const Operand* target, Py_ssize_t n, int threads) except -1:
    """Whether an integer target holds nothing but 0 and 1."""
    cdef char few[256]
    cdef Sweep sweep
    cdef Py_ssize_t blocks = blocks_of_items(n)
    sweep.operand = target
    sweep.n = n
    sweep.sums = NULL
    sweep.bad = few
    if blocks > 256:
        memory = bytearray(blocks)
        sweep.bad = PyByteArray_AS_STRING(memory)
    run(zero_or_one_block, &sweep, blocks, threads, 0.05 * <double>n * <double>target.itemsize)
    return not any_set(sweep.bad, blocks)


cdef int sum_operand(const Operand* operand, Py_ssize_t n, bint wide, int threads, double* total) except -1:
    """Sum of a weight array; `wide`: good to the last bit of float64."""
    cdef Sum few[128]
    cdef Sweep sweep
    cdef Py_ssize_t blocks = blocks_of_items(n)
    sweep.operand = operand
    sweep.n = n
    sweep.bad = NULL
    sweep.sums = few
    if blocks > 128:
        memory = bytearray(blocks * sizeof(Sum))
        sweep.sums = <Sum*>PyByteArray_AS_STRING(memory)
    run(sum_block_double if wide else sum_block_float, &sweep, blocks, threads, 0.3 * <double>n)
    total[0] = total_of(sweep.sums, blocks, 1.0)
    return 0


cdef object pointwise_entry(PointwiseKind kind, object verb, object x, object target, object weight,
                            object pos_weight, object reduction, object num_threads, object out):
    cdef Pointwise t
    cdef int v = verb
    cdef int r = reduction_of(reduction)
    cdef int code
    cdef int threads = threads_of(num_threads)
    cdef cnp.ndarray a
    cdef object grad, hess, values
    cdef Py_ssize_t blocks
    cdef double value = 0.0
    cdef bint in_place, wide
    cdef Sum few[128]
    cdef char few_bad[128]
    cdef Sum* sums = few
    # The operands' shapes are filled only where they are used: 1 KiB each is not cleared for every small call.
    t.kind = kind
    t.weight.data = NULL
    t.pos_weight.data = NULL
    t.values = NULL
    t.grad = NULL
    t.hess = NULL
    t.sums = NULL
    t.bad = few_bad
    t.divisor = 1.0

    if r == UNKNOWN_REDUCTION or threads < 0 or not canonical(x) or not canonical(target):
        return NotImplemented
    a = <cnp.ndarray>x
    code = code_of(a)
    if code < F16:
        return NotImplemented
    t.code = <Code>code
    t.x = <const char*>cnp.PyArray_DATA(a)
    t.n = cnp.PyArray_SIZE(a)
    if (not set_operand(&t.target, target, a)
            or weight is not None and not (set_operand(&t.weight, weight, a) if kind == MSE_LOSS
                                           else set_weight(&t.weight, weight, a))
            or pos_weight is not None and not set_weight(&t.pos_weight, pos_weight, a)):
        return NotImplemented
    outputs = NOTHING
    if v != VALUE or out is not None:
        outputs = read_outputs(v, out, a, (target, if_contiguous(weight), if_contiguous(pos_weight)))
        if outputs is None:
            return NotImplemented
    if out is not None and (strided_overlap(outputs, weight) or strided_overlap(outputs, pos_weight)):
        return NotImplemented
    grad, hess = outputs
    in_place = ((grad is not None and cnp.PyArray_DATA(<cnp.ndarray>grad) == cnp.PyArray_DATA(a))
                or (hess is not None and cnp.PyArray_DATA(<cnp.ndarray>hess) == cnp.PyArray_DATA(a)))
    # Without outputs of the caller's, which a mistake must leave alone, the kernels look for other integers themselves.
    if (out is not None and kind != MSE_LOSS and BOOL < t.target.code < F16
            and not targets_are_binary(&t.target, t.n, threads)):
        return NotImplemented

    blocks = blocks_of_items(t.n)
    if blocks > 128:
        memory = bytearray(blocks * (sizeof(Sum) + 1))
        sums = <Sum*>PyByteArray_AS_STRING(memory)
        t.bad = <char*>(sums + blocks)
    if kind != MSE_LOSS:
        memset(t.bad, 0, blocks)
        if in_place and kind == BINARY_CROSS_ENTROPY:
            # Results would replace probabilities before a bad one among them is found: a pass that only looks.
            run_pointwise(&t, blocks, threads)
            if any_set(t.bad, blocks):
                return NotImplemented

    if r == MEAN:
        t.divisor = <double>t.n
        if kind == MSE_LOSS and weight is not None:
            wide = t.code == F64 or t.weight.code not in (F16, BF16, F32)
            sum_operand(&t.weight, t.n, wide, threads, &t.divisor)
    if grad is not None:
        t.grad = <char*>cnp.PyArray_DATA(<cnp.ndarray>grad)
    if hess is not None:
        t.hess = <char*>cnp.PyArray_DATA(<cnp.ndarray>hess)
    values = None
    if v != GRAD_AND_HESS:
        if r == NO_REDUCTION:
            values = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a),
                                       cnp.NPY_DOUBLE if t.code == F64 else cnp.NPY_FLOAT, 0)
            t.values = <char*>cnp.PyArray_DATA(<cnp.ndarray>values)
        else:
            t.sums = sums
    run_pointwise(&t, blocks, threads)
    if t.sums != NULL:
        value = total_of(t.sums, blocks, t.divisor)
    if kind != MSE_LOSS and any_set(t.bad, blocks):
        return NotImplemented
    return answer(v, values if r == NO_REDUCTION else value, grad, hess)


cdef bint any_set(const char* flags, Py_ssize_t n) noexcept:
    cdef Py_ssize_t i
    for i in range(n):
        if flags[i]:
            return True
    return False


cdef bint strided_overlap(tuple outputs, object weight) except -1:
    """Whether a weight that is not contiguous may lie in the memory of an output."""
    cdef object output
    if not cnp.PyArray_CheckExact(weight) or canonical(weight):
        return False
    for output in outputs:
        if output is not None and np.may_share_memory(output, weight):
            return True
    return False


def binary_cross_entropy_with_logits(verb, logits, target, weight, pos_weight, reduction, num_threads, out):
    """Binary cross-entropy of logits; the contract is in fusedloss.backends."""
    return pointwise_entry(BINARY_CROSS_ENTROPY_WITH_LOGITS, verb, logits, target, weight, pos_weight, reduction,
                           num_threads, out)


def binary_cross_entropy(verb, probs, target, weight, reduction, num_threads, out):
    """Binary cross-entropy of probabilities."""
    return pointwise_entry(BINARY_CROSS_ENTROPY, verb, probs, target, weight, None, reduction, num_threads, out)


def mse_loss(verb, input, target, weight, reduction, num_threads, out):
    """Squared error."""
    return pointwise_entry(MSE_LOSS, verb, input, target, weight, None, reduction, num_threads, out)


cdef object function_entry(PointwiseKind kind, object x, object num_threads, object out):
    cdef Pointwise t
    cdef int code
    cdef int threads = threads_of(num_threads)
    cdef object result = out
    if threads < 0 or not canonical(x):
        return NotImplemented
    code = code_of(<cnp.ndarray>x)
    if code < F16:
        return NotImplemented
    if out is None:
        result = empty_like(<cnp.ndarray>x)
    elif not output_fits(out, <cnp.ndarray>x, cnp.PyArray_TYPE(<cnp.ndarray>x), True, ()):
        return NotImplemented
    t.kind = kind
    t.code = <Code>code
    t.x = <const char*>cnp.PyArray_DATA(<cnp.ndarray>x)
    t.n = cnp.PyArray_SIZE(<cnp.ndarray>x)
    t.values = <char*>cnp.PyArray_DATA(<cnp.ndarray>result)
    t.grad = NULL
    t.hess = NULL
    t.sums = NULL
    run_pointwise(&t, blocks_of_items(t.n), threads)
    return result


def sigmoid(x, num_threads, out):
    """1 / (1 + e^-x)."""
    return function_entry(SIGMOID, x, num_threads, out)


def log_sigmoid(x, num_threads, out):
    """log sigmoid(x)."""
    return function_entry(LOG_SIGMOID, x, num_threads, out)


def softplus(x, num_threads, out):
    """log(1 + e^x)."""
    return function_entry(SOFTPLUS, x, num_threads, out)


# ------------------------------------------------------------------------------------------------------- for tests

def exp(x):
    """e^x by the vectors that the kernels are made of, so that tests can hold each of its results to its bound.

    An array of float32 or float64 whose size is a multiple of 16. Results that are no normal numbers, or nearly too
    large for one, are unspecified: the kernels choose their scale so that there are none that count.
    """
    cdef Exponents k
    cdef DoubleExp doubles
    cdef vd a, b
    cdef cnp.ndarray given, result
    cdef Py_ssize_t i
    cdef float* floats
    cdef double* wide
    if not canonical(x) or code_of(<cnp.ndarray>x) < F32 or cnp.PyArray_SIZE(<cnp.ndarray>x) % LANES:
        return NotImplemented
    given = <cnp.ndarray>x
    result = empty_like(given)
    if code_of(given) == F32:
        k = exponents_of(0.0)
        floats = <float*>cnp.PyArray_DATA(given)
        for i in range(0, cnp.PyArray_SIZE(given), LANES):
            vf_store(<float*>cnp.PyArray_DATA(result) + i,
                     exp_vector(vf_load(floats + i), k.magic, k.floor, k.offsets, k.errors))
        return result
    doubles = double_exp(0.0)
    wide = <double*>cnp.PyArray_DATA(given)
    for i in range(0, cnp.PyArray_SIZE(given), LANES):
        a = vd_load(wide + i)
        b = vd_load(wide + i + 8)
        exp_vectors(&a, &b, &doubles)
        vd_store(<double*>cnp.PyArray_DATA(result) + i, a)
        vd_store(<double*>cnp.PyArray_DATA(result) + i + 8, b)
    return result
