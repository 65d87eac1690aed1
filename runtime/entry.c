/* The call of a package whose signature is known, past Python: arrays to addresses, the cache, the
 * kernel. What it does not know, or what any check refuses, goes to the engine, which knows all.
 *
 * Arrays of numpy are read through the buffer protocol, tensors of torch through DLPack's exchange
 * table (torch 2.9 or later). Only the stable interface of Python 3.11 is used.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ARRAYS 24
#define MOST_AXES 12
#define MOST_NUMBERS (4 + MOST_ARRAYS * (4 + 2 * MOST_AXES))
#define MOST_ENTRIES 256
#define NUMPY 0
#define TORCH 1

/* -- DLPack's exchange table, as its header lays it out (version 1) ---------------------------- */

typedef struct {
  int32_t type, id;
} Device;

typedef struct {
  uint8_t code, bits;
  uint16_t lanes;
} Element;

typedef struct {
  void *data;
  Device device;
  int32_t ndim;
  Element dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} DLTensor;

typedef struct {
  uint32_t major, minor;
  void *previous;
  void *allocate, *take, *give;
  int (*look)(void *, DLTensor *);
  void *stream;
} Exchange;

/* -- the table --------------------------------------------------------------------------------- */

typedef int32_t (*Run)(void *const *, const int64_t *, const double *, int32_t);

typedef struct {
  uint64_t hash;
  int count;        /* of numbers */
  int64_t *numbers; /* the signature: family, whether outputs are given, arrays */
  PyObject *given;
  Run run;
  int64_t *ints;
  double *reals;
  int64_t *masks; /* of every array: address bits that must be zero */
  int64_t *spans; /* of every array: lowest and end offset in bytes */
  PyObject *make; /* (args, kwargs or None) of each output */
} Entry;

typedef struct {
  PyObject *type, *second, *empty;     /* types of plain arrays; the function that makes one */
  PyObject *busy;                      /* functions that all have to give a false result or None */
  PyObject *forward;                   /* the module whose _current_level says forward mode */
  PyObject *grad, *threads;            /* is_grad_enabled, get_num_threads */
  Exchange *exchange;
} Family;

typedef struct {
  PyObject_HEAD
  PyObject *slow, *results, *message;
  PyObject *requires_grad, *is_neg, *level;
  int inputs, outputs, threads, fixed, differentiable;
  int64_t aligned; /* bit n: the address of array n is part of the signature */
  Family families[2];
  Entry *entries[MOST_ENTRIES]; /* never replaced: a call in another thread may be using one */
  int count;
} Table;

typedef struct {
  int family, arrays, numbers;
  int64_t number[MOST_NUMBERS];
  char *address[MOST_ARRAYS];
  Py_buffer view[MOST_ARRAYS];
  int views;
} Call;

static void release(Call *c) {
  for (int n = 0; n < c->views; n++) PyBuffer_Release(&c->view[n]);
  c->views = 0;
}

static int64_t format_number(const char *text) {
  uint64_t found = 0;
  if (text == NULL) return 'B';
  for (int n = 0; n < 8 && text[n]; n++) found = found << 8 | (unsigned char)text[n];
  return (int64_t)found;
}

/* 1: the array is read, 0: it needs a closer look */
static int read_numpy(Call *c, PyObject *x, int written) {
  Py_buffer *v = &c->view[c->views];
  if (PyObject_GetBuffer(x, v, written ? PyBUF_RECORDS : PyBUF_RECORDS_RO)) {
    PyErr_Clear();
    return 0;
  }
  c->views++;
  if (v->ndim > MOST_AXES || (v->format && strlen(v->format) > 7)) return 0;
  int64_t *at = c->number + c->numbers;
  *at++ = format_number(v->format);
  *at++ = v->itemsize;
  *at++ = v->ndim;
  for (int n = 0; n < v->ndim; n++) {
    *at++ = v->shape[n];
    *at++ = v->strides[n];
  }
  c->numbers = (int)(at - c->number);
  c->address[c->arrays++] = (char *)v->buf;
  return 1;
}

static int false_attribute(PyObject *x, PyObject *name) {
  PyObject *found = PyObject_GetAttr(x, name);
  if (found == NULL) {
    PyErr_Clear();
    return 0;
  }
  int no = found == Py_False;
  Py_DECREF(found);
  return no;
}

static int false_result(PyObject *x, PyObject *name) {
  PyObject *found = PyObject_CallMethodObjArgs(x, name, NULL);
  if (found == NULL) {
    PyErr_Clear();
    return 0;
  }
  int no = found == Py_False;
  Py_DECREF(found);
  return no;
}

static int read_torch(Table *t, Call *c, PyObject *x, int grad) {
  if (grad && !false_attribute(x, t->requires_grad)) return 0;
  if (!false_result(x, t->is_neg)) return 0;
  DLTensor d;
  if (t->families[TORCH].exchange->look(x, &d)) {
    PyErr_Clear();
    return 0;
  }
  if (d.device.type != 1 || d.ndim > MOST_AXES || (d.ndim && d.strides == NULL)) return 0;
  int64_t *at = c->number + c->numbers;
  *at++ = d.dtype.code;
  *at++ = d.dtype.bits | (int64_t)d.dtype.lanes << 8;
  *at++ = d.ndim;
  for (int n = 0; n < d.ndim; n++) {
    *at++ = d.shape[n];
    *at++ = d.strides[n];
  }
  c->numbers = (int)(at - c->number);
  c->address[c->arrays++] = (char *)d.data + d.byte_offset;
  return 1;
}

/* whether nothing but the kernel has to see a call with tensors of torch */
static int alone(Table *t) {
  Family *f = &t->families[TORCH];
  Py_ssize_t count = PyTuple_Size(f->busy);
  for (Py_ssize_t n = 0; n < count; n++) {
    PyObject *found = PyObject_CallNoArgs(PyTuple_GetItem(f->busy, n));
    if (found == NULL) {
      PyErr_Clear();
      return 0;
    }
    int busy = found != Py_None && PyObject_IsTrue(found) != 0;
    Py_DECREF(found);
    if (busy) return 0;
  }
  PyObject *level = PyObject_GetAttr(f->forward, t->level);
  long deep = level ? PyLong_AsLong(level) : 0;
  Py_XDECREF(level);
  if (PyErr_Occurred()) {
    PyErr_Clear();
    return 0;
  }
  return deep < 0;
}

static int family_of(Table *t, PyObject *x) {
  PyObject *type = (PyObject *)Py_TYPE(x);
  for (int n = 0; n < 2; n++)
    if (t->families[n].type && (type == t->families[n].type || type == t->families[n].second))
      return n;
  return -1;
}

/* 1: `c` holds the signature and the addresses; 0: the call needs a closer look */
static int read_call(Table *t, Call *c, PyObject *inputs, PyObject *outs) {
  c->views = c->arrays = 0;
  if (t->inputs == 0 || PyTuple_Size(inputs) != t->inputs) return 0;
  c->family = family_of(t, PyTuple_GetItem(inputs, 0));
  if (c->family < 0) return 0;
  c->number[0] = c->family;
  c->number[1] = outs != NULL;
  c->numbers = 2;
  int grad = 0;
  if (c->family == TORCH && t->differentiable) {
    PyObject *on = PyObject_CallNoArgs(t->families[TORCH].grad);
    if (on == NULL) {
      PyErr_Clear();
      return 0;
    }
    grad = on != Py_False;
    Py_DECREF(on);
  }
  int total = t->inputs + (outs ? t->outputs : 0);
  for (int n = 0; n < total; n++) {
    int own = n < t->inputs;
    PyObject *x = own ? PyTuple_GetItem(inputs, n) : PyTuple_GetItem(outs, n - t->inputs);
    if (family_of(t, x) != c->family) return 0;
    if (!(c->family == NUMPY ? read_numpy(c, x, !own) : read_torch(t, c, x, grad))) return 0;
    if (t->aligned >> n & 1) {
      uint64_t at = (uint64_t)(uintptr_t)c->address[n], low = at & (~at + 1);
      c->number[c->numbers++] = at == 0 || low > 64 ? 64 : (int64_t)low;
    }
  }
  return c->family == NUMPY || alone(t);
}

static uint64_t hash_of(const int64_t *numbers, int count) {
  uint64_t h = 1469598103934665603u;
  for (int n = 0; n < count; n++) h = (h ^ (uint64_t)numbers[n]) * 1099511628211u;
  return h;
}

static int same_given(PyObject *a, PyObject *b) {
  Py_ssize_t count = PyTuple_Size(a);
  if (count != PyTuple_Size(b)) return 0;
  for (Py_ssize_t n = 0; n < count; n++) {
    PyObject *x = PyTuple_GetItem(a, n), *y = PyTuple_GetItem(b, n);
    if (x == y) continue;
    if (Py_TYPE(x) != Py_TYPE(y)) return 0;
    int same = PyObject_RichCompareBool(x, y, Py_EQ);
    if (same < 0) PyErr_Clear();
    if (same != 1) return 0;
  }
  return 1;
}

static Entry *find(Table *t, Call *c, PyObject *given) {
  uint64_t hash = hash_of(c->number, c->numbers);
  for (int n = 0; n < t->count; n++) {
    Entry *e = t->entries[n];
    if (e->hash == hash && e->count == c->numbers &&
        !memcmp(e->numbers, c->number, sizeof(int64_t) * (size_t)c->numbers) &&
        same_given(e->given, given))
      return e;
  }
  return NULL;
}

/* whether addresses are what the kernel takes, and given outputs lie apart from all else */
static int fits(Entry *e, Call *c, int first_output) {
  for (int n = 0; n < c->arrays; n++)
    if ((int64_t)(uintptr_t)c->address[n] & e->masks[n]) return 0;
  for (int m = first_output; m < c->arrays; m++)
    for (int n = 0; n < m; n++) {
      char *low = c->address[m] + e->spans[2 * m], *end = c->address[m] + e->spans[2 * m + 1];
      char *from = c->address[n] + e->spans[2 * n], *to = c->address[n] + e->spans[2 * n + 1];
      if ((low > from ? low : from) < (end < to ? end : to)) return 0;
    }
  return 1;
}

static PyObject *allocate(Table *t, Entry *e, Call *c) {
  PyObject *made = PyTuple_New(t->outputs);
  if (made == NULL) return NULL;
  for (int n = 0; n < t->outputs; n++) {
    PyObject *how = PyTuple_GetItem(e->make, n), *kwargs = PyTuple_GetItem(how, 1);
    PyObject *x = PyObject_Call(t->families[c->family].empty, PyTuple_GetItem(how, 0),
                                kwargs == Py_None ? NULL : kwargs);
    if (x == NULL || PyTuple_SetItem(made, n, x)) {
      Py_DECREF(made);
      return NULL;
    }
    if (!(c->family == NUMPY ? read_numpy(c, x, 1) : read_torch(t, c, x, 0))) {
      PyErr_SetString(PyExc_RuntimeError, "an array that was just made cannot be read");
      Py_DECREF(made);
      return NULL;
    }
  }
  return made;
}

static PyObject *results_of(Table *t, PyObject *arrays) {
  PyObject *found = arrays;
  if (t->outputs == 1) {
    found = PyTuple_GetItem(arrays, 0);
  } else if (t->results != Py_None) {
    return PyObject_CallObject(t->results, arrays);
  }
  Py_INCREF(found);
  return found;
}

/* call(inputs, given, out, implementation, check) */
static PyObject *table_call(PyObject *self, PyObject *const *args, Py_ssize_t count) {
  Table *t = (Table *)self;
  if (count != 5) {
    PyErr_SetString(PyExc_TypeError, "call takes (inputs, given, out, implementation, check)");
    return NULL;
  }
  PyObject *inputs = args[0], *given = args[1], *outs = NULL, *owned = NULL, *found = NULL;
  Call c;
  c.views = 0;
  if (t->count == 0 || args[3] != Py_None || !PyTuple_Check(inputs) || !PyTuple_Check(given))
    goto slow;
  if (args[2] != Py_None) {
    if (PyTuple_Check(args[2])) {
      outs = args[2];
    } else if (t->outputs == 1 && family_of(t, args[2]) >= 0) {
      outs = owned = PyTuple_Pack(1, args[2]);
      if (outs == NULL) return NULL;
    }
    if (outs == NULL || PyTuple_Size(outs) != t->outputs) goto slow;
  }
  Entry *e = read_call(t, &c, inputs, outs) ? find(t, &c, given) : NULL;
  if (e == NULL || !fits(e, &c, t->inputs)) goto slow;
  PyObject *arrays = outs;
  if (outs == NULL) {
    arrays = owned = allocate(t, e, &c);
    if (owned == NULL || !fits(e, &c, c.arrays)) {
      release(&c);
      if (owned == NULL) return NULL;
      goto slow;
    }
  }
  int32_t threads = t->threads;
  if (c.family == TORCH && !t->fixed) {
    PyObject *number = PyObject_CallNoArgs(t->families[TORCH].threads);
    if (number == NULL) goto done;
    threads = (int32_t)PyLong_AsLong(number);
    Py_DECREF(number);
  }
  int32_t failed;
  Py_BEGIN_ALLOW_THREADS;
  failed = e->run((void *const *)c.address, e->ints, e->reals, threads);
  Py_END_ALLOW_THREADS;
  if (failed) {
    PyErr_SetObject(PyExc_MemoryError, t->message);
  } else {
    found = results_of(t, arrays);
  }
done:
  release(&c);
  Py_XDECREF(owned);
  return found;
slow:
  release(&c);
  Py_XDECREF(owned);
  return PyObject_CallFunctionObjArgs(t->slow, args[0], args[1], args[2], args[3], args[4], NULL);
}

static void *copied(PyObject *bytes) {
  Py_ssize_t size = PyBytes_Size(bytes);
  if (size < 0) return NULL;
  void *memory = malloc(size ? (size_t)size : 1);
  if (memory == NULL) {
    PyErr_NoMemory();
    return NULL;
  }
  memcpy(memory, PyBytes_AsString(bytes), (size_t)size);
  return memory;
}

static void drop(Entry *e) {
  if (e == NULL) return;
  free(e->numbers);
  free(e->ints);
  free(e->reals);
  free(e->masks);
  free(e->spans);
  Py_XDECREF(e->given);
  Py_XDECREF(e->make);
  free(e);
}

/* add(inputs, given, outs or None, run address, ints, reals, masks, spans, make) -> whether kept;
 * numbers as bytes of 64-bit integers and floats */
static PyObject *table_add(PyObject *self, PyObject *args) {
  Table *t = (Table *)self;
  PyObject *inputs, *given, *outs, *ints, *reals, *masks, *spans, *make;
  unsigned long long run;
  if (!PyArg_ParseTuple(args, "O!O!OKSSSSO!", &PyTuple_Type, &inputs, &PyTuple_Type, &given, &outs,
                        &run, &ints, &reals, &masks, &spans, &PyTuple_Type, &make))
    return NULL;
  Call c;
  int known = t->count < MOST_ENTRIES &&
              read_call(t, &c, inputs, outs == Py_None ? NULL : outs) && !find(t, &c, given);
  release(&c);
  if (!known) Py_RETURN_FALSE;
  Entry *e = calloc(1, sizeof *e);
  if (e == NULL) return PyErr_NoMemory();
  size_t size = sizeof(int64_t) * (size_t)c.numbers;
  e->numbers = malloc(size);
  e->ints = copied(ints);
  e->reals = copied(reals);
  e->masks = copied(masks);
  e->spans = copied(spans);
  if (!e->numbers || !e->ints || !e->reals || !e->masks || !e->spans) {
    drop(e);
    return PyErr_Occurred() ? NULL : PyErr_NoMemory();
  }
  memcpy(e->numbers, c.number, size);
  e->count = c.numbers;
  e->hash = hash_of(c.number, c.numbers);
  e->run = (Run)(uintptr_t)run;
  Py_INCREF(given);
  e->given = given;
  Py_INCREF(make);
  e->make = make;
  t->entries[t->count++] = e;
  Py_RETURN_TRUE;
}

/* learn("numpy", ndarray, ndarray, empty) or learn("torch", Tensor, Parameter, empty, (what is
 * busy...), forward_ad, is_grad_enabled, get_num_threads, exchange table) -> whether it is usable */
static PyObject *table_learn(PyObject *self, PyObject *args) {
  Table *t = (Table *)self;
  const char *name;
  PyObject *type, *second, *empty, *busy = NULL, *forward = NULL, *grad = NULL, *threads = NULL;
  PyObject *capsule = NULL;
  if (!PyArg_ParseTuple(args, "sOOO|O!OOOO", &name, &type, &second, &empty, &PyTuple_Type, &busy,
                        &forward, &grad, &threads, &capsule))
    return NULL;
  int n = strcmp(name, "torch") ? NUMPY : TORCH;
  Family *f = &t->families[n];
  if (f->type) Py_RETURN_TRUE;
  if (n == TORCH) {
    Exchange *x = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : NULL;
    PyErr_Clear();
    if (x == NULL || x->major != 1 || x->look == NULL) Py_RETURN_FALSE;
    f->exchange = x;
  }
  Py_INCREF(empty);
  f->empty = empty;
  Py_XINCREF(busy);
  f->busy = busy;
  Py_XINCREF(forward);
  f->forward = forward;
  Py_XINCREF(grad);
  f->grad = grad;
  Py_XINCREF(threads);
  f->threads = threads;
  Py_INCREF(second);
  f->second = second;
  Py_INCREF(type);
  f->type = type;
  Py_RETURN_TRUE;
}

/* Table(slow, results or None, message, inputs, outputs, threads, fixed, differentiable, aligned) */
static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *slow, *results, *message;
  int inputs, outputs, threads, fixed, differentiable;
  long long aligned;
  (void)kwargs;
  if (!PyArg_ParseTuple(args, "OOOiiiiiL", &slow, &results, &message, &inputs, &outputs, &threads,
                        &fixed, &differentiable, &aligned))
    return NULL;
  if (inputs + outputs > MOST_ARRAYS) {
    PyErr_SetString(PyExc_ValueError, "too many arrays");
    return NULL;
  }
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  Table *t = (Table *)make(type, 0);
  if (t == NULL) return NULL;
  Py_INCREF(slow);
  t->slow = slow;
  Py_INCREF(results);
  t->results = results;
  Py_INCREF(message);
  t->message = message;
  t->inputs = inputs;
  t->outputs = outputs;
  t->threads = threads;
  t->fixed = fixed;
  t->differentiable = differentiable;
  t->aligned = aligned;
  t->requires_grad = PyUnicode_InternFromString("requires_grad");
  t->is_neg = PyUnicode_InternFromString("is_neg");
  t->level = PyUnicode_InternFromString("_current_level");
  if (!t->requires_grad || !t->is_neg || !t->level) {
    Py_DECREF(t);
    return NULL;
  }
  return (PyObject *)t;
}

static int table_traverse(PyObject *self, visitproc visit, void *arg) {
  Table *t = (Table *)self;
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(t->slow);
  Py_VISIT(t->results);
  for (int n = 0; n < t->count; n++) {
    Py_VISIT(t->entries[n]->given);
    Py_VISIT(t->entries[n]->make);
  }
  return 0;
}

static int table_clear(PyObject *self) {
  Table *t = (Table *)self;
  Py_CLEAR(t->slow);
  Py_CLEAR(t->results);
  return 0;
}

static void table_dealloc(PyObject *self) {
  Table *t = (Table *)self;
  PyTypeObject *type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  for (int n = 0; n < t->count; n++) drop(t->entries[n]);
  for (int n = 0; n < 2; n++) {
    Family *f = &t->families[n];
    Py_XDECREF(f->type);
    Py_XDECREF(f->second);
    Py_XDECREF(f->empty);
    Py_XDECREF(f->busy);
    Py_XDECREF(f->forward);
    Py_XDECREF(f->grad);
    Py_XDECREF(f->threads);
  }
  Py_XDECREF(t->slow);
  Py_XDECREF(t->results);
  Py_XDECREF(t->message);
  Py_XDECREF(t->requires_grad);
  Py_XDECREF(t->is_neg);
  Py_XDECREF(t->level);
  freefunc release_memory = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release_memory(self);
  Py_DECREF(type);
}

static PyMethodDef table_methods[] = {
    {"call", (PyCFunction)(void (*)(void))table_call, METH_FASTCALL, NULL},
    {"add", table_add, METH_VARARGS, NULL},
    {"learn", table_learn, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_new, (void *)table_new},
    {Py_tp_dealloc, (void *)table_dealloc},
    {Py_tp_traverse, (void *)table_traverse},
    {Py_tp_clear, (void *)table_clear},
    {Py_tp_methods, table_methods},
    {0, NULL},
};

static PyType_Spec table_spec = {
    "_entry.Table", sizeof(Table), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, table_slots};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_entry", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__entry(void) {
  PyObject *made = PyModule_Create(&module);
  if (made == NULL) return NULL;
  PyObject *type = PyType_FromSpec(&table_spec);
  if (type == NULL || PyModule_AddObject(made, "Table", type)) {
    Py_XDECREF(type);
    Py_DECREF(made);
    return NULL;
  }
  return made;
}
