/* What the functions in C have in common. REAL: what they compute with. */

#include <stddef.h>
#include <string.h>

#ifndef REAL
#define REAL float
#endif
#define IN const REAL *restrict
#define OUT REAL *restrict

/* For a caller whose constants the compiler is to know. */
#define INLINE static inline __attribute__((always_inline))

typedef ptrdiff_t size;

/* As many numbers as the processor computes with at once. */
#if defined(__AVX512F__)
#define VECTOR 64
#elif defined(__AVX__)
#define VECTOR 32
#else
#define VECTOR 16
#endif
#define LANES ((size) (VECTOR / sizeof(REAL)))

typedef REAL vector __attribute__((vector_size(VECTOR)));

static inline vector load(const REAL *from)
{
    vector v;
    memcpy(&v, from, sizeof v);
    return v;
}
