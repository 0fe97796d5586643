// Enough of CUDA to run sweep.cu as C++ on the CPU, one thread block after another.
//
// With one thread to a block, a barrier is nothing. With several, each is a fiber that runs up to the next barrier
// before the next one starts: forwards, backwards or in a new random order at each barrier. What depends on the
// order, because a barrier is missing, gives another answer in another order; threads that wait at different
// barriers, or that end while others wait, are found and reported.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __shared__ thread_local
#define __launch_bounds__(threads)
#define __restrict__ __restrict

using std::fabs;
using std::fmax;
using std::fmin;
using std::isfinite;
using std::rint;

struct Place {
    unsigned x;
};
static thread_local Place blockIdx, threadIdx, blockDim;
thread_local double arena[1 << 15];

enum class State { running, waiting, voting, ended };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 16);
    State state = State::running;
    bool vote = false;
};

static thread_local std::vector<std::unique_ptr<Fiber>> fibers;
static thread_local ucontext_t scheduler;
static thread_local const std::function<void()> *body;
static thread_local bool verdict;

static void stop_at(State state)
{
    Fiber &here = *fibers[threadIdx.x];
    here.state = state;
    swapcontext(&here.context, &scheduler);
}

static inline void __syncthreads()
{
    if (blockDim.x > 1) stop_at(State::waiting);
}

static inline int __syncthreads_or(int vote)
{
    if (blockDim.x == 1) return vote;
    fibers[threadIdx.x]->vote = vote;
    stop_at(State::voting);
    return verdict;
}

static inline int atomicMin(int *cell, int value)
{
    const int old = *cell;
    *cell = std::min(old, value);
    return old;
}

static void fiber_main()
{
    (*body)();
    stop_at(State::ended);
}

// Orders of the threads between two barriers: 0 forwards, 1 backwards, any other number seeds random ones.
static bool run_block(int threads, int order)
{
    std::mt19937 random(order);
    std::vector<int> turns(threads);
    std::iota(turns.begin(), turns.end(), 0);
    if (order == 1) std::reverse(turns.begin(), turns.end());
    while (static_cast<int>(fibers.size()) < threads) fibers.push_back(std::make_unique<Fiber>());
    for (int t = 0; t < threads; t++) {
        Fiber &fiber = *fibers[t];
        fiber.state = State::running;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (;;) {
        if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
        for (int t : turns) {
            threadIdx.x = t;
            swapcontext(&scheduler, &fibers[t]->context);
        }
        verdict = false;
        for (int t : turns) verdict |= fibers[t]->vote;
        for (int t : turns) {
            if (fibers[t]->state != fibers[0]->state) return false;
            fibers[t]->vote = false;
        }
        if (fibers[0]->state == State::ended) return true;
    }
}

// Returns 0, or 1 where the threads of a block were at different barriers.
static int run_grid(int blocks, int threads, int shared, int order, const std::function<void()> &kernel)
{
    body = &kernel;
    blockDim.x = threads;
    for (int block = 0; block < blocks; block++) {
        blockIdx.x = block;
        threadIdx.x = 0;
        std::memset(arena, 0xff, shared); // not a number, to whoever reads before writing
        if (threads == 1) kernel();
        else if (!run_block(threads, order)) return 1;
    }
    return 0;
}
