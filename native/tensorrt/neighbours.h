// Loads a library so that those it opens later by bare name are looked for in its own folder first.
#pragma once
#include <string>

namespace tensorrt {

// TensorRT opens its builder's resources, a gigabyte of kernels beside it, by bare name when a builder is made, and the loader looks for that
// in LD_LIBRARY_PATH as it was when the process began, never beside libnvinfer. The folders that a library's loader names as DT_RPATH are looked
// through for what that library opens, so libnvinfer is first loaded as what a library of a few hundred bytes with that entry needs. True where
// that went well; otherwise nothing has changed, and the library may be opened as any other.
bool loadAmongNeighbours(const std::string& path);

}  // namespace tensorrt
