/* Checks each access of a launch: within its memory, ordered after those that it depends on.

   Clang calls __sanitizer_cov_load* and store* before each access. For each byte of the buffers and
   threadgroup variables a cell says who wrote and read it last, and in which epoch: a barrier whose
   flags name that memory begins a new one for its threadgroup, or for its simdgroup. Two accesses
   of which one writes are a race unless one thread makes both, or a barrier lies between them;
   across groups nothing orders them but atomics. A simdgroup's loads and stores of matrices are made
   by no lane in particular, so that another lane's access next to them needs a barrier too. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ = 1, WRITTEN = 2, ATOMIC = 4 };
/* Who: a thread, a whole simdgroup's matrix, several lanes of a simdgroup, several simdgroups. */
enum { MATRIX = 1024, SEVERAL = 2048, ALL = 4096, NONE = 8192 };
enum { SEVERAL_GROUPS = 0xffffffffu };

typedef struct {
    uint32_t write_epoch, write_step, write_group;
    uint32_t read_epoch, read_step, read_group;
    uint16_t writer, reader;
    uint8_t seen;
} Cell;

typedef struct {
    uint64_t from, to; /* the memory; a buffer's pages reach from open to close */
    uint64_t open, close;
    Cell* cells;
    int kind; /* MEM_DEVICE or MEM_THREADGROUP */
    int number;
} Range;

static Range ranges[MAX_SLOTS + MAX_SHARED];
static int count;
static uint64_t shared_from, shared_to; /* threadgroup variables and the gaps between them */
static uint32_t epochs[3]; /* by MEM_... */
static uint32_t steps[MAX_THREADS / LANES][3];
static uint64_t read_bytes[MAX_SLOTS], written_bytes[MAX_SLOTS];

uint64_t emu_bytes_read(int slot) { return read_bytes[slot]; }
uint64_t emu_bytes_written(int slot) { return written_bytes[slot]; }

static void add(uint64_t from, uint64_t size, int kind, int number) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    Range* r = &ranges[count++];
    *r = (Range){from, from + size, from, from + size, 0, kind, number};
    if (kind == MEM_DEVICE) {
        r->open = from / page * page - GUARD;
        r->close = (from + size + page - 1) / page * page + GUARD;
    }
    r->cells = calloc(size ? size : 1, sizeof(Cell));
    for (uint64_t i = 0; i < size; i++) r->cells[i].writer = r->cells[i].reader = NONE;
}

void trace_begin(const Launch* launch) {
    count = 0;
    memset(epochs, 0, sizeof epochs);
    memset(steps, 0, sizeof steps);
    for (int i = 0; i < MAX_SLOTS; i++) {
        int known = launch->slots[i] == 0;
        for (int k = 0; k < count; k++) known |= ranges[k].from == launch->slots[i];
        if (!known) add(launch->slots[i], launch->sizes[i], MEM_DEVICE, i);
    }
    shared_from = UINT64_MAX;
    shared_to = 0;
    for (uint32_t i = 0; i < launch->shared_count; i++) {
        const uint64_t from = launch->shared[i], to = (from + launch->shared_sizes[i] + 15) & ~15ull;
        add(from, launch->shared_sizes[i], MEM_THREADGROUP, i);
        if (from < shared_from) shared_from = from;
        if (to > shared_to) shared_to = to;
    }
}

void trace_end(void) {
    memset(read_bytes, 0, sizeof read_bytes);
    memset(written_bytes, 0, sizeof written_bytes);
    for (int k = 0; k < count; k++) {
        Range* r = &ranges[k];
        for (uint64_t i = 0; r->kind == MEM_DEVICE && i < r->to - r->from; i++) {
            read_bytes[r->number] += (r->cells[i].seen & READ) != 0;
            written_bytes[r->number] += (r->cells[i].seen & WRITTEN) != 0;
        }
        free(r->cells);
    }
    count = 0;
}

void trace_group(void) {
    epochs[MEM_DEVICE]++;
    epochs[MEM_THREADGROUP]++;
}

void trace_barrier(int flags) {
    for (int kind = MEM_DEVICE; kind <= MEM_THREADGROUP; kind++)
        if (flags & kind) epochs[kind]++;
}

void trace_simd_barrier(int simd, int flags) {
    for (int kind = MEM_DEVICE; kind <= MEM_THREADGROUP; kind++)
        if (flags & kind) steps[simd][kind]++;
}

static int simd_of(int who) {
    if (who < MATRIX) return who / LANES;
    if (who < ALL) return who % MATRIX;
    return NOBODY;
}

/* Whether an access is ordered before what `me` does now. */
static int ordered(
    const Range* r, int who, uint32_t epoch, uint32_t step, uint32_t in_group, int me) {
    if (who == NONE) return 1;
    if (in_group != current_group()) return r->kind == MEM_THREADGROUP;
    if (epoch != epochs[r->kind] || who == me) return 1;
    const int simd = simd_of(me);
    return simd_of(who) == simd && step != steps[simd][r->kind];
}

static const char* place(const Range* r) {
    return r->kind == MEM_DEVICE ? "buffer" : "threadgroup variable";
}

static void race(const Range* r, uint64_t at, const char* what, int who) {
    fail("race: byte %llu of %s %d %s (thread %d)", (unsigned long long)at, place(r), r->number,
         what, who < MATRIX ? who : NOBODY);
}

static void note_reader(Cell* c, int kind, uint32_t epoch, uint32_t step, int me) {
    const int first = c->reader == NONE, simd = simd_of(me);
    const int same = !first && c->read_group == current_group() && c->read_epoch == epoch;
    if (!same || (simd_of(c->reader) == simd && c->read_step != step))
        c->reader = me; /* the readers before are ordered before it, or this one stands for them */
    else if (c->reader != me)
        c->reader = simd_of(c->reader) == simd ? SEVERAL + simd : ALL;
    if (kind == MEM_DEVICE && !first && c->read_group != current_group())
        c->read_group = SEVERAL_GROUPS;
    else
        c->read_group = current_group();
    c->read_epoch = epoch;
    c->read_step = step;
}

static void check(Range* r, uint64_t at, int access, int me) {
    Cell* c = &r->cells[at];
    const uint32_t epoch = epochs[r->kind], step = steps[simd_of(me)][r->kind];
    const int both_atomic = access & ATOMIC && c->seen & ATOMIC;
    if (!both_atomic && !ordered(r, c->writer, c->write_epoch, c->write_step, c->write_group, me))
        race(r, at, access & WRITTEN ? "is written by two threads, no barrier between"
                                     : "is read, no barrier after the thread that wrote it",
             c->writer);
    if (access & WRITTEN && !(both_atomic && c->reader == NONE) &&
        !ordered(r, c->reader, c->read_epoch, c->read_step, c->read_group, me))
        race(r, at, "is written, no barrier after the thread that read it", c->reader);
    if (access & READ && r->kind == MEM_THREADGROUP &&
        (c->writer == NONE || c->write_group != current_group()))
        fail("byte %llu of threadgroup variable %d is read before anything wrote it",
             (unsigned long long)at, r->number);
    c->seen = (c->seen & ~ATOMIC) | access;
    if (access & WRITTEN) {
        c->writer = me;
        c->write_epoch = epoch;
        c->write_step = step;
        c->write_group = current_group();
    } else if (!(access & ATOMIC)) {
        note_reader(c, r->kind, epoch, step, me);
    }
}

static void touch(uint64_t address, uint32_t bytes, int access, int me) {
    for (int k = 0; k < count; k++) {
        Range* r = &ranges[k];
        if (address < r->open || address >= r->close) continue;
        if (address < r->from || address + bytes > r->to)
            fail("outside of its memory: bytes %lld to %lld of %s %d, which has %llu",
                 (long long)(address - r->from), (long long)(address - r->from + bytes - 1), place(r),
                 r->number, (unsigned long long)(r->to - r->from));
        for (uint32_t i = 0; i < bytes; i++) check(r, address - r->from + i, access, me);
        return;
    }
    if (address >= shared_from && address < shared_to)
        fail("outside of its memory: between the threadgroup variables");
}

void trace_atomic(uint64_t address, int writes) {
    touch(address, 4, READ | ATOMIC | (writes ? WRITTEN : 0), current_thread());
}

void prim_touch_matrix(uint64_t address, uint32_t bytes, int write) {
    touch(address, bytes, write ? WRITTEN : READ, MATRIX + current_thread() / LANES);
}

#define TRACE(bytes) \
    void __sanitizer_cov_load##bytes(void* p) { touch((uint64_t)p, bytes, READ, current_thread()); } \
    void __sanitizer_cov_store##bytes(void* p) { \
        touch((uint64_t)p, bytes, WRITTEN, current_thread()); \
    }
TRACE(1) TRACE(2) TRACE(4) TRACE(8) TRACE(16)
