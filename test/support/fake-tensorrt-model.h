// The stand-in's models: enough of ONNX to read a graph of float operators, infer its dims and compute it on host memory.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

struct Dims {
  int32_t count = -1;
  int64_t d[8] = {};
  bool open() const { return count < 0 || std::any_of(d, d + count, [](int64_t x) { return x < 0; }); }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < count; i++) n *= d[i];
    return n;
  }
};

// Protocol buffers: fields one after another, bounds checked.
struct Reader {
  const uint8_t *at, *end;
  bool good = true;
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at == end) break;
      const uint8_t byte = *at++;
      value |= uint64_t(byte & 127) << shift;
      if (byte < 128) return value;
    }
    good = false;
    return 0;
  }
  // Calls f(field, value, bytes) for every field; `bytes` is empty for numbers.
  template <class F>
  bool fields(F f) {
    while (good && at < end) {
      const uint64_t key = varint();
      const int wire = key & 7;
      if (wire == 0) {
        f(key >> 3, varint(), Reader{nullptr, nullptr});
      } else if (wire == 2) {
        const uint64_t length = varint();
        if (!good || length > uint64_t(end - at)) return good = false;
        f(key >> 3, 0, Reader{at, at + length});
        at += length;
      } else if (wire == 5 || wire == 1) {
        const int width = wire == 5 ? 4 : 8;
        if (end - at < width) return good = false;
        uint64_t value = 0;
        memcpy(&value, at, width);
        f(key >> 3, value, Reader{nullptr, nullptr});
        at += width;
      } else {
        return good = false;
      }
    }
    return good;
  }
  std::string text() const { return at == nullptr ? "" : std::string(at, end); }
};

struct Node {
  std::string name, op;
  std::vector<std::string> in, out;
  std::map<std::string, int64_t> attrs;  // whole numbers
};
struct Value {
  std::string name;
  int type = 0;  // TensorRT's DataType
  Dims dims;
};
struct Model {
  std::vector<Node> nodes;
  std::vector<Value> inputs, outputs;
  std::map<std::string, std::pair<Dims, std::vector<float>>> weights;
};

inline int typeOf(uint64_t onnx) {
  switch (onnx) {
    case 1: return 0;
    case 10: return 1;
    case 3: return 2;
    case 6: return 3;
    case 9: return 4;
    case 2: return 5;
    case 16: return 7;
    case 7: return 8;
    default: return -1;
  }
}

// binary16 and back, to nearest, ties to even; what is too small for a normal number becomes zero.
inline float halfToFloat(uint16_t h) {
  const int exponent = h >> 10 & 31;
  const float m = float(h & 1023) / 1024;
  const float magnitude = exponent == 0 ? std::ldexp(m, -14) : exponent == 31 ? INFINITY : std::ldexp(1 + m, exponent - 15);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}
inline float roundedToHalf(float x) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  if (exponent < -13) return std::copysign(0.0f, x);
  const float step = std::ldexp(1.0f, exponent - 11), y = std::nearbyint(x / step) * step;
  return std::fabs(y) > 65504 ? std::copysign(INFINITY, x) : y;
}
// Elements of a weight as floats.
inline std::vector<float> elements(int onnxType, const uint8_t* at, size_t bytes) {
  std::vector<float> out;
  const auto each = [&](auto sample, auto convert) {
    out.resize(bytes / sizeof sample);
    for (size_t i = 0; i < out.size(); i++) {
      memcpy(&sample, at + i * sizeof sample, sizeof sample);
      out[i] = convert(sample);
    }
  };
  const auto plain = [](auto x) { return float(x); };
  switch (onnxType) {
    case 2: case 9: each(uint8_t{}, plain); break;
    case 3: each(int8_t{}, plain); break;
    case 6: each(int32_t{}, plain); break;
    case 7: each(int64_t{}, plain); break;
    case 10: each(uint16_t{}, halfToFloat); break;
    default: each(float{}, plain); break;
  }
  return out;
}

inline bool readModel(const void* data, size_t size, Model& m) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  bool good = true, graph = false;
  const auto value = [&](Reader r) {
    Value v;
    good &= r.fields([&](uint64_t field, uint64_t, Reader sub) {
      if (field == 1) v.name = sub.text();
      if (field == 2) good &= sub.fields([&](uint64_t f2, uint64_t, Reader tensor) {
        if (f2 == 1) good &= tensor.fields([&](uint64_t f3, uint64_t number, Reader shape) {
          if (f3 == 1) v.type = typeOf(number);
          if (f3 != 2) return;
          v.dims.count = 0;
          good &= shape.fields([&](uint64_t f4, uint64_t, Reader dim) {
            int64_t extent = -1;
            if (f4 == 1) good &= dim.fields([&](uint64_t f5, uint64_t n, Reader) { if (f5 == 1) extent = int64_t(n); });
            if (f4 == 1 && v.dims.count < 8) v.dims.d[v.dims.count++] = extent;
          });
        });
      });
    });
    return v;
  };
  Reader top{bytes, bytes + size};
  good &= top.fields([&](uint64_t field, uint64_t, Reader g) {
    if (field != 7) return;
    graph = true;
    good &= g.fields([&](uint64_t f, uint64_t, Reader sub) {
      if (f == 1) {
        Node n;
        good &= sub.fields([&](uint64_t k, uint64_t, Reader t) {
          if (k == 1) n.in.push_back(t.text());
          if (k == 2) n.out.push_back(t.text());
          if (k == 3) n.name = t.text();
          if (k == 4) n.op = t.text();
          if (k != 5) return;
          std::string key;
          int64_t number = 0;
          good &= t.fields([&](uint64_t f2, uint64_t v, Reader r) {
            if (f2 == 1) key = r.text();
            if (f2 == 3) number = int64_t(v);
          });
          n.attrs[key] = number;
        });
        m.nodes.push_back(n);
      } else if (f == 5) {
        std::string name;
        Dims dims;
        dims.count = 0;
        Reader values{nullptr, nullptr};
        int type = 1;
        good &= sub.fields([&](uint64_t k, uint64_t number, Reader t) {
          if (k == 1 && t.at == nullptr && dims.count < 8) dims.d[dims.count++] = int64_t(number);
          if (k == 1 && t.at != nullptr)
            while (t.good && t.at < t.end && dims.count < 8) dims.d[dims.count++] = int64_t(t.varint());
          if (k == 2) type = int(number);
          if (k == 8) name = t.text();
          if ((k == 9 || k == 4) && t.at != nullptr) values = t;
        });
        m.weights[name] = {dims, elements(type, values.at, size_t(values.end - values.at))};
      } else if (f == 11) {
        m.inputs.push_back(value(sub));
      } else if (f == 12) {
        m.outputs.push_back(value(sub));
      }
    });
  });
  for (const auto& [name, w] : m.weights) good &= w.first.size() == int64_t(w.second.size());
  return good && graph;
}

inline bool known(const std::string& op) {
  for (const char* name : {"Relu", "Add", "MatMul", "Identity", "Reshape", "Cast", "QuantizeLinear", "DequantizeLinear"})
    if (op == name) return true;
  return false;
}
// Shape tensors are read on the host: the second input of a Reshape.
inline bool isShape(const Model& m, const std::string& name) {
  return std::any_of(m.nodes.begin(), m.nodes.end(), [&](const Node& n) { return n.op == "Reshape" && n.in.size() > 1 && n.in[1] == name; });
}
// The number after `prefix` in a node's name; -1 for none. Names are how a test asks for trouble: real libraries do not mind them.
inline int asked(const Node& n, const char* prefix) { return n.name.rfind(prefix, 0) == 0 ? atoi(n.name.c_str() + strlen(prefix)) : -1; }
inline const Node* named(const Model& m, const char* prefix) {
  for (const Node& n : m.nodes)
    if (n.name.rfind(prefix, 0) == 0) return &n;
  return nullptr;
}

struct Tensor {
  Dims dims;
  std::vector<float> own;
  float* data = nullptr;
};
using Tensors = std::map<std::string, Tensor>;

// Dims of every value; false when they do not go together. `shapes` are the elements of shape tensors.
inline bool inferDims(const Model& m, std::map<std::string, Dims>& dims, const std::map<std::string, std::vector<int64_t>>& shapes) {
  for (const auto& [name, w] : m.weights) dims[name] = w.first;
  for (const Node& n : m.nodes) {
    const auto in = [&](size_t i) { return i < n.in.size() ? dims[n.in[i]] : Dims(); };
    Dims out = in(0);
    if (n.op == "MatMul") {
      const Dims a = in(0), b = in(1);
      if (a.count < 2 || b.count != 2) return false;
      if (!a.open() && !b.open() && a.d[a.count - 1] != b.d[0]) return false;
      out.d[out.count - 1] = b.d[1];
    } else if (n.op == "Add") {
      const Dims b = in(1);
      if (b.count > out.count) return false;
      for (int i = 1; i <= b.count; i++) {
        const int64_t x = out.d[out.count - i], y = b.d[b.count - i];
        if (x >= 0 && y >= 0 && x != y) return false;
      }
    } else if (n.op == "Reshape") {
      const auto shape = shapes.find(n.in[1]);
      out = Dims();
      if (shape != shapes.end()) {
        out.count = int32_t(shape->second.size());
        std::copy(shape->second.begin(), shape->second.end(), out.d);
        if (!in(0).open() && out.size() != in(0).size()) return false;
      }
    }
    for (const auto& name : n.out) dims[name] = out;
  }
  return true;
}

inline void compute(const Node& n, Tensors& t) {
  const int pause = asked(n, "fake:slow:");
  if (pause > 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause));
  const Tensor& a = t[n.in[0]];
  Tensor& out = t[n.out[0]];
  const int64_t count = out.dims.size();
  if (n.op == "MatMul") {
    const Tensor& b = t[n.in[1]];
    const int64_t k = b.dims.d[0], columns = b.dims.d[1];
    for (int64_t row = 0; row < count / std::max<int64_t>(columns, 1); row++)
      for (int64_t c = 0; c < columns; c++) {
        float sum = 0;
        for (int64_t i = 0; i < k; i++) sum += a.data[row * k + i] * b.data[i * columns + c];
        out.data[row * columns + c] = sum;
      }
  } else if (n.op == "Add") {
    const Tensor& b = t[n.in[1]];
    const int64_t period = std::max<int64_t>(b.dims.size(), 1);
    for (int64_t i = 0; i < count; i++) out.data[i] = a.data[i] + b.data[i % period];
  } else if (n.op == "QuantizeLinear" || n.op == "DequantizeLinear") {
    // Symmetric int8: the zero point is 0. A scale for each index of the axis, or one for all.
    const Tensor& scale = t[n.in[1]];
    const int64_t channels = scale.dims.size();
    const auto given = n.attrs.find("axis");
    int64_t axis = given == n.attrs.end() ? 1 : given->second, inner = 1;
    if (axis < 0) axis += a.dims.count;
    for (int64_t i = axis + 1; i < a.dims.count; i++) inner *= a.dims.d[i];
    for (int64_t i = 0; i < count; i++) {
      const float s = scale.data[channels == 1 ? 0 : i / inner % channels];
      out.data[i] = n.op == "DequantizeLinear" ? a.data[i] * s : std::min(std::max(std::nearbyint(a.data[i] / s), -128.0f), 127.0f);
    }
  } else if (n.op == "Cast") {
    const bool half = n.attrs.count("to") > 0 && n.attrs.at("to") == 10;
    for (int64_t i = 0; i < count; i++) out.data[i] = half ? roundedToHalf(a.data[i]) : a.data[i];
  } else {
    for (int64_t i = 0; i < count; i++) out.data[i] = n.op == "Relu" ? std::max(a.data[i], 0.0f) : a.data[i];
  }
}
