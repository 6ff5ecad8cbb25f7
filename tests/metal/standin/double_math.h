// Functions of floats, computed in double and rounded: where there is no library to call.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp64 : enable

namespace metal {

inline double prim_scale(double x, int n) {  // x * 2**n for normal results
    return x * __builtin_bit_cast(double, (ulong)(n + 1023) << 52);
}

// e**r - 1 for |r| <= 0.35: Taylor's, 1e-17
inline double prim_expm1_small(double r) {
    double sum = 0.0, k = 15.0;
    for (int i = 0; i < 15; i++, k -= 1.0) sum = r / k * (1.0 + sum);
    return sum;
}

inline float prim_exp(float x) {
    if (x != x) return x;
    const float bounded = x < -150.0f ? -150.0f : x > 150.0f ? 150.0f : x;
    const float n = __builtin_rintf(bounded * 1.44269504f);
    const double r = (double)bounded - (double)n * 0.69314718055994530942;
    return (float)prim_scale(1.0 + prim_expm1_small(r), (int)n);
}
inline float prim_exp2(float x) {
    if (x != x) return x;
    const float bounded = x < -200.0f ? -200.0f : x > 200.0f ? 200.0f : x;
    const float n = __builtin_rintf(bounded);
    const double r = ((double)bounded - (double)n) * 0.69314718055994530942;
    return (float)prim_scale(1.0 + prim_expm1_small(r), (int)n);
}
inline float prim_exp10(float x) { return prim_exp2(x * 3.32192809f); }

// log of a positive double, by log((1 + s) / (1 - s)) = 2 * (s + s**3 / 3 + ...)
inline double prim_log_double(double x) {
    const ulong bits = __builtin_bit_cast(ulong, x);
    int n = (int)(bits >> 52) - 1023;
    double m = __builtin_bit_cast(double, (bits & 0xfffffffffffffUL) | 0x3ff0000000000000UL);
    if (m > 1.41421356) {
        m *= 0.5;
        n++;
    }
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    double sum = 0.0, k = 23.0;
    for (int i = 0; i < 12; i++, k -= 2.0) sum = 1.0 / k + square * sum;
    return 2.0 * s * sum + n * 0.69314718055994530942;
}
inline float prim_log(float x) {
    if (!(x > 0.0f)) return x == 0.0f ? -INFINITY : NAN;
    return x == INFINITY ? x : (float)prim_log_double(x);
}
inline float prim_log2(float x) {
    if (!(x > 0.0f)) return x == 0.0f ? -INFINITY : NAN;
    return x == INFINITY ? x : (float)(prim_log_double(x) * 1.44269504088896340736);
}
inline float prim_log10(float x) {
    if (!(x > 0.0f)) return x == 0.0f ? -INFINITY : NAN;
    return x == INFINITY ? x : (float)(prim_log_double(x) * 0.43429448190325182765);
}

// The bits of 2 / pi behind the point.
constant uint prim_two_over_pi[8] = {0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u,
                                     0xdb629599u, 0x3c439041u, 0xfe5163abu, 0xdebbc561u};

// x as n * pi / 2 + the result, n modulo 4; exact for every float (Payne and Hanek).
inline double prim_reduce(float x, thread int& quadrant) {
    const float size = __builtin_fabsf(x);
    if (size < 67108864.0f) {
        const double n = __builtin_rint((double)x * 0.63661977236758134308);
        quadrant = (int)n & 3;
        const double r = __builtin_fma(-n, 1.5707963267948966, (double)x);
        return __builtin_fma(-n, 6.1232339957367658e-17, r);
    }
    const uint bits = __builtin_bit_cast(uint, size);
    const ulong mantissa = (bits & 0x7fffffu) | 0x800000u;
    const int shift = (int)(bits >> 23) - 127 - 23;  // size = mantissa * 2**shift
    // 128 bits of 2 / pi: those before them give multiples of four, and so does what a product with
    // them has beyond 128 bits
    const int first = shift - 2;
    ulong word[2];
    for (int i = 0; i < 2; i++) {
        const int at = (first + 64 * i) / 32, by = first % 32;
        const ulong both = (ulong)prim_two_over_pi[at] << 32 | prim_two_over_pi[at + 1];
        word[i] = by ? both << by | prim_two_over_pi[at + 2] >> (32 - by) : both;
    }
    const ulong turned = mantissa * word[0] + (mantissa * (word[1] >> 32) >> 32);
    quadrant = (int)(turned >> 62);
    double fraction = (double)(turned << 2) * 5.421010862427522e-20;
    if (fraction >= 0.5) {
        fraction -= 1.0;
        quadrant = (quadrant + 1) & 3;
    }
    const double r = fraction * 1.5707963267948966;
    if (x >= 0.0f) return r;
    quadrant = -quadrant & 3;
    return -r;
}
inline double prim_sin_small(double r) {
    const double square = r * r;
    double sum = 0.0, k = 17.0;
    for (int i = 0; i < 8; i++, k -= 2.0) sum = -square / (k * (k - 1.0)) * (1.0 + sum);
    return r * (1.0 + sum);
}
inline double prim_cos_small(double r) {
    const double square = r * r;
    double sum = 0.0, k = 18.0;
    for (int i = 0; i < 9; i++, k -= 2.0) sum = -square / (k * (k - 1.0)) * (1.0 + sum);
    return 1.0 + sum;
}
inline double prim_turned(float x, int by) {
    int quadrant;
    const double r = prim_reduce(x, quadrant);
    quadrant = (quadrant + by) & 3;
    const double y = quadrant & 1 ? prim_cos_small(r) : prim_sin_small(r);
    return quadrant & 2 ? -y : y;
}
inline float prim_sin(float x) {
    return x - x != 0.0f ? NAN : x == 0.0f ? x : (float)prim_turned(x, 0);
}
inline float prim_cos(float x) { return x - x != 0.0f ? NAN : (float)prim_turned(x, 1); }
inline float prim_tan(float x) {
    return x - x != 0.0f ? NAN : x == 0.0f ? x : (float)(prim_turned(x, 0) / prim_turned(x, 1));
}

inline double prim_exp_double(double x) {
    const double n = __builtin_rint(x * 1.44269504088896340736);
    return prim_scale(1.0 + prim_expm1_small(x - n * 0.69314718055994530942), (int)n);
}
inline float prim_tanh(float x) {
    if (x != x) return x;
    const double size = __builtin_fabsf(x);
    if (size > 20.0) return x < 0.0f ? -1.0f : 1.0f;
    if (size < 0.17) {
        const double t = prim_expm1_small(2.0 * (double)x);
        return x == 0.0f ? x : (float)(t / (t + 2.0));
    }
    const double e = prim_exp_double(2.0 * size), t = (e - 1.0) / (e + 1.0);
    return (float)(x < 0.0f ? -t : t);
}
inline float prim_sinh(float x) {
    const double size = __builtin_fabsf(x), t = prim_expm1_small(size);
    const double e = prim_exp_double(size < 120.0 ? size : 120.0);
    const double y = size < 0.3 ? 0.5 * (t + t / (1.0 + t)) : 0.5 * (e - 1.0 / e);
    return x == 0.0f || x != x ? x : (float)(x < 0.0f ? -y : y);
}
inline float prim_cosh(float x) {
    const double size = __builtin_fabsf(x), e = prim_exp_double(size < 120.0 ? size : 120.0);
    return x != x ? x : (float)(0.5 * (e + 1.0 / e));
}
inline float prim_pow(float x, float y) {
    if (y == 0.0f || x == 1.0f) return 1.0f;
    if (!(x > 0.0f)) return x == 0.0f ? (y > 0.0f ? 0.0f : INFINITY) : NAN;
    const double power = (double)y * prim_log_double(x);
    return (float)prim_exp_double(power < -200.0 ? -200.0 : power > 200.0 ? 200.0 : power);
}
inline float prim_fmod(float x, float y) {
    return (float)((double)x - (double)y * __builtin_trunc((double)x / (double)y));
}

}  // namespace metal
