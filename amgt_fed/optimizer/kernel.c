/* The step of AMGT on the CPU: the formulas of step.py, fused, in as few passes over memory as (9) allows.

   Two passes: one reads g, m and v for the noise of (9), one does the rest. A tensor that fits into cache is read from
   memory once. Sums are taken in blocks of fixed size, so the bits do not depend on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, FLUSH = 1024, BLOCK = 1 << 14, BINS = 1 << 13, ALONE = 1 << 16 };
/* Beyond this many elements a tensor will have left the cache before its turn comes, so the check of its gradient
   and the sums over it are made in one go. */
static const int64_t LARGE = 1 << 21;

typedef struct { void *x, *g, *m, *v, *peak; float *step; double *c; int64_t n, is_double; } tensor_t;
typedef struct {
    double lr, lr_factor, lr_decay, mu, t0, beta1, beta2, eps, gamma, kappa, theta, weight_decay, sign, coupled;
    int64_t relative_variance, relative_threshold, exact, preconditioned, threshold_steps;
} rule_t;
typedef struct { double weight, beta1, unbias1, offset, scale, shrink; } scalars_t;
typedef struct { double magnitude; int64_t position; double spent; } cut_t;
typedef struct { double magnitude; int64_t position; } entry_t;

static int by_magnitude(const void *left, const void *right) {
    const entry_t *a = left, *b = right;
    if (a->magnitude != b->magnitude) return a->magnitude < b->magnitude ? -1 : 1;
    return a->position < b->position ? -1 : a->position > b->position;
}

#define T float
#define U uint32_t
#define ABS fabsf
#define SQRT sqrtf
#define TINY 1.17549435e-38f
#define SHIFT 18
#define FN(name) name##_f
#include "kernel_body.h"
#undef T
#undef U
#undef ABS
#undef SQRT
#undef TINY
#undef SHIFT
#undef FN
#define T double
#define U uint64_t
#define ABS fabs
#define SQRT sqrt
#define TINY 2.2250738585072014e-308
#define SHIFT 50
#define FN(name) name##_d
#include "kernel_body.h"

static int threads_for(int64_t n, int threads) { return n > ALONE ? threads : 1; }

static double unbias2(const rule_t *r, double t) { return 1 - pow(r->beta2, t); }

static void add_up(const tensor_t *p, const rule_t *r, int threads, double *partial, double *spread, double *square) {
    const double t = *p->step + 1.0;
    scalars_t s = {0};
    /* m_hat_prev is 0 at the first step, where 1 - c is 0 too. In units of v: m_hat_prev^2 (1 - b2^t). */
    s.weight = t > 1 ? unbias2(r, t) / ((1 - *p->c) * (1 - *p->c)) : 0;
    if (p->is_double) sums_d(p, r, &s, threads, partial);
    else sums_f(p, r, &s, threads, partial);
    *spread = *square = 0;
    for (int64_t k = 0; k < (p->n + BLOCK - 1) / BLOCK; k++) *spread += partial[2 * k], *square += partial[2 * k + 1];
}

static int step_one(const tensor_t *p, const rule_t *r, int threads, double spread, double square, double *energy,
                    double *error) {
    const double t = *p->step + 1.0, unbias = unbias2(r, t);
    double noise = 0;
    if (r->gamma > 0 && p->n > 0)
        noise = r->relative_variance ? (square > 0 ? spread / square : 0) : spread / unbias / (double)p->n; /* D1 */
    if (isnan(noise)) noise = 1; /* both sums overflowed */
    scalars_t s = {0};
    s.beta1 = r->beta1 / (1 + r->gamma * noise); /* (9), D2 */
    const double c = *p->c * s.beta1;
    const double eta = r->mu > 0 ? r->lr_factor / (r->mu * (t + r->t0)) : r->lr / (1 + r->lr_decay * (t - 1));
    s.unbias1 = 1 - c;
    s.offset = r->eps * unbias;
    s.scale = r->preconditioned ? eta / (1 - c) * sqrt(unbias) : eta / (1 - c);
    s.shrink = 1 - eta * r->weight_decay;
    if (r->theta > 0 && (!r->threshold_steps || t <= (double)r->threshold_steps)) {
        if (p->is_double ? step_thresholded_d(p, r, &s, t, threads, energy, error)
                         : step_thresholded_f(p, r, &s, t, threads, energy, error))
            return 1;
    } else if (p->is_double)
        step_d(p, r, &s, threads);
    else
        step_f(p, r, &s, threads);
    *p->step = (float)t;
    *p->c = c;
    return 0;
}

/* Checks every gradient; gives the index of the first tensor with a bad one, or -1. Fills spread and square of the
   large tensors (two numbers per tensor) so that step_all need not read them again. */
int64_t amgt_check(const tensor_t *tensors, int64_t count, const rule_t *rule, int64_t threads, double *sums,
                   double *partial) {
    for (int64_t k = 0; k < count; k++) {
        const tensor_t *p = tensors + k;
        const int use = threads_for(p->n, (int)threads);
        int good;
        if (p->n > LARGE && rule->gamma > 0) {
            add_up(p, rule, use, partial, sums + 2 * k, sums + 2 * k + 1);
            good = isfinite(sums[2 * k + 1]) && isfinite(sums[2 * k]);
            if (good) continue;
        }
        good = p->is_double ? finite_d(p->g, p->n, use) : finite_f(p->g, p->n, use);
        if (!good) return k;
    }
    return -1;
}

/* Steps every tensor; 0, or 1 when memory ran out. */
int64_t amgt_step(const tensor_t *tensors, int64_t count, const rule_t *rule, int64_t threads, double *sums,
                  double *partial, double *error) {
    double *energy = rule->theta > 0 ? malloc(BINS * sizeof *energy) : 0;
    if (rule->theta > 0 && !energy) return 1;
    int64_t failed = 0;
    for (int64_t k = 0; k < count && !failed; k++) {
        const tensor_t *p = tensors + k;
        const int use = threads_for(p->n, (int)threads);
        if (p->n == 0) continue;
        if (rule->gamma > 0 && p->n <= LARGE) add_up(p, rule, use, partial, sums + 2 * k, sums + 2 * k + 1);
        failed = step_one(p, rule, use, sums[2 * k], sums[2 * k + 1], energy, error);
    }
    free(energy);
    return failed;
}
