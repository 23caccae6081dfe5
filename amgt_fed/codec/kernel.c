/* The codec's inner loops. Each function has a twin in numpy (named beside it) and gives the same bits: the sums below
   are taken in one fixed order, products are never fused with sums (-ffp-contract=off), and the rest is whole numbers. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { CHUNK = 1 << 16, LANES = 256, BLOCK = 32, SYMBOLS = 64, PRECISION = 15 };

static uint32_t magnitude_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffffu;
}

/* Adds squares, in lanes: scan.squares. A chunk is summed by itself and then added, as numpy's twin does. */
void amgt_squares(const float *x, int64_t n, double *lanes) {
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t count = n - first < CHUNK ? n - first : CHUNK, rows = count / LANES * LANES;
        const float *chunk = x + first;
        double part[LANES] = {0};
        for (int64_t row = 0; row < rows; row += LANES)
            for (int j = 0; j < LANES; j++) part[j] += (double)chunk[row + j] * (double)chunk[row + j];
        for (int64_t i = rows; i < count; i++) part[i - rows] += (double)chunk[i] * (double)chunk[i];
        for (int j = 0; j < LANES; j++) lanes[j] += part[j];
    }
}

/* Counts magnitudes by their upper bits, the first `taken` of every CHUNK: scan.histogram. */
void amgt_histogram(const float *x, int64_t n, int64_t taken, int64_t shift, uint32_t *bins, int64_t num_bins) {
    /* Two sets of counts: neighbours often fall on one bin, and a second addition would wait for the first. */
    uint32_t *other = bins + num_bins;
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t left = n - first, count = left < taken ? left : taken;
        const float *chunk = x + first;
        int64_t i = 0;
        for (; i + 1 < count; i += 2) {
            bins[magnitude_bits(chunk[i]) >> shift]++;
            other[magnitude_bits(chunk[i + 1]) >> shift]++;
        }
        if (i < count) bins[magnitude_bits(chunk[i]) >> shift]++;
    }
    for (int64_t i = 0; i < num_bins; i++) bins[i] += other[i];
}

/* The lowest set bit of a mask that is not 0. */
static int lowest(uint32_t mask) {
#if defined(__GNUC__)
    return __builtin_ctz(mask);
#else
    int place = 0;
    while (!(mask >> place & 1)) place++;
    return place;
#endif
}

/* Places and values of |x| >= threshold, and the squares of the rest in lanes: scan.select. Counts on beyond `room`. */
int64_t amgt_select(const float *x, int64_t n, float threshold, int64_t room, int32_t *indices, float *values,
                    double *lanes) {
    const uint32_t lift = 0x80000000u - magnitude_bits(threshold); /* lifts what reaches it into the top bit */
    int64_t found = 0;
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t count = n - first < CHUNK ? n - first : CHUNK;
        double part[LANES] = {0};
        for (int64_t row = first; row < first + count; row += LANES) {
            float copy[LANES], small[LANES];
            const float *from = x + row;
            if (first + count - row < LANES) { /* the last row: zeros beyond its end, which reach no threshold */
                memset(copy, 0, sizeof copy);
                memcpy(copy, from, (size_t)(first + count - row) * sizeof(float));
                from = copy;
            }
            uint32_t any[LANES / BLOCK];
            for (int b = 0; b < LANES / BLOCK; b++) {
                uint32_t seen = 0;
                for (int j = b * BLOCK; j < (b + 1) * BLOCK; j++) {
                    uint32_t bits;
                    memcpy(&bits, from + j, sizeof bits);
                    const uint32_t lifted = (bits & 0x7fffffffu) + lift;
                    seen |= lifted;
                    bits &= (lifted >> 31) - 1u; /* all ones below the threshold, zeros from it on */
                    memcpy(small + j, &bits, sizeof bits);
                }
                any[b] = seen >> 31;
            }
            for (int j = 0; j < LANES; j++) part[j] += (double)small[j] * (double)small[j];
            for (int b = 0; b < LANES / BLOCK; b++) {
                if (!any[b]) continue;
                uint32_t mask = 0;
                for (int j = 0; j < BLOCK; j++) mask |= (magnitude_bits(from[b * BLOCK + j]) + lift) >> 31 << j;
                for (; mask; mask &= mask - 1) {
                    const int j = b * BLOCK + lowest(mask);
                    if (found < room) indices[found] = (int32_t)(row + j), values[found] = from[j];
                    found++;
                }
            }
        }
        for (int j = 0; j < LANES; j++) lanes[j] += part[j];
    }
    return found;
}

/* Adds squares of x - y, in lanes: scan.squared_difference. */
void amgt_squared_difference(const float *x, const float *y, int64_t n, double *lanes) {
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t count = n - first < CHUNK ? n - first : CHUNK, rows = count / LANES * LANES;
        const float *a = x + first, *b = y + first;
        double part[LANES] = {0};
        for (int64_t row = 0; row < rows; row += LANES)
            for (int j = 0; j < LANES; j++) {
                const double difference = (double)a[row + j] - (double)b[row + j];
                part[j] += difference * difference;
            }
        for (int64_t i = rows; i < count; i++) {
            const double difference = (double)a[i] - (double)b[i];
            part[i - rows] += difference * difference;
        }
        for (int j = 0; j < LANES; j++) lanes[j] += part[j];
    }
}

/* Levels of survivors: sparse.quantize. sums: lanes of the remainders of level 1, of those above, and of their squares. */
void amgt_quantize(const float *values, int64_t n, double step, double rounding, int32_t largest, int32_t *levels,
                   int64_t *ones, double *sums) {
    double *first_sum = sums, *other_sum = sums + LANES, *squares = sums + 2 * LANES;
    int64_t count = 0;
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t last = n - first < CHUNK ? n : first + CHUNK;
        double a[LANES] = {0}, b[LANES] = {0}, c[LANES] = {0};
        for (int64_t i = first; i < last; i++) {
            const double scaled = (double)fabsf(values[i]) / step;
            /* Adding a half-open constant and cutting equals floor: scaled is not negative. */
            const double capped = scaled < (double)largest ? scaled : (double)largest;
            int32_t level = (int32_t)(capped + rounding);
            level = level < 1 ? 1 : level > largest ? largest : level;
            const double rest = scaled - (double)level;
            const int j = (int)((i - first) & (LANES - 1));
            const int one = level == 1;
            count += one;
            a[j] += one ? rest : 0.0;
            b[j] += one ? 0.0 : rest;
            c[j] += rest * rest;
            levels[i] = values[i] < 0 ? -level : level;
        }
        for (int j = 0; j < LANES; j++) first_sum[j] += a[j], other_sum[j] += b[j], squares[j] += c[j];
    }
    *ones = count;
}

static int symbol_of(uint32_t number) {
    /* A double holds the number exactly: its exponent, and whether it lies in the upper half of its octave. */
    const double exact = (double)number;
    uint64_t bits;
    memcpy(&bits, &exact, sizeof bits);
    return number < 8 ? (int)number : 2 + 2 * ((int)(bits >> 52) - 1023) + (int)(bits >> 51 & 1);
}

/* Symbols of gaps between indices, or of |levels| - 1, and how often each occurs: symbols.gap_symbols, level_symbols. */
void amgt_gap_symbols(const int32_t *indices, int64_t n, uint8_t *symbols, int64_t *counts) {
    int32_t before = -1;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t gap = (uint32_t)(indices[i] - before - 1);
        before = indices[i];
        counts[symbols[i] = (uint8_t)symbol_of(gap)]++;
    }
}

void amgt_level_symbols(const int32_t *levels, int64_t n, uint8_t *symbols, int64_t *counts) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t number = (uint32_t)((levels[i] < 0 ? -levels[i] : levels[i]) - 1);
        counts[symbols[i] = (uint8_t)symbol_of(number)]++;
    }
}

/* rans.encode over runs of symbols that share a table. Words are written from the end of `words` downwards; the return
   value is how many. frequency and cumulative have SYMBOLS columns. */
int64_t amgt_rans_encode(const uint8_t *symbols, int64_t runs, const int64_t *rows, const int64_t *lengths,
                         const uint32_t *frequency, const uint32_t *cumulative, int64_t lanes, uint32_t *states,
                         uint16_t *words, int64_t room) {
    int64_t at = 0, left = room;
    for (int64_t lane = 0; lane < lanes; lane++) states[lane] = 1u << 16;
    for (int64_t run = 0; run < runs; run++) at += lengths[run];
    for (int64_t run = runs - 1; run >= 0; run--) {
        const uint32_t *f = frequency + rows[run] * SYMBOLS, *c = cumulative + rows[run] * SYMBOLS;
        for (int64_t k = lengths[run]; k > 0; k--) {
            at--;
            uint32_t *state = states + (at & (lanes - 1)), x = *state;
            const uint32_t share = f[symbols[at]];
            const uint32_t full = (uint64_t)x >= (uint64_t)share << (32 - PRECISION);
            words[left - 1] = (uint16_t)x;
            left -= full;
            x >>= 16 * full;
            const uint32_t quotient = x / share;
            *state = (quotient << PRECISION) + (x - quotient * share) + c[symbols[at]];
        }
    }
    return room - left;
}

/* rans.decode: lookup has 2^15 entries a row; without one (a null pointer) symbols are searched for. Returns the words
   taken, or -1 where they end early. */
int64_t amgt_rans_decode(const uint8_t *data, int64_t num_words, int64_t runs, const int64_t *rows,
                         const int64_t *lengths, const uint8_t *lookup, const uint32_t *frequency,
                         const uint32_t *cumulative, int64_t lanes, uint32_t *states, uint8_t *symbols) {
    int64_t at = 0, position = 0;
    for (int64_t run = 0; run < runs; run++) {
        const uint32_t *f = frequency + rows[run] * SYMBOLS, *c = cumulative + rows[run] * SYMBOLS;
        const uint8_t *row = lookup ? lookup + (rows[run] << PRECISION) : 0;
        for (int64_t end = at + lengths[run]; at < end; at++) {
            uint32_t *state = states + (at & (lanes - 1)), x = *state;
            const uint32_t slot = x & ((1u << PRECISION) - 1);
            uint8_t symbol = 0;
            if (row)
                symbol = row[slot];
            else /* the last symbol that starts at or before the slot */
                for (int half = SYMBOLS / 2; half; half /= 2) symbol += c[symbol + half] <= slot ? half : 0;
            symbols[at] = symbol;
            x = f[symbol] * (x >> PRECISION) + slot - c[symbol];
            if (x < 1u << 16) {
                if (position >= num_words) return -1;
                x = x << 16 | (uint32_t)data[2 * position] | (uint32_t)data[2 * position + 1] << 8;
                position++;
            }
            *state = x;
        }
    }
    return position;
}

/* Bits of given widths, most significant first: symbols.pack. `out` holds zeros; returns the bit after the last. */
int64_t amgt_pack(const uint32_t *values, const uint8_t *widths, int64_t n, int64_t bit, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) {
        const int width = widths[i] > 32 ? 32 : widths[i];
        bit += widths[i] - width; /* a value has 32 bits; wider ones start with zeros */
        const uint64_t value = (uint64_t)values[i] << (40 - width - (bit & 7));
        uint8_t *place = out + (bit >> 3);
        for (int k = 0; k < 5; k++) place[k] |= (uint8_t)(value >> (32 - 8 * k));
        bit += width;
    }
    return bit;
}

/* symbols.unpack; `data` has `size` bytes and at least the bits asked for. */
void amgt_unpack(const uint8_t *data, int64_t size, const uint8_t *widths, int64_t n, int64_t bit, int32_t *out) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t place = bit >> 3;
        uint64_t window = 0;
        for (int k = 0; k < 5; k++) window = window << 8 | (place + k < size ? data[place + k] : 0);
        out[i] = (int32_t)(window >> (40 - widths[i] - (bit & 7)) & (((uint64_t)1 << widths[i]) - 1));
        bit += widths[i];
    }
}
