// The loops of protocol.py on a GPU: one thread block to a column, everything for a column in one launch.
//
// Compiled once for each floating type, `-DReal=float` or `-DReal=double`, without contraction of a product and a
// sum (`--fmad=false`): the loops are bound by memory, and so every code is rounded as on a CPU.
//
// Shapes as in protocol.py: G groups, M columns, K rows, B scales to a column, rows in the order of visit, a column
// contiguous. A thread block is a power of two of threads, at most MAX_THREADS. What grows with K lies in global or
// in dynamic shared memory, never in a fixed array. Sums are added in one fixed order and there are no atomic sums:
// the same bits on every run.

#ifndef Real
#define Real float
#endif

constexpr int MAX_THREADS = 512;

// Wider than a product of two sizes.
using Index = long long;

// Dynamic shared memory; double is the strictest alignment that is put there.
extern __shared__ double arena[];

// One column as its thread block sees it.
struct Column {
    const Real *gram;      // (K, K)
    const Real *diagonal;  // (K)
    Real *rest;            // (K), gram (weight - scale p); shared or global
    Real *codes;           // (K), the steps p; shared or global
    const Real *scale;     // (B); changes in a refit, so it is never read through a cache of constants
    const Real *lo, *hi;   // (B), or one value where all columns have the same bounds
    const Index *block_of; // (K)
    int rows, blocks, same;

    __device__ int block(int i) const { return blocks == 1 ? 0 : static_cast<int>(block_of[i]); }

    __device__ bool inside(Real step, int b) const
    {
        const int at = same ? 0 : b;
        return step >= lo[at] && step <= hi[at];
    }

    __device__ Real clipped(Real step, int b) const
    {
        const int at = same ? 0 : b;
        return fmin(fmax(step, lo[at]), hi[at]);
    }
};

// The column of this thread block, its state in global memory.
__device__ Column column_here(const Real *gram, const Real *diagonal, Real *residual, Real *p, const Real *scale,
                              const Real *lo, const Real *hi, const Index *block_of, int rows, int cols, int blocks,
                              int same)
{
    const Index column = blockIdx.x, group = column / cols, bound = same ? 0 : column * blocks;
    Column here;
    here.gram = gram + group * rows * rows;
    here.diagonal = diagonal + group * rows;
    here.rest = residual + column * rows;
    here.codes = p + column * rows;
    here.scale = scale + column * blocks;
    here.lo = lo + bound;
    here.hi = hi + bound;
    here.block_of = block_of + group * rows;
    here.rows = rows;
    here.blocks = blocks;
    here.same = same;
    return here;
}

// Each thread copies the same cells on the way in and on the way out.
__device__ void copy(const Real *from, Real *to, int count)
{
    for (int k = threadIdx.x; k < count; k += blockDim.x) to[k] = from[k];
}

// The sum over the threads of a block, known to all of them.
__device__ double block_sum(double value)
{
    __shared__ double partial[MAX_THREADS];
    partial[threadIdx.x] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (static_cast<int>(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    const double sum = partial[0];
    __syncthreads();
    return sum;
}

// The residual after `amount` was added to weight i.
__device__ void follow(const Column &column, int i, Real amount)
{
    const Real *__restrict__ row = column.gram + static_cast<Index>(i) * column.rows;
    Real *rest = column.rest;
#pragma unroll 4
    for (int j = threadIdx.x; j < column.rows; j += blockDim.x) rest[j] -= amount * row[j];
}

// Change of the loss when `amount` is added to weight i.
__device__ double gain_of(const Column &column, int i, Real amount)
{
    const double wide = amount;
    return wide * (wide * column.diagonal[i] - 2 * static_cast<double>(column.rest[i]));
}

// Visits of rows one after another; codes are integers, and a residual up to half a step moves nothing.
struct InTurn {
    __device__ int row(int turn) const { return turn; }

    __device__ Real step(const Column &column, int i) const
    {
        const int b = column.block(i);
        const Real old = column.codes[i], rest = column.rest[i], diagonal = column.diagonal[i], d = column.scale[b];
        if (!(diagonal > 0) || !(fabs(rest) > d * diagonal * Real(0.5))) return old;
        return column.clipped(old + rint(rest / (diagonal * d)), b);
    }
};

// Visits in the column's own order; codes may still be floats.
struct InOrder {
    const Index *order; // (K)

    __device__ int row(int turn) const { return static_cast<int>(order[turn]); }

    __device__ Real step(const Column &column, int i) const
    {
        const int b = column.block(i);
        const Real diagonal = column.diagonal[i];
        const Real slope = diagonal > 0 ? column.rest[i] / (diagonal * column.scale[b]) : Real(0);
        return column.clipped(rint(column.codes[i] + slope), b);
    }
};

// One sweep; whether a code moved. `change` grows by the change of the loss.
//
// Whether a row moves depends on nothing but the moves before it. So the threads look ahead together for the first
// row that moves, the whole block lets the residual follow, and the search goes on behind that row: the same moves
// in the same order as one row at a time. Each search that finds nothing looks twice as far as the one before.
template <typename Visits> __device__ bool sweep(const Column &column, const Visits &visits, double *change)
{
    __shared__ int first;
    __shared__ Real amount;
    __shared__ double gain;
    const int rows = column.rows, threads = blockDim.x;
    bool moved = false;
    double total = 0;
    if (threadIdx.x == 0) first = rows;
    for (int from = 0, span = threads; from < rows;) {
        const int stop = span < rows - from ? from + span : rows;
        int mine = rows;
        for (int turn = from + threadIdx.x; turn < stop && mine == rows; turn += threads) {
            const int i = visits.row(turn);
            if (visits.step(column, i) != column.codes[i]) mine = turn;
        }
        if (!__syncthreads_or(mine < rows)) {
            from = stop;
            span *= 2;
            continue;
        }
        if (mine < rows) atomicMin(&first, mine);
        __syncthreads();
        const int found = first, i = visits.row(found);
        if (mine == found) {
            const Real old = column.codes[i], step = visits.step(column, i);
            amount = column.scale[column.block(i)] * (step - old);
            gain = gain_of(column, i, amount);
            column.codes[i] = step;
        }
        __syncthreads();
        if (threadIdx.x == 0) first = rows;
        follow(column, i, amount);
        total += gain;
        moved = true;
        from = found + 1;
        span = threads;
        __syncthreads();
    }
    *change += total;
    return moved;
}

// The best scale for the codes of a column with one scale; whether it moved by more than the part `still`.
__device__ bool refit(const Column &column, Real *scale, const Real *pull, double still)
{
    double top = 0, slack = 0;
    for (int k = threadIdx.x; k < column.rows; k += blockDim.x) {
        top += static_cast<double>(column.codes[k]) * pull[k];
        slack += static_cast<double>(column.codes[k]) * column.rest[k];
    }
    top = block_sum(top);
    slack = block_sum(slack);
    const Real old = scale[0];
    const double bottom = (top - slack) / old;
    if (!(bottom > 0 && top > 0)) return false;
    const Real fresh = static_cast<Real>(top / bottom);
    if (!(fresh > 0 && isfinite(fresh))) return false;
    const Real ratio = fresh / old;
    if (!(fabs(ratio - 1) > still)) return false;
    for (int k = threadIdx.x; k < column.rows; k += blockDim.x)
        column.rest[k] = pull[k] - ratio * (pull[k] - column.rest[k]);
    __syncthreads();
    if (threadIdx.x == 0) scale[0] = fresh;
    __syncthreads();
    return true;
}

// Grid: G M. Shared: K Real if `in_shared`. `ever` (G, M): whether a code moved.
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
descend(const Real *gram, const Real *diagonal, Real *residual, Real *p, Real *scale, const Real *lo, const Real *hi,
        const Index *block_of, int rows, int cols, int blocks, int same, const Real *pull, int sweeps, int refits,
        double still, bool *ever, int in_shared)
{
    Column column =
        column_here(gram, diagonal, residual, p, scale, lo, hi, block_of, rows, cols, blocks, same);
    const Index at = blockIdx.x;
    Real *rest = column.rest;
    if (in_shared) column.rest = reinterpret_cast<Real *>(arena);
    if (in_shared) copy(rest, column.rest, rows);
    __syncthreads();
    bool ever_moved = false;
    double change = 0;
    for (int done = 0; done < sweeps; done++) {
        const bool moved = sweep(column, InTurn(), &change);
        ever_moved |= moved;
        const bool turned = refits && refit(column, scale + at * blocks, pull + at * rows, still);
        if (!moved && !turned) break;
    }
    if (in_shared) copy(column.rest, rest, rows);
    if (threadIdx.x == 0) ever[at] = ever_moved;
}

// Move row i by one step towards its second best code, against the loss; away from it at a bound.
__device__ double shove(const Column &column, int i)
{
    __shared__ Real amount;
    __shared__ double gain;
    if (threadIdx.x == 0) {
        const int b = column.block(i);
        Real step = column.rest[i] > 0 ? Real(1) : Real(-1);
        if (!column.inside(column.codes[i] + step, b)) step = -step;
        if (!column.inside(column.codes[i] + step, b)) step = 0;
        amount = column.scale[b] * step;
        gain = gain_of(column, i, amount);
        column.codes[i] += step;
    }
    __syncthreads();
    follow(column, i, amount);
    const double change = gain;
    __syncthreads();
    return change;
}

// Grid: G M. Shared: 2 K Real if `in_shared`, otherwise they are in `scratch` (G, M, 2, K).
// `picks` is (kicks, depth), `live` (G).
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
kick(const Real *gram, const Real *diagonal, Real *residual, Real *p, const Real *scale, const Real *lo,
     const Real *hi, const Index *block_of, int rows, int cols, int blocks, int same, const double *picks, int kicks,
     int depth, const Index *live, int repairs, double least, Real *scratch, int in_shared)
{
    const Column best =
        column_here(gram, diagonal, residual, p, scale, lo, hi, block_of, rows, cols, blocks, same);
    const Index at = blockIdx.x, alive = live[at / cols];
    if (alive == 0) return;
    Column trial = best;
    trial.rest = in_shared ? reinterpret_cast<Real *>(arena) : scratch + at * 2 * rows;
    trial.codes = trial.rest + rows;
    const Real first = best.scale[best.block(0)];
    const double needed = least * first * first * best.diagonal[0];
    for (int turn = 0; turn < kicks; turn++) {
        copy(best.rest, trial.rest, rows);
        copy(best.codes, trial.codes, rows);
        __syncthreads();
        double change = 0;
        for (int n = 0; n < depth; n++)
            change += shove(trial, static_cast<int>(picks[static_cast<Index>(turn) * depth + n] * alive));
        for (int done = 0; done < repairs; done++)
            if (!sweep(trial, InTurn(), &change)) break;
        if (change < -needed) {
            copy(trial.rest, best.rest, rows);
            copy(trial.codes, best.codes, rows);
        }
        __syncthreads();
    }
}

// Grid: G M. Shared: K Real if `in_shared`. `order` is (G, M, K).
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
sweep_ordered(const Real *gram, const Real *diagonal, Real *residual, Real *p, const Real *scale, const Real *lo,
              const Real *hi, const Index *block_of, int rows, int cols, int blocks, int same, const Index *order,
              int in_shared)
{
    Column column =
        column_here(gram, diagonal, residual, p, scale, lo, hi, block_of, rows, cols, blocks, same);
    const InOrder visits = {order + static_cast<Index>(blockIdx.x) * rows};
    Real *rest = column.rest;
    if (in_shared) column.rest = reinterpret_cast<Real *>(arena);
    if (in_shared) copy(rest, column.rest, rows);
    __syncthreads();
    double change = 0;
    sweep(column, visits, &change);
    if (in_shared) copy(column.rest, rest, rows);
}

// Rows start..stop-1 of rounding with feedback: `goal` has the errors of all rows before `start` in it.
// Grid: G M. Shared: stop - start Real. Writes `p` and `error` = weight - scale p of these rows.
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
feedback(const Real *coupling, const Real *weight, const Real *goal, Real *error, Real *p, const Real *scale,
         const Real *lo, const Real *hi, const Index *block_of, int rows, int cols, int blocks, int same, int start,
         int stop)
{
    const Column column =
        column_here(coupling, weight, error, p, scale, lo, hi, block_of, rows, cols, blocks, same);
    const Real *here = weight + static_cast<Index>(blockIdx.x) * rows;
    Real *wish = reinterpret_cast<Real *>(arena);
    copy(goal + static_cast<Index>(blockIdx.x) * rows + start, wish, stop - start);
    __syncthreads();
    for (int i = start; i < stop; i++) {
        const int b = column.block(i);
        const Real d = column.scale[b], step = column.clipped(rint(wish[i - start] / d), b);
        const Real miss = here[i] - d * step;
        const Real *row = column.gram + static_cast<Index>(i) * rows;
        for (int j = i + 1 + threadIdx.x; j < stop; j += blockDim.x) wish[j - start] += miss * row[j];
        if (threadIdx.x == 0) {
            column.codes[i] = step;
            column.rest[i] = miss;
        }
        __syncthreads();
    }
}

// The first row whose block is at least `b`; rows are in natural order here, block after block.
__device__ int first_row(const Index *block_of, int rows, int b)
{
    int low = 0, high = rows;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (block_of[middle] < b) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Grid: G M B. `importance` is (G, K), `out` (G, M, B).
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
rounding_error(const Real *weight, const Real *importance, const Real *scale, const Real *lo, const Real *hi,
               const Index *block_of, int rows, int cols, int blocks, int same, Real *out)
{
    const Index at = blockIdx.x, column = at / blocks, group = column / cols;
    const int b = static_cast<int>(at % blocks);
    const Index *blocks_here = block_of + group * rows;
    const int start = blocks == 1 ? 0 : first_row(blocks_here, rows, b);
    const int stop = b + 1 == blocks ? rows : first_row(blocks_here, rows, b + 1);
    const Real *w = weight + column * rows, *h = importance + group * rows;
    const Real d = scale[at], low = lo[same ? 0 : at], high = hi[same ? 0 : at];
    double total = 0;
    for (int k = start + threadIdx.x; k < stop; k += blockDim.x) {
        const Real error = w[k] - d * fmin(fmax(rint(w[k] / d), low), high);
        total += static_cast<double>(h[k] * error * error);
    }
    total = block_sum(total);
    if (threadIdx.x == 0) out[at] = static_cast<Real>(total);
}
