// CUtensorMap descriptors over device memory.
#include <vector>

#include "driver.h"
#include "state.h"

namespace {

template <class T>
std::vector<T> list(Napi::Env env, const Napi::Value& v, const char* what, uint64_t limit) {
  const auto a = array(env, v, what);
  if (a.Length() > 5) throw Napi::RangeError::New(env, std::string(what) + " has more than five entries");
  std::vector<T> out;
  for (uint32_t i = 0; i < a.Length(); i++) out.push_back(static_cast<T>(number(env, a.Get(i), what, limit)));
  return out;
}
std::vector<int> corner(Napi::Env env, const Napi::Value& v, const char* what) {
  const auto a = array(env, v, what);
  if (a.Length() > 3) throw Napi::RangeError::New(env, std::string(what) + " has more than three entries");
  std::vector<int> out;
  for (uint32_t i = 0; i < a.Length(); i++) out.push_back(a.Get(i).As<Napi::Number>().Int32Value());
  return out;
}
constexpr uint64_t kDim = 1ull << 32, kStride = 1ull << 40, kBox = 256, kStep = 8;

// tensorMapTiled(memory, offset, type, dims, strides, box, elementStrides, interleave, swizzle, l2, fill): the 128 bytes of the map.
Napi::Value TensorMapTiled(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& memory = state(env).get(env, info[0], Kind::Memory);
  const uint64_t offset = number(env, info[1], "offset");
  inside(env, memory, offset, 0);
  const auto dims = list<uint64_t>(env, info[3], "dims", kDim), strides = list<uint64_t>(env, info[4], "strides", kStride);
  const auto box = list<uint32_t>(env, info[5], "box", kBox), steps = list<uint32_t>(env, info[6], "element strides", kStep);
  if (dims.empty() || strides.size() + 1 != dims.size() || box.size() != dims.size() || steps.size() != dims.size())
    throw Napi::RangeError::New(env, "a tensor map has 1 to 5 dims, one stride fewer, and as many box and element strides");
  auto i = [&](size_t at) { return static_cast<int>(number(env, info[at], "an enumeration", 255)); };
  // The driver wants a context, though it only writes a description.
  Current current(env, contextOf(state(env), memory));
  alignas(64) uint8_t map[128] = {};
  check(env, driver().TensorMapEncodeTiled(map, i(2), static_cast<unsigned>(dims.size()), reinterpret_cast<void*>(memory.value + offset), dims.data(), strides.data(), box.data(), steps.data(), i(7), i(8), i(9), i(10)),
        "cuTensorMapEncodeTiled");
  return Napi::Buffer<uint8_t>::Copy(env, map, sizeof map);
}

// tensorMapIm2col(memory, offset, type, dims, strides, lower, upper, channels, pixels, elementStrides, interleave, swizzle, l2, fill)
Napi::Value TensorMapIm2col(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& memory = state(env).get(env, info[0], Kind::Memory);
  const uint64_t offset = number(env, info[1], "offset");
  inside(env, memory, offset, 0);
  const auto dims = list<uint64_t>(env, info[3], "dims", kDim), strides = list<uint64_t>(env, info[4], "strides", kStride);
  const auto lower = corner(env, info[5], "lower corner"), upper = corner(env, info[6], "upper corner");
  const auto channels = static_cast<uint32_t>(number(env, info[7], "channels", kBox)), pixels = static_cast<uint32_t>(number(env, info[8], "pixels", 1024));
  const auto steps = list<uint32_t>(env, info[9], "element strides", kStep);
  if (dims.size() < 3 || strides.size() + 1 != dims.size() || lower.size() + 2 != dims.size() || upper.size() != lower.size() || steps.size() != dims.size())
    throw Napi::RangeError::New(env, "an im2col map has 3 to 5 dims, one stride fewer, two corner entries fewer, and as many element strides");
  auto i = [&](size_t at) { return static_cast<int>(number(env, info[at], "an enumeration", 255)); };
  // The driver wants a context, though it only writes a description.
  Current current(env, contextOf(state(env), memory));
  alignas(64) uint8_t map[128] = {};
  check(env, driver().TensorMapEncodeIm2col(map, i(2), static_cast<unsigned>(dims.size()), reinterpret_cast<void*>(memory.value + offset), dims.data(), strides.data(), lower.data(), upper.data(), channels, pixels,
                                            steps.data(), i(10), i(11), i(12), i(13)),
        "cuTensorMapEncodeIm2col");
  return Napi::Buffer<uint8_t>::Copy(env, map, sizeof map);
}

}  // namespace

void registerTensorMap(Napi::Env env, Napi::Object exports) {
  exports["tensorMapTiled"] = Napi::Function::New(env, TensorMapTiled, "tensorMapTiled");
  exports["tensorMapIm2col"] = Napi::Function::New(env, TensorMapIm2col, "tensorMapIm2col");
}
