# The fast door as methods of the losses: from a call to a kernel without a frame of Python.
#
# A Python function with keyword-only arguments looks up each default that a call leaves out, in a dictionary: nine
# times for cross_entropy, a sixth of the instructions of a small call. Here defaults are copied, and keywords are
# compared as pointers, since names in source code are interned. Calls that are not recognised so go to the Python
# method, what a kernel declines to the friendly door.

from cpython.object cimport PyObject

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        Py_ssize_t tp_vectorcall_offset
        unsigned long tp_flags
    const unsigned long Py_TPFLAGS_HAVE_VECTORCALL
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    object PyObject_Vectorcall(object called, PyObject** args, size_t nargsf, PyObject* names)
    PyObject* PyTuple_GET_ITEM(object values, Py_ssize_t i)
    int PyContextVar_Get(object variable, PyObject* default, PyObject** value) except -1
    void Py_DECREF(PyObject* o)

ctypedef object (*vectorcall_function)(object called, PyObject** args, size_t nargsf, PyObject* names)

cdef enum:
    MOST_ARGUMENTS = 16


cdef class FastMethod:
    """A method of a loss that tries a kernel first. `bound`, the Python method, can do all, and has the docstring and
    the signature; `friendly` is called with the arguments of the kernel where that declines them."""

    cdef vectorcall_function vectorcall
    cdef object bound
    cdef object kernel
    cdef object friendly
    cdef object active         # the context variable of the backend
    cdef object backend        # the one that the kernel belongs to
    cdef tuple names           # of all arguments
    cdef tuple defaults        # of the kernel: the verb, and one for each name
    cdef Py_ssize_t positional

    def __init__(self, bound, kernel, friendly, verb, active, backend):
        code = bound.__code__
        count = code.co_argcount + code.co_kwonlyargcount
        self.vectorcall = call_fast_method
        self.bound = bound
        self.kernel = kernel
        self.friendly = friendly
        self.active = active
        self.backend = backend
        self.names = code.co_varnames[1:count]
        self.positional = code.co_argcount - 1
        options = [bound.__kwdefaults__[name] for name in self.names[self.positional:]]
        if "out" not in self.names:
            options.append(None)
        self.defaults = (verb, *[None] * self.positional, *options)
        if len(self.defaults) > MOST_ARGUMENTS:
            raise ValueError(f"a kernel must have at most {MOST_ARGUMENTS} arguments, not {len(self.defaults)}")

    def __get__(self, instance, owner):
        return self.bound.__func__ if instance is None else self

    def __call__(self, *args, **options):
        return self.bound(*args, **options)

    def __getattr__(self, name):
        return getattr(self.bound, name)

    @property
    def __doc__(self):
        return self.bound.__doc__

    @property
    def __module__(self):
        return self.bound.__module__

    @property
    def __signature__(self):
        from inspect import signature
        return signature(self.bound)

    def __repr__(self):
        return repr(self.bound)

    def __reduce__(self):
        return self.bound.__reduce__()


cdef object call_fast_method(object called, PyObject** args, size_t nargsf, PyObject* names):
    cdef FastMethod method = <FastMethod>called
    cdef PyObject* given[MOST_ARGUMENTS]
    cdef PyObject* backend
    cdef Py_ssize_t count = PyVectorcall_NARGS(nargsf)
    cdef Py_ssize_t keywords = len(<tuple>names) if names != NULL else 0
    cdef Py_ssize_t named = len(method.names)
    cdef Py_ssize_t i, k
    cdef bint usual = count == method.positional
    PyContextVar_Get(method.active, NULL, &backend)
    usual = usual and backend == <PyObject*>method.backend
    Py_DECREF(backend)      # the runtime holds it, too
    if usual:
        for i in range(len(method.defaults)):
            given[i] = PyTuple_GET_ITEM(method.defaults, i)
        for i in range(count):
            given[1 + i] = args[i]
        for k in range(keywords):
            i = count
            while i < named and PyTuple_GET_ITEM(method.names, i) != PyTuple_GET_ITEM(<tuple>names, k):
                i += 1
            if i == named:
                usual = False
                break
            given[1 + i] = args[count + k]
    if usual:
        result = PyObject_Vectorcall(method.kernel, given, len(method.defaults), NULL)
        if result is not NotImplemented:
            return result
        return method.friendly([<object>given[i] for i in range(len(method.defaults))])
    return PyObject_Vectorcall(method.bound, args, nargsf, names)


cdef enable_vectorcall():
    """Cython has no way to say that a class is called like this; see PEP 590."""
    cdef FastMethod method = FastMethod.__new__(FastMethod)
    cdef PyTypeObject* type_of = <PyTypeObject*>FastMethod
    type_of.tp_vectorcall_offset = <char*>&method.vectorcall - <char*><PyObject*>method
    type_of.tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL


enable_vectorcall()
