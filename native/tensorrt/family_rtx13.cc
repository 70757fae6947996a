// TensorRT-RTX 1.3 and 1.4.
#include "bridge.h"
#include "slots.h"

namespace tensorrt {

const Family familyRtx13 = {"rtx-1.3", slotsRtx13, face<Logger<Unversioned>>, face<Profiler<Unversioned>>, face<BriefAllocator>};

}  // namespace tensorrt
