/*
 * A stand-in for libnvidia-ml.so.1: one GPU at 0000:00:00.0 that takes 200 W. FAKE_NVML=power leaves out its energy counter, FAKE_NVML=none its power
 * too, FAKE_NVML=broken lets the library refuse to start.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define API __attribute__((visibility("default")))
enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9 };
static int is(const char* mode) {
  const char* text = getenv("FAKE_NVML");
  return text != NULL && strcmp(text, mode) == 0;
}
API int nvmlInit_v2(void) { return is("broken") ? DRIVER_NOT_LOADED : OK; }
API const char* nvmlErrorString(int r) { return r == NOT_SUPPORTED ? "Not Supported" : r == NOT_FOUND ? "Not Found" : r == DRIVER_NOT_LOADED ? "Driver Not Loaded" : NULL; }
API int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** device) {
  if (strcmp(bus, "0000:00:00.0") != 0) return NOT_FOUND;
  *device = device;
  return OK;
}
API int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  (void)device;
  if (is("power") || is("none")) return NOT_SUPPORTED;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *millijoules = 200ull * (unsigned long long)(now.tv_sec * 1000ll + now.tv_nsec / 1000000);
  return OK;
}
API int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  (void)device;
  *milliwatts = 200000;
  return is("none") ? NOT_SUPPORTED : OK;
}
API int nvmlDeviceGetMemoryInfo(void* device, unsigned long long* memory) {
  (void)device;
  memory[0] = 1000; memory[1] = 600; memory[2] = 400;
  return OK;
}
