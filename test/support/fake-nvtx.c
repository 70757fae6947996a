/*
 * A profiler as NVTX sees one: it takes the table that is handed to it, writes its own functions into the slots for ranges, and keeps what it is told in the
 * file that FAKE_NVTX names.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void (*Function)(void);
typedef struct { size_t size; int (*table)(int module, Function*** table, unsigned* size); } Callbacks;
typedef struct { size_t size; uint32_t version, reserved; void (*set)(uint32_t); } Version;

static uint64_t last = 0;
static void note(const char* what, const char* name, uint64_t id) {
  FILE* f = fopen(getenv("FAKE_NVTX"), "a");
  if (f == NULL) return;
  fprintf(f, "%s %llu %s\n", what, (unsigned long long)id, name);
  fclose(f);
}
static uint64_t start(const char* name) { note("start", name, ++last); return last; }
static void end(uint64_t id) { note("end", "", id); }

int InitializeInjectionNvtx2(const void* (*get)(uint32_t id)) {
  const Version* version = get(3);
  const Callbacks* callbacks = get(1);
  Function** table = NULL;
  unsigned size = 0;
  if (version == NULL || callbacks == NULL || get(2) != NULL) return 0;
  version->set(2);
  if (!callbacks->table(1, &table, &size) || size < 16) return 0;
  *table[5] = (Function)start;
  *table[7] = (Function)end;
  if (!callbacks->table(5, &table, &size) || size < 16) return 0;
  return 1;
}
