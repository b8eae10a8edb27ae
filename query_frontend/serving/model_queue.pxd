# cython: language_level=3
cimport cython

from query_frontend.serving.waiting cimport BatchClients


cdef class ModelQueue


cdef class Task:
    cdef public double arrival
    cdef public BatchClients clients
    cdef public ModelQueue counting_queue
    cdef public double deadline
    cdef public Task host
    cdef public dict joined
    cdef public object key
    cdef public bytes payload
    cdef public bint queued
    cdef public int sends
    cdef public object sent_at
    cdef public bint is_waiting

    cpdef resolve(self, output, reason, double now)
    cpdef list take_waiting(self)
    cpdef join(self, Task host, ModelQueue counting_queue)
    cpdef Task withdraw(self)


cdef class ModelQueue:
    cdef Py_ssize_t _max_tasks
    cdef long long _max_bytes
    cdef readonly list _entries
    cdef Py_ssize_t _tasks
    cdef long long _bytes
    cdef public Py_ssize_t num_joined

    @cython.locals(entries=list, deadline=double, size="long long")
    cpdef bint put(self, Task task)
    @cython.locals(drawn=list, late=list, in_time=double, looked_at=Py_ssize_t, size="long long", entry=tuple, task=Task)
    cpdef list draw(self, long most, double now, double seconds=*, bint for_relay=*)
    cpdef bint let_join(self, Task task, Task host)
    cpdef drop(self, Task task)
    cpdef put_back(self, Task task)
    cpdef expedite(self, Task task, double deadline)
    cdef _remove(self, Task task)
