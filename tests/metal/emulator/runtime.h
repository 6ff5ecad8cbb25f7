/* What the parts of the runtime share. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { LANES = 32, MAX_THREADS = 1024, MAX_SLOTS = 31, MAX_SHARED = 64, NOBODY = -1 };
enum { GUARD = 256 << 10 }; /* closed bytes on both sides of a buffer */
enum { MEM_DEVICE = 1, MEM_THREADGROUP = 2 }; /* metal::mem_flags */

/* One launch, as library.py fills it in. */
typedef struct {
    void (*entry)(const uint64_t* slots, const uint32_t* ids);
    const uint64_t* slots; /* MAX_SLOTS addresses of buffers, 0 where there is none */
    const uint64_t* sizes; /* their bytes */
    const uint64_t* shared; /* addresses of the threadgroup variables */
    const uint64_t* shared_sizes;
    uint32_t shared_count, groups, threads;
    uint32_t order; /* of threads and groups: 0 up, 1 down, else a permutation */
    uint32_t traced; /* whether each access is checked (the kernel was compiled for it) */
    uint32_t flush; /* whether subnormal floats are zero */
} Launch;

/* Stops the running thread and the launch; the text is what emu_error() says. */
void fail(const char* format, ...) __attribute__((noreturn, format(printf, 1, 2)));
int current_thread(void);
uint32_t current_group(void);

/* trace.c */
void trace_begin(const Launch* launch);
void trace_end(void);
void trace_group(void);
void trace_barrier(int flags);
void trace_simd_barrier(int simd, int flags);
void trace_atomic(uint64_t address, int writes);
