// The CUDA driver behind dlopen: one table of function pointers, one way from a CUresult to a JavaScript error.
#pragma once
#include <napi.h>

#include <string>
#include <vector>

#include "cuda.h"
#include "library.h"

struct Driver {
  Library library;
  std::string missing;  // the first symbol that was not found

#define PARTITA_CUDA_FUNCTIONS(F)                                                                                             \
  F(Init, "cuInit", (unsigned))                                                                                               \
  F(DriverGetVersion, "cuDriverGetVersion", (int*))                                                                           \
  F(GetErrorName, "cuGetErrorName", (cuda::Result, const char**))                                                             \
  F(GetErrorString, "cuGetErrorString", (cuda::Result, const char**))                                                         \
  F(DeviceGetCount, "cuDeviceGetCount", (int*))                                                                               \
  F(DeviceGet, "cuDeviceGet", (cuda::Device*, int))                                                                           \
  F(DeviceGetName, "cuDeviceGetName", (char*, int, cuda::Device))                                                             \
  F(DeviceGetAttribute, "cuDeviceGetAttribute", (int*, int, cuda::Device))                                                    \
  F(DeviceTotalMem, "cuDeviceTotalMem_v2", (size_t*, cuda::Device))                                                           \
  F(PrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (cuda::Context*, cuda::Device))                                             \
  F(PrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (cuda::Device))                                                        \
  F(CtxPushCurrent, "cuCtxPushCurrent_v2", (cuda::Context))                                                                   \
  F(CtxPopCurrent, "cuCtxPopCurrent_v2", (cuda::Context*))                                                                    \
  F(MemGetInfo, "cuMemGetInfo_v2", (size_t*, size_t*))                                                                        \
  F(ModuleLoadData, "cuModuleLoadData", (cuda::Module*, const void*))                                                         \
  F(ModuleUnload, "cuModuleUnload", (cuda::Module))                                                                           \
  F(ModuleGetFunction, "cuModuleGetFunction", (cuda::Function*, cuda::Module, const char*))                                   \
  F(FuncGetAttribute, "cuFuncGetAttribute", (int*, int, cuda::Function))                                                      \
  F(FuncSetAttribute, "cuFuncSetAttribute", (cuda::Function, int, int))                                                       \
  F(MemAlloc, "cuMemAlloc_v2", (cuda::DevicePtr*, size_t))                                                                    \
  F(MemFree, "cuMemFree_v2", (cuda::DevicePtr))                                                                               \
  F(MemHostAlloc, "cuMemHostAlloc", (void**, size_t, unsigned))                                                               \
  F(MemFreeHost, "cuMemFreeHost", (void*))                                                                                    \
  F(MemcpyHtoD, "cuMemcpyHtoD_v2", (cuda::DevicePtr, const void*, size_t))                                                    \
  F(MemcpyDtoH, "cuMemcpyDtoH_v2", (void*, cuda::DevicePtr, size_t))                                                          \
  F(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (cuda::DevicePtr, const void*, size_t, cuda::Stream))                            \
  F(MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void*, cuda::DevicePtr, size_t, cuda::Stream))                                  \
  F(MemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (cuda::DevicePtr, cuda::DevicePtr, size_t, cuda::Stream))                        \
  F(MemsetD8Async, "cuMemsetD8Async", (cuda::DevicePtr, unsigned char, size_t, cuda::Stream))                                 \
  F(StreamCreate, "cuStreamCreate", (cuda::Stream*, unsigned))                                                                \
  F(StreamDestroy, "cuStreamDestroy_v2", (cuda::Stream))                                                                      \
  F(StreamSynchronize, "cuStreamSynchronize", (cuda::Stream))                                                                 \
  F(StreamQuery, "cuStreamQuery", (cuda::Stream))                                                                             \
  F(StreamBeginCapture, "cuStreamBeginCapture_v2", (cuda::Stream, int))                                                       \
  F(StreamEndCapture, "cuStreamEndCapture", (cuda::Stream, cuda::Graph*))                                                     \
  F(EventCreate, "cuEventCreate", (cuda::Event*, unsigned))                                                                   \
  F(EventDestroy, "cuEventDestroy_v2", (cuda::Event))                                                                         \
  F(EventRecord, "cuEventRecord", (cuda::Event, cuda::Stream))                                                                \
  F(EventSynchronize, "cuEventSynchronize", (cuda::Event))                                                                    \
  F(EventElapsedTime, "cuEventElapsedTime", (float*, cuda::Event, cuda::Event))                                               \
  F(StreamWaitEvent, "cuStreamWaitEvent", (cuda::Stream, cuda::Event, unsigned))                                              \
  F(GraphInstantiate, "cuGraphInstantiateWithFlags", (cuda::GraphExec*, cuda::Graph, unsigned long long))                     \
  F(GraphUpload, "cuGraphUpload", (cuda::GraphExec, cuda::Stream))                                                            \
  F(GraphLaunch, "cuGraphLaunch", (cuda::GraphExec, cuda::Stream))                                                            \
  F(GraphDestroy, "cuGraphDestroy", (cuda::Graph))                                                                            \
  F(GraphExecDestroy, "cuGraphExecDestroy", (cuda::GraphExec))                                                                \
  F(LaunchKernelEx, "cuLaunchKernelEx", (const cuda::LaunchConfig*, cuda::Function, void**, void**))                          \
  F(TensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                                                           \
    (void*, int, unsigned, void*, const uint64_t*, const uint64_t*, const uint32_t*, const uint32_t*, int, int, int, int))    \
  F(TensorMapEncodeIm2col, "cuTensorMapEncodeIm2col",                                                                         \
    (void*, int, unsigned, void*, const uint64_t*, const uint64_t*, const int*, const int*, uint32_t, uint32_t,               \
     const uint32_t*, int, int, int, int))

#define PARTITA_DECLARE(name, symbol, args) cuda::Result(*name) args = nullptr;
  PARTITA_CUDA_FUNCTIONS(PARTITA_DECLARE)
#undef PARTITA_DECLARE
  // Offset and size of a kernel's parameter; absent before CUDA 12.4.
  cuda::Result (*FuncGetParamInfo)(cuda::Function, size_t, size_t*, size_t*) = nullptr;
  // The address by which NVML knows a device, and events inside graphs: benchmarks and traces do without where these are absent.
  cuda::Result (*DeviceGetPCIBusId)(char*, int, cuda::Device) = nullptr;
  cuda::Result (*EventRecordWithFlags)(cuda::Event, cuda::Stream, unsigned) = nullptr;

  // Loads the first of these libraries that loads and finds every function; false leaves the reason in `library.error()` or `missing`.
  bool open(const std::vector<std::string>& names);
  // Every function was found: only then may one be called.
  bool ready() const { return library.loaded() && missing.empty(); }
  // "CUDA_ERROR_OUT_OF_MEMORY: out of memory", whatever the driver calls it.
  std::string describe(cuda::Result r) const;
};

Driver& driver();
// Throws a JavaScript error { message, call, status, native } for any result but success.
void check(Napi::Env env, cuda::Result r, const std::string& call);
Napi::Error nativeError(Napi::Env env, const std::string& call, int status, const std::string& native);

void registerState(Napi::Env env, Napi::Object exports);
void registerDevice(Napi::Env env, Napi::Object exports);
void registerMemory(Napi::Env env, Napi::Object exports);
void registerLaunch(Napi::Env env, Napi::Object exports);
void registerExecute(Napi::Env env, Napi::Object exports);
void registerEvent(Napi::Env env, Napi::Object exports);
void registerNvml(Napi::Env env, Napi::Object exports);
void registerNvtx(Napi::Env env, Napi::Object exports);
void registerTensorMap(Napi::Env env, Napi::Object exports);
void registerNvrtc(Napi::Env env, Napi::Object exports);
