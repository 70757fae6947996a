// Made by scripts/tensorrt-slots.mjs from slots.txt. Do not edit.
#pragma once
#include <cstdint>

namespace tensorrt {

// A slot or an enumeration's value; -1 where the family has none. `since`: the minor version it came with.
struct Slot {
  int16_t value = -1;
  int16_t since = 0;
};

struct Slots {
  Slot Builder_createBuilderConfig;
  Slot Builder_createNetworkV2;
  Slot Builder_createOptimizationProfile;
  Slot Builder_setErrorRecorder;
  Slot Builder_buildSerializedNetwork;
  Slot BuilderConfig_clearFlag;
  Slot BuilderConfig_setFlag;
  Slot BuilderConfig_addOptimizationProfile;
  Slot BuilderConfig_setProfilingVerbosity;
  Slot BuilderConfig_setTacticSources;
  Slot BuilderConfig_createTimingCache;
  Slot BuilderConfig_setTimingCache;
  Slot BuilderConfig_setMemoryPoolLimit;
  Slot BuilderConfig_setBuilderOptimizationLevel;
  Slot BuilderConfig_setHardwareCompatibilityLevel;
  Slot BuilderConfig_setMaxAuxStreams;
  Slot BuilderConfig_setProgressMonitor;
  Slot BuilderConfig_setNbComputeCapabilities;
  Slot BuilderConfig_setComputeCapability;
  Slot OptimizationProfile_setDimensions;
  Slot OptimizationProfile_setShapeValues;
  Slot OptimizationProfile_setShapeValuesV2;
  Slot TimingCache_serialize;
  Slot HostMemory_data;
  Slot HostMemory_size;
  Slot Runtime_deserializeCudaEngine;
  Slot Runtime_setErrorRecorder;
  Slot Runtime_setEngineHostCodeAllowed;
  Slot CudaEngine_getNbLayers;
  Slot CudaEngine_createExecutionContext;
  Slot CudaEngine_getDeviceMemorySize;
  Slot CudaEngine_isRefittable;
  Slot CudaEngine_getNbOptimizationProfiles;
  Slot CudaEngine_createEngineInspector;
  Slot CudaEngine_getTensorShape;
  Slot CudaEngine_getTensorDataType;
  Slot CudaEngine_getTensorLocation;
  Slot CudaEngine_getTensorIOMode;
  Slot CudaEngine_getProfileShape;
  Slot CudaEngine_getNbIOTensors;
  Slot CudaEngine_getIOTensorName;
  Slot CudaEngine_getDeviceMemorySizeV2;
  Slot ExecutionContext_setProfiler;
  Slot ExecutionContext_setOptimizationProfileAsync;
  Slot ExecutionContext_setInputShape;
  Slot ExecutionContext_getTensorShape;
  Slot ExecutionContext_setTensorAddress;
  Slot ExecutionContext_inferShapes;
  Slot ExecutionContext_setOutputAllocator;
  Slot ExecutionContext_enqueueV3;
  Slot EngineInspector_getEngineInformation;
  Slot Refitter_refitCudaEngine;
  Slot Refitter_setErrorRecorder;
  Slot Refitter_setNamedWeights;
  Slot Refitter_getMissingWeights;
  Slot Refitter_getAllWeights;
  Slot Parser_parse;
  Slot Parser_parseFromFile;
  Slot Parser_getNbErrors;
  Slot Parser_getError;
  Slot Parser_delete;
  Slot Parser_supportsModelV2;
  Slot Parser_getNbSubgraphs;
  Slot Parser_isSubgraphSupported;
  Slot Parser_getSubgraphNodes;
  Slot ParserError_code;
  Slot ParserError_desc;
  Slot ParserError_node;
  Slot ParserError_nodeName;
  Slot ParserError_nodeOperator;
  Slot ParserRefitter_refitFromBytes;
  Slot ParserRefitter_refitFromFile;
  Slot ParserRefitter_getNbErrors;
  Slot ParserRefitter_getError;
  Slot ParserRefitter_delete;
  Slot Logger_log;
  Slot Profiler_reportLayerTime;
  Slot ProgressMonitor_phaseStart;
  Slot ProgressMonitor_stepComplete;
  Slot ProgressMonitor_phaseFinish;
  Slot ErrorRecorder_clear;
  Slot ErrorRecorder_reportError;
  Slot ErrorRecorder_incRefCount;
  Slot ErrorRecorder_decRefCount;
  Slot OutputAllocator_reallocateOutput;
  Slot OutputAllocator_reallocateOutputAsync;
  Slot OutputAllocator_notifyShape;
  Slot NetworkFlag_stronglyTyped;
  Slot BuilderFlag_refit;
  Slot BuilderFlag_tf32;
  Slot BuilderFlag_sparseWeights;
  Slot BuilderFlag_versionCompatible;
  Slot BuilderFlag_stripPlan;
  Slot BuilderFlag_refitIdentical;
};

constexpr Slots slots10 = {
    .Builder_createBuilderConfig = {7},
    .Builder_createNetworkV2 = {8},
    .Builder_createOptimizationProfile = {9},
    .Builder_setErrorRecorder = {10},
    .Builder_buildSerializedNetwork = {14},
    .BuilderConfig_clearFlag = {10},
    .BuilderConfig_setFlag = {11},
    .BuilderConfig_addOptimizationProfile = {25},
    .BuilderConfig_setProfilingVerbosity = {27},
    .BuilderConfig_setTacticSources = {38},
    .BuilderConfig_createTimingCache = {40},
    .BuilderConfig_setTimingCache = {41},
    .BuilderConfig_setMemoryPoolLimit = {43},
    .BuilderConfig_setBuilderOptimizationLevel = {47},
    .BuilderConfig_setHardwareCompatibilityLevel = {49},
    .BuilderConfig_setMaxAuxStreams = {54},
    .BuilderConfig_setProgressMonitor = {56},
    .BuilderConfig_setNbComputeCapabilities = {-1},
    .BuilderConfig_setComputeCapability = {-1},
    .OptimizationProfile_setDimensions = {2},
    .OptimizationProfile_setShapeValues = {4},
    .OptimizationProfile_setShapeValuesV2 = {10, 13},
    .TimingCache_serialize = {2},
    .HostMemory_data = {2},
    .HostMemory_size = {3},
    .Runtime_deserializeCudaEngine = {3},
    .Runtime_setErrorRecorder = {9},
    .Runtime_setEngineHostCodeAllowed = {21},
    .CudaEngine_getNbLayers = {3},
    .CudaEngine_createExecutionContext = {5},
    .CudaEngine_getDeviceMemorySize = {7},
    .CudaEngine_isRefittable = {8},
    .CudaEngine_getNbOptimizationProfiles = {10},
    .CudaEngine_createEngineInspector = {18},
    .CudaEngine_getTensorShape = {19},
    .CudaEngine_getTensorDataType = {20},
    .CudaEngine_getTensorLocation = {21},
    .CudaEngine_getTensorIOMode = {23},
    .CudaEngine_getProfileShape = {29},
    .CudaEngine_getNbIOTensors = {30},
    .CudaEngine_getIOTensorName = {31},
    .CudaEngine_getDeviceMemorySizeV2 = {52, 1},
    .ExecutionContext_setProfiler = {5},
    .ExecutionContext_setOptimizationProfileAsync = {17},
    .ExecutionContext_setInputShape = {21},
    .ExecutionContext_getTensorShape = {22},
    .ExecutionContext_setTensorAddress = {24},
    .ExecutionContext_inferShapes = {28},
    .ExecutionContext_setOutputAllocator = {32},
    .ExecutionContext_enqueueV3 = {37},
    .EngineInspector_getEngineInformation = {6},
    .Refitter_refitCudaEngine = {4},
    .Refitter_setErrorRecorder = {11},
    .Refitter_setNamedWeights = {13},
    .Refitter_getMissingWeights = {14},
    .Refitter_getAllWeights = {15},
    .Parser_parse = {0},
    .Parser_parseFromFile = {1},
    .Parser_getNbErrors = {5},
    .Parser_getError = {6},
    .Parser_delete = {9},
    .Parser_supportsModelV2 = {17, 1},
    .Parser_getNbSubgraphs = {18, 1},
    .Parser_isSubgraphSupported = {19, 1},
    .Parser_getSubgraphNodes = {20, 1},
    .ParserError_code = {0},
    .ParserError_desc = {1},
    .ParserError_node = {5},
    .ParserError_nodeName = {6},
    .ParserError_nodeOperator = {7},
    .ParserRefitter_refitFromBytes = {0},
    .ParserRefitter_refitFromFile = {1},
    .ParserRefitter_getNbErrors = {2},
    .ParserRefitter_getError = {3},
    .ParserRefitter_delete = {6},
    .Logger_log = {0},
    .Profiler_reportLayerTime = {0},
    .ProgressMonitor_phaseStart = {4},
    .ProgressMonitor_stepComplete = {5},
    .ProgressMonitor_phaseFinish = {6},
    .ErrorRecorder_clear = {8},
    .ErrorRecorder_reportError = {9},
    .ErrorRecorder_incRefCount = {10},
    .ErrorRecorder_decRefCount = {11},
    .OutputAllocator_reallocateOutput = {4},
    .OutputAllocator_reallocateOutputAsync = {5},
    .OutputAllocator_notifyShape = {6},
    .NetworkFlag_stronglyTyped = {1},
    .BuilderFlag_refit = {4},
    .BuilderFlag_tf32 = {6},
    .BuilderFlag_sparseWeights = {7},
    .BuilderFlag_versionCompatible = {13},
    .BuilderFlag_stripPlan = {19},
    .BuilderFlag_refitIdentical = {20},
};

constexpr Slots slots11 = {
    .Builder_createBuilderConfig = {5},
    .Builder_createNetworkV2 = {6},
    .Builder_createOptimizationProfile = {7},
    .Builder_setErrorRecorder = {8},
    .Builder_buildSerializedNetwork = {11},
    .BuilderConfig_clearFlag = {8},
    .BuilderConfig_setFlag = {9},
    .BuilderConfig_addOptimizationProfile = {23},
    .BuilderConfig_setProfilingVerbosity = {25},
    .BuilderConfig_setTacticSources = {27},
    .BuilderConfig_createTimingCache = {29},
    .BuilderConfig_setTimingCache = {30},
    .BuilderConfig_setMemoryPoolLimit = {32},
    .BuilderConfig_setBuilderOptimizationLevel = {36},
    .BuilderConfig_setHardwareCompatibilityLevel = {38},
    .BuilderConfig_setMaxAuxStreams = {43},
    .BuilderConfig_setProgressMonitor = {45},
    .BuilderConfig_setNbComputeCapabilities = {-1},
    .BuilderConfig_setComputeCapability = {-1},
    .OptimizationProfile_setDimensions = {2},
    .OptimizationProfile_setShapeValues = {-1},
    .OptimizationProfile_setShapeValuesV2 = {8},
    .TimingCache_serialize = {2},
    .HostMemory_data = {2},
    .HostMemory_size = {3},
    .Runtime_deserializeCudaEngine = {3},
    .Runtime_setErrorRecorder = {8},
    .Runtime_setEngineHostCodeAllowed = {20},
    .CudaEngine_getNbLayers = {3},
    .CudaEngine_createExecutionContext = {5},
    .CudaEngine_getDeviceMemorySize = {-1},
    .CudaEngine_isRefittable = {6},
    .CudaEngine_getNbOptimizationProfiles = {8},
    .CudaEngine_createEngineInspector = {14},
    .CudaEngine_getTensorShape = {15},
    .CudaEngine_getTensorDataType = {16},
    .CudaEngine_getTensorLocation = {17},
    .CudaEngine_getTensorIOMode = {19},
    .CudaEngine_getProfileShape = {25},
    .CudaEngine_getNbIOTensors = {26},
    .CudaEngine_getIOTensorName = {27},
    .CudaEngine_getDeviceMemorySizeV2 = {44},
    .ExecutionContext_setProfiler = {5},
    .ExecutionContext_setOptimizationProfileAsync = {16},
    .ExecutionContext_setInputShape = {20},
    .ExecutionContext_getTensorShape = {21},
    .ExecutionContext_setTensorAddress = {23},
    .ExecutionContext_inferShapes = {27},
    .ExecutionContext_setOutputAllocator = {31},
    .ExecutionContext_enqueueV3 = {36},
    .EngineInspector_getEngineInformation = {6},
    .Refitter_refitCudaEngine = {4},
    .Refitter_setErrorRecorder = {7},
    .Refitter_setNamedWeights = {9},
    .Refitter_getMissingWeights = {10},
    .Refitter_getAllWeights = {11},
    .Parser_parse = {0},
    .Parser_parseFromFile = {1},
    .Parser_getNbErrors = {3},
    .Parser_getError = {4},
    .Parser_delete = {7},
    .Parser_supportsModelV2 = {15},
    .Parser_getNbSubgraphs = {16},
    .Parser_isSubgraphSupported = {17},
    .Parser_getSubgraphNodes = {18},
    .ParserError_code = {0},
    .ParserError_desc = {1},
    .ParserError_node = {5},
    .ParserError_nodeName = {6},
    .ParserError_nodeOperator = {7},
    .ParserRefitter_refitFromBytes = {0},
    .ParserRefitter_refitFromFile = {1},
    .ParserRefitter_getNbErrors = {2},
    .ParserRefitter_getError = {3},
    .ParserRefitter_delete = {6},
    .Logger_log = {4},
    .Profiler_reportLayerTime = {4},
    .ProgressMonitor_phaseStart = {4},
    .ProgressMonitor_stepComplete = {5},
    .ProgressMonitor_phaseFinish = {6},
    .ErrorRecorder_clear = {8},
    .ErrorRecorder_reportError = {9},
    .ErrorRecorder_incRefCount = {10},
    .ErrorRecorder_decRefCount = {11},
    .OutputAllocator_reallocateOutput = {4},
    .OutputAllocator_reallocateOutputAsync = {5},
    .OutputAllocator_notifyShape = {6},
    .NetworkFlag_stronglyTyped = {0},
    .BuilderFlag_refit = {4},
    .BuilderFlag_tf32 = {6},
    .BuilderFlag_sparseWeights = {7},
    .BuilderFlag_versionCompatible = {12},
    .BuilderFlag_stripPlan = {18},
    .BuilderFlag_refitIdentical = {19},
};

constexpr Slots slotsRtx13 = {
    .Builder_createBuilderConfig = {7},
    .Builder_createNetworkV2 = {8},
    .Builder_createOptimizationProfile = {9},
    .Builder_setErrorRecorder = {10},
    .Builder_buildSerializedNetwork = {14},
    .BuilderConfig_clearFlag = {8},
    .BuilderConfig_setFlag = {9},
    .BuilderConfig_addOptimizationProfile = {23},
    .BuilderConfig_setProfilingVerbosity = {25},
    .BuilderConfig_setTacticSources = {27},
    .BuilderConfig_createTimingCache = {29},
    .BuilderConfig_setTimingCache = {30},
    .BuilderConfig_setMemoryPoolLimit = {32},
    .BuilderConfig_setBuilderOptimizationLevel = {36},
    .BuilderConfig_setHardwareCompatibilityLevel = {38},
    .BuilderConfig_setMaxAuxStreams = {43},
    .BuilderConfig_setProgressMonitor = {45},
    .BuilderConfig_setNbComputeCapabilities = {55},
    .BuilderConfig_setComputeCapability = {57},
    .OptimizationProfile_setDimensions = {2},
    .OptimizationProfile_setShapeValues = {4},
    .OptimizationProfile_setShapeValuesV2 = {10},
    .TimingCache_serialize = {2},
    .HostMemory_data = {2},
    .HostMemory_size = {3},
    .Runtime_deserializeCudaEngine = {3},
    .Runtime_setErrorRecorder = {9},
    .Runtime_setEngineHostCodeAllowed = {21},
    .CudaEngine_getNbLayers = {3},
    .CudaEngine_createExecutionContext = {5},
    .CudaEngine_getDeviceMemorySize = {-1},
    .CudaEngine_isRefittable = {6},
    .CudaEngine_getNbOptimizationProfiles = {8},
    .CudaEngine_createEngineInspector = {16},
    .CudaEngine_getTensorShape = {17},
    .CudaEngine_getTensorDataType = {18},
    .CudaEngine_getTensorLocation = {19},
    .CudaEngine_getTensorIOMode = {21},
    .CudaEngine_getProfileShape = {27},
    .CudaEngine_getNbIOTensors = {28},
    .CudaEngine_getIOTensorName = {29},
    .CudaEngine_getDeviceMemorySizeV2 = {50},
    .ExecutionContext_setProfiler = {5},
    .ExecutionContext_setOptimizationProfileAsync = {17},
    .ExecutionContext_setInputShape = {21},
    .ExecutionContext_getTensorShape = {22},
    .ExecutionContext_setTensorAddress = {24},
    .ExecutionContext_inferShapes = {28},
    .ExecutionContext_setOutputAllocator = {32},
    .ExecutionContext_enqueueV3 = {37},
    .EngineInspector_getEngineInformation = {6},
    .Refitter_refitCudaEngine = {4},
    .Refitter_setErrorRecorder = {11},
    .Refitter_setNamedWeights = {13},
    .Refitter_getMissingWeights = {14},
    .Refitter_getAllWeights = {15},
    .Parser_parse = {0},
    .Parser_parseFromFile = {1},
    .Parser_getNbErrors = {5},
    .Parser_getError = {6},
    .Parser_delete = {9},
    .Parser_supportsModelV2 = {17},
    .Parser_getNbSubgraphs = {18},
    .Parser_isSubgraphSupported = {19},
    .Parser_getSubgraphNodes = {20},
    .ParserError_code = {0},
    .ParserError_desc = {1},
    .ParserError_node = {5},
    .ParserError_nodeName = {6},
    .ParserError_nodeOperator = {7},
    .ParserRefitter_refitFromBytes = {0},
    .ParserRefitter_refitFromFile = {1},
    .ParserRefitter_getNbErrors = {2},
    .ParserRefitter_getError = {3},
    .ParserRefitter_delete = {6},
    .Logger_log = {0},
    .Profiler_reportLayerTime = {0},
    .ProgressMonitor_phaseStart = {4},
    .ProgressMonitor_stepComplete = {5},
    .ProgressMonitor_phaseFinish = {6},
    .ErrorRecorder_clear = {8},
    .ErrorRecorder_reportError = {9},
    .ErrorRecorder_incRefCount = {10},
    .ErrorRecorder_decRefCount = {11},
    .OutputAllocator_reallocateOutput = {-1},
    .OutputAllocator_reallocateOutputAsync = {4},
    .OutputAllocator_notifyShape = {5},
    .NetworkFlag_stronglyTyped = {1},
    .BuilderFlag_refit = {4},
    .BuilderFlag_tf32 = {6},
    .BuilderFlag_sparseWeights = {7},
    .BuilderFlag_versionCompatible = {13},
    .BuilderFlag_stripPlan = {19},
    .BuilderFlag_refitIdentical = {20},
};

constexpr Slots slotsRtx15 = {
    .Builder_createBuilderConfig = {5},
    .Builder_createNetworkV2 = {6},
    .Builder_createOptimizationProfile = {7},
    .Builder_setErrorRecorder = {8},
    .Builder_buildSerializedNetwork = {11},
    .BuilderConfig_clearFlag = {8},
    .BuilderConfig_setFlag = {9},
    .BuilderConfig_addOptimizationProfile = {23},
    .BuilderConfig_setProfilingVerbosity = {25},
    .BuilderConfig_setTacticSources = {27},
    .BuilderConfig_createTimingCache = {29},
    .BuilderConfig_setTimingCache = {30},
    .BuilderConfig_setMemoryPoolLimit = {32},
    .BuilderConfig_setBuilderOptimizationLevel = {36},
    .BuilderConfig_setHardwareCompatibilityLevel = {38},
    .BuilderConfig_setMaxAuxStreams = {43},
    .BuilderConfig_setProgressMonitor = {45},
    .BuilderConfig_setNbComputeCapabilities = {55},
    .BuilderConfig_setComputeCapability = {57},
    .OptimizationProfile_setDimensions = {2},
    .OptimizationProfile_setShapeValues = {-1},
    .OptimizationProfile_setShapeValuesV2 = {8},
    .TimingCache_serialize = {2},
    .HostMemory_data = {2},
    .HostMemory_size = {3},
    .Runtime_deserializeCudaEngine = {3},
    .Runtime_setErrorRecorder = {8},
    .Runtime_setEngineHostCodeAllowed = {20},
    .CudaEngine_getNbLayers = {3},
    .CudaEngine_createExecutionContext = {5},
    .CudaEngine_getDeviceMemorySize = {-1},
    .CudaEngine_isRefittable = {6},
    .CudaEngine_getNbOptimizationProfiles = {8},
    .CudaEngine_createEngineInspector = {14},
    .CudaEngine_getTensorShape = {15},
    .CudaEngine_getTensorDataType = {16},
    .CudaEngine_getTensorLocation = {17},
    .CudaEngine_getTensorIOMode = {19},
    .CudaEngine_getProfileShape = {25},
    .CudaEngine_getNbIOTensors = {26},
    .CudaEngine_getIOTensorName = {27},
    .CudaEngine_getDeviceMemorySizeV2 = {44},
    .ExecutionContext_setProfiler = {5},
    .ExecutionContext_setOptimizationProfileAsync = {16},
    .ExecutionContext_setInputShape = {20},
    .ExecutionContext_getTensorShape = {21},
    .ExecutionContext_setTensorAddress = {23},
    .ExecutionContext_inferShapes = {27},
    .ExecutionContext_setOutputAllocator = {31},
    .ExecutionContext_enqueueV3 = {36},
    .EngineInspector_getEngineInformation = {6},
    .Refitter_refitCudaEngine = {4},
    .Refitter_setErrorRecorder = {7},
    .Refitter_setNamedWeights = {9},
    .Refitter_getMissingWeights = {10},
    .Refitter_getAllWeights = {11},
    .Parser_parse = {0},
    .Parser_parseFromFile = {1},
    .Parser_getNbErrors = {3},
    .Parser_getError = {4},
    .Parser_delete = {7},
    .Parser_supportsModelV2 = {15},
    .Parser_getNbSubgraphs = {16},
    .Parser_isSubgraphSupported = {17},
    .Parser_getSubgraphNodes = {18},
    .ParserError_code = {0},
    .ParserError_desc = {1},
    .ParserError_node = {5},
    .ParserError_nodeName = {6},
    .ParserError_nodeOperator = {7},
    .ParserRefitter_refitFromBytes = {0},
    .ParserRefitter_refitFromFile = {1},
    .ParserRefitter_getNbErrors = {2},
    .ParserRefitter_getError = {3},
    .ParserRefitter_delete = {6},
    .Logger_log = {4},
    .Profiler_reportLayerTime = {4},
    .ProgressMonitor_phaseStart = {4},
    .ProgressMonitor_stepComplete = {5},
    .ProgressMonitor_phaseFinish = {6},
    .ErrorRecorder_clear = {8},
    .ErrorRecorder_reportError = {9},
    .ErrorRecorder_incRefCount = {10},
    .ErrorRecorder_decRefCount = {11},
    .OutputAllocator_reallocateOutput = {-1},
    .OutputAllocator_reallocateOutputAsync = {4},
    .OutputAllocator_notifyShape = {5},
    .NetworkFlag_stronglyTyped = {0},
    .BuilderFlag_refit = {4},
    .BuilderFlag_tf32 = {6},
    .BuilderFlag_sparseWeights = {7},
    .BuilderFlag_versionCompatible = {12},
    .BuilderFlag_stripPlan = {18},
    .BuilderFlag_refitIdentical = {19},
};

}  // namespace tensorrt
