// The part of the CUDA driver API and of NVRTC that the addon calls, declared from their published binary interface.
#pragma once
#include <cstddef>
#include <cstdint>

namespace cuda {

using Result = int;  // CUresult; 0 is success
constexpr Result kNotReady = 600;  // CUDA_ERROR_NOT_READY
using Device = int;
using DevicePtr = unsigned long long;
struct ContextT;
struct ModuleT;
struct FunctionT;
struct StreamT;
struct EventT;
struct GraphT;
struct GraphExecT;
using Context = ContextT*;
using Module = ModuleT*;
using Function = FunctionT*;
using Stream = StreamT*;
using Event = EventT*;
using Graph = GraphT*;
using GraphExec = GraphExecT*;

// cuLaunchKernelEx: CUlaunchConfig and its attributes (64 bytes of value behind a 4-byte id, 8-byte aligned).
struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    int programmaticStreamSerializationAllowed;
    struct { unsigned x, y, z; } clusterDim;
  } value;
};
struct LaunchConfig {
  unsigned gridX, gridY, gridZ;
  unsigned blockX, blockY, blockZ;
  unsigned sharedBytes;
  Stream stream;
  LaunchAttribute* attrs;
  unsigned numAttrs;
};
constexpr int kAttrClusterDimension = 4;
constexpr int kAttrProgrammaticStreamSerialization = 6;

// cuLaunchKernel's `extra` markers.
inline void* const kParamBufferPointer = reinterpret_cast<void*>(1);
inline void* const kParamBufferSize = reinterpret_cast<void*>(2);
inline void* const kParamEnd = nullptr;

// Device attributes, function attributes, flags.
enum : int {
  kMaxSharedPerBlock = 8, kClockRate = 13, kMultiprocessors = 16, kMemoryClock = 36, kBusWidth = 37, kL2Bytes = 38,
  kMajor = 75, kMinor = 76, kMaxSharedPerMultiprocessor = 81, kMaxSharedOptin = 97,
  kFnMaxThreads = 0, kFnSharedBytes = 1, kFnConstBytes = 2, kFnLocalBytes = 3, kFnRegisters = 4, kFnMaxDynamicShared = 8,
  kStreamNonBlocking = 1, kCaptureThreadLocal = 1, kHostAllocPortable = 1, kEventDisableTiming = 2,
};

}  // namespace cuda
