// TensorRT-RTX 1.5 to 1.7.
#include "bridge.h"
#include "slots.h"

namespace tensorrt {

const Family familyRtx15 = {"rtx-1.5", slotsRtx15, face<Logger<Versioned>>, face<Profiler<Versioned>>, face<BriefAllocator>};

}  // namespace tensorrt
