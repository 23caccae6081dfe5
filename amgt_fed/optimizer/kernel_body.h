/* The step for one element type. Included twice by kernel.c, with T, U, ABS, SQRT, TINY, SHIFT and FN defined. */

/* g: negated to maximize, with coupled weight decay added. */
static inline T FN(gradient)(const T *x, const T *g, int64_t i, T sign, T coupled, const int plain) {
    return plain ? g[i] : sign * g[i] + coupled * x[i];
}

/* True if every square of g is finite. */
static int FN(finite)(const T *g, int64_t n, int threads) {
    int good = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) reduction(&& : good)
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int64_t stop = start + BLOCK < n ? start + BLOCK : n;
        T lanes[LANES] = {0};
        int64_t i = start;
        /* square * 0 is 0, or NaN for what must not be there; a plain sum could overflow on its own. */
        for (; i + LANES <= stop; i += LANES)
            for (int j = 0; j < LANES; j++) lanes[j] += g[i + j] * g[i + j] * (T)0;
        for (; i < stop; i++) lanes[0] += g[i] * g[i] * (T)0;
        for (int j = 0; j < LANES; j++) good = good && lanes[j] == 0;
    }
    return good;
}

/* Sums of max(v - weight m^2, 0) and of v, where v is the second moment this step will store. */
static inline void FN(block_sums)(const T *x, const T *g, const T *m, const T *v, int64_t n, T b2, T weight, T sign,
                                  T coupled, const int plain, double *spread, double *square) {
    double total_spread = 0, total_square = 0;
    for (int64_t start = 0; start < n; start += FLUSH) {
        const int64_t stop = start + FLUSH < n ? start + FLUSH : n;
        T a[LANES] = {0}, b[LANES] = {0};
        int64_t i = start;
        for (; i + LANES <= stop; i += LANES)
            for (int j = 0; j < LANES; j++) {
                const T gi = FN(gradient)(x, g, i + j, sign, coupled, plain);
                const T vi = b2 * v[i + j] + (1 - b2) * gi * gi;
                const T excess = vi - weight * m[i + j] * m[i + j];
                a[j] += excess > 0 ? excess : 0;
                b[j] += vi;
            }
        for (; i < stop; i++) {
            const T gi = FN(gradient)(x, g, i, sign, coupled, plain);
            const T vi = b2 * v[i] + (1 - b2) * gi * gi;
            const T excess = vi - weight * m[i] * m[i];
            a[0] += excess > 0 ? excess : 0;
            b[0] += vi;
        }
        for (int j = 0; j < LANES; j++) total_spread += a[j], total_square += b[j];
    }
    *spread = total_spread;
    *square = total_square;
}

/* Fills partial[2k], partial[2k + 1] per block, so that the sum does not depend on the number of threads. */
static void FN(sums)(const tensor_t *p, const rule_t *r, const scalars_t *s, int threads, double *partial) {
    const T *x = p->x, *g = p->g, *m = p->m, *v = p->v;
    const int64_t blocks = (p->n + BLOCK - 1) / BLOCK;
    const T b2 = r->beta2, weight = s->weight, sign = r->sign, coupled = r->coupled;
    const int plain = sign == 1 && coupled == 0;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t k = 0; k < blocks; k++) {
        const int64_t at = k * BLOCK, n = at + BLOCK < p->n ? BLOCK : p->n - at;
        if (plain)
            FN(block_sums)(x + at, g + at, m + at, v + at, n, b2, weight, 1, 0, 1, partial + 2 * k, partial + 2 * k + 1);
        else
            FN(block_sums)(x + at, g + at, m + at, v + at, n, b2, weight, sign, coupled, 0, partial + 2 * k,
                           partial + 2 * k + 1);
    }
}

/* One pass over everything: (7), (8), (14), without threshold. */
static inline void FN(block_step)(T *restrict x, const T *restrict g, T *restrict m, T *restrict v, T *restrict peak,
                                  int64_t n, const rule_t *r, const scalars_t *s, const int plain, const int amsgrad,
                                  const int preconditioned) {
    const T b2 = r->beta2, move = 1 - s->beta1, offset = s->offset > TINY ? s->offset : TINY, scale = s->scale;
    const T sign = r->sign, coupled = r->coupled, kappa = r->kappa, unbias1 = s->unbias1, shrink = s->shrink;
    for (int64_t i = 0; i < n; i++) {
        const T gi = FN(gradient)(x, g, i, sign, coupled, plain);
        const T vi = b2 * v[i] + (1 - b2) * gi * gi;
        const T mi = m[i] + move * (gi - m[i]);
        T second = vi;
        if (amsgrad) second = peak[i] = vi > peak[i] ? vi : peak[i];
        v[i] = vi;
        m[i] = mi;
        const T u = plain ? mi : mi + kappa * (gi * unbias1 - mi); /* D3 */
        const T moved = preconditioned ? u / SQRT(second + offset) : u;
        x[i] = shrink * x[i] - scale * moved;
    }
}

static void FN(step)(const tensor_t *p, const rule_t *r, const scalars_t *s, int threads) {
    const int plain = r->sign == 1 && r->coupled == 0 && r->kappa == 0, amsgrad = p->peak != 0;
    const int64_t blocks = (p->n + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t b = 0; b < blocks; b++) {
        /* Backwards: the sums have just left the last blocks in cache. */
        const int64_t at = (blocks - 1 - b) * BLOCK, n = at + BLOCK < p->n ? BLOCK : p->n - at;
        T *x = (T *)p->x + at, *m = (T *)p->m + at, *v = (T *)p->v + at, *peak = amsgrad ? (T *)p->peak + at : 0;
        const T *g = (const T *)p->g + at;
        if (plain && !amsgrad && r->preconditioned)
            FN(block_step)(x, g, m, v, 0, n, r, s, 1, 0, 1);
        else if (plain && !amsgrad)
            FN(block_step)(x, g, m, v, 0, n, r, s, 1, 0, 0);
        else if (amsgrad)
            FN(block_step)(x, g, m, v, peak, n, r, s, 0, 1, r->preconditioned);
        else
            FN(block_step)(x, g, m, v, 0, n, r, s, 0, 0, r->preconditioned);
    }
}

/* ---- with a threshold: moments first, then the cut, then x ------------------------------------------------- */

static inline T FN(direction)(const T *x, const T *g, const T *m, int64_t i, const rule_t *r, const scalars_t *s) {
    const T gi = r->kappa ? FN(gradient)(x, g, i, r->sign, r->coupled, 0) : 0;
    return r->kappa ? m[i] + (T)r->kappa * (gi * (T)s->unbias1 - m[i]) : m[i];
}

static inline uint32_t FN(bin)(T value) {
    union { T value; U bits; } both = {.value = ABS(value)};
    return (uint32_t)(both.bits >> SHIFT);
}

/* Moves m, v and the peak; sums the squares of the direction by the upper bits of its magnitude. */
static void FN(moments)(const tensor_t *p, const rule_t *r, const scalars_t *s, double *energy) {
    T *x = p->x, *m = p->m, *v = p->v, *peak = p->peak;
    const T *g = p->g;
    const T b2 = r->beta2, move = 1 - s->beta1;
    for (int64_t start = 0; start < p->n; start += FLUSH) {
        const int64_t stop = start + FLUSH < p->n ? start + FLUSH : p->n;
        for (int64_t i = start; i < stop; i++) {
            const T gi = FN(gradient)(x, g, i, r->sign, r->coupled, 0);
            v[i] = b2 * v[i] + (1 - b2) * gi * gi;
            m[i] += move * (gi - m[i]);
        }
        if (peak)
            for (int64_t i = start; i < stop; i++) peak[i] = v[i] > peak[i] ? v[i] : peak[i];
        for (int64_t i = start; i < stop; i++) {
            const T u = FN(direction)(x, g, m, i, r, s);
            energy[FN(bin)(u)] += (double)u * (double)u;
        }
    }
}

/* Finds the last entry that is dropped, in the order of (magnitude, position); gives the squares spent. */
static int FN(cut)(const tensor_t *p, const rule_t *r, const scalars_t *s, const double *energy, double budget,
                   cut_t *cut) {
    const T *x = p->x, *g = p->g, *m = p->m;
    double spent = 0;
    uint32_t edge = 0;
    while (edge < BINS && spent + energy[edge] <= budget) spent += energy[edge++];
    cut->magnitude = HUGE_VAL, cut->position = p->n, cut->spent = spent;
    if (edge == BINS) return 0;
    int64_t found = 0, used = 0;
    for (int64_t i = 0; i < p->n; i++) found += FN(bin)(FN(direction)(x, g, m, i, r, s)) == edge;
    entry_t *entries = malloc((size_t)found * sizeof *entries);
    if (!entries) return 1;
    for (int64_t i = 0; i < p->n; i++) {
        const T u = FN(direction)(x, g, m, i, r, s);
        if (FN(bin)(u) == edge) entries[used++] = (entry_t){ABS(u), i};
    }
    qsort(entries, (size_t)found, sizeof *entries, by_magnitude);
    for (used = 0; used < found && spent + entries[used].magnitude * entries[used].magnitude <= budget; used++)
        spent += entries[used].magnitude * entries[used].magnitude;
    /* Nothing of this bin: then everything below its smallest entry. */
    cut->magnitude = used ? entries[used - 1].magnitude : entries[0].magnitude;
    cut->position = used ? entries[used - 1].position : -1;
    cut->spent = spent;
    free(entries);
    return 0;
}

static void FN(descend)(const tensor_t *p, const rule_t *r, const scalars_t *s, const cut_t *cut, int threads) {
    T *x = p->x;
    const T *g = p->g, *m = p->m, *second = p->peak ? p->peak : p->v;
    const T offset = s->offset > TINY ? s->offset : TINY, scale = s->scale, shrink = s->shrink, limit = cut->magnitude;
    const int64_t last = cut->position;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t start = 0; start < p->n; start += BLOCK) {
        const int64_t stop = start + BLOCK < p->n ? start + BLOCK : p->n;
        for (int64_t i = start; i < stop; i++) {
            const T u = FN(direction)(x, g, m, i, r, s), size = ABS(u);
            const T kept = size < limit || (size == limit && i <= last) ? 0 : u;
            x[i] = shrink * x[i] - scale * (r->preconditioned ? kept / SQRT(second[i] + offset) : kept);
        }
    }
}

/* The sufficient rule: what lies at or below the limit. */
static double FN(square_below)(const tensor_t *p, const rule_t *r, const scalars_t *s, double limit) {
    double spent = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const double u = ABS(FN(direction)(p->x, p->g, p->m, i, r, s));
        spent += u <= limit ? u * u : 0;
    }
    return spent;
}

static int FN(step_thresholded)(const tensor_t *p, const rule_t *r, const scalars_t *s, double t, int threads,
                                double *energy, double *error) {
    cut_t cut = {HUGE_VAL, p->n, 0};
    double total = 0;
    memset(energy, 0, BINS * sizeof *energy);
    FN(moments)(p, r, s, energy);
    for (int k = 0; k < BINS; k++) total += energy[k];
    const double share = r->theta / t;
    const double budget = r->relative_threshold ? share * share * total : share * share * s->unbias1 * s->unbias1;
    if (r->relative_threshold && share >= 1)
        cut.spent = total;
    else if (!r->exact) {
        cut.magnitude = (T)sqrt(budget / (double)p->n);
        /* Rounding to T must not raise the limit above what the budget allows. */
        if (cut.magnitude > sqrt(budget / (double)p->n)) cut.magnitude = (T)(cut.magnitude * (1 - 2.3e-7));
        cut.spent = FN(square_below)(p, r, s, cut.magnitude);
    } else if (FN(cut)(p, r, s, energy, budget, &cut))
        return 1;
    FN(descend)(p, r, s, &cut, threads);
    *error += cut.spent / (s->unbias1 * s->unbias1);
    return 0;
}
