/* Runs a compiled Metal kernel on the CPU: each thread of a threadgroup is a fiber.

   A fiber runs until it reaches an operation of its simdgroup (a shuffle, a matrix product, a
   simdgroup barrier) or a threadgroup barrier, or returns. Lanes that meet at an operation go on
   together; a launch fails where lanes wait at different operations, or where some wait and others
   have returned. Threadgroup memory starts as 0xff bytes: NaN as a float, -1 as an integer. */
#include "runtime.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* emu_switch(save, to): keeps what a call must preserve on this stack, goes on with another. */
void emu_switch(void** save, void* to);
#if defined(__x86_64__)
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size emu_switch,.-emu_switch\n");
enum { FRAME_WORDS = 8, START_WORD = 6 }; /* six registers, where to return to, a false caller */
static uint32_t flush_on(void) {
    uint32_t old, new;
    __asm__ volatile("stmxcsr %0" : "=m"(old));
    new = old | 0x8040; /* flush to zero, denormals are zero */
    __asm__ volatile("ldmxcsr %0" : : "m"(new));
    return old;
}
static void flush_restore(uint32_t old) { __asm__ volatile("ldmxcsr %0" : : "m"(old)); }
#elif defined(__aarch64__)
__asm__(".text\n.globl emu_switch\n.type emu_switch,%function\nemu_switch:\n"
        "sub sp,sp,#160\n"
        "stp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
        "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
        "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
        "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
        "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
        "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
        "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
        "add sp,sp,#160\nret\n"
        ".size emu_switch,.-emu_switch\n");
enum { FRAME_WORDS = 20, START_WORD = 11 }; /* x30 is where to return to */
static uint32_t flush_on(void) {
    uint64_t old;
    __asm__ volatile("mrs %0,fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr,%0" : : "r"(old | (1 << 24)));
    return (uint32_t)old;
}
static void flush_restore(uint32_t old) { __asm__ volatile("msr fpcr,%0" : : "r"((uint64_t)old)); }
#else
#error "the emulator knows x86-64 and arm64"
#endif

enum { STACK = 128 << 10, IDS = 23, SLOT_BYTES = 16 };
enum State { READY, AT_SIMD, AT_GROUP, DONE };
enum { SIMD_BARRIER = 100, MATRIX = 101 }; /* operations beside those of metal_stdlib */

typedef struct {
    void* stack;
    enum State state;
    uint32_t operation, flags, exchanges;
    uint32_t ids[IDS];
} Fiber;

typedef struct {
    _Alignas(16) uint8_t slots[2][LANES][SLOT_BYTES]; /* one is read while the other is filled */
    float sums[2][64];
} Simd;

static Fiber fibers[MAX_THREADS];
static Simd simds[MAX_THREADS / LANES];
static uint8_t lane_order[LANES];
static char* stacks;
static const Launch* launch;
static void* scheduler;
static int running = NOBODY;
static uint32_t group;
static int failed;
static char message[512];

int current_thread(void) { return running; }
uint32_t current_group(void) { return group; }
const char* emu_error(void) { return message; }

static void describe(const char* format, va_list arguments) {
    int used = 0;
    if (running != NOBODY)
        used = snprintf(message, sizeof message, "thread %d of group %u: ", running, group);
    vsnprintf(message + used, sizeof message - used, format, arguments);
    failed = 1;
}

static void leave(void) {
    void* unused;
    emu_switch(&unused, scheduler);
    abort();
}

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    describe(format, arguments);
    va_end(arguments);
    leave();
    abort();
}

static int refuse(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    running = NOBODY;
    describe(format, arguments);
    va_end(arguments);
    return -1;
}

static void start(void) {
    launch->entry(launch->slots, fibers[running].ids);
    fibers[running].state = DONE;
    leave();
}

static void wait_as(enum State state) {
    Fiber* self = &fibers[running];
    self->state = state;
    emu_switch(&self->stack, scheduler);
}

/* ---- what kernels call ---- */

uint32_t prim_lane(void) { return running % LANES; }

void prim_threadgroup_barrier(int flags) {
    fibers[running].flags = flags;
    wait_as(AT_GROUP);
}

void prim_simdgroup_barrier(int flags) {
    fibers[running].operation = SIMD_BARRIER;
    fibers[running].flags = flags;
    wait_as(AT_SIMD);
}

static uint32_t meet(uint64_t value, uint32_t bytes, uint32_t operation) {
    Fiber* self = &fibers[running];
    const uint32_t turn = self->exchanges++ & 1;
    memcpy(simds[running / LANES].slots[turn][running % LANES], (void*)value, bytes);
    self->operation = operation;
    wait_as(AT_SIMD);
    return turn;
}

uint64_t prim_exchange(uint64_t value, uint32_t bytes, uint32_t operation) {
    Simd* simd = &simds[running / LANES];
    return (uint64_t)simd->slots[meet(value, bytes, operation)];
}

uint64_t prim_multiply(uint64_t elements) {
    Simd* simd = &simds[running / LANES];
    return (uint64_t)simd->sums[meet(elements, 16, MATRIX)];
}

uint32_t prim_atomic(uint64_t address, uint32_t operation, uint32_t x) {
    uint32_t* at = (uint32_t*)address;
    if (launch->traced) trace_atomic(address, operation != 0);
    const uint32_t old = *at;
    switch (operation) {
        case 1: *at = x; break;
        case 2: *at = old + x; break;
        case 3: *at = old | x; break;
        case 4: *at = old > x ? old : x; break;
        case 5: *at = (int32_t)old > (int32_t)x ? old : x; break;
        case 6: *at = old < x ? old : x; break;
        case 7: *at = (int32_t)old < (int32_t)x ? old : x; break;
    }
    return old;
}

/* Functions of floats: as exact as libm's, or as inexact as Metal's fast math may be (the
   specification's table: a few ulps more for large arguments, 2**-11 or so for sin and cos). */
#define PRIM_1(name) \
    float prim_##name(float x) { return name##f(x); }
PRIM_1(exp) PRIM_1(exp2) PRIM_1(log) PRIM_1(log2) PRIM_1(log10) PRIM_1(sin) PRIM_1(cos)
PRIM_1(tan) PRIM_1(sinh) PRIM_1(cosh) PRIM_1(tanh)
float prim_exp10(float x) { return powf(10.0f, x); }
float prim_pow(float x, float y) { return powf(x, y); }
float prim_fmod(float x, float y) { return fmodf(x, y); }
float prim_fast_exp2(float x) { return exp2f(x); }
float prim_fast_log2(float x) { return log2f(x); }
float prim_fast_exp(float x) { return exp2f(x * 1.44269504f); }
float prim_fast_exp10(float x) { return exp2f(x * 3.32192809f); }
float prim_fast_log(float x) { return log2f(x) * 0.69314718f; }
float prim_fast_log10(float x) { return log2f(x) * 0.30102999f; }
static float coarse(float x) { return rintf(x * 4096.0f) * (1.0f / 4096.0f); }
float prim_fast_sin(float x) { return coarse(sinf(x)); }
float prim_fast_cos(float x) { return coarse(cosf(x)); }
float prim_fast_tan(float x) { return prim_fast_sin(x) / prim_fast_cos(x); }
float prim_fast_sinh(float x) { return 0.5f * (prim_fast_exp(x) - prim_fast_exp(-x)); }
float prim_fast_cosh(float x) { return 0.5f * (prim_fast_exp(x) + prim_fast_exp(-x)); }
float prim_fast_tanh(float x) {
    const float t = prim_fast_exp(-2.0f * x);
    return (1.0f - t) / (1.0f + t);
}
float prim_fast_pow(float x, float y) { return exp2f(y * log2f(x)); }
float prim_fast_fmod(float x, float y) { return x - y * truncf(x / y); }

/* ---- the scheduler ---- */

/* The i-th of n in the order of this launch. */
static uint32_t turn(uint32_t i, uint32_t n) {
    static const uint32_t steps[] = {5, 7, 11, 13, 17, 19};
    if (launch->order == 0) return i;
    if (launch->order == 1) return n - 1 - i;
    uint32_t k = launch->order % 6;
    while (n % steps[k] == 0) k = (k + 1) % 6;
    return (uint32_t)(((uint64_t)i * steps[k] + launch->order) % n);
}

static void multiply(Simd* simd, uint32_t at) {
    float a[8][8], b[8][8], sums[8][8] = {0};
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const uint32_t row = ((lane / 4) & 4) + lane / 2 % 4;
        const uint32_t column = ((lane / 4) & 2) * 2 + lane % 2 * 2;
        float v[4];
        memcpy(v, simd->slots[at][lane], sizeof v);
        memcpy(&a[row][column], v, 8);
        memcpy(&b[row][column], v + 2, 8);
    }
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 8; k++)
            for (int j = 0; j < 8; j++) sums[i][j] += a[i][k] * b[k][j];
    memcpy(simd->sums[at], sums, sizeof sums);
}

/* All lanes wait at one operation of their simdgroup: let them go on. */
static int release(uint32_t simd) {
    Fiber* lanes = &fibers[simd * LANES];
    uint32_t states[4] = {0}, other = 0;
    for (int i = 0; i < LANES; i++) {
        states[lanes[i].state]++;
        if (!other && lanes[i].operation != lanes[0].operation) other = i;
    }
    const uint32_t waiting = states[AT_SIMD], done = states[DONE], at_barrier = states[AT_GROUP];
    if (waiting == 0) return 0;
    if (waiting < LANES)
        return refuse("group %u, simdgroup %u: an operation of the simdgroup is reached by %u of 32 "
                      "lanes; %u are at a threadgroup barrier, %u have returned",
                      group, simd, waiting, at_barrier, done);
    if (other)
        return refuse("group %u, simdgroup %u: lanes 0 and %u wait at different operations of the "
                      "simdgroup", group, simd, other);
    if (lanes[0].operation == MATRIX) multiply(&simds[simd], (lanes[0].exchanges - 1) & 1);
    if (lanes[0].operation == SIMD_BARRIER && launch->traced)
        trace_simd_barrier(simd, lanes[0].flags);
    for (int i = 0; i < LANES; i++) lanes[i].state = READY;
    return 1;
}

/* Runs a simdgroup until each lane is at a threadgroup barrier or done. */
static int run_simd(uint32_t simd) {
    int again;
    do {
        for (uint32_t i = 0; i < LANES; i++) {
            const uint32_t thread = simd * LANES + lane_order[i];
            if (fibers[thread].state != READY) continue;
            running = thread;
            emu_switch(&scheduler, fibers[thread].stack);
            if (failed) return -1;
        }
        again = release(simd);
    } while (again > 0);
    running = NOBODY;
    return again;
}

/* A thread at its beginning; what all groups of a launch have alike is set in the `first`. */
static void prepare(uint32_t thread, int first) {
    const uint32_t n = launch->threads;
    Fiber* fiber = &fibers[thread];
    if (first) {
        const uint32_t ids[IDS] = {0, 0, 0, 0, 0, 0, thread, 0, 0, n, 1, 1, launch->groups, 1, 1,
                                   launch->groups * n, 1, 1, thread % LANES, thread / LANES,
                                   n / LANES, thread, LANES};
        memcpy(fiber->ids, ids, sizeof ids);
    }
    fiber->ids[0] = group * n + thread;
    fiber->ids[3] = group;
    fiber->state = READY;
    fiber->exchanges = 0;
    uint64_t* frame = (uint64_t*)(stacks + (size_t)STACK * (thread + 1)) - FRAME_WORDS;
    frame[START_WORD] = (uint64_t)start;
    fiber->stack = frame;
}

static int barrier(void) {
    uint32_t done = 0;
    const uint32_t n = launch->threads;
    for (uint32_t t = 0; t < n; t++) done += fibers[t].state == DONE;
    if (done == n) return 0;
    if (done)
        return refuse("group %u: a threadgroup barrier is reached by %u of %u threads, the others "
                      "have returned", group, n - done, n);
    if (launch->traced) trace_barrier(fibers[0].flags);
    for (uint32_t t = 0; t < n; t++) fibers[t].state = READY;
    return 1;
}

static int run_group(int first) {
    for (uint32_t i = 0; i < launch->shared_count; i++)
        memset((void*)launch->shared[i], 0xff, launch->shared_sizes[i]);
    if (launch->traced) trace_group();
    for (uint32_t t = 0; t < launch->threads; t++) prepare(t, first);
    const uint32_t count = launch->threads / LANES;
    int again;
    do {
        for (uint32_t i = 0; i < count; i++)
            if (run_simd(turn(i, count)) < 0) return -1;
        again = barrier();
    } while (again > 0);
    return again;
}

/* ---- memory with closed pages on both sides ---- */

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }
static size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }

enum { SLACK = 16, CANARY = 0xa5 };

/* n bytes whose end (at_end) or beginning lies at a closed page, up to alignment to 16. */
void* emu_guarded(size_t n, int at_end) {
    const size_t body = up(n, page());
    char* map = mmap(0, body + 2 * GUARD, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map + GUARD, body, PROT_READ | PROT_WRITE)) return 0;
    const size_t before = at_end ? body - up(n, SLACK) : 0, after = body - before - n;
    memset(map + GUARD, CANARY, before);
    memset(map + GUARD + before + n, CANARY, after);
    return map + GUARD + before;
}

void emu_release(void* memory, size_t n) {
    const uint64_t start = (uint64_t)memory / page() * page() - GUARD;
    munmap((void*)start, up(n, page()) + 2 * GUARD);
}

/* Whether the bytes between such memory and the closed pages are as they were. */
static int untouched(uint64_t memory, uint64_t n) {
    const uint8_t* from = (const uint8_t*)(memory / page() * page());
    const uint8_t* to = from + up(n, page());
    for (const uint8_t* p = from; p < to; p++) {
        if (p == (const uint8_t*)memory) p += n;
        if (p < to && *p != CANARY) return 0;
    }
    return 1;
}

static sigjmp_buf escape;
static char signal_stack[64 << 10];
static volatile uint64_t fault_address;
static volatile int fault_signal;

static void on_signal(int number, siginfo_t* about, void* context) {
    (void)context;
    fault_signal = number;
    fault_address = (uint64_t)about->si_addr;
    siglongjmp(escape, 1);
}

static int describe_fault(void) {
    const int thread = running;
    if (fault_signal == SIGILL || fault_signal == SIGFPE)
        return refuse("thread %d of group %u: an operation without a result was trapped", thread, group);
    uint64_t nearest = UINT64_MAX;
    int slot = NOBODY;
    int64_t at = 0;
    for (int i = 0; i < MAX_SLOTS; i++) {
        if (!launch->slots[i]) continue;
        const int64_t offset = (int64_t)(fault_address - launch->slots[i]);
        const uint64_t distance = offset < 0 ? -offset : offset;
        if (distance < nearest) nearest = distance, slot = i, at = offset;
    }
    if (slot == NOBODY) return refuse("thread %d of group %u: no such memory", thread, group);
    return refuse("thread %d of group %u: outside of its memory: byte %lld of buffer %d, which has "
                  "%llu", thread, group, (long long)at, slot, (unsigned long long)launch->sizes[slot]);
}

static int run_all(void) {
    for (uint32_t i = 0; i < LANES; i++) lane_order[i] = turn(i, LANES);
    for (uint32_t i = 0; i < launch->groups; i++) {
        group = turn(i, launch->groups);
        if (run_group(i == 0) < 0) return -1;
    }
    for (int i = 0; i < MAX_SLOTS; i++)
        if (launch->slots[i] && !untouched(launch->slots[i], launch->sizes[i]))
            return refuse("a thread wrote beside buffer %d, which has %llu bytes", i,
                          (unsigned long long)launch->sizes[i]);
    return 0;
}

/* 0, or -1 where emu_error() says what is wrong. */
int emu_run(const Launch* given) {
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction action = {0}, old[4];
    stack_t own = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack}, before;
    if (!stacks) {
        char* map = mmap(0, (size_t)STACK * MAX_THREADS + page(), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED) return refuse("no memory for the threads");
        mprotect(map, page(), PROT_NONE);
        stacks = map + page();
    }
    launch = given;
    failed = 0;
    running = NOBODY;
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaltstack(&own, &before);
    for (int i = 0; i < 4; i++) sigaction(numbers[i], &action, &old[i]);
    if (given->traced) trace_begin(given);
    const uint32_t control = given->flush ? flush_on() : 0;
    const int result = sigsetjmp(escape, 1) == 0 ? run_all() : describe_fault();
    if (given->flush) flush_restore(control);
    if (given->traced) trace_end();
    for (int i = 0; i < 4; i++) sigaction(numbers[i], &old[i], 0);
    sigaltstack(&before, 0);
    return result;
}
