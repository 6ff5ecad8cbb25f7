; The native runner: it walks programs, alone or with the worker threads of the pool.
;
; A program is data: launch records that are run in order, each split into chunks of its range. A
; launch's function gets its words, the range of a chunk, scratch memory of the thread, and a number
; that is 0 in the first chunk of a launch that the thread takes: what it leaves in the scratch memory
; then is still there in its further ones.
;
;   %program   { pool, count, scratch bytes, small, stop, thread state, current launch }, the last in
;              a line of its own, then the records
;   %launch    { function, words, work, chunk, chunks }, claim, done: three cache lines
;   %slot      scratch memory of one thread: { allocated, its 64-byte aligned part, bytes of that }
;   %worker    { slot, pthread_t, pool }
;   %pool      see below; one for the process
;   %call      a program as a function: { program, words, inputs, results, patches }, its results
;              { bytes, address }, then its patches { word, kind, which, offset }: a word gets the
;              address of a new result (kind 0), an address that is given (1), both plus the offset,
;              or a number that is given, as an integer (2) or as the bits of a float32 (3)
;
; Claim and door. The caller of a program never waits for a worker that sleeps:
;
;   - Each launch has two counters. A thread takes a chunk by adding 1 to `claim`, and when it finds
;     no more, adds the number of those it ran to `done`. Who then goes on to the next launch waits
;     until `done` has reached the number of chunks. `claim` only deals out numbers (monotonic);
;     `done` is what orders memory: adding releases the stores of the chunks, the wait acquires them.
;   - `door` is {generation, open, joined} in one word. The caller fills in the program, then stores
;     a new generation with the open bit (release). A worker that sees a generation it does not know
;     joins by a compare-and-swap that adds 1 to `joined` (acquire: it sees the program), begins at
;     the launch that the caller has reached (`current`: released by the caller when all launches
;     before are done), and after the last launch adds 1 to `left`. When the caller is through, it
;     clears the open bit; from then on no one can join, and the old value says how many did: it
;     waits until as many have left. Only then may the counters be used again.
;   - A worker that has waited for `spins` turns sleeps: it locks the mutex, counts itself in
;     `sleepers`, and looks at the door once more before it waits on the condition. The caller opens
;     the door, then looks at `sleepers`. All four accesses are sequentially consistent, so one of
;     the two sees the other, and no wake-up is lost.
;   - `busy` is 1 while a thread's program has the workers. A thread that finds it taken runs its
;     program alone. Small programs always run alone and leave the door shut.
;   - A signal (Ctrl-C) is for Python to handle. The caller looks for one between its chunks, every
;     some milliseconds: it takes the GIL for that with the thread state that gave it up. Where a
;     handler raised, `stop` is set, and all chunks that are left are counted but not run.
;   - To stop the workers (before a fork), 2 is added to `busy`, so that no program takes it anew, and
;     when the running one is through, the door is opened with no program: each worker joins and
;     returns. They start again at the next program. Generations go on, and a worker knows generation
;     0 when it starts, so that it cannot miss the program that it was started for.

%slot = type { ptr, ptr, i64 }
%worker = type { %slot, i64, ptr, [3 x i64] }
%program = type { ptr, i64, i64, i64, i64, ptr, [2 x i64], i64, [7 x i64] }
%call = type { ptr, ptr, i64, i64, i64, [3 x i64] }
%result = type { i64, i64 }
%patch = type { i64, i64, i64, i64 }
%launch = type { ptr, ptr, i64, i64, i64, [3 x i64], i64, [7 x i64], i64, [7 x i64] }
;                 0              1    2              3    4              5    6
;                 busy           door                left                sleepers
%pool = type {    i64, [7 x i64], i64, [7 x i64],    i64, [7 x i64],     i64, [7 x i64],
;                 8    9    10   11   12   13   14
;                 program, threads wanted, started, spins, small busy, CPU avoided, bytes of a CPU set
                  ptr, i64, i64, i64, i64, i64, i64, i64,
;                 16                  18
;                 slots of the caller and of small programs
                  %slot, [5 x i64],   %slot, [5 x i64],
;                 20          21          22          23
;                 mutex       condition   CPU set     workers
                  [16 x i64], [16 x i64], [16 x i64], [0 x %worker] }

declare ptr @malloc(i64)
declare void @free(ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_destroy(ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_destroy(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @pthread_setaffinity_np(i64, i64, ptr)
declare i32 @sched_getcpu()
declare i32 @sched_yield()
declare ptr @PyLong_AsVoidPtr(ptr)
declare ptr @PyLong_FromLong(i64)
declare i64 @PyLong_AsLongLong(ptr)
declare ptr @PyLong_FromVoidPtr(ptr)
declare double @PyFloat_AsDouble(ptr)
declare i64 @PyList_Size(ptr)
declare ptr @PyList_GetItem(ptr, i64)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare ptr @PyBytes_FromStringAndSize(ptr, i64)
declare ptr @PyBytes_AsString(ptr)
declare void @Py_DecRef(ptr)
declare ptr @PyErr_Occurred()
declare void @PyErr_BadInternalCall()
declare ptr @PyErr_NoMemory()
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare i32 @PyErr_CheckSignals()
declare i64 @llvm.smin.i64(i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; Memory of at least %bytes in the slot: its aligned part, or null.
define internal ptr @reserve(ptr %slot, i64 %bytes) nounwind {
  %at.aligned = getelementptr %slot, ptr %slot, i32 0, i32 1
  %at.bytes = getelementptr %slot, ptr %slot, i32 0, i32 2
  %aligned = load ptr, ptr %at.aligned
  %has = load i64, ptr %at.bytes
  %enough = icmp sge i64 %has, %bytes
  br i1 %enough, label %kept, label %grow
kept:
  ret ptr %aligned
grow:
  %old = load ptr, ptr %slot
  call void @free(ptr %old)
  %with.margin = add i64 %bytes, 64
  %new = call ptr @malloc(i64 %with.margin)
  store ptr %new, ptr %slot
  %none = icmp eq ptr %new, null
  %size = select i1 %none, i64 -1, i64 %bytes
  store i64 %size, ptr %at.bytes
  %address = ptrtoint ptr %new to i64
  %up = add i64 %address, 63
  %down = and i64 %up, -64
  %start = inttoptr i64 %down to ptr
  %result = select i1 %none, ptr null, ptr %start
  store ptr %result, ptr %at.aligned
  ret ptr %result
}

; Wait until the word has reached %goal (signed, as an acquire load).
define internal void @await(ptr %word, i64 %goal) nounwind {
entry:
  br label %look
look:
  %turn = phi i64 [ 0, %entry ], [ %next, %again ], [ 0, %yield ]
  %now = load atomic i64, ptr %word acquire, align 8
  %reached = icmp sge i64 %now, %goal
  br i1 %reached, label %out, label %wait
wait:
  call void @relax()
  %next = add i64 %turn, 1
  %long = icmp ugt i64 %next, 4000
  br i1 %long, label %yield, label %again
again:
  br label %look
yield:                                     ; more threads than cores: the awaited one may need ours
  %ignored = call i32 @sched_yield()
  br label %look
out:
  ret void
}

; Let Python handle signals, if the last look was long ago: when the next one is due is the result.
; %stop is set where a handler raised.
define internal i64 @look_for_signals(ptr %program, i64 %due) nounwind {
entry:
  %now = call i64 @ticks()
  %early = icmp slt i64 %now, %due
  br i1 %early, label %kept, label %look
kept:
  ret i64 %due
look:
  %at.state = getelementptr %program, ptr %program, i32 0, i32 5
  %state = load ptr, ptr %at.state
  %none = icmp eq ptr %state, null          ; called with the GIL, or not from Python
  br i1 %none, label %out, label %ask
ask:
  call void @PyEval_RestoreThread(ptr %state)
  %raised = call i32 @PyErr_CheckSignals()
  %again = call ptr @PyEval_SaveThread()
  store ptr %again, ptr %at.state
  %is.raised = icmp ne i32 %raised, 0
  br i1 %is.raised, label %stop, label %out
stop:
  %at.stop = getelementptr %program, ptr %program, i32 0, i32 4
  store atomic i64 1, ptr %at.stop monotonic, align 8
  br label %out
out:
  %then = call i64 @ticks()
  %next = add i64 %then, $signal_ticks
  ret i64 %next
}

; The launches of a program from the current one on, sharing their chunks with other threads.
define internal void @walk(ptr %program, ptr %scratch, i1 %leads) nounwind {
entry:
  %at.count = getelementptr %program, ptr %program, i32 0, i32 1
  %at.current = getelementptr %program, ptr %program, i32 0, i32 7
  %count = load i64, ptr %at.count
  %at.stop = getelementptr %program, ptr %program, i32 0, i32 4
  %first = load atomic i64, ptr %at.current acquire, align 8
  %records = getelementptr %program, ptr %program, i64 1
  %begun = call i64 @ticks()
  %due.first = add i64 %begun, $signal_ticks
  br label %launches
launches:
  %k = phi i64 [ %first, %entry ], [ %k.next, %wait ]
  %due.launch = phi i64 [ %due.first, %entry ], [ %due, %wait ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %launch, label %out
launch:
  %record = getelementptr %launch, ptr %records, i64 %k
  %at.words = getelementptr %launch, ptr %record, i32 0, i32 1
  %at.work = getelementptr %launch, ptr %record, i32 0, i32 2
  %at.chunk = getelementptr %launch, ptr %record, i32 0, i32 3
  %at.chunks = getelementptr %launch, ptr %record, i32 0, i32 4
  %at.claim = getelementptr %launch, ptr %record, i32 0, i32 6
  %at.done = getelementptr %launch, ptr %record, i32 0, i32 8
  %function = load ptr, ptr %record
  %words = load ptr, ptr %at.words
  %work = load i64, ptr %at.work
  %chunk = load i64, ptr %at.chunk
  %chunks = load i64, ptr %at.chunks
  br i1 %leads, label %publish, label %claim
publish:
  store atomic i64 %k, ptr %at.current release, align 8
  br label %claim
claim:
  %mine = phi i64 [ 0, %launch ], [ 0, %publish ], [ %mine.next, %ran ]
  %due = phi i64 [ %due.launch, %launch ], [ %due.launch, %publish ], [ %due.next, %ran ]
  %c = atomicrmw add ptr %at.claim, i64 1 monotonic
  %got = icmp slt i64 %c, %chunks
  br i1 %got, label %got.one, label %exhausted
got.one:
  %stop = load atomic i64, ptr %at.stop monotonic, align 8
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %ran, label %run
run:
  %lo = mul i64 %c, %chunk
  %end = add i64 %lo, %chunk
  %hi = call i64 @llvm.smin.i64(i64 %end, i64 %work)
  call void %function(ptr %words, i64 %lo, i64 %hi, ptr %scratch, i64 %mine)
  br i1 %leads, label %look, label %ran
look:
  %due.looked = call i64 @look_for_signals(ptr %program, i64 %due)
  br label %ran
ran:
  %due.next = phi i64 [ %due, %got.one ], [ %due, %run ], [ %due.looked, %look ]
  %mine.next = add i64 %mine, 1
  br label %claim
exhausted:
  %k.next = add i64 %k, 1
  %any = icmp sgt i64 %mine, 0
  br i1 %any, label %report, label %reported
report:
  %before = atomicrmw add ptr %at.done, i64 %mine release
  br label %reported
reported:
  %last = icmp eq i64 %k.next, %count
  %free = xor i1 %leads, true
  %may.leave = and i1 %last, %free
  br i1 %may.leave, label %out, label %wait
wait:
  call void @await(ptr %at.done, i64 %chunks)
  br label %launches
out:
  ret void
}

; A whole program on this thread. Each launch of a small one is one call.
define internal void @walk_alone(ptr %program, ptr %scratch) nounwind {
entry:
  %at.count = getelementptr %program, ptr %program, i32 0, i32 1
  %at.small = getelementptr %program, ptr %program, i32 0, i32 3
  %at.stop = getelementptr %program, ptr %program, i32 0, i32 4
  %count = load i64, ptr %at.count
  %small = load i64, ptr %at.small
  %is.small = icmp ne i64 %small, 0
  %records = getelementptr %program, ptr %program, i64 1
  %begun = call i64 @ticks()
  %due.first = add i64 %begun, $signal_ticks
  br label %launches
launches:
  %k = phi i64 [ 0, %entry ], [ %k.next, %next ]
  %due.launch = phi i64 [ %due.first, %entry ], [ %due, %next ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %launch, label %out
launch:
  %record = getelementptr %launch, ptr %records, i64 %k
  %at.words = getelementptr %launch, ptr %record, i32 0, i32 1
  %at.work = getelementptr %launch, ptr %record, i32 0, i32 2
  %at.chunk = getelementptr %launch, ptr %record, i32 0, i32 3
  %function = load ptr, ptr %record
  %words = load ptr, ptr %at.words
  %work = load i64, ptr %at.work
  %chunk.given = load i64, ptr %at.chunk
  %chunk = select i1 %is.small, i64 %work, i64 %chunk.given
  br label %parts
parts:
  %lo = phi i64 [ 0, %launch ], [ %hi, %ran ]
  %due = phi i64 [ %due.launch, %launch ], [ %due.next, %ran ]
  %any = icmp slt i64 %lo, %work
  br i1 %any, label %part, label %next
part:
  %end = add i64 %lo, %chunk
  %hi = call i64 @llvm.smin.i64(i64 %end, i64 %work)
  call void %function(ptr %words, i64 %lo, i64 %hi, ptr %scratch, i64 %lo)
  br i1 %is.small, label %ran, label %look
look:
  %due.looked = call i64 @look_for_signals(ptr %program, i64 %due)
  %stop = load atomic i64, ptr %at.stop monotonic, align 8
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %out, label %ran
ran:
  %due.next = phi i64 [ %due, %part ], [ %due.looked, %look ]
  br label %parts
next:
  %k.next = add i64 %k, 1
  br label %launches
out:
  ret void
}

; Wait for a generation beyond %seen: spin, then sleep.
define internal void @await_door(ptr %pool, i64 %seen) nounwind {
entry:
  %door = getelementptr %pool, ptr %pool, i32 0, i32 2
  %sleepers = getelementptr %pool, ptr %pool, i32 0, i32 6
  %at.spins = getelementptr %pool, ptr %pool, i32 0, i32 11
  %mutex = getelementptr %pool, ptr %pool, i32 0, i32 20
  %condition = getelementptr %pool, ptr %pool, i32 0, i32 21
  %spins = load i64, ptr %at.spins
  br label %spin
spin:
  %turn = phi i64 [ 0, %entry ], [ %next, %wait ]
  %d = load atomic i64, ptr %door acquire, align 8
  %g = lshr i64 %d, 32
  %news = icmp ne i64 %g, %seen
  br i1 %news, label %out, label %wait
wait:
  call void @relax()
  %next = add i64 %turn, 1
  %long = icmp ugt i64 %next, %spins
  br i1 %long, label %sleep, label %spin
sleep:
  %r0 = call i32 @pthread_mutex_lock(ptr %mutex)
  %s0 = atomicrmw add ptr %sleepers, i64 1 seq_cst
  br label %check
check:
  %d2 = load atomic i64, ptr %door seq_cst, align 8
  %g2 = lshr i64 %d2, 32
  %news2 = icmp ne i64 %g2, %seen
  br i1 %news2, label %awake, label %doze
doze:
  %r1 = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %check
awake:
  %s1 = atomicrmw sub ptr %sleepers, i64 1 seq_cst
  %r2 = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %out
out:
  ret void
}

; The body of a worker thread.
define internal ptr @work(ptr %self) nounwind {
entry:
  %at.pool = getelementptr %worker, ptr %self, i32 0, i32 2
  %pool = load ptr, ptr %at.pool
  %door = getelementptr %pool, ptr %pool, i32 0, i32 2
  %left = getelementptr %pool, ptr %pool, i32 0, i32 4
  %at.program = getelementptr %pool, ptr %pool, i32 0, i32 8
  call void @set_float_mode(i64 $float_mode)
  br label %idle
idle:
  %seen = phi i64 [ 0, %entry ], [ %generation, %shut ], [ %generation, %leave ], [ %seen, %join ]
  call void @await_door(ptr %pool, i64 %seen)
  %d = load atomic i64, ptr %door acquire, align 8
  %generation = lshr i64 %d, 32
  %bit = and i64 %d, 2147483648
  %open = icmp ne i64 %bit, 0
  br i1 %open, label %join, label %shut
shut:
  br label %idle
join:
  %d.joined = add i64 %d, 1
  %swap = cmpxchg ptr %door, i64 %d, i64 %d.joined acq_rel acquire
  %joined = extractvalue { i64, i1 } %swap, 1
  br i1 %joined, label %in, label %idle
in:
  %program = load ptr, ptr %at.program
  %stop = icmp eq ptr %program, null
  br i1 %stop, label %quit, label %serve
serve:
  %at.bytes = getelementptr %program, ptr %program, i32 0, i32 2
  %bytes = load i64, ptr %at.bytes
  %scratch = call ptr @reserve(ptr %self, i64 %bytes)
  %none = icmp eq ptr %scratch, null
  br i1 %none, label %leave, label %help
help:
  call void @walk(ptr %program, ptr %scratch, i1 false)
  br label %leave
leave:
  %l = atomicrmw add ptr %left, i64 1 release
  br label %idle
quit:
  ret ptr null
}

; Keep the workers off this thread's core: a woken one is often put there, where it must wait for
; the very thread that waits for it. Only where the system has CPU sets.
define internal void @spread(ptr %pool) nounwind {
entry:
  %set = alloca [16 x i64], align 8
  %at.started = getelementptr %pool, ptr %pool, i32 0, i32 10
  %at.avoided = getelementptr %pool, ptr %pool, i32 0, i32 13
  %at.bytes = getelementptr %pool, ptr %pool, i32 0, i32 14
  %at.set = getelementptr %pool, ptr %pool, i32 0, i32 22
  %bytes = load i64, ptr %at.bytes
  %has.sets = icmp sgt i64 %bytes, 0
  br i1 %has.sets, label %ask, label %out
ask:
  %cpu = call i32 @sched_getcpu()
  %here = sext i32 %cpu to i64
  %avoided = load i64, ptr %at.avoided
  %moved = icmp ne i64 %here, %avoided
  %fits = icmp ult i64 %here, 1024
  %must = and i1 %moved, %fits
  br i1 %must, label %set.up, label %out
set.up:
  store i64 %here, ptr %at.avoided
  call void @llvm.memcpy.p0.p0.i64(ptr %set, ptr %at.set, i64 128, i1 false)
  %word = lshr i64 %here, 6
  %bit = and i64 %here, 63
  %at.word = getelementptr i64, ptr %set, i64 %word
  %one = shl i64 1, %bit
  %others = xor i64 %one, -1
  %old = load i64, ptr %at.word
  %new = and i64 %old, %others
  store i64 %new, ptr %at.word
  %started = load i64, ptr %at.started
  br label %next
next:
  %i = phi i64 [ 0, %set.up ], [ %i.next, %move ]
  %more = icmp slt i64 %i, %started
  br i1 %more, label %move, label %out
move:
  %at.thread = getelementptr %pool, ptr %pool, i32 0, i32 23, i64 %i, i32 1
  %thread = load i64, ptr %at.thread
  %ignored = call i32 @pthread_setaffinity_np(i64 %thread, i64 %bytes, ptr %set)
  %i.next = add i64 %i, 1
  br label %next
out:
  ret void
}

; A new generation, open, for %program; wakes the workers that sleep.
define internal void @open_door(ptr %pool, ptr %program) nounwind {
  %door = getelementptr %pool, ptr %pool, i32 0, i32 2
  %left = getelementptr %pool, ptr %pool, i32 0, i32 4
  %sleepers = getelementptr %pool, ptr %pool, i32 0, i32 6
  %at.program = getelementptr %pool, ptr %pool, i32 0, i32 8
  %mutex = getelementptr %pool, ptr %pool, i32 0, i32 20
  %condition = getelementptr %pool, ptr %pool, i32 0, i32 21
  store ptr %program, ptr %at.program
  store atomic i64 0, ptr %left monotonic, align 8
  %d = load atomic i64, ptr %door monotonic, align 8
  %g = lshr i64 %d, 32
  %g.next = add i64 %g, 1
  %g.high = shl i64 %g.next, 32
  %opened = or i64 %g.high, 2147483648
  store atomic i64 %opened, ptr %door seq_cst, align 8
  %s = load atomic i64, ptr %sleepers seq_cst, align 8
  %asleep = icmp sgt i64 %s, 0
  br i1 %asleep, label %wake, label %out
wake:
  %r0 = call i32 @pthread_mutex_lock(ptr %mutex)
  %r1 = call i32 @pthread_cond_broadcast(ptr %condition)
  %r2 = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %out
out:
  ret void
}

; Start the wanted workers; where the system refuses, fewer. `busy` is held.
define internal void @start(ptr %pool) nounwind {
entry:
  %at.wanted = getelementptr %pool, ptr %pool, i32 0, i32 9
  %at.started = getelementptr %pool, ptr %pool, i32 0, i32 10
  %mutex = getelementptr %pool, ptr %pool, i32 0, i32 20
  %condition = getelementptr %pool, ptr %pool, i32 0, i32 21
  %wanted = load i64, ptr %at.wanted
  %r0 = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %r1 = call i32 @pthread_cond_init(ptr %condition, ptr null)
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %started ]
  %more = icmp slt i64 %i, %wanted
  br i1 %more, label %create, label %out
create:
  %worker = getelementptr %pool, ptr %pool, i32 0, i32 23, i64 %i
  %at.thread = getelementptr %worker, ptr %worker, i32 0, i32 1
  %at.pool = getelementptr %worker, ptr %worker, i32 0, i32 2
  store ptr %pool, ptr %at.pool
  %failed = call i32 @pthread_create(ptr %at.thread, ptr null, ptr @work, ptr %worker)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %started, label %fewer
started:
  %i.next = add i64 %i, 1
  br label %next
fewer:
  store i64 %i, ptr %at.wanted
  br label %out
out:
  store i64 %i, ptr %at.started
  %at.avoided = getelementptr %pool, ptr %pool, i32 0, i32 13
  store i64 -1, ptr %at.avoided
  ret void
}

; Chunks of each launch; counters to zero. `busy` is held and no worker is inside.
define internal void @reset(ptr %program) nounwind {
entry:
  %at.count = getelementptr %program, ptr %program, i32 0, i32 1
  %at.current = getelementptr %program, ptr %program, i32 0, i32 7
  %count = load i64, ptr %at.count
  %records = getelementptr %program, ptr %program, i64 1
  store i64 0, ptr %at.current
  br label %launches
launches:
  %k = phi i64 [ 0, %entry ], [ %k.next, %launch ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %launch, label %out
launch:
  %record = getelementptr %launch, ptr %records, i64 %k
  %at.work = getelementptr %launch, ptr %record, i32 0, i32 2
  %at.chunk = getelementptr %launch, ptr %record, i32 0, i32 3
  %at.chunks = getelementptr %launch, ptr %record, i32 0, i32 4
  %at.claim = getelementptr %launch, ptr %record, i32 0, i32 6
  %at.done = getelementptr %launch, ptr %record, i32 0, i32 8
  %work = load i64, ptr %at.work
  %chunk = load i64, ptr %at.chunk
  %less = sub i64 %chunk, 1
  %sum = add i64 %work, %less
  %chunks = sdiv i64 %sum, %chunk
  store i64 %chunks, ptr %at.chunks
  store i64 0, ptr %at.claim
  store i64 0, ptr %at.done
  %k.next = add i64 %k, 1
  br label %launches
out:
  ret void
}

define internal i1 @take(ptr %flag) nounwind {
  %swap = cmpxchg ptr %flag, i64 0, i64 1 acquire monotonic
  %taken = extractvalue { i64, i1 } %swap, 1
  ret i1 %taken
}

; Run a program: 0, or 1 where there is no memory for its scratch.
define i64 @run(ptr %program) nounwind {
entry:
  %own = alloca %slot, align 8
  %at.small = getelementptr %program, ptr %program, i32 0, i32 3
  %at.bytes = getelementptr %program, ptr %program, i32 0, i32 2
  %pool = load ptr, ptr %program
  %small = load i64, ptr %at.small
  %bytes = load i64, ptr %at.bytes
  %small.busy = getelementptr %pool, ptr %pool, i32 0, i32 12
  %caller.slot = getelementptr %pool, ptr %pool, i32 0, i32 16
  %small.slot = getelementptr %pool, ptr %pool, i32 0, i32 18
  %saved = call i64 @get_float_mode()
  call void @set_float_mode(i64 $float_mode)
  %is.small = icmp ne i64 %small, 0
  %flag = select i1 %is.small, ptr %small.busy, ptr %pool
  %slot = select i1 %is.small, ptr %small.slot, ptr %caller.slot
  %taken = call i1 @take(ptr %flag)
  br i1 %taken, label %held, label %crowded

held:
  %scratch = call ptr @reserve(ptr %slot, i64 %bytes)
  %none = icmp eq ptr %scratch, null
  br i1 %none, label %release, label %choose
choose:
  %at.wanted = getelementptr %pool, ptr %pool, i32 0, i32 9
  %wanted = load i64, ptr %at.wanted
  %no.workers = icmp eq i64 %wanted, 0
  %is.alone = or i1 %is.small, %no.workers
  br i1 %is.alone, label %alone, label %together
alone:
  call void @walk_alone(ptr %program, ptr %scratch)
  br label %release

together:
  %at.started = getelementptr %pool, ptr %pool, i32 0, i32 10
  %started = load i64, ptr %at.started
  %cold = icmp eq i64 %started, 0
  br i1 %cold, label %begin, label %ready
begin:
  call void @start(ptr %pool)
  br label %ready
ready:
  call void @spread(ptr %pool)
  %door = getelementptr %pool, ptr %pool, i32 0, i32 2
  %left = getelementptr %pool, ptr %pool, i32 0, i32 4
  call void @reset(ptr %program)
  call void @open_door(ptr %pool, ptr %program)
  call void @walk(ptr %program, ptr %scratch, i1 true)
  %d = atomicrmw and ptr %door, i64 -2147483649 acq_rel
  %joined = and i64 %d, 2147483647
  call void @await(ptr %left, i64 %joined)
  br label %release

release:
  %status = phi i64 [ 1, %held ], [ 0, %alone ], [ 0, %ready ]
  %flag.before = atomicrmw and ptr %flag, i64 -2 release
  br label %out

crowded:                                   ; another thread has the workers or the small scratch
  store %slot zeroinitializer, ptr %own
  %own.scratch = call ptr @reserve(ptr %own, i64 %bytes)
  %own.none = icmp eq ptr %own.scratch, null
  br i1 %own.none, label %out, label %crowded.run
crowded.run:
  call void @walk_alone(ptr %program, ptr %own.scratch)
  %allocated = load ptr, ptr %own
  call void @free(ptr %allocated)
  br label %out

out:
  %result = phi i64 [ %status, %release ], [ 1, %crowded ], [ 0, %crowded.run ]
  call void @set_float_mode(i64 %saved)
  ret i64 %result
}

; A program run for Python: a small one with the GIL held, any other without it. False: an exception
; is set.
define internal i1 @run_for_python(ptr %program) nounwind {
entry:
  %at.small = getelementptr %program, ptr %program, i32 0, i32 3
  %small = load i64, ptr %at.small
  %is.small = icmp ne i64 %small, 0
  br i1 %is.small, label %hold, label %release
hold:
  %status.small = call i64 @run(ptr %program)
  br label %out
release:
  %at.stop = getelementptr %program, ptr %program, i32 0, i32 4
  %at.state = getelementptr %program, ptr %program, i32 0, i32 5
  store i64 0, ptr %at.stop
  %state = call ptr @PyEval_SaveThread()
  store ptr %state, ptr %at.state
  %status.large = call i64 @run(ptr %program)
  call void @PyEval_RestoreThread(ptr %state)
  store ptr null, ptr %at.state
  %stop = load i64, ptr %at.stop
  %stopped = icmp ne i64 %stop, 0           ; a signal handler raised: its exception is set
  br i1 %stopped, label %raised, label %out
out:
  %status = phi i64 [ %status.small, %hold ], [ %status.large, %release ]
  %failed = icmp ne i64 %status, 0
  br i1 %failed, label %no.memory, label %done
no.memory:
  %null = call ptr @PyErr_NoMemory()
  ret i1 false
raised:
  ret i1 false
done:
  ret i1 true
}

; A CPython builtin (METH_O): runs the program at the address given as an int.
define ptr @run_builtin(ptr %self, ptr %argument) nounwind {
entry:
  %program = call ptr @PyLong_AsVoidPtr(ptr %argument)
  %bad = icmp eq ptr %program, null
  br i1 %bad, label %raise, label %run
raise:
  ret ptr null
run:
  %ran = call i1 @run_for_python(ptr %program)
  br i1 %ran, label %done, label %raise
done:
  %zero = call ptr @PyLong_FromLong(i64 0)
  ret ptr %zero
}

; Memory for a result at items %at and on of the tuple: bytes, the address of their aligned part (put
; down in %result too), how far into the bytes that is. False: an exception is set.
define internal i1 @make_result(ptr %result, ptr %tuple, i64 %at) nounwind {
entry:
  %size = load i64, ptr %result
  %with.margin = add i64 %size, 64
  %bytes = call ptr @PyBytes_FromStringAndSize(ptr null, i64 %with.margin)
  %none = icmp eq ptr %bytes, null
  br i1 %none, label %raise, label %align
align:
  %r0 = call i32 @PyTuple_SetItem(ptr %tuple, i64 %at, ptr %bytes)
  %data = call ptr @PyBytes_AsString(ptr %bytes)
  %start = ptrtoint ptr %data to i64
  %up = add i64 %start, 63
  %aligned = and i64 %up, -64
  %skip = sub i64 %aligned, %start
  %at.address = getelementptr %result, ptr %result, i32 0, i32 1
  store i64 %aligned, ptr %at.address
  %pointer = inttoptr i64 %aligned to ptr
  %address = call ptr @PyLong_FromVoidPtr(ptr %pointer)
  %no.address = icmp eq ptr %address, null
  br i1 %no.address, label %raise, label %finish
finish:
  %next = add i64 %at, 1
  %r1 = call i32 @PyTuple_SetItem(ptr %tuple, i64 %next, ptr %address)
  %last = add i64 %at, 2
  %skipped = call ptr @PyLong_FromLong(i64 %skip)
  %r2 = call i32 @PyTuple_SetItem(ptr %tuple, i64 %last, ptr %skipped)
  ret i1 true
raise:
  ret i1 false
}

; A program as a function, a CPython builtin (METH_O) whose self is the address of a %call as an int.
; It takes a list of addresses and numbers, writes them and the addresses of new results where the
; patches say, runs the program, and returns a tuple with the three items of each result. All objects
; are made before the first word is written: that may run other Python code.
define ptr @call_builtin(ptr %self, ptr %given) nounwind {
entry:
  %call = call ptr @PyLong_AsVoidPtr(ptr %self)
  %at.words = getelementptr %call, ptr %call, i32 0, i32 1
  %at.inputs = getelementptr %call, ptr %call, i32 0, i32 2
  %at.results = getelementptr %call, ptr %call, i32 0, i32 3
  %at.patches = getelementptr %call, ptr %call, i32 0, i32 4
  %program = load ptr, ptr %call
  %words = load ptr, ptr %at.words
  %inputs = load i64, ptr %at.inputs
  %results = load i64, ptr %at.results
  %patches = load i64, ptr %at.patches
  %first.result = getelementptr %call, ptr %call, i64 1
  %first.patch = getelementptr %result, ptr %first.result, i64 %results
  %count = call i64 @PyList_Size(ptr %given)
  %fits = icmp eq i64 %count, %inputs
  br i1 %fits, label %begin, label %misused
misused:
  call void @PyErr_BadInternalCall()
  br label %raise
begin:
  %items = mul i64 %results, 3
  %tuple = call ptr @PyTuple_New(i64 %items)
  %no.tuple = icmp eq ptr %tuple, null
  br i1 %no.tuple, label %raise, label %results.head

results.head:
  %r = phi i64 [ 0, %begin ], [ %r.next, %result.made ]
  %more.results = icmp slt i64 %r, %results
  br i1 %more.results, label %make, label %patches.head
make:
  %result = getelementptr %result, ptr %first.result, i64 %r
  %at.item = mul i64 %r, 3
  %made = call i1 @make_result(ptr %result, ptr %tuple, i64 %at.item)
  br i1 %made, label %result.made, label %drop
result.made:
  %r.next = add i64 %r, 1
  br label %results.head

patches.head:
  %p = phi i64 [ 0, %results.head ], [ %p.next, %write ]
  %more.patches = icmp slt i64 %p, %patches
  br i1 %more.patches, label %patch, label %run
patch:
  %record = getelementptr %patch, ptr %first.patch, i64 %p
  %at.kind = getelementptr %patch, ptr %record, i32 0, i32 1
  %at.which = getelementptr %patch, ptr %record, i32 0, i32 2
  %at.offset = getelementptr %patch, ptr %record, i32 0, i32 3
  %word = load i64, ptr %record
  %kind = load i64, ptr %at.kind
  %which = load i64, ptr %at.which
  %offset = load i64, ptr %at.offset
  switch i64 %kind, label %from.result [ i64 1, label %from.address
                                         i64 2, label %from.int
                                         i64 3, label %from.float ]
from.result:
  %its.address = getelementptr %result, ptr %first.result, i64 %which, i32 1
  %home = load i64, ptr %its.address
  %of.result = add i64 %home, %offset
  br label %write
from.address:
  %object = call ptr @PyList_GetItem(ptr %given, i64 %which)
  %place = call ptr @PyLong_AsVoidPtr(ptr %object)
  %base = ptrtoint ptr %place to i64
  %of.input = add i64 %base, %offset
  %is.null = icmp eq ptr %place, null
  br i1 %is.null, label %doubt, label %write
from.int:
  %int.object = call ptr @PyList_GetItem(ptr %given, i64 %which)
  %int = call i64 @PyLong_AsLongLong(ptr %int.object)
  %int.odd = icmp eq i64 %int, -1
  br i1 %int.odd, label %doubt, label %write
from.float:
  %float.object = call ptr @PyList_GetItem(ptr %given, i64 %which)
  %double = call double @PyFloat_AsDouble(ptr %float.object)
  %float = fptrunc double %double to float
  %bits = bitcast float %float to i32
  %wide = zext i32 %bits to i64
  %float.odd = fcmp oeq double %double, -1.0
  br i1 %float.odd, label %doubt, label %write
doubt:                                      ; such a value, or an error?
  %doubtful = phi i64 [ %of.input, %from.address ], [ %int, %from.int ], [ %wide, %from.float ]
  %error = call ptr @PyErr_Occurred()
  %no.error = icmp eq ptr %error, null
  br i1 %no.error, label %write, label %drop
write:
  %value = phi i64 [ %of.result, %from.result ], [ %of.input, %from.address ], [ %int, %from.int ],
                   [ %wide, %from.float ], [ %doubtful, %doubt ]
  %target = getelementptr i64, ptr %words, i64 %word
  store i64 %value, ptr %target
  %p.next = add i64 %p, 1
  br label %patches.head

run:
  %ran = call i1 @run_for_python(ptr %program)
  br i1 %ran, label %done, label %drop
drop:
  call void @Py_DecRef(ptr %tuple)
  br label %raise
raise:
  ret ptr null
done:
  ret ptr %tuple
}

; Before a fork: wait for the running program, stop the workers, and keep `busy`.
define void @stop(ptr %pool) nounwind {
entry:
  br label %try
try:
  %before = atomicrmw or ptr %pool, i64 2 acquire
  %other = and i64 %before, 2
  %second = icmp ne i64 %other, 0
  br i1 %second, label %yield, label %wait
yield:                                     ; another thread forks, too: after it
  %r0 = call i32 @sched_yield()
  br label %try
wait:
  %busy = load atomic i64, ptr %pool acquire, align 8
  %mine = icmp eq i64 %busy, 2
  br i1 %mine, label %held, label %more.wait
more.wait:
  %r3 = call i32 @sched_yield()
  br label %wait
held:
  %at.started = getelementptr %pool, ptr %pool, i32 0, i32 10
  %door = getelementptr %pool, ptr %pool, i32 0, i32 2
  %started = load i64, ptr %at.started
  %any = icmp sgt i64 %started, 0
  br i1 %any, label %send, label %out
send:
  call void @open_door(ptr %pool, ptr null)
  br label %join
join:
  %i = phi i64 [ 0, %send ], [ %i.next, %join ]
  %at.thread = getelementptr %pool, ptr %pool, i32 0, i32 23, i64 %i, i32 1
  %thread = load i64, ptr %at.thread
  %r = call i32 @pthread_join(i64 %thread, ptr null)
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %started
  br i1 %more, label %join, label %closed
closed:
  %d = atomicrmw and ptr %door, i64 -2147483649 acq_rel
  %mutex = getelementptr %pool, ptr %pool, i32 0, i32 20
  %condition = getelementptr %pool, ptr %pool, i32 0, i32 21
  %r1 = call i32 @pthread_mutex_destroy(ptr %mutex)
  %r2 = call i32 @pthread_cond_destroy(ptr %condition)
  store i64 0, ptr %at.started
  br label %out
out:
  ret void
}

; After a fork, in parent and child: `busy` is given back; workers start with the next program.
define void @resume(ptr %pool) nounwind {
  store atomic i64 0, ptr %pool release, align 8
  ret void
}

; %n turns of the waiting loop, to be timed.
define void @spin(i64 %n) nounwind {
entry:
  br label %turn
turn:
  %i = phi i64 [ 0, %entry ], [ %i.next, %turn ]
  call void @relax()
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %turn, label %out
out:
  ret void
}

; A launch's function that does nothing.
define void @nothing(ptr %words, i64 %lo, i64 %hi, ptr %scratch, i64 %turn) nounwind {
  ret void
}
