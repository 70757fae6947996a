// TensorRT 11.x.
#include "bridge.h"
#include "slots.h"

namespace tensorrt {

const Family family11 = {"11", slots11, face<Logger<Versioned>>, face<Profiler<Versioned>>, face<OutputAllocator>};

}  // namespace tensorrt
