// The stand-in's models: enough of ONNX to read a graph of float operators, infer its dims and compute it on host memory.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
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
        });
        m.nodes.push_back(n);
      } else if (f == 5) {
        std::string name;
        Dims dims;
        dims.count = 0;
        std::vector<float> values;
        good &= sub.fields([&](uint64_t k, uint64_t number, Reader t) {
          if (k == 1 && t.at == nullptr && dims.count < 8) dims.d[dims.count++] = int64_t(number);
          if (k == 1 && t.at != nullptr)
            while (t.good && t.at < t.end && dims.count < 8) dims.d[dims.count++] = int64_t(t.varint());
          if (k == 8) name = t.text();
          if ((k == 9 || k == 4) && t.at != nullptr) {
            values.resize(size_t(t.end - t.at) / 4);
            if (!values.empty()) memcpy(values.data(), t.at, values.size() * 4);
          }
        });
        m.weights[name] = {dims, values};
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

inline bool known(const std::string& op) { return op == "Relu" || op == "Add" || op == "MatMul" || op == "Identity" || op == "Reshape"; }
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
  } else {
    for (int64_t i = 0; i < count; i++) out.data[i] = n.op == "Relu" ? std::max(a.data[i], 0.0f) : a.data[i];
  }
}
