// Threads are torch's: `fork_join` is GOMP_parallel of the OpenMP runtime that torch itself loaded,
// handed over as a pointer. A second runtime or pool in the process would fight over the cores, and
// torch's workers are still spinning from its last op, so a call costs about a microsecond.
#pragma once

#include <atomic>

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef void (*ForkJoin)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// Multiplications that one thread does in the time a second one takes to join.
constexpr long WORTH_A_THREAD = 1 << 18;

// The threads that pay for so many multiplications: a small model stays on one, and is then not held
// up either by threads that wait for a busy core.
static int worth(int threads, long products) { return products > WORTH_A_THREAD ? threads : 1; }

// Calls work(i) for i in [0, count), spread over `threads`. Parts are taken one at a time, so a thread
// that the system holds up does not hold up the others. Without a runtime all runs on the caller.
template <class Work>
static void parallel(ForkJoin fork_join, int threads, long count, const Work& work) {
    struct Job {
        const Work& work;
        long count;
        std::atomic<long> next;
    } job{work, count, {0}};
    auto body = [](void* data) {
        Job& job = *static_cast<Job*>(data);
        for (long i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) job.work(i);
    };
    if (fork_join && threads > 1 && count > 1)
        fork_join(body, &job, threads < count ? threads : (unsigned)count, 0);
    else
        body(&job);
}
