/* What MLIR calls to copy memory with strides. */

#include <stdint.h>
#include <string.h>

typedef struct {
  char *allocated, *aligned;
  int64_t offset, sizes[]; /* then as many strides */
} memory;

typedef struct {
  int64_t rank;
  memory *of;
} unranked;

static void copy(int64_t left, const int64_t *sizes, const int64_t *from, const int64_t *to, int64_t size,
                 const char *source, char *target) {
  if (!left) {
    memcpy(target, source, size);
    return;
  }
  for (int64_t i = 0; i < *sizes; i++)
    copy(left - 1, sizes + 1, from + 1, to + 1, size, source + i * *from * size, target + i * *to * size);
}

void memrefCopy(int64_t size, const unranked *from, const unranked *to) {
  const memory *s = from->of, *t = to->of;
  copy(from->rank, s->sizes, s->sizes + from->rank, t->sizes + to->rank, size, s->aligned + s->offset * size,
       t->aligned + t->offset * size);
}
