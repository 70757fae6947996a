// TensorRT 10.x.
#include "bridge.h"
#include "slots.h"

namespace tensorrt {

const Family family10 = {"10", slots10, face<Logger<Unversioned>>, face<Profiler<Unversioned>>, face<OutputAllocator>};

}  // namespace tensorrt
